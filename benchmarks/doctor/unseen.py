"""Cases that nobody looked at while the doctor's rules were written: each problem twice, and healthy runs.

They were chosen without the doctor, by their trainings alone, as those of `held_out.py`, and differ from both other
files in networks, data, optimizers and severities. Leave them as they are, and tune nothing on them.
"""

from typing import Any

from benchmarks.doctor.cases import ADAMW, COSINE, ONE_CYCLE, SGD, WARM_UP, Case
from benchmarks.doctor.held_out import PLAIN_SGD, RMSPROP, STEPS, fault, ill, lr, spoiled

PARTS = "benchmarks.doctor.unseen_parts."


def new(kind: str, data: str, epochs: int, lr: float, **more: Any) -> dict[str, Any]:
    """A family of `Baseline` on `Assorted`; `model_KEY` and `data_KEY` are their keys."""
    keys = {"model": PARTS + "Baseline", "data": PARTS + "Assorted", "model.kind": kind, "data.name": data,
            "trainer.max_epochs": epochs, "optimizer.lr": lr}  # fmt: skip
    return keys | {key.replace("_", ".", 1): value for key, value in more.items()}


FAULTY = [
    # ---- NaN and infinity
    ill(
        "nan_or_inf",
        "transformer, texts of padding only",
        new("encoder", "topics", 10, 2e-3) | ADAMW,
        spoiled("empty", 0.004),
    ),
    ill("nan_or_inf", "focal loss with a root", new("mlp", "digits", 12, 0.01, model_width=192), fault("focal", 0.5)),
    # ---- vanishing gradients
    ill(
        "vanishing_gradients",
        "twelve sigmoid convolutions",
        new("cnn", "digits", 10, 2e-3, model_depth=12, model_width=16, model_norm=True),
        {"model.activation": "sigmoid", "model.norm": False},
        repairable=True,
    ),
    ill(
        "vanishing_gradients",
        "ten sigmoid layers on a roll, momentum",
        new("mlp", "roll", 15, 0.05, model_depth=10, model_norm=True, data_batch_size=64, data_samples=3000)
        | SGD
        | lr(0.05),
        {"model.activation": "sigmoid", "model.norm": False},
        repairable=True,
    ),
    # ---- exploding gradients
    ill(
        "exploding_gradients",
        "loss summed over batches of 128",
        new("conv1d", "bumps", 20, 0.02, model_depth=3, model_norm=True, data_batch_size=128, data_samples=2500)
        | SGD
        | lr(0.02),
        fault("sum"),
        "learning_rate_too_high",
        "nan_or_inf",
        repairable=True,
    ),
    ill(
        "exploding_gradients",
        "ten residual blocks without norm, weights times 2.4",
        new("resnet", "photos", 8, 0.01, model_depth=10, model_width=16, model_norm=True) | PLAIN_SGD | lr(0.01),
        {"model.gain": 2.4, "model.norm": False},
        "bad_initialisation",
        "nan_or_inf",
        "learning_rate_too_high",
        repairable=True,
    ),
    # ---- dead ReLUs
    ill(
        "dead_relus",
        "batch norm's shift at -4, 1-d convolutions",
        new("conv1d", "bumps", 12, 1e-3, model_depth=4, model_norm=True) | SGD | lr(0.01),
        {"model.norm_bias": -4.0},
        "bad_initialisation",
    ),
    ill(
        "dead_relus",
        "negative weights on inputs in [0, 1]",
        new("mlp", "digits", 12, 2e-3, data_unit=True, model_depth=3) | ADAMW,
        fault("negative_weights"),
        "bad_initialisation",
    ),
    # ---- saturation
    ill(
        "saturation",
        "sigmoid convolutions, weights times 100",
        new("cnn", "digits", 15, 0.02, model_activation="sigmoid", model_width=32),
        {"model.gain": 100.0},
        "bad_initialisation",
        repairable=True,
    ),
    ill(
        "saturation",
        "tanh, standard deviation 4",
        new("mlp", "many", 15, 2e-3, model_activation="tanh", model_width=64, data_samples=2500) | RMSPROP,
        {"model.weight_std": 4.0},
        "bad_initialisation",
        repairable=True,
    ),
    # ---- overfitting
    ill(
        "overfitting",
        "diabetes, 512 units and no end",
        new("mlp", "diabetes", 3, 2e-3, model_width=16, data_batch_size=16),
        {"model.width": 512, "trainer.max_epochs": 40},
    ),
    ill(
        "overfitting",
        "transformer, half of the labels wrong",
        new("encoder", "topics", 25, 2e-3, model_width=64, data_samples=800),
        spoiled("noisy", 0.5),
    ),
    # ---- underfitting
    ill(
        "underfitting",
        "one unit for 20 classes",
        new("mlp", "many", 12, 5e-3, model_width=64, data_samples=2500, data_batch_size=64) | ADAMW,
        {"model.width": 1},
        repairable=True,
    ),
    ill(
        "underfitting",
        "LSTM of one unit",
        new("lstm", "topics", 14, 5e-3, model_depth=1),
        {"model.width": 1},
        repairable=True,
    ),
    # ---- learning rate too high
    ill(
        "learning_rate_too_high",
        "LSTM, RMSprop at 0.3",
        new("lstm", "bumps", 14, 3e-3, model_depth=1) | RMSPROP | lr(7e-4),
        lr(0.3),
        repairable=True,
    ),
    ill(
        "learning_rate_too_high",
        "residual network, momentum, cosine from 5",
        new("resnet", "digits", 10, 0.05, model_norm=True, model_width=16) | SGD | COSINE | lr(0.05),
        lr(5.0),
        "exploding_gradients",
        "nan_or_inf",
        repairable=True,
    ),
    # ---- learning rate too low
    ill(
        "learning_rate_too_low",
        "transformer, AdamW at 2e-6",
        new("encoder", "rows", 10, 2e-3, model_norm=True, data_batch_size=64) | ADAMW,
        lr(2e-6),
        repairable=True,
    ),
    ill(
        "learning_rate_too_low",
        "residual network, momentum at 3e-6",
        new("resnet", "digits", 8, 0.05, model_norm=True, model_width=16, data_batch_size=16) | SGD | lr(0.05),
        lr(3e-6),
        repairable=True,
    ),
    # ---- not learning
    ill(
        "not_learning",
        "inputs shuffled, labels not",
        new("conv1d", "bumps", 12, 2e-3, model_norm=True),
        fault("shuffled_inputs"),
    ),
    ill(
        "not_learning",
        "LSTM, labels without meaning",
        new("lstm", "topics", 8, 1e-3, model_width=16, data_samples=4000, data_batch_size=64) | ADAMW,
        spoiled("random"),
    ),
    # ---- bad initialisation
    ill("bad_initialisation", "all weights 0", new("mlp", "many", 12, 3e-3, model_width=64), {"model.constant": 0.0}),
    ill(
        "bad_initialisation",
        "transformer, standard deviation 1",
        new("encoder", "rows", 8, 1e-3, model_depth=3) | SGD | lr(0.02),
        {"model.weight_std": 1.0},
        repairable=True,
    ),
    # ---- class imbalance
    ill(
        "class_imbalance",
        "3 % of one photograph, one logit",
        new("cnn", "photos", 10, 1e-3, model_bce=True, data_samples=2500, data_batch_size=64),
        spoiled("rare", 0.03),
        repairable=True,
    ),
    ill(
        "class_imbalance",
        "GRU, half of the topics",
        new("gru", "topics", 10, 2e-3, model_depth=1, data_samples=3000),
        spoiled("rare", 0.015),
        repairable=True,
    ),
    # ---- data loading
    ill(
        "data_loading",
        "work on each sample",
        new("resnet", "digits", 6, 3e-3, model_norm=True, model_width=8),
        spoiled("busy_sample", 8),
        repairable=True,
    ),
    ill(
        "data_loading",
        "50 ms a batch, LSTM",
        new("lstm", "topics", 7, 3e-3, model_depth=1),
        spoiled("slow_batch", 0.05),
        repairable=True,
    ),
    # ---- inputs
    ill(
        "inputs_not_normalised",
        "photographs from 0 to 255",
        new("cnn", "photos", 8, 0.02, model_depth=3) | SGD | lr(0.02),
        spoiled("raw"),
        "exploding_gradients",
        "learning_rate_too_high",
        "nan_or_inf",
        repairable=True,
    ),
    ill(
        "inputs_not_normalised",
        "one column in thousands",
        new("mlp", "friedman", 15, 2e-3, model_activation="gelu", data_samples=2000),
        spoiled("wide_column", 5000.0),
        repairable=True,
    ),
    # ---- softmax
    ill(
        "softmax_before_cross_entropy",
        "LSTM, momentum",
        new("lstm", "rows", 14, 0.1, model_depth=1) | SGD | lr(0.1),
        fault("softmax"),
    ),
    ill(
        "softmax_before_cross_entropy",
        "20 classes",
        new("mlp", "many", 12, 0.02, model_depth=3, model_width=48, data_samples=2500) | SGD | lr(0.02),
        fault("softmax"),
    ),
    # ---- label order
    ill(
        "data_in_label_order",
        "LSTM",
        new("lstm", "rows", 12, 3e-3, model_depth=1, data_batch_size=24),
        spoiled("sorted"),
    ),
    ill(
        "data_in_label_order",
        "residual network, batches of 64",
        new("resnet", "digits", 16, 2e-3, model_norm=True, model_width=16, data_batch_size=64) | ADAMW,
        spoiled("sorted"),
    ),
    # ---- parameters that never move
    ill(
        "parameters_never_move",
        "only the biases in the optimizer",
        new("conv1d", "bumps", 10, 3e-3, model_depth=3),
        fault("biases_only"),
    ),
    ill(
        "parameters_never_move",
        "LSTM without gradient",
        new("lstm", "rows", 8, 3e-3, model_width=16, model_depth=2),
        fault("no_grad"),
    ),
    # ---- training and evaluation
    ill(
        "train_eval_mismatch",
        "tokens counted from 1 in evaluation",
        new("gru", "topics", 10, 3e-3, model_depth=1),
        fault("eval_tokens"),
    ),
    ill(
        "train_eval_mismatch",
        "residual network, momentum of the statistics 1e-5",
        new("resnet", "photos", 8, 2e-3, model_norm=True, model_width=16, data_normalize=False) | ADAMW,
        {"model.momentum": 1e-5},
        repairable=True,
    ),
    # ---- training and validation
    ill(
        "train_val_mismatch",
        "validation series upside down",
        new("conv1d", "bumps", 12, 2e-3, model_norm=True, model_depth=4),
        spoiled("val_inverted"),
    ),
    ill(
        "train_val_mismatch",
        "a token that knows the topic",
        new("encoder", "topics", 8, 2e-3, model_depth=1),
        spoiled("leak_token"),
        "overfitting",
    ),
    # ---- regularisation
    ill(
        "over_regularised",
        "transformer, weight decay 30",
        new("encoder", "rows", 10, 2e-3, model_norm=True) | ADAMW,
        {"optimizer.weight_decay": 30.0},
        repairable=True,
    ),
    ill(
        "over_regularised",
        "convolutions, L2 of 0.2 in Adam",
        new("conv1d", "bumps", 12, 2e-3, model_depth=4, data_batch_size=64),
        {"optimizer.weight_decay": 0.2},
        repairable=True,
    ),
]

HEALTHY = [
    # ---- recurrent
    Case("LSTM on texts", new("lstm", "topics", 12, 3e-3, model_depth=1, data_samples=2000)),
    Case("two-layer GRU both ways, cosine", new("bigru", "rows", 15, 3e-3, data_batch_size=64) | ADAMW | COSINE),
    Case("LSTM on series, momentum", new("lstm", "rows", 15, 0.1, model_depth=1, model_width=48) | SGD | lr(0.1)),
    Case("GRU, frozen embedding", new("gru", "topics", 12, 3e-3, model_depth=1, model_frozen="body.embed")),
    # ---- transformers
    Case("transformer, OneCycle", new("encoder", "topics", 12, 5e-3, data_samples=2000) | ADAMW | ONE_CYCLE),
    Case("transformer, warm-up", new("encoder", "rows", 15, 2e-3, model_width=48, model_depth=3) | ADAMW | WARM_UP),
    Case("transformer, label smoothing", new("encoder", "rows", 12, 1e-3, model_norm=True, model_label_smoothing=0.1)),
    Case("transformer, dropout 0.3", new("encoder", "topics", 15, 2e-3, model_norm=True, model_dropout=0.3) | COSINE),
    # ---- batch norm at OneCycle's high rates
    Case(
        "convolutions, OneCycle to 0.03",
        new("cnn", "digits", 10, 0.03, model_depth=5, model_norm=True) | ADAMW | ONE_CYCLE,
    ),
    Case(
        "residual network, OneCycle to 0.5",
        new("resnet", "digits", 10, 0.5, model_norm=True, model_width=16) | SGD | ONE_CYCLE | lr(0.5),
    ),
    Case(
        "1-d convolutions, OneCycle to 0.05",
        new("conv1d", "bumps", 12, 0.05, model_depth=4, model_norm=True) | ADAMW | ONE_CYCLE,
    ),
    Case(
        "residual network on photographs, OneCycle to 0.02",
        new("resnet", "photos", 10, 0.02, model_norm=True, model_width=16, model_bce=True, data_batch_size=64)
        | ONE_CYCLE,
    ),
    # ---- dropout
    Case(
        "dropout 0.6, 20 classes", new("mlp", "many", 10, 2e-3, model_width=256, model_dropout=0.6, data_samples=2500)
    ),
    Case(
        "dropout 0.7 before the head",
        new("cnn", "digits", 12, 3e-3, model_depth=4, model_norm=True, model_dropout=0.7),
    ),
    # ---- warm-up
    Case(
        "residual network, warm-up",
        new("resnet", "photos", 10, 0.1, model_norm=True, model_width=16) | SGD | WARM_UP | lr(0.1),
    ),
    # ---- frozen
    Case(
        "random frozen layers, wide",
        new("mlp", "digits", 20, 5e-3, model_width=512, model_depth=1, model_frozen="body"),
    ),
    Case(
        "frozen first convolutions",
        new("cnn", "digits", 12, 3e-3, model_depth=4, model_norm=True, model_frozen="body.0"),
    ),
    # ---- imbalance
    Case(
        "1 to 15 that does no harm, photographs",
        new("resnet", "photos", 15, 2e-3, model_norm=True, model_width=16, data_samples=3000) | spoiled("rare", 0.066),
    ),
    Case(
        "1 to 12 that does no harm, digits",
        new("cnn", "digits", 15, 3e-3, model_norm=True, model_depth=4) | ADAMW | spoiled("rare", 0.08),
    ),
    # ---- label noise
    Case(
        "25 % wrong labels, LSTM",
        new("lstm", "topics", 6, 3e-3, model_depth=1, data_samples=3000) | spoiled("noisy", 0.25),
    ),
    Case(
        "35 % wrong labels, 1-d convolutions",
        new("conv1d", "bumps", 8, 2e-3, model_depth=3, model_norm=True, model_width=16, data_samples=2500)
        | spoiled("noisy", 0.35),
    ),
    # ---- more
    Case("batches of 3, flowers", new("mlp", "iris", 12, 2e-3, data_batch_size=3)),
    Case(
        "photographs from 0 to 255, normalised by the first layer",
        new("cnn", "photos", 10, 3e-3, model_depth=4, model_width=16, model_input_norm=True) | spoiled("raw"),
    ),
    Case(
        "converged long before the end, a roll",
        new("mlp", "roll", 60, 0.01, model_width=64, model_depth=3, data_batch_size=128, data_samples=2000) | COSINE,
    ),
    Case("1-d convolutions, StepLR", new("conv1d", "bumps", 15, 3e-3, model_depth=4, model_activation="silu") | STEPS),
]
