"""The runs of the benchmark: faulty ones, each with one fault, and healthy ones that look ill.

A case is the keys in which it differs from a plain run of its family, and for a faulty one the name of its problem.
These were looked at while the doctor's rules were written; those of `held_out.py` were not.
"""

from dataclasses import dataclass, field
from typing import Any

MLP = {"model.kind": "mlp", "optimizer.lr": 3e-3, "trainer.max_epochs": 15}
CNN = {"model.kind": "cnn", "data.images": True, "model.width": 16, "optimizer.lr": 3e-3, "trainer.max_epochs": 10}
FORMER = {
    "model.kind": "transformer",
    "data.name": "tokens",
    "data.samples": 1200,
    "model.width": 32,
    "model.norm": "layer",
    "optimizer.lr": 2e-3,
    "trainer.max_epochs": 12,
}
SGD = {"optimizer": "torch.optim.SGD", "optimizer.lr": 0.1, "optimizer.momentum": 0.9}
ADAMW = {"optimizer": "torch.optim.AdamW"}
ONE_CYCLE = {"lr_scheduler": "torch.optim.lr_scheduler.OneCycleLR"}
COSINE = {"lr_scheduler": "torch.optim.lr_scheduler.CosineAnnealingLR"}
WARM_UP = {
    "lr_scheduler": "torch.optim.lr_scheduler.LinearLR",
    "lr_scheduler.start_factor": 0.01,
    "lr_scheduler.total_iters": 4,
}
CANCER = {"data.name": "cancer", "trainer.max_epochs": 30, "model.width": 32}
WINE = {"data.name": "wine", "trainer.max_epochs": 40, "data.batch_size": 16, "model.width": 32}
BLOBS = {"data.name": "blobs", "trainer.max_epochs": 15}


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        name: Of the case.
        family: Keys of the plain run; those that make a difference to other cases of the same problem, too.
        fault: The keys that make it ill; nothing for a healthy one.
        problem: The name of the right diagnosis; "" for a healthy one.
        also: Names that are right as well.
        repairable: Whether some key of the run mends it.
    """

    name: str
    family: dict[str, Any]
    fault: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    also: tuple[str, ...] = ()
    repairable: bool = False


def faulty(problem: str, family: dict[str, Any], fault: dict[str, Any], *also: str, repairable: bool = False) -> Case:
    """A case with a fault, named after both."""
    what = "_".join(f"{key.rsplit('.', 1)[-1]}_{value}" for key, value in fault.items())
    kind = family.get("data.name", "digits")
    return Case(f"{problem}/{family['model.kind']}-{kind}-{what}", family, fault, problem, also, repairable)


FAULTY = [
    faulty("nan_or_inf", MLP, {"data.batch_nan": 300}),
    faulty("nan_or_inf", MLP | BLOBS, {"model.sqrt_bug": True}),
    faulty("exploding_gradients", MLP | SGD, {"model.loss_scale": 3e3}, repairable=True),
    faulty("exploding_gradients", CNN | SGD, {"data.outliers": 150}, repairable=True),
    faulty("exploding_gradients", MLP | BLOBS, {"data.outliers": 100}),
    faulty("vanishing_gradients", MLP | SGD | {"model.depth": 8}, {"model.activation": "sigmoid"}, repairable=True),
    faulty(
        "vanishing_gradients",
        MLP | BLOBS | SGD | {"model.depth": 10, "model.width": 32},
        {"model.activation": "sigmoid"},
        repairable=True,
    ),
    faulty("dead_relus", MLP | ADAMW, {"model.bias_init": -6.0}, repairable=True),
    faulty("dead_relus", CNN, {"model.bias_init": -8.0}, repairable=True),
    faulty(
        "saturation",
        MLP | {"model.activation": "tanh"},
        {"model.init_scale": 40.0},
        "bad_initialisation",
        repairable=True,
    ),
    faulty(
        "saturation",
        MLP | BLOBS | SGD | {"model.activation": "sigmoid"},
        {"model.init_scale": 50.0},
        "bad_initialisation",
        repairable=True,
    ),
    faulty(
        "overfitting",
        MLP | BLOBS | {"model.width": 256, "trainer.max_epochs": 60},
        {"data.train_share": 0.12},
        repairable=False,
    ),
    faulty("overfitting", MLP | {"model.width": 256, "trainer.max_epochs": 40}, {"data.label_noise": 0.6}),
    faulty("overfitting", CNN | {"trainer.max_epochs": 40, "model.width": 48}, {"data.label_noise": 0.6}),
    faulty("underfitting", MLP | {"trainer.max_epochs": 25}, {"model.width": 2}, repairable=True),
    faulty("underfitting", CNN | {"trainer.max_epochs": 20}, {"model.width": 1}, repairable=True),
    faulty("learning_rate_too_high", MLP, {"optimizer.lr": 3.0}, repairable=True),
    faulty("learning_rate_too_high", MLP | BLOBS | SGD, {"optimizer.lr": 30.0}, "nan_or_inf", repairable=True),
    faulty("learning_rate_too_high", CNN | ADAMW | ONE_CYCLE, {"optimizer.lr": 2.0}, repairable=True),
    faulty("learning_rate_too_high", FORMER, {"optimizer.lr": 0.3}, repairable=True),
    faulty("learning_rate_too_low", MLP, {"optimizer.lr": 1e-6}, repairable=True),
    faulty("learning_rate_too_low", CNN | SGD, {"optimizer.lr": 1e-5}, repairable=True),
    faulty("learning_rate_too_low", FORMER | ADAMW, {"optimizer.lr": 1e-6}, repairable=True),
    faulty("not_learning", MLP, {"model.new_labels": True}),
    faulty("not_learning", FORMER, {"model.new_labels": True}),
    faulty("bad_initialisation", MLP, {"model.init_std": 2.0}, repairable=True),
    faulty("bad_initialisation", MLP | CANCER, {"model.constant": True}),
    faulty("bad_initialisation", CNN | SGD, {"model.init_scale": 12.0}, "exploding_gradients", repairable=True),
    faulty(
        "class_imbalance",
        MLP | BLOBS | {"data.classes": 2, "data.samples": 4000, "data.features": 6, "model.width": 16},
        {"data.rare": 0.03},
        repairable=True,
    ),
    faulty("data_loading", MLP, {"data.sample_seconds": 0.0005}),
    faulty("data_loading", CNN, {"data.sample_seconds": 0.002}),
    faulty("inputs_not_normalised", MLP | CANCER, {"data.normalize": False}, repairable=True),
    faulty("inputs_not_normalised", CNN, {"data.scale": 100.0}, repairable=True),
    faulty("inputs_not_normalised", MLP | BLOBS, {"data.shift": 50.0}, repairable=True),
    faulty("softmax_before_cross_entropy", MLP, {"model.softmax": True}, repairable=True),
    faulty("softmax_before_cross_entropy", FORMER, {"model.softmax": True}, repairable=True),
    faulty("data_in_label_order", MLP, {"data.sort": True}, repairable=True),
    faulty("data_in_label_order", CNN | SGD, {"data.sort": True}, repairable=True),
    faulty("parameters_never_move", MLP, {"model.detach": True}),
    faulty("parameters_never_move", FORMER, {"model.detach": True}),
    faulty("parameters_never_move", MLP | SGD, {"model.only": "net.head"}),
    faulty(
        "train_eval_mismatch",
        CNN | {"model.norm": "batch", "model.init_scale": 4.0},
        {"model.bn_momentum": 1e-4},
        repairable=True,
    ),
    faulty("train_eval_mismatch", MLP, {"model.eval_bug": -1.0}),
    faulty("train_val_mismatch", MLP, {"data.val_shift": True}),
    faulty("train_val_mismatch", CNN, {"data.val_raw": True}),
    faulty("over_regularised", MLP | ADAMW, {"optimizer.weight_decay": 50.0}, repairable=True),
    faulty("over_regularised", CNN, {"model.dropout": 0.9}, repairable=True),
    faulty("over_regularised", MLP | BLOBS, {"model.penalty": 1.0}, repairable=True),
]

HEALTHY = [
    Case("converged", MLP | {"trainer.max_epochs": 40}),
    Case("converged, SGD", MLP | SGD | CANCER),
    Case("frozen layers", MLP | {"model.freeze": "net.blocks.1", "model.depth": 3}),
    Case("frozen embedding", FORMER | {"model.freeze": "net.embed"}),
    Case("OneCycle", CNN | ADAMW | ONE_CYCLE | {"optimizer.lr": 0.02}),
    Case("OneCycle, SGD", MLP | SGD | ONE_CYCLE | {"optimizer.lr": 0.3}),
    Case("warm-up", MLP | WARM_UP),
    Case("warm-up, transformer", FORMER | WARM_UP),
    Case("cosine", CNN | COSINE),
    Case("20 % label noise", MLP | {"data.label_noise": 0.2, "model.width": 32, "trainer.max_epochs": 8}),
    Case("20 % label noise, CNN", CNN | {"data.label_noise": 0.2}),
    Case(
        "20 % label noise, two classes",
        MLP | BLOBS | {"data.classes": 2, "data.label_noise": 0.2, "trainer.max_epochs": 6},
    ),
    Case("mild imbalance", MLP | BLOBS | {"data.classes": 2, "data.rare": 0.25, "data.samples": 2000}),
    Case("harmless imbalance", MLP | {"data.rare": 0.08, "trainer.max_epochs": 20}),
    Case("dropout 0.5", MLP | {"model.dropout": 0.5, "model.width": 128}),
    Case("dropout 0.5, CNN", CNN | {"model.dropout": 0.3}),
    Case("batch 8", MLP | {"data.batch_size": 8, "optimizer.lr": 1e-3, "trainer.max_epochs": 6}),
    Case("batch 8, SGD", CNN | SGD | {"data.batch_size": 8, "optimizer.lr": 0.01, "trainer.max_epochs": 5}),
    Case("inputs in [0, 1]", MLP | {"data.unit": True}),
    Case("tanh", MLP | {"model.activation": "tanh", "model.depth": 3}),
    Case("tanh, blobs", MLP | BLOBS | SGD | {"model.activation": "tanh"}),
    Case("batch norm", CNN | {"model.norm": "batch"}),
    Case(
        "batch norm on raw inputs in [0, 16]",
        CNN | {"model.norm": "batch", "data.normalize": False, "optimizer.lr": 1e-3},
    ),
    Case("label smoothing", MLP | {"model.label_smoothing": 0.1}),
    Case("weight decay", CNN | ADAMW | {"optimizer.weight_decay": 0.1}),
    Case("wine", MLP | WINE),
    Case("transformer on pixels", FORMER | {"data.name": "digits", "trainer.max_epochs": 15}),
]
