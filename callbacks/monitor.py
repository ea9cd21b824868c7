"""What goes on inside a training, in numbers: gradients, updates, activations, and where the time goes."""

import math
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from torch import Tensor, nn

# units of these are off below zero, and may be so for good
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Threshold)
ACTIVE = 0.01  # a unit that is on for fewer of a batch's inputs is dead
MOST_WEIGHTS = 250_000_000  # of larger networks no copy is made to see how far a step moves them

BINS = 30
TINY = 1e-30  # a range below it can't be divided in float32
HISTOGRAM = 1_000_000  # of larger tensors a histogram shows evenly spaced values, so many at most


@dataclass
class Moments:
    """Of the values in one or several tensors, as one set.

    Attributes:
        norm: The Euclidean norm.
        mean: The mean.
        var: The variance (with N in the denominator).
    """

    norm: float
    mean: float
    var: float


@dataclass
class Reading:
    """One step, as far as it was looked at.

    Attributes:
        step: Its number, from 1.
        loss: The training loss of its last batch; None for a module that gives none.
        lr: The learning rate of each parameter group.
        grads: By layer, the gradients of its parameters before any clipping.
        grad_norm: The norm of all of them together.
        updates: By layer, the norm of the step's change of its weights over that of the weights; on sampled steps.
        activations: By layer, mean and standard deviation of what it gave out; on sampled steps.
        dead: By layer of rectified units, the share of those that were on for less than 1 % of the inputs; on sampled
            steps. A channel of a convolution is one unit.
    """

    step: int
    loss: float | None = None
    lr: list[float] = field(default_factory=list)
    grads: dict[str, Moments] = field(default_factory=dict)
    grad_norm: float = 0.0
    updates: dict[str, float] = field(default_factory=dict)
    activations: dict[str, tuple[float, float]] = field(default_factory=dict)
    dead: dict[str, float] = field(default_factory=dict)


class Monitor(Callback):
    """Measures a training and logs it; computing anything itself takes no random number and changes no value.

    Args:
        every_n_steps: How often the gradients are looked at: the norm of all, and norm, mean and variance by layer. 0
            is never, and then nothing else is measured either.
        sample_every_n_steps: How often, on top of that, weights are compared before and after a step, the outputs of
            all layers are looked at, and histograms of weight matrices and their gradients are logged. 0 is never.
        histograms: Whether there are histograms.

    Attributes:
        reading: The last one, complete when the batch is over.

    Raises:
        ValueError: A number is negative.
    """

    def __init__(self, every_n_steps: int = 20, sample_every_n_steps: int = 100, histograms: bool = True) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("sample_every_n_steps", sample_every_n_steps)):
            if value < 0:
                raise ValueError(f"monitor.{name}: {value} is negative; 0 is never")
        self.every_n_steps, self.sample_every_n_steps = every_n_steps, sample_every_n_steps
        self.histograms = histograms
        self.reading: Reading | None = None
        self._layers: dict[nn.Parameter, str] = {}
        self._before: dict[nn.Parameter, Tensor] = {}
        self._hooks: list[Any] = []
        self._outputs: dict[str, list[Tensor]] = {}
        self._process = psutil.Process()
        self._validating = 0.0  # seconds, which are not those of any step

    # ---- when

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._layers = {parameter: _layer(name) for name, parameter in pl_module.named_parameters()}
        self._since: tuple[float, int, float] | None = None
        self._arm(trainer)

    def _arm(self, trainer: Trainer) -> None:
        """Make ready for the next step: a hook that has nothing to do in it is not called at all."""
        step = _step(trainer)
        sampled = self._sampled(step)
        if not sampled and (self._hooks or self._before):  # of a step that was never made
            self._unhook()
            self._before = {}
        if sampled and not self._hooks and not _compiled(trainer.lightning_module):
            parts = [(name, part) for name, part in trainer.lightning_module.named_modules() if name]
            self._hooks = [
                part.register_forward_hook(self._look_at(name))
                for name, part in parts
                if not list(part.children()) and (part._parameters or isinstance(part, RECTIFIERS))
            ]
        if self._due(step):
            vars(self).pop("on_before_optimizer_step", None)
        else:
            self.on_before_optimizer_step = None  # type: ignore[method-assign, assignment]

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        step = _step(trainer)
        if self.reading is None or self.reading.step != step:  # otherwise it is another of the step's optimizers
            self.reading = Reading(step)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.reading.lr += [float(group["lr"]) for group in optimizer.param_groups]
        names = [self._layers.get(parameter, "?") for parameter in parameters]
        self.reading.grads.update(moments(names, [p.grad for p in parameters]))
        self.reading.grad_norm = sum(found.norm**2 for found in self.reading.grads.values()) ** 0.5
        if self._sampled(step):
            if self.histograms:
                self._log_histograms(trainer, pl_module, step)
            if sum(p.numel() for p in parameters) <= MOST_WEIGHTS:
                self._before.update({p: _local(p.detach()).clone() for p in parameters if p not in self._before})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        reading = self.reading
        if reading is not None and reading.loss is None and reading.step == _step(trainer, done=True):
            self._finish(trainer, reading, outputs)
        self._arm(trainer)

    def _finish(self, trainer: Trainer, reading: Reading, outputs: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        reading.loss = float(loss) if isinstance(loss, Tensor) and loss.numel() == 1 else float("nan")
        if self._hooks:
            self._take_outputs(reading)
        if self._before:
            self._take_updates(reading)
        self._log(trainer, reading)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validating -= time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validating += time.perf_counter()

    def _due(self, step: int) -> bool:
        return step == 1 or step % self.every_n_steps == 0 or self._sampled(step)

    def _sampled(self, step: int) -> bool:
        every = self.sample_every_n_steps
        return bool(every) and (step == 1 or step % every == 0)

    # ---- what

    def _look_at(self, name: str) -> Any:
        def hook(layer: nn.Module, args: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or not output.is_floating_point() or not output.numel():
                return
            values = output.detach().float()
            dead = values.new_tensor(torch.nan)
            if isinstance(layer, RECTIFIERS) and values.ndim > 1:
                channel = 1 if values.ndim in (4, 5) else values.ndim - 1
                others = [dim for dim in range(values.ndim) if dim != channel]
                dead = ((values > 0).float().mean(others) < ACTIVE).float().mean()
            std = values.std(correction=0)
            self._outputs[name] = [values.mean(), std, dead]  # of a layer that is used twice, the last time

        return hook

    def _take_outputs(self, reading: Reading) -> None:
        if self._outputs:
            for name, (mean, std, dead) in zip(self._outputs, _to_host(self._outputs.values()), strict=True):
                reading.activations[name] = (mean, std)
                if not math.isnan(dead):
                    reading.dead[name] = dead
        self._unhook()

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._outputs = [], {}

    def _take_updates(self, reading: Reading) -> None:
        names = [self._layers.get(parameter, "?") for parameter in self._before]
        after, before = [_local(parameter.detach()) for parameter in self._before], list(self._before.values())
        rows = _to_host([torch._foreach_norm(torch._foreach_sub(after, before)), torch._foreach_norm(before)])
        totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for name, change, weight in zip(names, *rows, strict=True):
            totals[name][0] += change**2
            totals[name][1] += weight**2
        reading.updates.update({name: (c / w) ** 0.5 for name, (c, w) in totals.items() if w > 0})
        self._before = {}

    # ---- into TensorBoard

    def _log(self, trainer: Trainer, reading: Reading) -> None:
        if not trainer.loggers or not trainer.is_global_zero:
            return
        values: dict[str, float] = {"grad_norm/all": reading.grad_norm}
        for layer, found in reading.grads.items():
            values[f"grad_norm/{layer}"] = found.norm
            values[f"grad_mean/{layer}"], values[f"grad_var/{layer}"] = found.mean, found.var
        values.update({f"update_ratio/{layer}": ratio for layer, ratio in reading.updates.items()})
        for layer, (mean, std) in reading.activations.items():
            values[f"activation_mean/{layer}"], values[f"activation_std/{layer}"] = mean, std
        values.update({f"dead_units/{layer}": share for layer, share in reading.dead.items()})
        results: Any = trainer._results or {}
        if not any("loss" in item.meta.name for item in results.values()):  # what the module logs of its own
            values["train/loss_step"] = reading.loss if reading.loss is not None else math.nan
        values.update(self._times(trainer))
        # numbered as the values that modules log themselves
        trainer.loggers[0].log_metrics(values, reading.step - 1)

    def _times(self, trainer: Trainer) -> dict[str, float]:
        """Since the last time: how fast it was, and which part of the time was spent waiting for data."""
        loop: Any = trainer.fit_loop.epoch_loop
        now = (time.perf_counter() - self._validating, trainer.global_step, getattr(loop, "waited", 0.0))
        before, self._since = self._since, now
        values = {"memory/process_mb": self._process.memory_info().rss / 2**20}
        if torch.cuda.is_available():
            values["memory/gpu_peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
        if before is not None and now[1] > before[1]:
            seconds = now[0] - before[0]
            values["time/step_ms"] = 1000 * seconds / (now[1] - before[1])
            values["time/waiting_for_data"] = (now[2] - before[2]) / seconds
        return values

    def _log_histograms(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        logger = trainer.loggers[0] if trainer.loggers else None
        if not isinstance(logger, TensorBoardLogger) or not trainer.is_global_zero:
            return
        found = [
            Summary.Value(tag=f"{kind}/{name}", histo=_histogram(values.detach()))
            for name, parameter in pl_module.named_parameters()
            for kind, values in (("weights", parameter), ("gradients", parameter.grad))
            if values is not None
            and values.numel()
            and values.ndim > 1  # TensorBoard's writer is slow, and biases many
        ]
        with suppress(OSError):  # a disk that is full
            if (writer := logger.experiment._get_file_writer()) is not None:
                writer.add_summary(Summary(value=found), step - 1)


def _histogram(tensor: Tensor) -> HistogramProto:
    """Thirty bins of equal width; torch's `add_histogram` takes many times as long over its fifteen hundred."""
    values = _values(tensor).flatten()
    values = values[:: -(-len(values) // HISTOGRAM)]
    low, high = values.aminmax()
    moments = torch.stack([low, high, values.sum(), values.square().sum()]).tolist()
    if not all(map(math.isfinite, moments)):
        return HistogramProto()
    first, last, total, squares = moments
    scale = BINS / (last - first) if last - first > TINY else 0.0  # values that are all the same are in the first bin
    # on a CPU in a quarter of the time that `torch.histc` takes
    counts = ((values - first) * scale).clamp_(max=BINS - 1).to(torch.uint8).bincount(minlength=BINS).tolist()
    edges = [first + (last - first) * (i + 1) / BINS for i in range(BINS)]
    return HistogramProto(
        min=first, max=last, num=len(values), sum=total, sum_squares=squares, bucket_limit=edges, bucket=counts
    )


def _step(trainer: Trainer, done: bool = False) -> int:
    """The number of the step that goes on, from 1, or of the last one that is done.

    Of a module that optimizes by hand it is the number of the batch: Lightning counts each optimizer's steps there.
    """
    if not trainer.lightning_module.automatic_optimization:
        return trainer.fit_loop.epoch_loop.total_batch_idx + 1
    return trainer.global_step + (not done)


def moments(names: Iterable[str], tensors: Iterable[Tensor]) -> dict[str, Moments]:
    """Norm, mean and variance of all values of the same name.

    Two sums over each tensor are all that is computed on its device; the variance follows from them as
    ‖x‖²/n - mean², in float64.

    Args:
        names: Of the tensors; those of the same name are taken together.
        tensors: Of any shape, dtype and device; of sparse ones the values that are there are taken.
    """
    values = [_values(tensor.detach()) for tensor in tensors]
    if not values:
        return {}
    rows = _to_host([torch._foreach_norm(values), [value.sum() for value in values]])
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])
    for name, value, norm, total in zip(names, values, *rows, strict=True):
        totals[name][0] += norm**2
        totals[name][1] += total
        totals[name][2] += value.numel()
    found = {}
    for name, (squares, total, count) in totals.items():
        mean = total / max(count, 1)
        found[name] = Moments(squares**0.5, mean, max(squares / max(count, 1) - mean**2, 0.0))
    return found


def _local(tensor: Tensor) -> Tensor:
    """Of a tensor in parts over several processes the part of this one."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _values(tensor: Tensor) -> Tensor:
    tensor = _local(tensor)
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor.float()


def _to_host(rows: Iterable[Iterable[Tensor]]) -> list[list[float]]:
    """Rows of single numbers, in one transfer."""
    found = [_stacked(list(row)) for row in rows]
    return torch.stack([row.to(found[0].device) for row in found]).tolist()


def _stacked(row: list[Tensor]) -> Tensor:
    try:
        return torch.stack(row).double()
    except RuntimeError:  # of several devices or types
        return torch.stack([value.to(row[0].device).double() for value in row])


def _layer(parameter: str) -> str:
    """The name of the layer that a parameter belongs to."""
    return parameter.rpartition(".")[0] or parameter


def _compiled(module: nn.Module) -> bool:
    return any("OptimizedModule" in type(part).__name__ for part in module.modules())
