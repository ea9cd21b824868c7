"""What the best epoch predicted, as numbers for programs: `confusion_matrix.json` and `residuals.json`."""

import json
import math
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

CONFUSION, RESIDUALS = "confusion_matrix.json", "residuals.json"
POINTS = 1000  # pairs of a prediction and a target that are kept of each output
OUTPUTS = 50  # outputs that are looked at one by one
BINS = 30


class Residuals(Callback):
    """Keeps how far the predictions of the best epoch were from their targets, in `residuals.json`.

    For a `validation_step` that returns a mapping with `predictions` and `targets`, floats `(N,)` or `(N, K)`. By
    output: mean error, mean absolute error, root mean squared error, R², a histogram of the residuals (prediction -
    target), and up to 1,000 pairs, evenly taken. Of several processes it is the first one's share.
    """

    def __init__(self) -> None:
        self._best: dict[str, Any] | None = None
        self._seen: list[tuple[Tensor, Tensor]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"best": json.dumps(self._best)} if self._best else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best = json.loads(state_dict["best"]) if "best" in state_dict else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.ckpt_path:
            self._best = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(outputs, Mapping) or not fitting(trainer):
            return
        predictions, targets = outputs.get("predictions"), outputs.get("targets")
        if not isinstance(predictions, Tensor) or not isinstance(targets, Tensor):
            return
        if predictions.shape == targets.shape and predictions.ndim in (1, 2) and predictions.is_floating_point():
            columns = [x.detach().float().view(len(x), -1)[:, :OUTPUTS] for x in (predictions, targets)]
            self._seen.append((columns[0], columns[1]))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._seen or not fitting(trainer):
            return
        score = score_now(trainer)
        if self._best is None or score is None or score > self._best["score"]:
            predictions, targets = (torch.cat(column).cpu() for column in zip(*self._seen, strict=True))
            self._best = {
                "score": -math.inf if score is None else score,
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "part": part_of(trainer),
                "outputs": [describe(*pair) for pair in zip(predictions.unbind(1), targets.unbind(1), strict=True)],
            }
        self._seen = []

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._best:
            found = {key: value for key, value in self._best.items() if key != "score"}
            write(trainer, RESIDUALS, found)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # a run that makes room for another one will go on, and has no time
        if getattr(exception, "signal", None) in (None, signal.SIGINT):
            self.on_train_end(trainer, pl_module)


def describe(predictions: Tensor, targets: Tensor) -> dict[str, Any]:
    """The residuals of one output in numbers; predictions and targets `(N,)` float32.

    Pairs that are not finite are counted, and left out.
    """
    finite = predictions.isfinite() & targets.isfinite()
    predictions, targets = predictions[finite].double(), targets[finite].double()
    found: dict[str, Any] = {"samples": len(finite), "not_finite": int((~finite).sum())}
    if not len(predictions):
        return found
    errors = predictions - targets
    spread = float((targets - targets.mean()).square().sum())
    low, high = float(errors.min()), float(errors.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    kept = torch.linspace(0, len(errors) - 1, min(POINTS, len(errors)), dtype=torch.float64).round().long()
    return {
        **found,
        "mean": float(errors.mean()),
        "mae": float(errors.abs().mean()),
        "rmse": float(errors.square().mean().sqrt()),
        "r2": 1 - float(errors.square().sum()) / spread if spread > 0 else None,
        "histogram": torch.histc(errors, BINS, low, high).long().tolist(),
        "range": [low, high],
        "predictions": predictions[kept].tolist(),
        "targets": targets[kept].tolist(),
    }


def write_confusion(
    trainer: Trainer, labels: Tensor, predicted: Tensor, names: Sequence[str], epoch: int, step: int
) -> None:
    """Write how often each class was taken for each other: `[label, predicted, count]` where that is not 0.

    Args:
        trainer: Knows the run's folder.
        labels: `(N,)` int64, from 0.
        predicted: `(N,)` int64.
        names: Of the classes.
        epoch: Of the predictions.
        step: The number of steps before them.
    """
    k = len(names)
    pairs, counts = (labels * k + predicted).unique(return_counts=True)
    rows = [[pair // k, pair % k, n] for pair, n in zip(pairs.tolist(), counts.tolist(), strict=True)]
    found = {"epoch": epoch, "step": step, "part": part_of(trainer), "classes": list(map(str, names)), "counts": rows}
    write(trainer, CONFUSION, found)


def write(trainer: Trainer, name: str, content: Mapping[str, Any]) -> None:
    """Write a JSON file into the run's folder, whole or not at all."""
    folder = trainer.loggers[0].log_dir if trainer.loggers and trainer.is_global_zero else None
    if folder:
        part = Path(folder, f".{name}.part")
        with suppress(OSError):  # a disk that is full: the run matters more
            part.write_text(json.dumps(content) + "\n", encoding="utf-8")
            part.replace(Path(folder, name))


def part_of(trainer: Trainer) -> str:
    """Which of the samples a process has seen."""
    return "validation" + (f", rank 0 of {trainer.world_size}" if trainer.world_size > 1 else "")


def fitting(trainer: Trainer) -> bool:
    """Whether this is the validation of a fit."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def monitored(trainer: Trainer) -> tuple[str | None, str]:
    """The metric by which an epoch is the best, and whether its `min` or its `max` is."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor:
            return callback.monitor, callback.mode
    return None, "min"


def score_now(trainer: Trainer) -> float | None:
    """How good this epoch is, more is better; -inf for NaN, None where nothing is monitored."""
    name, mode = monitored(trainer)
    value = trainer.callback_metrics.get(name) if name else None
    if value is None:
        return None
    return -math.inf if value.isnan() else float(value) * (1 if mode == "max" else -1)
