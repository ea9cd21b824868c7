"""A loss that is NaN or infinite: found at its step, with what was to blame, before it is in a checkpoint."""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from callbacks.loops import Where, seed_generators
from callbacks.stop import agree

FILE = "nonfinite.json"
IN_A_ROW = 10  # steps that are left out before it is clear that this leads nowhere


class NonFiniteError(RuntimeError):
    """The loss or the weights are not finite any more; the text says all that is known."""


class OnNonFinite(Callback):
    """Looks at every loss.

    On the CPU the step with the bad loss changes nothing any more. On a GPU, and with several processes, a loss is
    looked at when the next step begins, so that no step waits for the device; no checkpoint is written in between.

    Args:
        action: `stop` ends the run; `skip` leaves out the step, the optimizer's state and the running statistics of
            normalisation layers included, and ends the run after ten in a row; `ignore` does not look.
    """

    def __init__(self, action: Literal["stop", "skip", "ignore"] = "stop") -> None:
        self.action = action
        self.skipped = 0
        self._in_a_row = 0
        self._bad: str | None = None
        self._drop = False
        self._dropped = False  # this step's gradients, by the first of its optimizers
        self._looking = False  # for what was to blame, by a step that does not count
        self._checked = -1  # the step after which the weights were looked at
        self._buffers: dict[str, Tensor] = {}
        self._flag: tuple[Tensor, Any, int] | None = None  # of the last loss, on its way from the device
        if action != "skip":  # spares Lightning two calls in each step
            self.on_train_batch_start = self.on_before_optimizer_step = None  # type: ignore[method-assign, assignment]

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    # ---- each step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:  # a step begins
            self._drop = self._dropped = False
            self._buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self._looking:
            return
        if loss.device.type == "cuda" and self.action == "stop":
            self._look_later(trainer, pl_module, loss)
            return
        if math.isfinite(value := loss.item()):
            return
        if self.action == "skip":
            self._drop = True
        elif trainer.world_size == 1:
            raise NonFiniteError(self._report(trainer, pl_module, value))
        else:  # the others are about to wait for this process's gradients
            self._bad = self._report(trainer, pl_module, value)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        _, self._drop = agree(trainer, 0, self._drop)
        if not self._drop:
            self._in_a_row = 0
        if self._drop:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None  # which every optimizer of torch passes over
            for name, buffer in pl_module.named_buffers():
                if name in self._buffers:
                    buffer.copy_(self._buffers[name])
            if self._dropped:
                return
            self._dropped = True
            self.skipped += 1
            self._in_a_row += 1
            if self._in_a_row == IN_A_ROW:
                raise NonFiniteError(
                    f"loss: not finite in {IN_A_ROW} steps in a row, up to step {trainer.global_step}; to leave them "
                    f"out leads nowhere{_last_good(trainer)}"
                )
            if self.skipped <= 3:
                more = "; further ones are only counted" if self.skipped == 3 else ""
                rank_zero_warn(
                    f"step {trainer.global_step} skipped: its loss is not finite{more}", category=UserWarning
                )

    # ---- at safe points

    def wants(self, trainer: Trainer, where: Where) -> bool:
        return self._bad is not None

    def on_safe_point(self, trainer: Trainer, where: Where, signal: int) -> None:
        self.check(trainer)

    def check(self, trainer: Trainer) -> None:
        """Refuse to let weights that are not finite into a checkpoint; asked in all processes.

        Raises:
            NonFiniteError: A loss was not finite, in whatever process, or a parameter is not.
        """
        if trainer.world_size > 1 and self.action == "stop":
            _, bad = agree(trainer, 0, self._bad is not None)
            if bad:
                reports: list[str | None] = [None] * trainer.world_size
                dist.all_gather_object(reports, self._bad)
                raise NonFiniteError(next(report for report in reports if report))
        if self.action == "ignore" or self._checked == trainer.global_step:
            return
        parameters = dict(trainer.lightning_module.named_parameters())
        if not parameters or bool(torch.stack([p.detach().isfinite().all() for p in parameters.values()]).all()):
            self._checked = trainer.global_step
            return
        name = next(name for name, p in parameters.items() if not p.isfinite().all())
        raise NonFiniteError(f"weights: {name} is not finite after step {trainer.global_step}{_last_good(trainer)}")

    def _look_later(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self._flag is not None:
            flag, event, step = self._flag
            event.synchronize()
            if not flag:
                self._flag = None
                raise NonFiniteError(self._report(trainer, pl_module, math.nan, step))
        flag = torch.empty((), dtype=torch.bool, pin_memory=True)
        flag.copy_(loss.detach().isfinite(), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._flag = (flag, event, trainer.global_step)

    # ---- what is said

    def _report(self, trainer: Trainer, pl_module: LightningModule, value: float, step: int | None = None) -> str:
        late = step is not None
        step = trainer.global_step if step is None else step
        rates = sorted({float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups})
        loop = trainer.fit_loop.epoch_loop
        number = loop.batch_idx
        self._looking = True
        first = first_bad(trainer, pl_module, loop._results.batch, number)
        indices = [] if late else indices_of(trainer.train_dataloader, number)
        good = _finite_samples(loop._results.batch, len(indices))
        bad = [index for index, fine in zip(indices, good, strict=True) if not fine]
        facts = {
            "loss": str(value),
            "step": step,
            "epoch": trainer.current_epoch,
            "batch": number,
            "first": first,
            "lr": rates,
            "indices": indices,
            "bad_indices": bad,
            "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        where = ""
        if folder := _folder(trainer):
            path = folder / (FILE if trainer.global_rank == 0 else f"rank{trainer.global_rank}_{FILE}")
            with suppress(OSError):
                path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
                where = f", all in {path}"
        blamed = bad or indices
        shown = ", ".join(map(str, blamed[:8])) + (f", … ({len(blamed)}{where})" if len(blamed) > 8 else "")
        rank = f" of process {trainer.global_rank}" if trainer.world_size > 1 else ""
        return (
            f"loss: {value} in step {step} (epoch {trainer.current_epoch}, batch {number}{rank}); "
            f"first not finite: {first}; lr {', '.join(f'{rate:.3g}' for rate in rates)}"
            + (f"; {'sample' if len(blamed) == 1 else 'samples'} {shown}" if blamed else "")
            + _last_good(trainer)
        )


def first_bad(trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> str:
    """Where in a step the first value came up that is not finite: weights, inputs, a layer's output, or the loss."""
    for name, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            return f"the weights {name}, from an earlier step"
    if not _finite(batch):
        return "the batch itself"
    if trainer.world_size > 1:
        return "the loss, or what leads to it"  # a step alone, whose metrics wait for the other processes, would hang
    found: list[str] = []

    def note(name: str) -> Any:
        def hook(layer: nn.Module, args: Any, output: Any) -> None:
            if not found and not _finite(output):
                found.append(f"the output of {name} ({type(layer).__name__})")

        return hook

    leaves = [(name, part) for name, part in module.named_modules() if name and not list(part.children())]
    handles = [part.register_forward_hook(note(name)) for name, part in leaves]
    seed = getattr(trainer.fit_loop, "seed", None)
    if seed is not None:  # the same dropout again
        seed_generators(seed, trainer.current_epoch, batch_idx, trainer.global_rank)
    try:
        with torch.no_grad(), trainer.precision_plugin.train_step_context():
            module.training_step(batch, batch_idx)
    except Exception:  # a step that can't be repeated
        return found[0] if found else "the loss"
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the loss"


def _folder(trainer: Trainer) -> Path | None:
    """The run's folder, without asking other processes, which may be busy."""
    if trainer.global_rank == 0 and trainer.loggers:
        folder = trainer.loggers[0].log_dir
        return Path(folder) if folder and Path(folder).is_dir() else None
    paths = [path.parent.parent for c in trainer.callbacks if isinstance(path := getattr(c, "path", None), Path)]  # type: ignore[attr-defined]
    return next((path for path in paths if path.is_dir()), None)


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return all(map(_finite, value))
    return True


def _finite_samples(batch: Any, size: int) -> list[bool]:
    """Of each sample of a batch whether what the loader gave of it is finite."""
    good = torch.ones(size, dtype=torch.bool)
    for value in tree_leaves(batch):
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim and len(value) == size:
            good &= value.isfinite().reshape(size, -1).all(1).cpu()
    return good.tolist()


def indices_of(loader: Any, batch: int) -> list[int]:
    """The numbers of the samples of a batch, where the loader can say; nothing where it can't."""
    parts: list[Any] = [loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)]
    for part in parts:
        if hasattr(part, "indices_of"):
            return part.indices_of(batch)
    return []


def _last_good(trainer: Trainer) -> str:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        path = getattr(callback, "path", None)
        if isinstance(path, Path) and path.is_file():
            return f"; last good checkpoint: {path}"
    return "; there is no checkpoint yet"
