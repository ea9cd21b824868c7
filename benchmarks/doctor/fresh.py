"""Cases of an outside judge: each problem twice, and healthy runs.

They were written in pairs, chosen by their trainings alone and dealt out by a coin to this file and to `last.py`, so
that both are of the same kind. Leave them as they are.
"""

from benchmarks.doctor.cases import ADAMW, BLOBS, CANCER, CNN, COSINE, FORMER, MLP, ONE_CYCLE, SGD, WARM_UP, Case
from benchmarks.doctor.fresh_parts import by_itself, family
from benchmarks.doctor.held_out import DECAY, RMSPROP, STEPS, fault, ill, lr, own, spoiled, stock, task
from benchmarks.doctor.unseen import new

ACCUMULATED = {"trainer.accumulate_grad_batches": 2}
CLIPPED = {"trainer.gradient_clip_val": 1.0}

FAULTY = [
    # ---- NaN and infinity
    ill("nan_or_inf", "a missing value, blobs, momentum", MLP | BLOBS | SGD | lr(0.02), {"data.batch_nan": 350}),
    ill(
        "nan_or_inf",
        "a column over its spread of 0",
        family("DictClassifier", "Shelf", 12, 2e-3, data_name="sensors", model_sizes=[96, 48]) | ADAMW,
        spoiled("zero_spread"),
    ),
    # ---- vanishing gradients
    ill(
        "vanishing_gradients",
        "eight sigmoid layers on blobs",
        task("dense", "blobs", 14, 0.05, model_depth=8, model_width=40, model_norm="layer", data_classes=5)
        | SGD
        | lr(0.02),
        {"model.function": "sigmoid", "model.norm": "none"},
        repairable=True,
    ),
    ill(
        "vanishing_gradients",
        "eight sigmoid layers, letters",
        family("DictClassifier", "Shelf", 14, 2e-3, model_sizes=[64] * 8, model_batch_norm=True),
        {"model.activation": "Sigmoid", "model.batch_norm": False},
        repairable=True,
    ),
    # ---- exploding gradients
    ill(
        "exploding_gradients",
        "summed loss, batches of 256",
        new("cnn", "digits", 40, 0.05, model_depth=3, model_width=24, data_batch_size=256) | SGD | lr(0.05),
        fault("sum"),
        "learning_rate_too_high",
        "nan_or_inf",
        repairable=True,
    ),
    ill(
        "exploding_gradients",
        "a glitch in one of 200 samples",
        family("DictClassifier", "Shelf", 14, 0.02, data_name="sensors", model_sizes=[64, 64]) | SGD | lr(0.02),
        spoiled("glitches", 200),
        "inputs_not_normalised",
        "nan_or_inf",
        repairable=True,
    ),
    # ---- dead ReLUs
    ill(
        "dead_relus",
        "biases at -5, three classes of a target",
        new("mlp", "friedman", 15, 1e-3, model_depth=3, model_width=48),
        {"model.bias": -5.0},
        "bad_initialisation",
        repairable=True,
    ),
    ill(
        "dead_relus",
        "biases at -4, tutorial",
        family("TutorialNet", "Shelf", 10, 1e-3, data_name="scans"),
        {"model.bias": -4.0},
        "bad_initialisation",
    ),
    # ---- saturation
    ill(
        "saturation",
        "tanh, weights times 35, blobs",
        task("dense", "blobs", 14, 2e-3, model_function="tanh", data_classes=6, model_depth=3) | ADAMW,
        {"model.gain": 35.0},
        "bad_initialisation",
        repairable=True,
    ),
    ill(
        "saturation",
        "sigmoids, standard deviation 6",
        family(
            "DictClassifier", "Shelf", 14, 5e-3, data_name="sensors", model_sizes=[64, 64], model_activation="Sigmoid"
        ),
        {"model.weight_std": 6.0},
        "bad_initialisation",
        repairable=True,
    ),
    # ---- overfitting
    ill(
        "overfitting",
        "a tenth of hastie",
        task("residual", "hastie", 50, 2e-3, data_samples=3000, model_width=192, model_depth=3) | ADAMW,
        spoiled("few", 0.08),
    ),
    ill(
        "overfitting",
        "a wide regression on a small table",
        family("Regression", "Tables", 10, 2e-3, data_name="diabetes", model_width=16, data_batch_size=16) | ADAMW,
        {"model.width": 256, "trainer.max_epochs": 40, "data.train_share": 0.5},
    ),
    # ---- underfitting
    ill(
        "underfitting",
        "convolutions of one channel",
        new("conv1d", "bumps", 14, 5e-3, model_depth=2, model_width=24, data_batch_size=48),
        {"model.width": 1},
        repairable=True,
    ),
    ill(
        "underfitting",
        "no activations on shells",
        family("DictClassifier", "Shelf", 15, 5e-3, data_name="rings", model_sizes=[64, 64]),
        {"model.activation": "Identity"},
        repairable=True,
    ),
    # ---- learning rate too high
    ill(
        "learning_rate_too_high",
        "CNN, momentum, OneCycle to 10",
        CNN | SGD | ONE_CYCLE | {"data.batch_size": 24} | lr(0.1),
        lr(10.0),
        "nan_or_inf",
        "exploding_gradients",
        repairable=True,
    ),
    ill(
        "learning_rate_too_high",
        "AdamW with two groups at 0.5",
        family("DictClassifier", "Shelf", 14, 2e-3, model_sizes=[96, 96]) | by_itself("two_groups", 2e-3),
        {"model.lr": 0.5},
        repairable=True,
    ),
    # ---- learning rate too low
    ill(
        "learning_rate_too_low",
        "MLP on blobs, momentum at 1e-5, cosine",
        MLP | BLOBS | SGD | COSINE | {"data.classes": 5, "data.samples": 2000} | lr(0.05),
        lr(1e-5),
        repairable=True,
    ),
    ill(
        "learning_rate_too_low",
        "language model, Adam at 3e-6",
        family("CharModel", "Text", 12, 3e-3, model_kind="transformer", model_width=48, model_depth=2) | ADAMW,
        lr(3e-6),
        repairable=True,
    ),
    # ---- not learning
    ill(
        "not_learning",
        "inputs shuffled, residual network",
        new("resnet", "digits", 14, 2e-3, model_norm=True, model_width=12, data_batch_size=64) | ADAMW,
        fault("shuffled_inputs"),
    ),
    ill(
        "not_learning",
        "labels shuffled apart from the inputs",
        family(
            "DictClassifier",
            "Shelf",
            14,
            1e-3,
            data_name="sensors",
            model_sizes=[32],
            data_samples=4000,
            data_batch_size=64,
        ),
        spoiled("unaligned"),
    ),
    # ---- bad initialisation
    ill(
        "bad_initialisation",
        "standard deviation 2, hastie",
        task("dense", "hastie", 12, 2e-3, model_width=96, data_samples=2000) | ADAMW,
        {"model.weight_std": 2.0},
        repairable=True,
    ),
    ill(
        "bad_initialisation",
        "standard deviation 1, letters",
        family("DictClassifier", "Shelf", 14, 1e-3, model_sizes=[128, 128]),
        {"model.weight_std": 1.0},
        repairable=True,
    ),
    # ---- class imbalance
    ill(
        "class_imbalance",
        "half of 20 classes",
        new("mlp", "many", 10, 1e-3, data_samples=4000, data_batch_size=64, model_width=32),
        spoiled("rare", 0.02),
    ),
    ill(
        "class_imbalance",
        "1 to 40, three of six sensors",
        family(
            "DictClassifier",
            "Shelf",
            12,
            1e-3,
            data_name="sensors",
            data_samples=4000,
            data_batch_size=64,
            model_sizes=[48],
        ),
        spoiled("rare", 0.025),
        repairable=True,
    ),
    # ---- data loading
    ill(
        "data_loading",
        "the project's images, 15 ms a batch",
        own("MLP", "FaultyDigits", 14, 3e-3, net_width=48),
        spoiled("slow", 0.015),
    ),
    ill(
        "data_loading",
        "pictures to decode",
        family("TutorialNet", "Shelf", 7, 2e-3, data_samples=1300),
        spoiled("decode", 80),
        repairable=True,
    ),
    # ---- inputs
    ill(
        "inputs_not_normalised",
        "offset of 60, spirals",
        task("dense", "spirals", 30, 3e-3, model_depth=3),
        spoiled("offset", 60.0),
        repairable=True,
    ),
    ill(
        "inputs_not_normalised",
        "a sensor in thousands",
        family("DictClassifier", "Shelf", 14, 2e-3, data_name="sensors", model_sizes=[64, 64]),
        spoiled("thousands", 6000.0),
    ),
    # ---- softmax
    ill(
        "softmax_before_cross_entropy",
        "CNN, momentum",
        new("cnn", "digits", 12, 0.05, model_depth=3, model_width=24) | SGD | lr(0.05),
        fault("softmax"),
    ),
    ill(
        "softmax_before_cross_entropy",
        "language model",
        family("CharModel", "Text", 10, 3e-3, model_width=48) | ADAMW,
        fault("softmax"),
    ),
    # ---- label order
    ill(
        "data_in_label_order",
        "batch norm, digits",
        new("cnn", "digits", 12, 3e-3, model_norm=True, model_depth=3, model_width=16, data_batch_size=48) | ADAMW,
        spoiled("sorted"),
    ),
    ill(
        "data_in_label_order",
        "tutorial, momentum",
        family("TutorialNet", "Shelf", 12, 0.02, data_name="scans") | SGD | lr(0.02),
        spoiled("sorted"),
    ),
    # ---- parameters that never move
    ill(
        "parameters_never_move",
        "a GRU without gradient",
        task("gru", "words", 10, 2e-3, model_width=24, model_depth=1) | ADAMW,
        fault("no_grad"),
    ),
    ill(
        "parameters_never_move",
        "only the last layer in the optimizer",
        family("DictClassifier", "Shelf", 14, 2e-3, model_sizes=[48, 48]) | by_itself("two_groups", 5e-3),
        fault("left_out"),
    ),
    # ---- training and evaluation
    ill(
        "train_eval_mismatch",
        "momentum of the statistics 1e-4, shapes",
        task("conv", "shapes", 9, 2e-3, model_norm="batch", model_width=24) | RMSPROP,
        {"model.momentum": 1e-4},
        repairable=True,
    ),
    ill(
        "train_eval_mismatch",
        "batch norm whose statistics stay as they were",
        family(
            "DictClassifier",
            "Shelf",
            12,
            2e-3,
            data_name="scans",
            data_scale="none",
            model_sizes=[64, 64],
            model_batch_norm=True,
        ),
        {"model.momentum": 0.0},
        repairable=True,
    ),
    # ---- training and validation
    ill(
        "train_val_mismatch",
        "columns of the validation in another order",
        task("dense", "blobs", 14, 2e-3, data_classes=5, model_depth=2),
        spoiled("val_columns"),
    ),
    ill(
        "train_val_mismatch",
        "labels of the validation counted from 1",
        family("DictClassifier", "Shelf", 12, 2e-3, model_sizes=[96, 64]) | COSINE,
        spoiled("val_off_by_one"),
    ),
    # ---- regularisation
    ill(
        "over_regularised",
        "weight decay 20, photographs",
        new("cnn", "photos", 8, 2e-3, model_depth=3, model_width=16) | ADAMW,
        {"optimizer.weight_decay": 20.0},
        repairable=True,
    ),
    ill(
        "over_regularised",
        "tutorial, dropout 0.95",
        family("TutorialNet", "Shelf", 14, 2e-3),
        {"model.dropout": 0.95},
        repairable=True,
    ),
]

HEALTHY = [
    # ---- everyday runs
    Case(
        "blobs of five classes",
        MLP
        | BLOBS
        | ADAMW
        | {"data.classes": 5, "data.samples": 3000, "model.width": 48, "trainer.max_epochs": 7}
        | lr(2e-3),
    ),
    Case("transformer on digits", new("encoder", "rows", 12, 2e-3, model_width=32, model_norm=True) | ADAMW | COSINE),
    Case("sensors", family("DictClassifier", "Shelf", 11, 2e-3, data_name="sensors", model_sizes=[64, 64]) | ADAMW),
    Case("tutorial on letters, AdamW", family("TutorialNet", "Shelf", 14, 3e-3, model_loss="ce") | ADAMW),
    Case("residual network on photographs", new("resnet", "photos", 8, 2e-3, model_norm=True, model_width=16)),
    Case(
        "two signs",
        family(
            "DictClassifier",
            "Shelf",
            10,
            3e-3,
            data_name="parity",
            data_samples=4000,
            data_batch_size=64,
            model_sizes=[64, 64],
        ),
    ),
    # ---- regressions
    Case(
        "regression, Huber",
        family("Regression", "Tables", 15, 2e-3, model_loss="huber", model_activation="silu") | ADAMW,
    ),
    Case(
        "regression, absolute error, dropout",
        family(
            "Regression",
            "Tables",
            15,
            3e-3,
            model_features=4,
            data_name="friedman3",
            data_noise=0.1,
            model_loss="l1",
            model_dropout=0.1,
        )
        | STEPS,
    ),
    Case(
        "regression, plateaus, tanh",
        family("Regression", "Tables", 25, 0, model_activation="tanh") | by_itself("plateau", 5e-3),
    ),
    Case(
        "regression, momentum, OneCycle",
        family("Regression", "Tables", 16, 0.05, model_features=4, data_name="friedman2", data_noise=5.0)
        | SGD
        | ONE_CYCLE
        | lr(0.05),
    ),
    # ---- language models
    Case(
        "language model, LSTM of 96", family("CharModel", "Text", 10, 5e-3, model_kind="lstm", model_width=96) | ADAMW
    ),
    Case(
        "language model, transformer, warm-up",
        family("CharModel", "Text", 14, 4e-3, model_kind="transformer", model_width=48, model_depth=2)
        | ADAMW
        | WARM_UP,
    ),
    Case(
        "language model, recurrent, clipped, momentum",
        family("CharModel", "Text", 12, 0.5, model_kind="rnn", data_words=200) | SGD | lr(0.3) | CLIPPED,
    ),
    # ---- the project's own
    Case("the project's MLP, RMSprop", stock("MLP", 14, 1e-3, net_width=96) | RMSPROP),
    Case(
        "the project's CNN, OneCycle, batches of 32",
        stock("CNN", 8, 0.01, net_width=8, data_batch_size=32) | ADAMW | ONE_CYCLE,
    ),
    Case(
        "the project's CNN, layer norm, dropout 0.3",
        stock("CNN", 14, 2e-3, net_width=12, net_norm="layer", net_dropout=0.3) | DECAY,
    ),
    Case(
        "the project's MLP, batches of 256, accumulated",
        stock("MLP", 40, 4e-3, data_batch_size=256, net_width=96) | ADAMW | ACCUMULATED,
    ),
    # ---- accumulated and clipped
    Case(
        "accumulated over three batches of 16, momentum",
        task("conv", "shapes", 15, 0.05, model_norm="batch", data_batch_size=16)
        | SGD
        | lr(0.05)
        | {"trainer.accumulate_grad_batches": 3},
    ),
    Case("LSTM, clipped at 0.5", new("lstm", "topics", 10, 5e-3, model_depth=1) | {"trainer.gradient_clip_val": 0.5}),
    # ---- no labels
    Case("contrastive", family("PairEncoder", "Shelf", 15, 2e-3, data_name="scans", data_batch_size=64)),
    # ---- averages of the weights
    Case(
        "stochastic weight averaging",
        family("DictClassifier", "Shelf", 8, 0.02, data_name="sensors", model_sizes=[48], data_samples=3000)
        | SGD
        | lr(0.02)
        | {
            "trainer.callbacks": [
                {"class_path": "lightning.pytorch.callbacks.StochasticWeightAveraging", "init_args": {"swa_lrs": 0.02}}
            ]
        },
    ),
    # ---- labels
    Case(
        "label smoothing 0.2", family("DictClassifier", "Shelf", 14, 2e-3, model_sizes=[128], model_label_smoothing=0.2)
    ),
    Case(
        "30 % wrong labels, shells",
        family("DictClassifier", "Shelf", 10, 5e-3, data_name="rings", model_sizes=[48, 24], data_samples=3000)
        | spoiled("noisy", 0.3),
    ),
    Case(
        "1 to 12 that does no harm, shapes",
        task("conv", "shapes", 14, 3e-3, model_norm="batch", data_samples=2500) | ADAMW | spoiled("rare", 0.08),
    ),
    # ---- batches
    Case(
        "batches of 6, cancer, momentum",
        MLP | CANCER | SGD | {"data.batch_size": 6, "trainer.max_epochs": 6} | lr(5e-3),
    ),
    # ---- rates
    Case(
        "OneCycle by steps to 0.3",
        family("DictClassifier", "Shelf", 14, 0, data_name="sensors", model_sizes=[64, 64], model_batch_norm=True)
        | by_itself("one_cycle", 0.3),
    ),
    Case(
        "cosine by steps",
        family("DictClassifier", "Shelf", 14, 0, data_name="scans", model_sizes=[64], model_activation="Tanh")
        | by_itself("cosine", 0.05),
    ),
    # ---- frozen, raw, dropped
    Case("frozen embedding, warm-up", FORMER | WARM_UP | ADAMW | {"model.freeze": "net.embed", "model.width": 40}),
    Case(
        "letters from 0 to 255, batch norm",
        family("DictClassifier", "Shelf", 14, 3e-3, data_scale="none", model_sizes=[96, 64], model_batch_norm=True),
    ),
    Case("a stream", family("DictClassifier", "Stream", 10, 2e-3, model_sizes=[96, 64], model_dropout=0.2)),
]
