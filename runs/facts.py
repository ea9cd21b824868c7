"""What a run's folder says: its state, its metrics, its best epoch, the time of its epochs."""

import math
import re
from dataclasses import dataclass

import numpy as np

from runs.charts import Mark
from runs.events import Curve, Log, read_log
from runs.run import Run
from runs.status import STAGE, better_mode, part, read_config, status

# what `Monitor` logs by layer and `TensorBoardViews` by class: one chart for all of a kind, with what it shows
FAMILIES = {
    "update_ratio": "change of the weights in a step, over the weights",
    "activation_std": "standard deviation of what a layer gives out",
    "activation_mean": "mean of what a layer gives out",
    "dead_units": "share of units that are on for less than 1 % of the inputs",
    "recall": "share of a class's validation samples that were recognised",
}
HIDDEN = re.compile(r"(grad_mean|grad_var)/|^(epoch|hp_metric)$")
LR = re.compile(r"lr(?=[-/]|$)")


@dataclass
class Metric:
    """A metric of the validation, and the same one of the training.

    Attributes:
        name: Without the stage.
        tag: As the validation logs it; "" for one that only the training has.
        val: The curve of the validation.
        train: The curve of the training.
        by_step: That of single training steps.
        sampled: Whether the training's values are means over the steps that were logged, and not over all.
    """

    name: str
    tag: str = ""
    val: Curve | None = None
    train: Curve | None = None
    by_step: Curve | None = None
    sampled: bool = False


class Facts:
    """All that a run's folder says, as far as it can be read.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.folder = run, run.folder
        self.config = read_config(run.folder / "config.yaml")
        self.summary = run.summary
        self.status = status(run.folder, self.config, self.summary)
        self.log = read_log(run.folder, lambda name: not re.match(r"(grad_mean|grad_var)/", name))
        self.metrics = find_metrics(self.log)
        self.monitor = part(self.config, "checkpoint").get("monitor") or "val/loss"
        self.mode = better_mode(self.monitor, self.config)
        self.best_epoch, self.best_step = self._best()

    def _best(self) -> tuple[int | None, int | None]:
        """Epoch and logged step of the best epoch: from the summary, or, without one, from the curve so far."""
        if self.summary.get("best_epoch") is not None:
            return int(self.summary["best_epoch"]), int(self.summary.get("best_step") or 0) - 1
        curve = self.log.curves.get(self.monitor)
        if self.summary or curve is None or not np.isfinite(curve.values).any():
            return None, None
        worst = -np.inf if self.mode == "max" else np.inf
        values = np.where(np.isfinite(curve.values), curve.values, worst)
        step = int(curve.steps[values.argmax() if self.mode == "max" else values.argmin()])
        return self.log.epoch_of(step), step

    @property
    def mark(self) -> Mark | None:
        """The best epoch, for a chart."""
        if self.best_step is None:
            return None
        return Mark(self.best_step, f"best: epoch {self.best_epoch}" if self.best_epoch is not None else "best")


def find_metrics(log: Log) -> list[Metric]:
    """The metrics of validation and training, those with a twin first, the loss before others."""
    found: dict[str, Metric] = {}
    for tag in log.curves:
        if (match := STAGE.match(tag)) and match[1].startswith("val") and _known(tag):
            name = tag[match.end() :].removesuffix("_epoch")
            if not tag.endswith("_step"):
                found.setdefault(name, Metric(name, tag, val=log.curves[tag]))
    for tag, curve in log.curves.items():
        match = STAGE.match(tag)
        if not _known(tag) or (match and not match[1].startswith("train")):
            continue
        rest = tag[match.end() :] if match else tag
        name = rest.removesuffix("_epoch").removesuffix("_step")
        if not match and name not in found:
            continue  # some other curve
        metric = found.setdefault(name, Metric(name))
        if rest.endswith("_step"):
            metric.by_step = curve
        else:
            metric.train = curve
    for metric in found.values():
        whole = metric.train
        if whole is not None and metric.by_step is None and len(whole.steps) > 1.5 * len(log.epochs[0]) > 0:
            metric.by_step, metric.train, metric.sampled = whole, _by_epoch(whole, log), True
    return sorted(found.values(), key=lambda m: (m.val is None, not m.name.endswith("loss"), m.train is None, m.name))


def _by_epoch(curve: Curve, log: Log) -> Curve:
    """The mean of a curve's values in each epoch, at the last of their steps."""
    ends = np.searchsorted(curve.steps, log.epochs[1], side="right")
    parts = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True) if np.isfinite(curve.values[a:b]).any()]
    last = [part.stop - 1 for part in parts]
    means = np.array([np.nanmean(np.where(np.isinf(v), np.nan, v)) for v in (curve.values[part] for part in parts)])
    return Curve(curve.steps[last], means, curve.times[last], curve.files[last])


def _known(tag: str) -> bool:
    family = tag.partition("/")[0]
    return not (HIDDEN.match(tag) or LR.match(tag) or family in FAMILIES or family in ("grad_norm", "time", "memory"))


def epoch_seconds(log: Log) -> tuple[np.ndarray, np.ndarray]:
    """How long each epoch took, validation included, from the times at which its values were logged.

    Of the first epoch of a file only the part after its first value is seen; its time is that of all its steps at the
    same speed.

    Returns:
        `(E,)` int64 epochs and `(E,)` float64 seconds.
    """
    if (curve := log.curves.get("epoch")) is None:
        return np.empty(0, int), np.empty(0)
    totals: dict[int, float] = {}
    steps: dict[int, int] = {}
    before: tuple[int, int, float] | None = None  # file, step, time
    done = -1  # the last step of the epoch before
    epoch_now = None
    rows = zip(*(column.tolist() for column in (curve.values, curve.steps, curve.times, curve.files)), strict=True)
    for value, step, time, file in rows:
        if not math.isfinite(value):
            continue
        epoch = int(value)
        if epoch != epoch_now:
            if epoch_now is not None and before:
                done = before[1]
            epoch_now = epoch
        if before and before[0] == file:
            totals[epoch] = totals.get(epoch, 0.0) + time - before[2]
            steps[epoch] = steps.get(epoch, 0) + step - max(before[1], done)
        before = (file, step, time)
    last = dict(zip(*(column.tolist() for column in log.epochs), strict=True))
    found, first = [], -1
    for epoch, end in last.items():
        length, seen = end - first, steps.get(epoch, 0)
        if seen > 0 and totals[epoch] > 0:
            found.append((epoch, totals[epoch] * max(1.0, length / seen)))
        first = end
    if not found:
        return np.empty(0, int), np.empty(0)
    epochs, took = zip(*found, strict=True)
    return np.array(epochs), np.array(took)


def value_at(curve: Curve | None, step: int) -> float | None:
    """The value of a curve at a step, or the last one before it."""
    if curve is None or not len(curve.steps):
        return None
    place = int(np.searchsorted(curve.steps, step, side="right")) - 1
    return float(curve.values[place]) if place >= 0 else None
