"""What TensorBoard shows beside the curves: inputs, graph, confusion matrix, mistakes, hyper-parameters."""

import io
import math
import re
import signal
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams as hparams_summaries

from callbacks.predictions import fitting, part_of, score_now, write_confusion

SHOWN = 5  # metrics in the table of the HPARAMS tab
CLASSES = 20  # of more classes only the one that is recognised worst has a curve


class TensorBoardViews(Callback):
    """Adds pictures and the graph to the run's TensorBoard log, and leaves out what it can't find.

    All of it is drawn when the training ends, so that no step has to wait. Of the first batch: `graph`, and
    `inputs/stored` and `inputs/augmented`, its images before and after normalisation and augmentation. Of the epoch
    with the best monitored metric: `confusion_matrix`, which is written as numbers into `confusion_matrix.json`, too,
    and `mistakes`, the wrong predictions that the network was surest of; for these two, `validation_step` must return a
    mapping with `logits` `(N, K)`, and the batch be `(inputs, labels)`. After each validation of such a module
    `recall/CLASS`, the share of a class's samples that were recognised, and `recall/lowest`; and once a layout that
    shows each metric in training and validation in one chart.

    Args:
        images: How many images a picture shows.
    """

    def __init__(self, images: int = 32) -> None:
        self.images = images
        self._best: dict[str, Any] | None = None
        self._first: Tensor | None = None  # the inputs of the first batch, augmented
        self._validated: list[tuple[Tensor, Tensor, Tensor]] = []
        self._wrong: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._classes = 0
        self._laid_out = False

    def state_dict(self) -> dict[str, Any]:
        # a run that goes on can still show its best epoch
        return {"laid_out": self._laid_out, **({"best": self._best} if self._best else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._laid_out = state_dict.get("best"), state_dict["laid_out"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.ckpt_path:
            self._best = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first = None
        # an epoch shorter than the logging interval would leave the curves by step without a point
        shortest = max(1, trainer.num_training_batches)
        trainer.log_every_n_steps = int(min(trainer.log_every_n_steps, shortest))  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._first is None and _writer(trainer):
            inputs = _inputs(batch)
            self._first = inputs[: self.images].detach() if inputs is not None and inputs.ndim else torch.empty(0)

    def _show_first(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The graph and the inputs of the first batch."""
        writer, first = _writer(trainer), self._first
        if first is None and writer:  # a run that had nothing left to train
            first = self._prepared(trainer, pl_module)
        if not writer or first is None or not len(first):
            return
        _add_graph(writer, pl_module, first[:1])
        if first.ndim == 4 and first.shape[1] in (1, 3):
            writer.add_image("inputs/augmented", tile(first), 0)
            stored = self._stored(trainer)
            if stored is not None:
                writer.add_image("inputs/stored", tile(stored[: self.images]), 0)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated, self._wrong = [], []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not fitting(trainer) or not (_writer(trainer) or trainer.world_size > 1):
            return
        if not isinstance(outputs, Mapping) or not isinstance(batch, tuple | list) or len(batch) != 2:
            return
        logits, labels = outputs.get("logits"), batch[1]
        if not isinstance(logits, Tensor) or not isinstance(labels, Tensor) or logits.ndim != 2 or labels.ndim != 1:
            return
        confidence, predicted = logits.float().softmax(1).max(1)
        self._validated.append((labels, predicted, confidence))
        self._classes = logits.shape[1]
        inputs = _inputs(batch)
        if inputs is not None and inputs.ndim == 4 and inputs.shape[1] in (1, 3):
            # the surest mistakes of this batch; always as many, so that nothing has to wait for the device
            surest = (confidence * (predicted != labels)).topk(min(self.images, len(labels))).indices
            self._wrong.append((inputs[surest], labels[surest], predicted[surest], confidence[surest]))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not fitting(trainer):
            return
        self._lay_out(trainer)
        if not self._validated:
            return
        self._log_recall(trainer)
        score = score_now(trainer)
        if self._best is None or score is None or score > self._best["score"]:
            wrong = [torch.cat(column) for column in zip(*self._wrong, strict=True)]
            if wrong:  # of all batches those that the network was surest of
                *_, labels, predicted, confidence = wrong
                surest = (confidence * (predicted != labels)).topk(min(self.images, len(labels))).indices
                wrong = [column[surest] for column in wrong]
            self._best = {
                "score": -math.inf if score is None else score,
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "validated": [torch.cat(column) for column in zip(*self._validated, strict=True)],
                "wrong": wrong,
            }

    def _lay_out(self, trainer: Trainer) -> None:
        """Each metric of the validation next to its twin of the training, under "Custom scalars"."""
        writer = _writer(trainer)
        names = [name.removeprefix("val/") for name in trainer.callback_metrics if name.startswith("val/")]
        if self._laid_out or not writer or not names:
            return
        charts = {name: ["Multiline", [rf"^train/{re.escape(name)}$", rf"^val/{re.escape(name)}$"]] for name in names}
        with suppress(OSError):  # a disk that is full
            writer.add_custom_scalars({"training and validation": charts})
        self._laid_out = True

    def _log_recall(self, trainer: Trainer) -> None:
        labels, predicted = (torch.cat(column) for column in list(zip(*self._validated, strict=True))[:2])
        known = (labels >= 0) & (labels < self._classes)  # others are left out of the loss, too
        labels, predicted = labels[known], predicted[known]
        counts = [torch.bincount(found, minlength=self._classes) for found in (labels[labels == predicted], labels)]
        right, there = trainer.strategy.reduce(torch.stack(counts), reduce_op="sum").tolist()
        recall = {k: r / n for k, (r, n) in enumerate(zip(right, there, strict=True)) if n}
        if not trainer.loggers or not recall:
            return
        values = {"recall/lowest": min(recall.values())}
        if len(there) <= CLASSES:
            names = class_names(trainer, len(there))
            values.update({f"recall/{names[k]}": value for k, value in recall.items()})
        trainer.loggers[0].log_metrics(values, trainer.global_step - 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with suppress(OSError):  # a disk that is full
            self._show(trainer, pl_module)

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show_first(trainer, pl_module)
        writer, best = _writer(trainer), self._best
        if not writer or not best:
            return
        labels, predicted, _ = (column.cpu() for column in best["validated"])
        labels, predicted = labels[labels >= 0], predicted[labels >= 0]
        if not len(labels):
            return
        names = class_names(trainer, int(max(labels.max(), predicted.max())) + 1)
        part = f"epoch {best['epoch']}, {part_of(trainer)}"
        write_confusion(trainer, labels, predicted, names, best["epoch"], best["step"])
        writer.add_figure("confusion_matrix", draw_confusion(labels, predicted, names, part), best["step"])
        if best["wrong"]:
            images, labels, predicted, confidence = (column.cpu() for column in best["wrong"])
            figure = draw_mistakes(images, labels, predicted, confidence, names, part)
            if figure is not None:
                writer.add_figure("mistakes", figure, best["step"])

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # a run that makes room for another one will go on, and has no time
        preempted = getattr(exception, "signal", None) not in (None, signal.SIGINT)
        if fitting(trainer) and not preempted:
            self.on_train_end(trainer, pl_module)

    def _prepared(self, trainer: Trainer, pl_module: LightningModule) -> Tensor | None:
        stored = self._stored(trainer)
        if stored is None:
            return None
        try:
            batch = pl_module._apply_batch_transfer_handler(next(iter(trainer.train_dataloader)))  # type: ignore[arg-type]
        except Exception:
            return None
        inputs = _inputs(batch)
        return inputs[: self.images].detach() if inputs is not None and inputs.ndim else None

    @staticmethod
    def _stored(trainer: Trainer) -> Tensor | None:
        """The first batch as the loader gives it, when looking costs no worker process."""
        loader = trainer.train_dataloader
        if getattr(loader, "num_workers", 0):
            return None
        try:
            with isolate_rng():
                return _inputs(next(iter(loader)))  # type: ignore[arg-type]
        except Exception:  # a loader that can be gone through only once, say
            return None


def class_names(trainer: Trainer, classes: int) -> list[str]:
    """The names that the datamodule gives its classes, or their numbers."""
    names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
    return list(names) if names and len(names) >= classes else [str(i) for i in range(classes)]


def tile(images: Tensor, columns: int = 8, size: int = 64) -> Tensor:
    """Images `(N, C, H, W)` side by side as one `(C, rows, columns)` float32 in [0, 1], each stretched to its range."""
    x = images.detach().float().cpu()
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    x = (x - low) / (high - low).clamp(min=1e-8)
    factor = max(1, size // max(x.shape[2:]))
    x = F.interpolate(x, scale_factor=factor) if factor > 1 else x
    x = F.pad(x, (1, 1, 1, 1), value=0.5)
    x = torch.cat([x, x.new_full((-len(x) % columns, *x.shape[1:]), 0.5)])
    rows = [torch.cat(list(row), dim=2) for row in x.split(columns)]
    return torch.cat(rows, dim=1)


def draw_confusion(labels: Tensor, predicted: Tensor, names: list[str], title: str) -> Any:
    """A figure of how often each class (row) was taken for each other (column); labels `(N,)` int64."""
    from matplotlib.figure import Figure

    k = len(names)
    counts = torch.bincount(labels * k + predicted, minlength=k * k).view(k, k)
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = min(12.0, 2 + 0.33 * k)
    figure = Figure(figsize=(side, side))
    axes = figure.add_subplot(xlabel="predicted", ylabel="label", title=title)
    axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    if k <= 30:
        axes.set_xticks(range(k), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(k), names)
        for row, column in counts.nonzero().tolist():
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=color, fontsize=8)
    figure.tight_layout()
    return figure


def draw_mistakes(
    images: Tensor, labels: Tensor, predicted: Tensor, confidence: Tensor, names: list[str], title: str, most: int = 16
) -> Any:
    """A figure of the wrong predictions with the highest confidence, or None when there is no mistake."""
    from matplotlib.figure import Figure

    wrong = (predicted != labels).nonzero().flatten()
    wrong = wrong[confidence[wrong].argsort(descending=True)][:most]
    if not len(wrong):
        return None
    # one picture with captions: a plot for each image takes several times as long
    columns = 4
    picture = tile(images[wrong], columns, size=96)
    rows = -(-len(wrong) // columns)
    height, width = picture.shape[1] / rows, picture.shape[2] / columns
    figure = Figure(figsize=(7, 0.8 + 1.75 * rows * height / width))
    axes = figure.add_axes((0.01, 0.01, 0.98, 1 - 0.5 / figure.get_figheight() - 0.01))
    axes.imshow(picture.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, aspect="auto")
    axes.set_axis_off()
    figure.suptitle(f"{title}: label → prediction, confidence", fontsize=11)
    for place, i in enumerate(wrong.tolist()):
        caption = f"{names[labels[i]]} → {names[predicted[i]]}, {confidence[i]:.0%}"
        corner = (place % columns * width + 3, place // columns * height + 4)
        box = {"facecolor": "black", "edgecolor": "none", "pad": 2}
        axes.text(*corner, caption, color="white", fontsize=9, va="top", bbox=box)
    return figure


def log_hparams(log_dir: str | Path, params: Mapping[str, Any]) -> None:
    """List a run in TensorBoard's HPARAMS tab.

    For a run's metrics the tab takes the last value of each curve. So it is given a folder of its own, `best`, with
    curves of one point: the best values, which `log_best` adds.

    Args:
        log_dir: The run's folder.
        params: Hyper-parameters, values of any type.
    """
    plain = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in params.items()}
    _, start, _ = hparams_summaries(plain, {})
    with SummaryWriter(str(Path(log_dir, "best"))) as writer:
        writer._get_file_writer().add_summary(start)


def log_best(log_dir: str | Path, metrics: Mapping[str, float], step: int) -> None:
    """Give a run its metrics in the HPARAMS tab, and mark it as finished.

    Args:
        log_dir: The run's folder.
        metrics: Best metrics by name. The tab shows five; of more those of the test are left out, by which no
            hyper-parameter should be chosen.
        step: The step of the best epoch.
    """
    if len(metrics) > SHOWN:
        metrics = {name: value for name, value in metrics.items() if not name.startswith("test")} or metrics
    _, _, end = hparams_summaries({}, {})
    with SummaryWriter(str(Path(log_dir, "best"))) as writer:
        writer._get_file_writer().add_summary(end)
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)


def _writer(trainer: Trainer) -> SummaryWriter | None:
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return loggers[0].experiment if loggers and trainer.is_global_zero else None


def _inputs(batch: Any) -> Tensor | None:
    inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
    return inputs if isinstance(inputs, Tensor) else None


def _add_graph(writer: SummaryWriter, pl_module: LightningModule, inputs: Tensor) -> None:
    modes = {module: module.training for module in pl_module.modules()}
    try:
        # tracing warns of each value it takes for constant, which is what a picture of one pass wants, and
        # prints before it raises
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            writer.add_graph(pl_module.eval(), inputs)
    except Exception:  # networks that tracing can't follow are trained without a picture
        pass
    finally:
        for module, mode in modes.items():
            module.training = mode
