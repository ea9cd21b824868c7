"""A line for each epoch, and in a terminal a bar for the one that runs."""

import textwrap
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from callbacks.record import as_floats


class Progress(ProgressBar):
    """Prints each epoch's metrics and time on a line of its own; the bar is for terminals only.

    Args:
        console: Where to print; the default is standard output.
        refresh_seconds: The bar is drawn anew at most this often, so that it costs the training nothing.
    """

    def __init__(self, console: Console | None = None, refresh_seconds: float = 0.2) -> None:
        super().__init__()
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.refresh_seconds = refresh_seconds
        self._bar: RichProgress | None = None
        self._shown = 0.0
        self._epoch: tuple[int, float] | None = None  # the finished one that is not printed yet: number, seconds
        self._of_one_batch: frozenset[str] = frozenset()  # metrics that were logged by step and not by epoch
        self._enabled = True

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()
        if self._enabled:
            self.print(_headline(trainer, pl_module))
            if trainer.fit_loop.restarted_mid_epoch:  # which has no start any more
                self._start_bar(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_epoch(trainer)
        self._started = time.perf_counter()
        self._start_bar(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar and time.perf_counter() - self._shown > self.refresh_seconds:
            self._bar.update(self._bar.task_ids[0], completed=batch_idx + 1)
            self._bar.refresh()
            self._shown = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(f"epoch {trainer.current_epoch}, validation", 0, self.total_val_batches)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._bar and time.perf_counter() - self._shown > self.refresh_seconds:
            self._show(f"epoch {trainer.current_epoch}, validation", batch_idx + 1, self.total_val_batches)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        self._show(f"epoch {trainer.current_epoch}", done, self.total_train_batches)

    def _show(self, text: str, done: int, total: float) -> None:
        if self._bar:
            total = None if total == float("inf") else total  # type: ignore[assignment]
            self._bar.update(self._bar.task_ids[0], description=text, completed=done, total=total)
            self._bar.refresh()
            self._shown = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_bar()
        # the module logs its own epoch metrics after this hook: print when they are there
        self._epoch = (trainer.current_epoch, time.perf_counter() - self._started)
        logged = [metric.meta for metric in trainer.fit_loop.epoch_loop._results.result_metrics]
        self._of_one_batch = frozenset(meta.name for meta in logged if meta.on_step and not meta.on_epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_bar()
        self._print_epoch(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_bar()
        self._print_epoch(trainer)

    def _start_bar(self, trainer: Trainer) -> None:
        if self._enabled and self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(20),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = RichProgress(*columns, console=self.console, transient=True, auto_refresh=False)
            total = self.total_train_batches
            self._bar.add_task(f"epoch {trainer.current_epoch}", total=None if total == float("inf") else total)
            self._bar.start()

    def _stop_bar(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _print_epoch(self, trainer: Trainer) -> None:
        if self._epoch and self._enabled:
            number, seconds = self._epoch
            metrics = as_floats(trainer.callback_metrics)
            line = self._line(number, metrics, seconds)
            for shorten in (_without_extras, _without_training):  # in a narrow terminal: what counts most is to be seen
                if self.console.is_terminal and len(line) > self.console.width:
                    metrics = shorten(metrics)
                    line = self._line(number, metrics, seconds)
            self._print(line)
        self._epoch = None

    def _line(self, epoch: int, metrics: dict[str, float], seconds: float) -> str:
        return "  ".join([f"epoch {epoch:3d}", *_grouped(metrics, self._of_one_batch), f"{seconds:.1f} s"])

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar, however long it is; in a terminal folded between words, and indented from there on."""
        if self.console.is_terminal:
            args = tuple(_folded(str(arg), self.console.width) for arg in args)
        self.console.print(*args, markup=False, soft_wrap=True)

    def _print(self, line: str) -> None:
        if self.console.is_terminal and len(line) > self.console.width:
            line = line[: self.console.width - 1] + "…"
        self.console.print(line, markup=False)


def _folded(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    wrap = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrap.fill(line) for line in text.splitlines())


def _grouped(metrics: dict[str, float], of_one_batch: frozenset[str] = frozenset()) -> list[str]:
    """`train/loss` and `train/acc` become `train loss 0.4 acc 0.9`, one text for each stage.

    What is known of an epoch's last batch only is marked.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(metrics, key=lambda name: (not name.startswith("train"), "loss" not in name)):
        if name.endswith("_step") or name.startswith("lr"):
            continue
        group, _, metric = name.rpartition("/")
        note = " (last batch)" if name in of_one_batch else ""
        groups.setdefault(group, []).append(f"{metric} {_number(metrics[name])}{note}")
    return [" ".join(filter(None, (group, *texts))) for group, texts in groups.items()]


def _without_extras(metrics: dict[str, float]) -> dict[str, float]:
    """Of validation only what training has, too; all where training logs nothing of that kind."""
    common = {name: value for name, value in metrics.items() if f"train/{name.rpartition('/')[2]}" in metrics}
    return common or metrics


def _without_training(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("train")} or metrics


def _number(value: float) -> str:
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.4g}"


def _headline(trainer: Trainer, pl_module: LightningModule) -> str:
    net = getattr(pl_module, "net", None)
    model = type(pl_module).__name__ + (f" with {type(net).__name__}" if net is not None else "")
    parameters = sum(p.numel() for p in pl_module.parameters())
    datamodule = getattr(trainer, "datamodule", None)
    data = type(datamodule).__name__ if datamodule is not None else "its own data"
    devices = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    return (
        f"{model} ({parameters:,} parameters) on {data}, {devices}{pl_module.device.type}, "
        f"{trainer.num_training_batches:,} steps an epoch"
    )
