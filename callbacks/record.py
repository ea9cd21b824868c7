"""What a run did: its metrics, epoch by epoch, how fast it was, and why it stopped."""

import json
import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor

from callbacks.doctor import Doctor


@dataclass
class Evaluation:
    """The metrics that one validation gave."""

    epoch: int
    step: int
    metrics: dict[str, float] = field(default_factory=dict)


class Record(Callback):
    """Keeps the metrics of each validation, counts samples and takes the time.

    Attributes:
        evaluations: One for each validation so far, oldest first.
        samples: Training samples seen, over all devices; 0 when batches are of no known form.
        seconds: Time from the start to the end of training, everything included.
        validation_seconds: The part of it spent in validation.
    """

    def __init__(self) -> None:
        self.evaluations: list[Evaluation] = []
        self.samples = 0
        self.seconds = 0.0
        self.validation_seconds = 0.0
        self._countable = True
        self._started = 0.0
        self._before = 0.0  # seconds of training before the run was cut

    def state_dict(self) -> dict[str, Any]:
        seconds = self._before + time.perf_counter() - self._started if self._started else self.seconds
        return {
            # one text: pickling a thousand numbers one by one would take longer than writing the weights
            "evaluations": json.dumps([asdict(found) for found in self.evaluations]),
            "samples": self.samples,
            "seconds": seconds,
            "validation_seconds": self.validation_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.evaluations = [Evaluation(**found) for found in json.loads(state_dict["evaluations"])]
        self.samples, self.validation_seconds = state_dict["samples"], state_dict["validation_seconds"]
        self.seconds = self._before = state_dict["seconds"]

    @property
    def samples_per_second(self) -> float | None:
        """Training samples per second, without the time for validation; None when they can't be counted."""
        seconds = self.seconds - self.validation_seconds
        return self.samples / seconds if self.samples and seconds > 0 else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._countable:
            size = _batch_size(batch)
            self._countable = size is not None  # of no known form: the speed is left out of the summary
            self.samples = self.samples + size * trainer.world_size if size is not None else 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_started = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            metrics = as_floats(trainer.callback_metrics)
            self.evaluations.append(Evaluation(trainer.current_epoch, trainer.global_step, metrics))
            self.validation_seconds += time.perf_counter() - self._validation_started

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._started:
            self.seconds = self._before + time.perf_counter() - self._started


def _batch_size(batch: Any) -> int | None:
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor):
        return len(batch[0])
    try:
        return extract_batch_size(batch)
    except Exception:
        return None


def as_floats(metrics: Any) -> dict[str, float]:
    """The metrics that are a single number, as Python floats."""
    return {
        name: float(value) for name, value in metrics.items() if not isinstance(value, Tensor) or value.numel() == 1
    }


def why_stopped(trainer: Trainer) -> str:
    """Why the fit that just ended did, in the words of the config."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Doctor) and callback.stopped:
            return f"by the doctor: {callback.stopped.title}"
        if isinstance(callback, EarlyStopping) and callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            if callback.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
                worse = "fallen" if callback.mode == "min" else "risen"
                plural = "" if callback.patience == 1 else "s"
                return f"{callback.monitor} has not {worse} for {callback.patience} evaluation{plural}"
            value = float(trainer.callback_metrics.get(callback.monitor, 0))
            if callback.check_finite and not math.isfinite(value):
                return f"{callback.monitor} is {value}"
            return str(callback.stopping_reason_message or "early stopping").removesuffix(" Signaling Trainer to stop.")
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return f"trainer.max_steps {trainer.max_steps} reached"
    if trainer.max_epochs not in (None, -1) and trainer.current_epoch >= trainer.max_epochs:
        return f"trainer.max_epochs {trainer.max_epochs} reached"
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    if any(left is not None and left <= 0 for left in (timer.time_remaining() for timer in timers)):
        return "trainer.max_time reached"
    return "interrupted" if trainer.interrupted else "by a callback"
