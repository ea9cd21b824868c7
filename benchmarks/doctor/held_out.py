"""Cases that the doctor's rules were never tuned on: read their results, and leave them as they are.

Each was chosen by the training itself: a faulty run ends visibly worse than the run of its family without the fault
(or is as much slower, where time is the problem), and a healthy one about as well as its kind can.
"""

from typing import Any

from benchmarks.doctor.cases import ADAMW, COSINE, MLP, ONE_CYCLE, SGD, Case

PARTS = "benchmarks.doctor.held_parts."
RMSPROP = {"optimizer": "torch.optim.RMSprop"}
ADAGRAD = {"optimizer": "torch.optim.Adagrad"}
NADAM = {"optimizer": "torch.optim.NAdam"}
PLAIN_SGD = {"optimizer": "torch.optim.SGD", "optimizer.lr": 0.1}
STEPS = {"lr_scheduler": "torch.optim.lr_scheduler.StepLR", "lr_scheduler.step_size": 5, "lr_scheduler.gamma": 0.3}
DECAY = {"lr_scheduler": "torch.optim.lr_scheduler.ExponentialLR", "lr_scheduler.gamma": 0.85}
PLATEAU = {"lr_scheduler": "torch.optim.lr_scheduler.ReduceLROnPlateau", "lr_scheduler.patience": 2}


def task(kind: str, data: str, epochs: int, lr: float, **more: Any) -> dict[str, Any]:
    """A family of `Learner` on `Sets`; `model_KEY` and `data_KEY` are their keys."""
    keys = {"model": PARTS + "Learner", "data": PARTS + "Sets", "model.kind": kind, "data.name": data,
            "trainer.max_epochs": epochs, "optimizer.lr": lr}  # fmt: skip
    return keys | {key.replace("_", ".", 1): value for key, value in more.items()}


def own(net: str, data: str, epochs: int, lr: float, **more: Any) -> dict[str, Any]:
    """A family of the project's Classifier, network and images; `net_KEY` and `data_KEY` are their keys."""
    keys = {"model": "modules.Classifier", "model.net": PARTS + "Faulty" + net, "data": PARTS + data,
            "trainer.max_epochs": epochs, "optimizer.lr": lr}  # fmt: skip
    return keys | {
        ("model.net." if key[:4] == "net_" else "data.") + key.split("_", 1)[1]: v for key, v in more.items()
    }


def stock(net: str, epochs: int, lr: float, **more: Any) -> dict[str, Any]:
    """The project's own classes and nothing else."""
    return own(net, "", epochs, lr, **more) | {"model.net": "modules.nets." + net, "data": "datamodules.Digits"}


def fault(kind: str, severity: float | None = None) -> dict[str, Any]:
    """A fault of the task."""
    return {"model.fault": kind} | ({} if severity is None else {"model.severity": severity})


def spoiled(kind: str, severity: float | None = None) -> dict[str, Any]:
    """A fault of the data."""
    return {"data.fault": kind} | ({} if severity is None else {"data.severity": severity})


def broken(kind: str, severity: float | None = None) -> dict[str, Any]:
    """A fault of the project's network."""
    return {"model.net.fault": kind} | ({} if severity is None else {"model.net.severity": severity})


def ill(
    problem: str, name: str, family: dict[str, Any], wrong: dict[str, Any], *also: str, repairable: bool = False
) -> Case:
    """A faulty case."""
    return Case(f"{problem}/{name}", family, wrong, problem, also, repairable)


def lr(value: float) -> dict[str, Any]:
    """A learning rate."""
    return {"optimizer.lr": value}


_FAULTY = [
    # ---- NaN and infinity
    ill(
        "nan_or_inf",
        "log of a probability that is 0",
        task("dense", "digits", 12, 3e-3),
        fault("log_of_probability", 600.0),
    ),
    ill(
        "nan_or_inf",
        "mean over a class without samples",
        task("conv", "shapes", 10, 3e-3, data_batch_size=16),
        fault("empty_class"),
    ),
    ill(
        "nan_or_inf",
        "inputs over a spread of 0",
        task("dense", "digits", 12, 1e-3, model_norm="batch") | ADAMW,
        fault("divide_by_spread"),
    ),
    ill(
        "nan_or_inf",
        "missing value in one column",
        task("residual", "cancer", 25, 1e-3) | RMSPROP,
        spoiled("missing", 250),
    ),
    ill("nan_or_inf", "infinite value in a series", task("gru", "waves", 8, 3e-3), spoiled("infinite", 200)),
    ill(
        "nan_or_inf",
        "missing pixels in the project's images",
        own("CNN", "Pictures", 10, 3e-3, net_width=8),
        spoiled("missing", 500),
    ),
    # ---- vanishing gradients
    ill(
        "vanishing_gradients",
        "nine sigmoid layers, SGD",
        task("dense", "digits", 12, 0.02, model_depth=9, model_norm="layer") | SGD | lr(0.02),
        {"model.function": "sigmoid", "model.norm": "none"},
        repairable=True,
    ),
    ill(
        "vanishing_gradients",
        "seven sigmoid layers, Adam",
        task("dense", "digits", 12, 1e-3, model_depth=7, model_width=32),
        {"model.function": "sigmoid"},
        repairable=True,
    ),
    ill(
        "vanishing_gradients",
        "six tanh layers with small weights",
        task("dense", "digits", 12, 0.05, model_depth=6, model_function="tanh") | SGD | lr(0.05),
        {"model.gain": 0.2},
        "bad_initialisation",
    ),
    ill(
        "vanishing_gradients",
        "sigmoid in the project's MLP",
        own("MLP", "FaultyDigits", 20, 2e-3, net_depth=7),
        broken("sigmoid", 1.0),
    ),
    # ---- exploding gradients
    ill(
        "exploding_gradients",
        "loss times 500",
        task("residual", "blobs", 15, 0.05) | SGD | lr(0.02),
        fault("loss_scale", 500.0),
        "learning_rate_too_high",
        "nan_or_inf",
        repairable=True,
    ),
    ill(
        "exploding_gradients",
        "recurrent weights times 8",
        task("rnn", "words", 11, 0.05) | PLAIN_SGD | lr(0.05),
        {"model.recurrent_gain": 8.0},
        "bad_initialisation",
        "saturation",
        repairable=True,
    ),
    ill(
        "exploding_gradients",
        "weights times 6",
        task("dense", "digits", 12, 0.02, model_depth=4) | SGD | lr(0.02),
        {"model.gain": 6.0},
        "bad_initialisation",
        "nan_or_inf",
        repairable=True,
    ),
    ill(
        "exploding_gradients",
        "outliers, SGD",
        task("dense", "hastie", 20, 0.05, data_samples=2000) | SGD | lr(0.02),
        spoiled("outliers", 120),
        "nan_or_inf",
        "inputs_not_normalised",
        repairable=True,
    ),
    ill(
        "exploding_gradients",
        "outliers in the project's images",
        own("CNN", "FaultyDigits", 20, 0.1, net_width=16, net_depth=1, net_norm="none") | SGD | lr(0.05),
        spoiled("outliers", 1000),
        "nan_or_inf",
        repairable=True,
    ),
    # ---- dead ReLUs
    ill(
        "dead_relus",
        "biases at -5",
        task("dense", "wine", 40, 1e-3, data_batch_size=16, model_depth=2),
        {"model.bias": -5.0},
        "bad_initialisation",
    ),
    ill(
        "dead_relus",
        "batch norm's shift at -5",
        task("conv", "shapes", 8, 1e-3, model_norm="batch") | RMSPROP,
        {"model.norm_bias": -5.0},
        "bad_initialisation",
    ),
    ill(
        "dead_relus",
        "biases at -4, SGD",
        task("dense", "digits", 15, 0.02, model_depth=3) | SGD | lr(0.02),
        {"model.bias": -4.0},
        "bad_initialisation",
        repairable=True,
    ),
    ill(
        "dead_relus",
        "the project's CNN, shifted by -5",
        own("CNN", "FaultyDigits", 12, 1e-3, net_width=8),
        broken("bias", -5.0),
        "bad_initialisation",
    ),
    # ---- saturation
    ill(
        "saturation",
        "tanh, weights times 30",
        task("dense", "digits", 12, 1e-3, model_function="tanh"),
        {"model.gain": 30.0},
        "bad_initialisation",
        repairable=True,
    ),
    ill(
        "saturation",
        "sigmoid, weights times 60",
        task("dense", "digits", 15, 5e-3, model_function="sigmoid", model_depth=2, model_width=32),
        {"model.gain": 60.0},
        "bad_initialisation",
        repairable=True,
    ),
    ill(
        "saturation",
        "tanh CNN, weights times 25",
        task("conv", "shapes", 8, 2e-3, model_function="tanh") | ADAMW,
        {"model.gain": 25.0},
        "bad_initialisation",
        repairable=True,
    ),
    ill(
        "saturation",
        "tanh on inputs times 300",
        task("dense", "moons", 25, 3e-3, model_function="tanh", model_depth=2),
        spoiled("scaled", 300.0),
        "inputs_not_normalised",
        repairable=True,
    ),
    ill(
        "saturation",
        "tanh in the project's MLP",
        own("MLP", "FaultyDigits", 12, 1e-3, net_depth=3),
        broken("tanh", 30.0),
        "bad_initialisation",
    ),
    # ---- overfitting
    ill(
        "overfitting",
        "few samples, wide",
        task("dense", "hastie", 40, 2e-3, data_samples=2500, model_width=256, data_batch_size=16),
        spoiled("few", 0.08),
    ),
    ill(
        "overfitting",
        "half the labels wrong",
        task("residual", "blobs", 25, 1e-3, model_width=200, data_classes=4) | ADAMW,
        spoiled("noisy", 0.5),
    ),
    ill(
        "overfitting",
        "GRU, wrong labels",
        task("gru", "words", 30, 3e-3, data_samples=600),
        spoiled("noisy", 0.5),
    ),
    ill(
        "overfitting",
        "the project's MLP on wrong labels",
        own("MLP", "FaultyDigits", 40, 2e-3, net_width=256),
        spoiled("noisy", 0.6),
    ),
    # ---- underfitting
    ill(
        "underfitting",
        "linear on spirals",
        task("dense", "spirals", 30, 5e-3),
        {"model.function": "linear"},
        repairable=True,
    ),
    ill(
        "underfitting",
        "one unit for shells",
        task("dense", "quantiles", 25, 5e-3, data_features=5, data_samples=2500),
        {"model.width": 1, "model.depth": 1},
        "not_learning",
        repairable=True,
    ),
    ill(
        "underfitting",
        "GRU of one unit",
        task("gru", "waves", 9, 5e-3),
        {"model.width": 1},
        "not_learning",
        repairable=True,
    ),
    ill(
        "underfitting",
        "the project's MLP, two units",
        stock("MLP", 20, 3e-3, net_depth=1),
        {"model.net.width": 2},
        repairable=True,
    ),
    ill(
        "underfitting",
        "the project's CNN, one channel",
        stock("CNN", 15, 3e-3),
        {"model.net.width": 1, "model.net.depth": 1},
        repairable=True,
    ),
    # ---- learning rate too high
    ill(
        "learning_rate_too_high",
        "Adam at 1",
        task("residual", "digits", 12, 2e-3, model_norm="layer"),
        lr(1.0),
        repairable=True,
    ),
    ill(
        "learning_rate_too_high",
        "SGD with momentum at 5",
        task("dense", "cancer", 25, 0.05) | SGD | lr(0.05),
        lr(5.0),
        "nan_or_inf",
        "exploding_gradients",
        repairable=True,
    ),
    ill(
        "learning_rate_too_high", "RMSprop at 0.5", task("conv", "shapes", 8, 1e-3) | RMSPROP, lr(0.5), repairable=True
    ),
    ill("learning_rate_too_high", "GRU, Adam at 0.8", task("gru", "words", 11, 3e-3), lr(0.8), repairable=True),
    ill(
        "learning_rate_too_high",
        "attention at 0.1",
        task("attention", "words", 11, 1e-3, model_width=32, model_depth=2) | ADAMW,
        lr(0.1),
        repairable=True,
    ),
    ill(
        "learning_rate_too_high", "cosine from 3", task("dense", "hastie", 20, 3e-3) | COSINE, lr(3.0), repairable=True
    ),
    ill(
        "learning_rate_too_high",
        "the project's MLP, momentum, at 10",
        stock("MLP", 12, 0.05) | SGD | lr(0.05),
        lr(10.0),
        "nan_or_inf",
        "exploding_gradients",
        repairable=True,
    ),
    # ---- learning rate too low
    ill("learning_rate_too_low", "Adam at 2e-6", task("conv", "shapes", 8, 3e-3), lr(2e-6), repairable=True),
    ill(
        "learning_rate_too_low",
        "SGD at 1e-5",
        task("dense", "wine", 40, 0.05, data_batch_size=16) | PLAIN_SGD | lr(0.05),
        lr(1e-5),
        repairable=True,
    ),
    ill(
        "learning_rate_too_low",
        "OneCycle to 2e-6",
        task("dense", "moons", 25, 0.01) | ONE_CYCLE,
        lr(2e-6),
        repairable=True,
    ),
    ill(
        "learning_rate_too_low", "the project's MLP at 1e-6", stock("MLP", 15, 3e-3) | ADAMW, lr(1e-6), repairable=True
    ),
    # ---- not learning
    ill("not_learning", "targets of other samples", task("dense", "digits", 12, 2e-3), fault("shuffled_targets")),
    ill("not_learning", "inputs of zeros", task("conv", "shapes", 8, 2e-3) | ADAMW, fault("blank_inputs")),
    ill(
        "not_learning",
        "the project's CNN, labels without meaning",
        own("CNN", "Pictures", 10, 1e-3, net_width=4, net_depth=1),
        spoiled("random"),
    ),
    # ---- bad initialisation
    ill("bad_initialisation", "weights all 0.02", task("dense", "digits", 12, 2e-3), {"model.constant": 0.02}),
    ill(
        "bad_initialisation",
        "standard deviation 1.5",
        task("residual", "digits", 12, 1e-3),
        {"model.weight_std": 1.5},
        repairable=True,
    ),
    ill(
        "bad_initialisation",
        "the project's MLP, all 0.03",
        own("MLP", "FaultyDigits", 15, 2e-3),
        broken("constant", 0.03),
    ),
    # ---- class imbalance
    ill(
        "class_imbalance",
        "2 % of one of two shells",
        task("dense", "quantiles", 15, 2e-3, data_samples=4000, data_classes=2, data_features=10),
        spoiled("rare", 0.02),
        repairable=True,
    ),
    ill(
        "class_imbalance",
        "half of the digits",
        task("dense", "digits", 8, 1e-3, model_depth=2) | ADAMW,
        spoiled("rare", 0.03),
        repairable=True,
    ),
    ill("class_imbalance", "the project's images", own("MLP", "FaultyDigits", 10, 1e-3), spoiled("rare", 0.03)),
    # ---- data loading
    ill(
        "data_loading",
        "1 ms a sample",
        task("dense", "digits", 6, 2e-3),
        spoiled("slow_sample", 0.001),
        repairable=True,
    ),
    ill(
        "data_loading", "30 ms a batch", task("conv", "shapes", 10, 2e-3), spoiled("slow_batch", 0.03), repairable=True
    ),
    ill(
        "data_loading",
        "the project's images, 20 ms a batch",
        own("CNN", "FaultyDigits", 10, 3e-3, net_width=8),
        spoiled("slow", 0.02),
    ),
    # ---- inputs
    ill(
        "inputs_not_normalised",
        "raw wine",
        task("dense", "wine", 30, 2e-3, data_batch_size=16),
        spoiled("raw"),
        repairable=True,
    ),
    ill(
        "inputs_not_normalised",
        "offset of 80",
        task("dense", "hastie", 20, 2e-3, data_samples=2500),
        spoiled("offset", 80.0),
        repairable=True,
    ),
    ill(
        "inputs_not_normalised",
        "the project's pixels from 0 to 255",
        own("MLP", "FaultyDigits", 12, 0.02) | SGD | lr(0.02),
        spoiled("raw"),
        "exploding_gradients",
        "learning_rate_too_high",
    ),
    # ---- softmax
    ill("softmax_before_cross_entropy", "SGD", task("dense", "digits", 12, 0.02) | SGD | lr(0.02), fault("softmax")),
    ill(
        "softmax_before_cross_entropy",
        "the project's CNN",
        own("CNN", "FaultyDigits", 10, 0.02, net_width=8) | SGD | lr(0.02),
        broken("softmax"),
    ),
    # ---- label order
    ill(
        "data_in_label_order", "two classes, SGD", task("dense", "moons", 20, 0.05) | SGD | lr(0.05), spoiled("sorted")
    ),
    ill(
        "data_in_label_order",
        "the project's images",
        own("CNN", "FaultyDigits", 10, 3e-3, net_width=8),
        spoiled("sorted"),
    ),
    # ---- parameters that never move
    ill("parameters_never_move", "a copied CNN body", task("conv", "shapes", 7, 2e-3), fault("replaced")),
    ill(
        "parameters_never_move",
        "a copied dense body, AdamW",
        task("dense", "spirals", 25, 5e-3) | ADAMW,
        fault("replaced"),
    ),
    ill(
        "parameters_never_move",
        "the project's CNN without gradient",
        own("CNN", "Pictures", 10, 3e-3, net_width=8),
        broken("no_grad"),
    ),
    # ---- training and evaluation
    ill(
        "train_eval_mismatch",
        "standardised in training only",
        task("dense", "cancer", 20, 2e-3, data_normalize=False),
        fault("eval_raw"),
    ),
    ill(
        "train_eval_mismatch",
        "inputs over 255 in evaluation",
        task("dense", "digits", 12, 2e-3),
        fault("eval_scale", 1 / 255),
    ),
    ill("train_eval_mismatch", "mirrored in evaluation", task("dense", "digits", 12, 2e-3), fault("eval_flip")),
    ill(
        "train_eval_mismatch",
        "the project's CNN",
        own("CNN", "FaultyDigits", 10, 3e-3, net_width=8),
        broken("momentum", 5e-5),
    ),
    # ---- training and validation
    ill(
        "train_val_mismatch",
        "validation inputs as they are",
        task("dense", "wine", 30, 2e-3, data_batch_size=16),
        spoiled("val_raw"),
    ),
    ill(
        "train_val_mismatch",
        "a column that knows the label",
        task("dense", "quantiles", 20, 2e-3),
        spoiled("leak", 10.0),
        "overfitting",
    ),
    ill(
        "train_val_mismatch",
        "the project's images, labels turned",
        own("CNN", "FaultyDigits", 10, 3e-3, net_width=8),
        spoiled("val_labels"),
    ),
    # ---- regularisation
    ill(
        "over_regularised",
        "weight decay 0.3, SGD",
        task("dense", "digits", 12, 0.05) | SGD | lr(0.05),
        {"optimizer.weight_decay": 0.3},
        repairable=True,
    ),
    ill(
        "over_regularised",
        "dropout 0.95",
        task("dense", "quantiles", 20, 2e-3, data_features=6),
        {"model.dropout": 0.95},
        repairable=True,
    ),
    ill("over_regularised", "L1", task("dense", "hastie", 15, 2e-3), fault("l1", 0.05), repairable=True),
    ill(
        "over_regularised",
        "the project's CNN, dropout 0.97",
        stock("CNN", 10, 1e-3, net_width=8),
        {"model.net.dropout": 0.97},
        repairable=True,
    ),
]

_HEALTHY = [
    Case("converged, SGD with momentum", task("residual", "wine", 60, 0.02, data_batch_size=16) | SGD | lr(0.02)),
    Case(
        "frozen first convolution", task("conv", "shapes", 10, 5e-3, model_frozen="body.layers.0", model_norm="batch")
    ),
    Case(
        "OneCycle with a high top, residual",
        task("residual", "digits", 12, 0.01, model_norm="layer") | ADAMW | ONE_CYCLE,
    ),
    Case("cosine, RMSprop", task("dense", "digits", 15, 2e-3) | RMSPROP | COSINE),
    Case("StepLR", task("conv", "shapes", 10, 5e-3) | STEPS),
    Case("exponential decay", task("dense", "cancer", 30, 3e-3, data_batch_size=16) | DECAY),
    Case("lowered at a plateau", task("dense", "moons", 40, 0.01) | PLATEAU),
    Case("Adagrad", task("dense", "digits", 15, 0.02) | ADAGRAD),
    Case("NAdam, residual without norm", task("residual", "digits", 12, 1e-3, model_depth=8) | NADAM),
    Case("30 % wrong labels", task("dense", "digits", 6, 2e-3, model_width=24) | spoiled("noisy", 0.3)),
    Case("15 % wrong labels, two classes", task("dense", "moons", 20, 3e-3, model_width=16) | spoiled("noisy", 0.15)),
    Case(
        "imbalance of 1 to 12 that does no harm",
        task("dense", "blobs", 15, 3e-3, data_samples=3000) | spoiled("rare", 0.08),
    ),
    Case("dropout 0.5, wide", task("dense", "digits", 20, 2e-3, model_width=160, model_dropout=0.5)),
    Case("batches of 4", task("dense", "wine", 12, 1e-3, data_batch_size=4)),
    Case("raw flowers", task("dense", "iris", 60, 5e-3, data_batch_size=16, data_normalize=False)),
    Case("batch norm on raw tables", task("dense", "digits", 12, 2e-3, data_normalize=False, model_norm="batch")),
    Case("tanh, residual", task("residual", "digits", 12, 1e-3, model_function="tanh", model_depth=5)),
    Case("one hidden layer of sigmoids", task("dense", "digits", 20, 0.01, model_function="sigmoid", model_depth=1)),
    Case("SiLU and ELU without norm", task("dense", "spirals", 40, 5e-3, model_function="elu", model_depth=4)),
    Case("one logit", task("dense", "circles", 20, 3e-3, model_loss="bce")),
    Case("one logit, CancerNet", task("residual", "cancer", 25, 1e-3, model_loss="bce") | ADAMW),
    Case("label smoothing 0.2", task("dense", "digits", 12, 2e-3, model_label_smoothing=0.2)),
    Case("weight decay 0.3", task("residual", "digits", 15, 2e-3) | ADAMW | {"optimizer.weight_decay": 0.3}),
    Case(
        "accumulated gradients",
        task("dense", "digits", 20, 5e-3, data_batch_size=16) | {"trainer.accumulate_grad_batches": 4},
    ),
    Case("two epochs of many steps", task("dense", "blobs", 2, 1e-3, data_samples=12000, data_classes=5)),
    Case(
        "the first cases' MLP in sorted folders, shuffled",
        MLP | {"data.batch_size": 24, "model.activation": "gelu", "model.depth": 4, "optimizer.lr": 1e-3},
    ),
    Case("the project's CNN", stock("CNN", 15, 3e-3, net_width=12)),
    Case(
        "the project's CNN, OneCycle and AdamW",
        stock("CNN", 15, 0.02, net_width=12) | ADAMW | ONE_CYCLE | {"optimizer.weight_decay": 0.1},
    ),
    Case(
        "the project's CNN, momentum, group norm",
        stock("CNN", 15, 0.05, net_width=8, net_norm="group") | SGD | lr(0.05) | COSINE,
    ),
    Case(
        "the project's CNN, augmented",
        stock("CNN", 20, 5e-3, net_width=12)
        | {"data.augment.shift": 0.0625, "data.augment.rotate": 10, "data.augment.scale": 0.1},
    ),
    Case("the project's CNN without norm", stock("CNN", 15, 3e-3, net_width=12, net_norm="none")),
    Case("the project's CNN on pictures, dropout 0.4", own("CNN", "Pictures", 12, 3e-3, net_width=8, net_dropout=0.4)),
    Case("the project's MLP, dropout 0.5", stock("MLP", 25, 2e-3, net_width=192, net_dropout=0.5)),
    Case("the project's MLP, label smoothing", stock("MLP", 15, 3e-3) | {"model.label_smoothing": 0.1} | STEPS),
    Case(
        "the project's MLP, 25 % wrong labels",
        own("MLP", "FaultyDigits", 6, 3e-3, net_width=32) | spoiled("noisy", 0.25),
    ),
    Case("the project's linear model", stock("MLP", 30, 5e-3, net_depth=0)),
    Case("the project's MLP, batches of 8", stock("MLP", 5, 1e-3, data_batch_size=8)),
]

# After a first measurement of all of them (64 of 77 right, no false alarm among 37), every second one was looked at,
# and four more; of the others nothing but their numbers has been.
_SEEN = {
    "exploding_gradients/outliers, SGD",
    "exploding_gradients/outliers in the project's images",
    "dead_relus/biases at -5",
    "overfitting/half the labels wrong",
}
LOOKED_AT = {case.name for cases in (_FAULTY, _HEALTHY) for case in cases[1::2]} | _SEEN
FAULTY = [case for case in _FAULTY if case.name not in LOOKED_AT]
HEALTHY = [case for case in _HEALTHY if case.name not in LOOKED_AT]
FAULTY_LOOKED_AT = [case for case in _FAULTY if case.name in LOOKED_AT]
HEALTHY_LOOKED_AT = [case for case in _HEALTHY if case.name in LOOKED_AT]
