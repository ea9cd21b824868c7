"""Lightning's training loops, made so that a run can be cut between any two batches and go on from there.

Between two batches everything that the earlier one brings (step, validation, schedules, log) is done, and nothing of
the next has begun: a *safe point*. Checkpoints are written there and nowhere else, so there is nothing to repair when
one is loaded. And all randomness of a batch follows from counters (seed, epoch, batch, rank), not from a generator
whose state would have to be kept.
"""

import random
import time
from collections.abc import Iterator
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from callbacks.stop import Stop, agree


class Where(Enum):
    """The kinds of places where the loops ask whether there is something to save."""

    BATCH = "before a batch"
    ACCUMULATING = "before a batch, with gradients kept for it: weights can be saved, a run can't go on from here"
    VALIDATION = "in a validation, which will have to begin again"
    CUT = "where training ends within an epoch"
    EPOCH = "after an epoch"


@runtime_checkable
class AtSafePoints(Protocol):
    """A callback that has something to do where a run can be cut."""

    def wants(self, trainer: Trainer, where: Where) -> bool:
        """Whether this process has something to do; asked before each batch, so it has to be quick."""

    def on_safe_point(self, trainer: Trainer, where: Where, signal: int) -> None:
        """Do it; called in all processes when one of them wants it, after each epoch, and before a signal (not 0)
        ends the run."""


class FitLoop(_FitLoop):
    """Lightning's loop over epochs, with a safe point after each.

    Attributes:
        stop: What ends the run early.
        seed: Of all randomness in training.
    """

    epoch_loop: "EpochLoop"
    stop: Stop
    seed: int
    _has_ended = False

    def run(self) -> None:
        resumed = self.is_resuming
        super().run()
        if resumed and not self._has_ended:
            # killed between its last step and its end, which is all that is left of it
            call._call_callback_hooks(self.trainer, "on_train_end")
            call._call_lightning_module_hook(self.trainer, "on_train_end")

    def on_run_end(self) -> None:
        self._has_ended = True
        super().on_run_end()

    @property
    def done(self) -> bool:
        return not self.epoch_loop.validation_due and not self.epoch_loop.end_due and super().done

    def on_advance_start(self) -> None:
        self.epoch_loop._seed(-1)
        super().on_advance_start()
        if self.restarted_mid_epoch:  # this one acts when an epoch starts, and keeps nothing of it
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, GradientAccumulationScheduler):
                    callback.on_train_epoch_start(self.trainer)

    def on_advance_end(self) -> None:
        if not self.epoch_loop._num_ready_batches_reached():
            # a longer training would go on from here, and not from behind the hooks below
            self.epoch_loop.safe_point(Where.CUT)
        self.epoch_loop.end_due = False
        super().on_advance_end()
        self.epoch_loop.safe_point(Where.EPOCH)


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, with a safe point before each of them.

    Attributes:
        validation_due: The loaded checkpoint was saved after a batch and before its validation.
        end_due: It was saved where training ended within an epoch, and before what comes at the end of one.
        waited: Seconds that this process has waited for training data.
    """

    validation_due = False
    end_due = False
    waited = 0.0
    _fetching = 0.0
    _seen: Any = None
    _found: list[AtSafePoints]

    def safe_point(self, where: Where) -> None:
        """Let the callbacks save, and end the run if a signal asks for it.

        Raises:
            Stopped: A signal has come, to this process or to another one.
        """
        trainer, stop = self.trainer, self.trainer.fit_loop.stop  # type: ignore[attr-defined]
        if where is Where.BATCH and self._should_accumulate():
            where = Where.ACCUMULATING
        listeners = self._listeners()
        wanted = where in (Where.EPOCH, Where.CUT) or any(c.wants(trainer, where) for c in listeners)
        signal, wanted = agree(trainer, stop.signal, wanted)
        if where is Where.ACCUMULATING:
            signal = 0  # the next batch with a step is near
        if signal or wanted:
            for listener in listeners:
                listener.on_safe_point(trainer, where, signal)
        if signal:
            stop.now(signal)

    def _listeners(self) -> list[AtSafePoints]:
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        if self._seen is not callbacks:  # asking each of them what it is takes as long as all else before a batch
            self._seen = callbacks
            self._found = [callback for callback in callbacks if isinstance(callback, AtSafePoints)]
        return self._found

    # ---- parts of Lightning's loop

    def reset(self) -> None:
        if not self.trainer.fit_loop.restarted_mid_epoch:
            self._restarting = False
            super().reset()
            return
        # as they were: Lightning's repairs would count a batch twice or leave out a validation
        for progress in (self.batch_progress, self.scheduler_progress, self.automatic_optimization.optim_progress):
            progress.reset_on_restart()

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        trainer, loop = self.trainer, self.trainer.fit_loop
        if self.batch_progress.current.ready >= trainer.num_training_batches and not self.validation_due:
            # the epoch has become shorter, by larger batches say: its last one is left, with what comes after it
            last = int(trainer.num_training_batches) - 1
            vars(self.batch_progress.current).update(ready=last, started=last, processed=last, completed=last)
        done = self.batch_progress.current.ready
        loaders = data_fetcher.combined_loader.flattened
        one = next(parts(loaders[0]), None) if len(loaders) == 1 else None
        # the first epoch's iterator is there already, and for a loader that can start anywhere it is the right one
        if loop.is_resuming or trainer.current_epoch > 0 or one is None:
            if one is not None:
                one.start_at(done)
            self._seed(-1)
            iter(data_fetcher)
            if one is not None or all(hasattr(loader, "load_state_dict") for loader in loaders):
                data_fetcher.fetched += done
            else:
                self._skip(data_fetcher, done)
        data_fetcher._start_profiler = self._on_before_fetch
        data_fetcher._stop_profiler = self._on_after_fetch
        if done:  # otherwise the next batch would take itself for the epoch's first, and reset what is logged
            trainer._logger_connector._first_loop_iter = True
        # from here on nothing is different from a run that was never cut
        loop._restarting = self.val_loop._restarting = False
        self._restarting = self.validation_due

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if self.validation_due:  # all that is left of the batch before the cut comes in `on_advance_end`
            return
        if self.batch_progress.current.ready:
            self.safe_point(Where.BATCH)
        self._seed(self.batch_idx + 1)
        super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        super().on_advance_end(data_fetcher)
        self.validation_due = False

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        return self.validation_due or super()._should_check_val_fx(data_fetcher)

    def _on_before_fetch(self) -> None:
        self._fetching = time.perf_counter()
        super()._on_before_fetch()

    def _on_after_fetch(self) -> None:
        super()._on_after_fetch()
        self.waited += time.perf_counter() - self._fetching

    def _broadcast_sigterm_tensor(self) -> None:
        """Nothing: `safe_point` does that, for every signal and from every process."""

    def _seed(self, batch: int) -> None:
        seed: int = self.trainer.fit_loop.seed  # type: ignore[attr-defined]
        seed_generators(seed, self.trainer.current_epoch, batch, self.trainer.global_rank)

    def _skip(self, data_fetcher: _DataFetcher, batches: int) -> None:
        """Read and drop the batches that are done, of loaders that can only start at their beginning."""
        for batch in range(batches):
            self._seed(batch)
            try:
                next(data_fetcher)
            except StopIteration:
                rank_zero_warn(f"the run was cut after {batches} batches of an epoch, which now has only {batch}")
                return


class ValidationLoop(_EvaluationLoop):
    """Lightning's loop over the validation batches, which a signal can end after each of them."""

    def run(self) -> Any:
        self.setup_data()
        self._uneven = False
        if self.trainer.world_size > 1:
            batches = int(min(sum(self.max_batches), 2**31))
            most, _ = agree(self.trainer, batches)
            # with uneven numbers of batches the processes can't ask each other after each one
            _, self._uneven = agree(self.trainer, 0, batches != most)
            # running statistics are those of the process's own share: what is validated is what is saved
            for buffer in self.trainer.lightning_module.buffers():
                dist.broadcast(buffer, src=0)
        return super().run()

    def _evaluation_step(self, *args: Any) -> None:
        super()._evaluation_step(*args)
        if not self._uneven:
            self._stop_here()

    def _stop_here(self) -> None:
        trainer = self.trainer
        loop: Any = trainer.fit_loop
        if not trainer.sanity_checking and loop.epoch_loop._should_accumulate():
            return
        signal, _ = agree(trainer, loop.stop.signal)
        if signal and not trainer.sanity_checking:
            for callback in loop.epoch_loop._listeners():
                callback.on_safe_point(trainer, Where.VALIDATION, signal)
        if signal:
            loop.stop.now(signal)


def install(trainer: Trainer, stop: Stop, seed: int) -> None:
    """Give a trainer these loops in place of its own; `seed` is that of all randomness in training."""
    old = trainer.fit_loop
    loop = FitLoop(trainer, min_epochs=old.min_epochs, max_epochs=old.max_epochs)
    loop.epoch_loop = EpochLoop(trainer, min_steps=old.epoch_loop.min_steps, max_steps=old.epoch_loop.max_steps)
    loop.epoch_loop.val_loop = ValidationLoop(
        trainer, TrainerFn.FITTING, RunningStage.VALIDATING, verbose=False, inference_mode=False
    )
    loop.stop, loop.seed = stop, seed
    trainer.fit_loop = loop
    # Lightning's handlers stop without saving, and hang where there are several processes
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def seed_generators(seed: int, epoch: int, batch: int, rank: int) -> None:
    """Seed the generators of Python, NumPy and torch for a batch; -1 is the time before an epoch's first one.

    Takes ten microseconds, `lightning.seed_everything` half a millisecond.
    """
    mixed = _mix(seed)  # before anything is added: seed 1 in epoch 0 is not seed 0 in epoch 1
    for counter in (epoch, batch + 1, rank):
        mixed = _mix(mixed + counter)
    random.seed(mixed)
    np.random.seed(mixed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(mixed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed(mixed)
    elif torch.backends.mps.is_available():
        torch.mps.manual_seed(mixed)


def _mix(x: int) -> int:
    """One round of SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195), to 63 bits."""
    x = (x + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (x ^ (x >> 31)) >> 1


def parts(loader: Any) -> Iterator[Any]:
    """The loader, or the part of it that decides on its order, if it can start in the middle of an epoch."""
    for part in (loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
        if hasattr(part, "start_at"):
            yield part
