"""Gathers what the doctor knows of a run's validations, and of the training up to each of them."""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.doctor.history import Evaluation, History
from callbacks.doctor.modes import Replay
from callbacks.doctor.probe import LossCall, Probe


class WatchValidations(Callback):
    """Adds an `Evaluation` to a run's `History` after each validation.

    Attributes:
        history: What is known.
    """

    def __init__(self) -> None:
        self.history = History()
        self._probe: Probe | None = None
        self._replay: Replay | None = None
        self._visible = True
        self._validated: list[LossCall] = []
        self._since = [0.0, 0.0]  # sum and number of the losses since the last validation
        self._same: list[float | None] | None = None  # loss and accuracy of a batch in both modes
        self._clock: tuple[float, float] | None = None

    def _hear(self, hook: str, wanted: bool) -> None:
        if wanted:
            vars(self).pop(hook, None)
        else:
            setattr(self, hook, None)

    def _leave(self) -> None:
        if self._probe is not None and self._probe.entered:
            self._probe.leave()
            if self._replay is not None:
                self._replay.leave()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = []
        self._hear("on_validation_batch_start", _fitting(trainer) and self._visible)
        self._hear("on_validation_batch_end", _fitting(trainer) and self._visible)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx == 0:
            self._probe = Probe(early=False)
            self._probe.watch(pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._leave()
        if self._probe is not None:
            call = max(self._probe.calls, key=lambda found: found.count, default=None)
            if call is not None:
                call.counts = call.labels = None
                self._validated.append(call)
        self._probe = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not _fitting(trainer):
            return
        history = self.history
        before = history.evaluations[-1].step if history.evaluations else 0
        found = Evaluation(
            trainer.current_epoch,
            history.step,
            self._since[0] / self._since[1] if self._since[1] else math.nan,
            lr=history.rate or 0.0,
        )
        self._since = [0.0, 0.0]
        seen = [call for step, call in history.calls if step > before and call.k]
        if sum(call.count for call in seen):
            found.train_accuracy = sum(call.right for call in seen) / sum(call.count for call in seen)
        self._take_validation(found, trainer)
        if self._same is not None:
            found.same_train, found.same_eval, found.same_train_accuracy, found.same_eval_accuracy = self._same
        self._same = None
        history.evaluations.append(found)
        if len(history.evaluations) > 1000:
            del history.evaluations[200:-500]
        self._clock = None

    def _take_validation(self, found: Evaluation, trainer: Trainer) -> None:
        calls = [call for call in self._validated if call.count and math.isfinite(call.value)]
        if calls and len({call.name for call in calls}) == 1 and len(calls) == len(self._validated):
            found.val_loss = sum(call.value * call.count for call in calls) / sum(call.count for call in calls)
            if calls[0].k and len({call.k for call in calls}) == 1:
                found.val_classes = [sum(column) for column in zip(*(call.classes for call in calls), strict=True)]
                found.val_rights = [sum(column) for column in zip(*(call.rights for call in calls), strict=True)]
                found.val_accuracy = sum(call.right for call in calls) / sum(call.count for call in calls)
        else:
            metrics = trainer.callback_metrics
            names = [name for name in metrics if name.startswith("val") and name.endswith("loss")]
            if names:
                found.val_loss = float(metrics[names[0]])
        self._validated = []

    def _differed(self) -> bool:
        """Whether training and validation were so far apart that it has to be known what the mode does to that."""
        if not self.history.evaluations:
            return False
        known = [
            found for found in self.history.evaluations if found.same_eval is not None and found.same_train is not None
        ]
        gaps = [abs((found.same_eval or 0.0) - (found.same_train or 0.0)) for found in known[-3:]]
        often = len(known) < 3 or max(gaps) > 0.05 * self.history.scale
        if not often and len(self.history.evaluations) % 5:  # the modes are alike
            return False
        last = self.history.evaluations[-1]
        if last.val_loss is None or not math.isfinite(last.train_loss):
            return True
        return abs(last.val_loss - last.train_loss) > 0.04 * (self.history.scale or 1.0)


def _fitting(trainer: Trainer) -> bool:
    return trainer.state.fn == "fit" and not trainer.sanity_checking
