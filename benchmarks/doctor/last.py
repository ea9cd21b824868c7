"""The other halves of the pairs of `fresh.py`: each problem twice, and healthy runs.

They are for the last measurement: read their numbers and not their runs, and tune nothing on them.
"""

from benchmarks.doctor.cases import ADAMW, CANCER, CNN, COSINE, MLP, ONE_CYCLE, SGD, WINE, Case
from benchmarks.doctor.fresh_parts import HERE, by_itself, family
from benchmarks.doctor.held_out import (
    ADAGRAD,
    DECAY,
    NADAM,
    PLAIN_SGD,
    PLATEAU,
    RMSPROP,
    broken,
    fault,
    ill,
    lr,
    own,
    spoiled,
    stock,
    task,
)
from benchmarks.doctor.unseen import new

ACCUMULATED = {"trainer.accumulate_grad_batches": 2}
CLIPPED = {"trainer.gradient_clip_val": 1.0}

FAULTY = [
    # ---- NaN and infinity
    ill(
        "nan_or_inf",
        "an infinite value, cancer",
        task("dense", "cancer", 30, 1e-3, model_width=80, model_depth=2, data_batch_size=24) | RMSPROP,
        spoiled("infinite", 300),
    ),
    ill(
        "nan_or_inf",
        "logarithm of a softmax written by hand",
        family("DictClassifier", "Shelf", 12, 5e-3, data_name="scans", model_sizes=[128]),
        fault("log_zero", 60.0),
    ),
    # ---- vanishing gradients
    ill(
        "vanishing_gradients",
        "nine sigmoid layers for 20 classes, cosine",
        new(
            "mlp",
            "many",
            16,
            2e-3,
            model_depth=9,
            model_width=40,
            model_norm=True,
            data_samples=2500,
            data_batch_size=64,
        )
        | ADAMW
        | COSINE,
        {"model.activation": "sigmoid", "model.norm": False},
        repairable=True,
    ),
    ill(
        "vanishing_gradients",
        "ten sigmoid layers, sensors, OneCycle by steps",
        family("DictClassifier", "Shelf", 14, 0.05, data_name="sensors", model_sizes=[48] * 10, model_batch_norm=True)
        | by_itself("one_cycle", 0.1),
        {"model.activation": "Sigmoid", "model.batch_norm": False},
        repairable=True,
    ),
    # ---- exploding gradients
    ill(
        "exploding_gradients",
        "loss times 1500, two rings",
        MLP | SGD | {"data.name": "circles", "model.width": 48} | lr(0.05),
        {"model.loss_scale": 1500.0},
        "learning_rate_too_high",
        "nan_or_inf",
        repairable=True,
    ),
    ill(
        "exploding_gradients",
        "squared error of targets in hundreds",
        family("Regression", "Tables", 16, 0.01, model_features=10, data_name="diabetes", data_batch_size=16)
        | PLAIN_SGD
        | lr(0.01),
        {"data.scale_targets": False},
        "learning_rate_too_high",
        "nan_or_inf",
    ),
    # ---- dead ReLUs
    ill(
        "dead_relus",
        "biases at -6, convolutions, momentum",
        task("conv", "shapes", 9, 0.02, model_depth=3, model_width=24) | SGD | lr(0.02),
        {"model.bias": -6.0},
        "bad_initialisation",
        repairable=True,
    ),
    ill(
        "dead_relus",
        "biases at -7, letters",
        family("DictClassifier", "Shelf", 12, 1e-3, model_sizes=[128, 64]) | ADAMW,
        {"model.bias": -7.0},
        "bad_initialisation",
        repairable=True,
    ),
    # ---- saturation
    ill(
        "saturation",
        "tanh, standard deviation 3, friedman",
        new("mlp", "friedman", 14, 2e-3, model_activation="tanh", model_depth=3, model_width=48) | NADAM,
        {"model.weight_std": 3.0},
        "bad_initialisation",
        repairable=True,
    ),
    ill(
        "saturation",
        "tanh convolutions, standard deviation 4",
        family("TutorialNet", "Shelf", 10, 2e-3, model_activation="tanh", data_name="scans"),
        {"model.weight_std": 4.0},
        "bad_initialisation",
        repairable=True,
    ),
    # ---- overfitting
    ill(
        "overfitting",
        "half of the labels wrong, friedman",
        new("mlp", "friedman", 40, 2e-3, model_width=256, data_samples=1000),
        spoiled("noisy", 0.5),
    ),
    ill(
        "overfitting",
        "a language model on a page of text",
        family("CharModel", "Text", 60, 3e-3, model_kind="lstm", model_width=128, data_batch_size=16),
        {"data.characters": 2500},
    ),
    # ---- underfitting
    ill(
        "underfitting",
        "linear on two rings",
        task("dense", "circles", 18, 5e-3, model_depth=2, data_batch_size=48) | ADAMW,
        {"model.function": "linear"},
        "not_learning",
        repairable=True,
    ),
    ill(
        "underfitting",
        "two units for 26 letters",
        family("DictClassifier", "Shelf", 20, 5e-3, model_sizes=[96, 64]) | ADAMW,
        {"model.sizes": [2]},
        repairable=True,
    ),
    # ---- learning rate too high
    ill(
        "learning_rate_too_high",
        "GRU on series, NAdam at 0.5",
        task("gru", "waves", 10, 3e-3, model_width=40, model_depth=1) | NADAM | lr(3e-3),
        lr(0.5),
        repairable=True,
    ),
    ill(
        "learning_rate_too_high",
        "language model, Adam at 0.8",
        family("CharModel", "Text", 12, 5e-3, model_width=64),
        lr(0.8),
        repairable=True,
    ),
    # ---- learning rate too low
    ill(
        "learning_rate_too_low",
        "residual network, AdamW at 1e-6",
        new("resnet", "photos", 8, 2e-3, model_norm=True, model_width=12, data_batch_size=48) | ADAMW,
        lr(1e-6),
        repairable=True,
    ),
    ill(
        "learning_rate_too_low",
        "OneCycle by steps to 3e-5",
        family("DictClassifier", "Shelf", 14, 0.1, data_name="sensors", model_sizes=[64, 64])
        | by_itself("one_cycle", 0.1),
        {"model.lr": 3e-5},
        repairable=True,
    ),
    # ---- not learning
    ill(
        "not_learning",
        "labels without meaning, two rings",
        task("dense", "circles", 12, 2e-3, data_samples=3000, model_width=24, model_depth=2, data_batch_size=64),
        spoiled("random"),
    ),
    ill(
        "not_learning",
        "tutorial, inputs of other samples",
        family("TutorialNet", "Shelf", 12, 2e-3) | ADAMW,
        fault("other_inputs"),
    ),
    # ---- bad initialisation
    ill(
        "bad_initialisation",
        "the project's MLP, all 0.05",
        own("MLP", "FaultyDigits", 18, 2e-3, net_depth=3, net_width=48),
        broken("constant", 0.05),
    ),
    ill(
        "bad_initialisation",
        "tutorial, all weights 0",
        family("TutorialNet", "Shelf", 10, 2e-3, data_name="scans"),
        {"model.constant": 0.0},
    ),
    # ---- class imbalance
    ill(
        "class_imbalance",
        "2 % of one of two shells, AdamW",
        task("residual", "quantiles", 12, 1e-3, data_samples=5000, data_classes=2, data_features=6, model_depth=2)
        | ADAMW,
        spoiled("rare", 0.02),
        repairable=True,
    ),
    ill(
        "class_imbalance",
        "1 to 30, one of two signs",
        family(
            "DictClassifier",
            "Shelf",
            16,
            3e-3,
            data_name="parity",
            data_samples=6000,
            data_batch_size=64,
            model_sizes=[64, 64],
        )
        | by_itself("two_groups", 3e-3),
        spoiled("rare", 0.03),
        repairable=True,
    ),
    # ---- data loading
    ill(
        "data_loading",
        "0.8 ms a sample, words",
        task("gru", "words", 7, 3e-3, model_depth=1),
        spoiled("slow_sample", 0.0008),
        repairable=True,
    ),
    ill(
        "data_loading",
        "a stream that is waited for",
        family("DictClassifier", "Stream", 6, 2e-3, model_sizes=[64, 64]),
        {"data.seconds": 0.001},
    ),
    # ---- inputs
    ill(
        "inputs_not_normalised",
        "a column in thousands, 20 classes",
        new("mlp", "many", 14, 2e-3, model_depth=2, model_width=64, data_samples=2500, data_batch_size=48) | ADAMW,
        spoiled("wide_column", 4000.0),
        repairable=True,
    ),
    ill(
        "inputs_not_normalised",
        "letters from 0 to 255, momentum",
        family("DictClassifier", "Shelf", 14, 0.02, model_sizes=[64, 64]) | SGD | lr(0.02),
        {"data.scale": "none"},
        "exploding_gradients",
        "learning_rate_too_high",
        "nan_or_inf",
        repairable=True,
    ),
    # ---- softmax
    ill(
        "softmax_before_cross_entropy",
        "the project's MLP, momentum",
        own("MLP", "FaultyDigits", 12, 0.02) | SGD | lr(0.02),
        broken("softmax"),
    ),
    ill(
        "softmax_before_cross_entropy",
        "26 letters, nn.Softmax",
        family("DictClassifier", "Shelf", 12, 1e-3, model_sizes=[96]),
        fault("softmax"),
    ),
    # ---- label order
    ill(
        "data_in_label_order",
        "convolutions on shapes, momentum",
        task("conv", "shapes", 9, 0.05, model_norm="batch") | SGD | lr(0.05),
        spoiled("sorted"),
    ),
    ill(
        "data_in_label_order",
        "a stream, class by class",
        family("DictClassifier", "Stream", 10, 5e-3, model_sizes=[64, 64], model_batch_norm=True),
        {"data.ordered": True},
        repairable=True,
    ),
    # ---- parameters that never move
    ill(
        "parameters_never_move",
        "a detached CNN, three blocks",
        CNN | ADAMW | {"model.depth": 3, "data.batch_size": 48},
        {"model.detach": True},
    ),
    ill(
        "parameters_never_move",
        "language model, detached",
        family("CharModel", "Text", 10, 3e-3, model_width=64, model_kind="lstm"),
        fault("detach"),
    ),
    # ---- training and evaluation
    ill(
        "train_eval_mismatch",
        "inputs over 50 in evaluation",
        task("dense", "shapes", 10, 2e-3, model_depth=2, model_width=96),
        fault("eval_scale", 0.02),
    ),
    ill(
        "train_eval_mismatch",
        "standardised in training only, tutorial",
        family("TutorialNet", "Shelf", 10, 2e-3, data_name="scans", data_scale="none") | ADAMW | lr(1e-3),
        fault("standardised_in_training"),
    ),
    # ---- training and validation
    ill(
        "train_val_mismatch",
        "labels of the validation turned, wine",
        MLP | WINE | ADAMW,
        {"data.val_shift": True},
    ),
    ill(
        "train_val_mismatch",
        "validation without scaling, tanh",
        family("DictClassifier", "Shelf", 16, 0.1, model_sizes=[160], model_activation="Tanh")
        | by_itself("cosine", 0.1),
        spoiled("val_unscaled"),
    ),
    # ---- regularisation
    ill(
        "over_regularised",
        "penalty of 0.5, cancer",
        MLP | CANCER | ADAMW | {"data.batch_size": 24},
        {"model.penalty": 0.5},
        repairable=True,
    ),
    ill(
        "over_regularised",
        "weight decay 30 in one of two groups",
        family("DictClassifier", "Shelf", 14, 3e-3, model_sizes=[96, 64]) | by_itself("two_groups", 3e-3),
        {"model.weight_decay": 30.0},
        repairable=True,
    ),
]

HEALTHY = [
    # ---- everyday runs
    Case("wine", task("dense", "wine", 40, 0.03, data_batch_size=16, model_depth=2) | ADAGRAD),
    Case("GRU on series", task("gru", "waves", 12, 3e-3, model_width=32, model_depth=1) | NADAM | PLATEAU),
    Case("letters", family("DictClassifier", "Shelf", 14, 2e-3, model_sizes=[128, 64])),
    Case("tutorial on digits", family("TutorialNet", "Shelf", 12, 2e-3, data_name="scans")),
    Case(
        "1-d convolutions, AdamW",
        new("conv1d", "bumps", 12, 2e-3, model_depth=3, model_norm=True, model_width=24) | ADAMW | DECAY,
    ),
    Case(
        "shells",
        family("DictClassifier", "Shelf", 14, 3e-3, data_name="rings", model_sizes=[64, 64], model_activation="GELU"),
    ),
    # ---- regressions
    Case("regression", family("Regression", "Tables", 15, 2e-3)),
    Case(
        "regression on a small and noisy table",
        family(
            "Regression", "Tables", 25, 1e-3, data_name="diabetes", model_width=16, model_depth=1, data_batch_size=16
        ),
    ),
    Case(
        "regression, its own optimizer and plateaus",
        family("Regression", "Tables", 25, 0, model_features=4, data_name="friedman2") | by_itself("plateau", 5e-3),
    ),
    Case("regression, targets as they are", family("Regression", "Tables", 25, 5e-3, data_scale_targets=False)),
    # ---- language models
    Case("language model, GRU", family("CharModel", "Text", 12, 3e-3)),
    Case(
        "language model, transformer, OneCycle",
        family(
            "CharModel", "Text", 16, 0.01, model_kind="transformer", model_width=48, model_depth=1, model_dropout=0.02
        )
        | ADAMW
        | ONE_CYCLE,
    ),
    Case(
        "language model, GRU, clipped, long windows",
        family("CharModel", "Text", 25, 5e-3, data_length=64, data_words=150) | CLIPPED,
    ),
    # ---- the project's own
    Case("the project's CNN, AdamW", stock("CNN", 14, 5e-3, net_width=16) | ADAMW),
    Case("the project's MLP, momentum, cosine", stock("MLP", 11, 0.05, net_depth=3) | SGD | COSINE | lr(0.05)),
    Case(
        "the project's CNN, 20 % wrong labels", own("CNN", "FaultyDigits", 6, 3e-3, net_width=8) | spoiled("noisy", 0.2)
    ),
    Case(
        "the project's CNN, accumulated, clipped",
        stock("CNN", 14, 5e-3, net_width=12, data_batch_size=32) | ACCUMULATED | CLIPPED,
    ),
    # ---- accumulated and clipped
    Case(
        "accumulated over four batches of 8",
        family("DictClassifier", "Shelf", 12, 3e-3, model_sizes=[96], data_batch_size=8)
        | {"trainer.accumulate_grad_batches": 4},
    ),
    Case(
        "clipped at 0.5, momentum",
        family("DictClassifier", "Shelf", 6, 0.05, data_name="sensors", model_sizes=[32], data_samples=3000)
        | SGD
        | lr(0.05)
        | {"trainer.gradient_clip_val": 0.5},
    ),
    # ---- no labels
    Case("autoencoder", {**family("Autoencoder", "Shelf", 15, 2e-3, data_name="scans")}),
    # ---- averages of the weights
    Case(
        "moving average of the weights",
        family("DictClassifier", "Shelf", 14, 3e-3, model_sizes=[96, 64])
        | {"trainer.callbacks": [{"class_path": HERE + "MovingAverage", "init_args": {"decay": 0.97}}]},
    ),
    # ---- labels
    Case(
        "label smoothing 0.1, AdamW",
        new("mlp", "many", 14, 2e-3, model_width=96, model_label_smoothing=0.1, data_samples=2500) | ADAMW,
    ),
    Case(
        "20 % wrong labels, sensors",
        family("DictClassifier", "Shelf", 8, 2e-3, data_name="sensors", model_sizes=[32], data_samples=3000)
        | spoiled("noisy", 0.2),
    ),
    Case(
        "1 to 14 that does no harm, shells",
        family("DictClassifier", "Shelf", 14, 5e-3, data_name="rings", model_sizes=[64, 64], data_samples=4000)
        | spoiled("rare", 0.07),
    ),
    # ---- batches
    Case("batches of 4, wine", MLP | WINE | {"data.batch_size": 4, "trainer.max_epochs": 12} | lr(1e-3)),
    # ---- rates
    Case(
        "OneCycle to 0.03, letters",
        family("DictClassifier", "Shelf", 14, 0.03, model_sizes=[96, 96], model_batch_norm=True) | ADAMW | ONE_CYCLE,
    ),
    Case(
        "two groups",
        family("DictClassifier", "Shelf", 14, 0, model_sizes=[96, 64])
        | by_itself("two_groups", 3e-3, weight_decay=0.1),
    ),
    # ---- frozen, raw, dropped
    Case(
        "frozen first convolution",
        family("TutorialNet", "Shelf", 14, 3e-3, data_name="scans", model_frozen="conv1", model_channels=12),
    ),
    Case(
        "sensors in their units, batch norm",
        family(
            "DictClassifier",
            "Shelf",
            14,
            3e-3,
            data_name="sensors",
            data_scale="none",
            model_sizes=[64, 64],
            model_batch_norm=True,
        ),
    ),
    Case("dropout 0.5, letters", family("DictClassifier", "Shelf", 20, 3e-3, model_sizes=[256], model_dropout=0.5)),
]
