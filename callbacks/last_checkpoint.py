"""When `last.ckpt`, from which a run goes on, is written, and with it the best checkpoints that wait."""

import copy
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from callbacks.checkpoint import Checkpoint, Decision
from callbacks.evaluated import EvaluatedWeights
from callbacks.loops import Where
from callbacks.metric_state import load_metric_state, metric_state
from callbacks.stop import agree

LAST = "last.ckpt"
HOLD = 2**28  # bytes of a checkpoint that may be held in memory for a while


class LastCheckpoint(Callback):
    """Writes `last.ckpt`, and what `Checkpoint` has decided, at safe points.

    Saving takes no more than `share` of the training time, but for what is asked for (`checkpoint.every_n_…`), for the
    end, and for a stop by a signal. `last.ckpt` is written after an epoch where that allows it, and anyway when it is
    older than `2 / share` times what writing it took. A best checkpoint for which it is too early is held in memory: a
    run that is killed goes on from before it, and finds it again. When a file can't be written the training goes on,
    and what is there stays.

    Args:
        checkpoint: The other checkpoints' callback, which also says in which folder they are.
        allow: Called with the trainer before anything is saved; what it raises ends the run instead.

    Attributes:
        share: Part of the training time that saving may take where nobody has asked for it.
        failed: Why the last attempt to write `last.ckpt` did not succeed; None when it did.
        seconds: The time that saving has taken, of this process.
    """

    share = 0.02

    def __init__(self, checkpoint: Checkpoint, allow: Callable[[Trainer], None] = lambda trainer: None) -> None:
        self.checkpoint, self.allow = checkpoint, allow
        self.failed: str | None = None
        self._where: Where | None = None
        self._epoch: int | None = None
        self._loaded: dict[str, Any] = {}
        self._before_validation: list[dict[str, Any]] = []
        self._saved_step = 0
        self._cost = 0.0  # seconds that the last writing of `last.ckpt` took, with the best ones before it
        self.seconds = 0.0
        self._told: set[str] = set()  # which files could not be written at their last attempt
        self._cut = False

    @property
    def path(self) -> Path:
        """Where `last.ckpt` is."""
        return Path(str(self.checkpoint.dirpath), LAST)

    # ---- at safe points

    def wants(self, trainer: Trainer, where: Where) -> bool:
        pending = self.checkpoint.pending
        if pending and (self._affordable() or any(decision.save and decision.state is None for decision in pending)):
            return True
        return where is Where.BATCH and self._periodic(trainer)

    def on_safe_point(self, trainer: Trainer, where: Where, signal: int) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        started = time.monotonic()
        self._where = where
        # the clocks of different machines are different
        affordable, overdue, periodic = trainer.strategy.broadcast(
            (self._affordable(), self._overdue(), self._periodic(trainer))
        )
        in_time = affordable or overdue
        last = where is not Where.ACCUMULATING and self._due(trainer, where, bool(signal), in_time, periodic)
        end = where is Where.EPOCH and trainer.fit_loop.done
        if self.checkpoint.pending or last:
            self.allow(trainer)
        self._drop_surpassed()
        if last or affordable or end or not self._hold(trainer):
            removals = self._write_pending(trainer)
            if last:
                self._write(trainer, self.path, trainer.current_epoch - (where is Where.EPOCH))
                self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
            for path in removals:
                trainer.strategy.remove_checkpoint(path)
        took = time.monotonic() - started
        self.seconds += took
        if last:
            self._cost = took

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what was held: the run has failed, and its best checkpoint is worth having."""
        for decision in self.checkpoint.pending:
            with suppress(OSError):
                if decision.save and decision.state:
                    trainer.strategy.save_checkpoint(decision.state, decision.save)
                elif decision.remove:
                    trainer.strategy.remove_checkpoint(decision.remove)
        self.checkpoint.pending = []

    def _hold(self, trainer: Trainer) -> bool:
        """Put off what is to be written; False where that can't be, for its size or because it is in parts."""
        pending = self.checkpoint.pending
        if pending and not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            return False
        for decision in pending:
            if decision.save and decision.state is None:
                state = self._state(trainer, Path(decision.save), decision.epoch)
                if _bytes(state) > HOLD:
                    return False
                decision.state = _copied(state)
        return True

    def _drop_surpassed(self) -> None:
        """Leave out of what was held what has been found to be worse than others since."""
        held: list[Decision] = []
        for decision in self.checkpoint.pending:
            worse = next((other for other in held if other.save and other.save == decision.remove), None)
            if worse is None:
                held.append(decision)
                continue
            first = held.index(worse)
            held.remove(worse)
            for other in held[first:]:
                other.before = worse.before  # in which it is not yet
        self.checkpoint.pending = held

    def _write_pending(self, trainer: Trainer) -> list[str]:
        """Write what was decided; the files that are to be removed then."""
        pending, self.checkpoint.pending = self.checkpoint.pending, []
        removals = []
        for decision in pending:
            if decision.remove:
                removals.append(decision.remove)
            elif decision.save and not self._write(trainer, Path(decision.save), decision.epoch, decision.state):
                # as if it had not been better, so that the next one is compared with what is on the disk
                self.checkpoint.load_state_dict(decision.before)
                return []
        return removals

    def _affordable(self) -> bool:
        return self.seconds <= self.share * (time.monotonic() - self._started)

    def _overdue(self) -> bool:
        """Whether what a kill would cost is out of proportion, though other savings have used up the time for it."""
        return self.share > 0 and time.monotonic() - self._saved_at >= 2 * self._cost / self.share

    def _periodic(self, trainer: Trainer) -> bool:
        steps, minutes = self.checkpoint.last_every_n_train_steps, self.checkpoint.last_every_n_minutes
        if steps and trainer.global_step % steps == 0 and trainer.global_step != self._saved_step:
            return True
        return bool(minutes and time.monotonic() - self._saved_at >= 60 * minutes)

    def _due(self, trainer: Trainer, where: Where, stopping: bool, in_time: bool, periodic: bool) -> bool:
        if stopping:
            return True
        if where is Where.CUT:
            self._cut = not trainer.fit_loop.epoch_loop._should_accumulate()
            return self._cut
        if self._cut:  # this is the end of that epoch
            self._cut = False
            return False
        if where is Where.EPOCH:
            return trainer.fit_loop.done or in_time or periodic or not self._saved_step
        return periodic

    def _state(self, trainer: Trainer, path: Path, epoch: int) -> dict[str, Any]:
        """What a checkpoint of this moment holds."""
        self._epoch = epoch
        try:
            weights_only = self.checkpoint.save_weights_only and path.name != LAST
            state = trainer._checkpoint_connector.dump_checkpoint(weights_only)
            for callback in trainer.callbacks if weights_only else ():  # type: ignore[attr-defined]
                if isinstance(callback, EvaluatedWeights):  # whom Lightning asks for the others alone
                    callback.on_save_checkpoint(trainer, trainer.lightning_module, state)
            return state
        finally:
            self._epoch = None

    def _write(self, trainer: Trainer, path: Path, epoch: int, state: dict[str, Any] | None = None) -> bool:
        """Whether the file was written; all processes get the same answer."""
        state = state or self._state(trainer, path, epoch)
        error: OSError | None = None
        try:
            trainer.strategy.save_checkpoint(state, path)
        except OSError as found:
            error = found
        _, failed = agree(trainer, 0, error is not None)
        if path.name == LAST:
            self.failed = None if not failed else f"{path}: {_reason(error)}"
        first = path.name not in self._told
        (self._told.add if failed else self._told.discard)(path.name)
        if error is not None and first:
            needed = _bytes(state)
            rank_zero_warn(
                f"can't write {path}: {_reason(error)}; it needs {needed / 1e6:,.1f} MB{_free(path)}. "
                "The training goes on, and the checkpoints that are there stay",
                category=UserWarning,
            )
        return not failed

    # ---- what is in it

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._epoch is None:  # somebody else saves, at any time
            return
        checkpoint["epoch"] = self._epoch
        where = self._where
        state: dict[str, Any] = {
            "goes_on": where is not Where.ACCUMULATING,
            "validation_due": where is Where.VALIDATION,
            "should_stop": trainer.should_stop,
            "end_due": where is Where.CUT,
            "callback_metrics": _packed(trainer._logger_connector._callback_metrics),
            "world_size": trainer.world_size,
            "events": _events(trainer),
        }
        if where is Where.VALIDATION:
            state["metrics"] = self._before_validation
            # its batches will be counted again
            counts = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            for name, count in counts["current"].items():
                counts["total"][name] -= count
                counts["current"][name] = 0
        elif where is not Where.EPOCH:
            state["metrics"] = metric_state(trainer, pl_module)
        checkpoint["callbacks"][self.state_key] = state

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded = checkpoint["callbacks"].get(self.state_key, {})
        if trainer.state.fn == "fit" and self._loaded:
            trainer.should_stop = self._loaded["should_stop"]
            trainer.fit_loop.epoch_loop.validation_due = self._loaded["validation_due"]  # type: ignore[attr-defined]
            trainer.fit_loop.epoch_loop.end_due = self._loaded["end_due"]  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = self._saved_at = time.monotonic()
        if self._loaded:
            self._saved_step = trainer.global_step
            metrics = _unpacked(self._loaded["callback_metrics"], trainer.strategy.root_device)
            trainer._logger_connector._callback_metrics.update(metrics)
            if "metrics" in self._loaded:
                load_metric_state(trainer, pl_module, self._loaded["metrics"])
            self._loaded = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            # a validation that a signal ends begins again: what it has counted so far must not stay
            self._before_validation = metric_state(trainer, pl_module)


def _packed(metrics: dict[str, Tensor]) -> dict[str, Any]:
    """Numbers by type of tensor: one tensor takes as long to save as thirty numbers."""
    packed: dict[str, Any] = {}
    for name, value in metrics.items():
        single = value.numel() == 1 and value.ndim == 0
        packed.setdefault(str(value.dtype), {})[name] = value.item() if single else value.detach().cpu()
    return packed


def _unpacked(packed: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    return {
        name: torch.as_tensor(value, dtype=getattr(torch, dtype.removeprefix("torch.")), device=device)
        for dtype, values in packed.items()
        for name, value in values.items()
    }


def _events(trainer: Trainer) -> dict[str, int]:
    """How long TensorBoard's files are, by name: what comes later is logged again when the run goes on from here."""
    logger = trainer.logger
    if not isinstance(logger, TensorBoardLogger) or not trainer.is_global_zero or logger._experiment is None:
        return {}
    with suppress(OSError):  # a disk that is full
        logger.experiment.flush()
    return {path.name: path.stat().st_size for path in Path(logger.log_dir).glob("events.out.tfevents.*")}


def _reason(error: OSError | None) -> str:
    return (error.strerror or str(error)) if error is not None else "another process could not"


def _free(path: Path) -> str:
    try:
        return f" and {shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free"
    except OSError:
        return ""


def _copied(state: Any) -> Any:
    """What a state is now, on the CPU, whatever becomes of its tensors."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        copies = [_copied(value) for value in state]
        return copies if isinstance(state, list) else tuple(copies)
    return copy.deepcopy(state)


def _bytes(state: Any) -> int:
    """The size of all tensors in a state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        state = state.values()
    elif not isinstance(state, list | tuple):
        return 0
    return sum(map(_bytes, state))
