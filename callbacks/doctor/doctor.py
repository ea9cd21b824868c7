"""The doctor: says what is wrong with a training while it goes on, since when, how it knows, and what mends it."""

import contextlib
import json
import math
import os
import shlex
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.doctor.data import (
    ClassImbalance,
    DataLoading,
    InputsNotNormalised,
    LabelOrder,
    TrainValMismatch,
)
from callbacks.doctor.diagnosis import UNSEEN, Diagnosis, Evidence, Thresholds
from callbacks.doctor.fit import NotLearning, Overfitting, OverRegularised, Underfitting
from callbacks.doctor.history import History
from callbacks.doctor.network import (
    BadInitialisation,
    DeadUnits,
    NeverMove,
    Saturation,
    SoftmaxBeforeLoss,
    TrainEvalMismatch,
    VanishingGradients,
)
from callbacks.doctor.probe import facts
from callbacks.doctor.remedies import Keys
from callbacks.doctor.steps import ExplodingGradients, LearningRateTooHigh, LearningRateTooLow, NotFinite
from callbacks.doctor.watch import Watch
from callbacks.nonfinite import NonFiniteError
from callbacks.stop import agree

FILE = "doctor.json"
REWRITE = 10  # seconds after which it is written anew although there is no finding

# causes before what follows from them
DIAGNOSES: tuple[type[Diagnosis], ...] = (
    InputsNotNormalised,
    SoftmaxBeforeLoss,
    LabelOrder,
    BadInitialisation,
    ExplodingGradients,
    LearningRateTooHigh,
    NotFinite,
    OverRegularised,
    DeadUnits,
    Saturation,
    NeverMove,
    VanishingGradients,
    LearningRateTooLow,
    TrainEvalMismatch,
    TrainValMismatch,
    NotLearning,
    ClassImbalance,
    DataLoading,
    Underfitting,
    Overfitting,
)
NAMES = tuple(diagnosis.name for diagnosis in DIAGNOSES)


@dataclass
class Finding:
    """A problem that a run has.

    Attributes:
        name: Of the diagnosis.
        title: What it is, as a clause.
        step: At which it was sure.
        since: At which it showed first.
        epoch: Of `step`, from 0.
        evidence: The numbers, and the steps that they are from.
        remedies: Overrides of the run's own keys, the best one first; one may be of two keys.
        advice: What helps where no key does.
        follows_from: The name of the finding that explains this one; None for a cause.
        numbers: Those of the evidence.
    """

    name: str
    title: str
    step: int
    since: int
    epoch: int
    evidence: str
    remedies: list[str] = field(default_factory=list)
    advice: str = ""
    follows_from: str | None = None
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The finding on one line."""
        cure = f"try {self.remedies[0]}" if self.remedies else self.advice
        return f"{self.title}: {self.evidence}" + (f"; {cure}" if cure else "")


class Doctor(Watch):
    """Examines a training while it goes on.

    A finding is said once, when it is sure: on a line of the terminal, as text in TensorBoard, in `doctor.json` in the
    run's folder, and at the end of the run. With several processes the first one examines what it sees, and the
    others are told.

    Args:
        action: `advise` says what is wrong; `stop` ends a run that wastes its time, too; `repair` ends it, applies the
            first remedy and starts anew.
        max_repairs: How often `repair` starts anew at most.
        ignore: Names of diagnoses that are not made.
        thresholds: Where the lines are drawn.
        enabled: Whether anything is examined at all.

    Attributes:
        findings: Causes and what follows from them, in the order in which they were found.
        checked: Names of the diagnoses that were looked for.
        unseen: Names of the others, and why.
        repairs: The runs before this one that `repair` has ended, and what it has changed since.
        stopped: The finding that has ended the run.
        keys: The keys of the run.

    Raises:
        ValueError: There is no diagnosis of a name, or `max_repairs` is negative.
    """

    def __init__(
        self,
        action: Literal["advise", "stop", "repair"] = "advise",
        max_repairs: int = 3,
        ignore: Sequence[str] = (),
        thresholds: Thresholds = Thresholds(),  # noqa: B008 (frozen)
        enabled: bool = True,
    ) -> None:
        super().__init__()
        if max_repairs < 0:
            raise ValueError(f"doctor.max_repairs: {max_repairs} is negative")
        for name in ignore:
            if name not in NAMES:
                raise ValueError(f"doctor.ignore: {name!r} is no diagnosis; there are {', '.join(NAMES)}")
        self.action, self.max_repairs, self.thresholds = action, max_repairs, thresholds
        self.ignore, self.enabled = tuple(ignore), enabled
        self.diagnoses = [diagnosis() for diagnosis in DIAGNOSES if diagnosis.name not in self.ignore]
        self.findings: list[Finding] = []
        self.stopped: Finding | None = None
        self.repairs: list[dict[str, Any]] = []
        self.keys = Keys({})
        self._failed: set[str] = set()
        self._written = -math.inf
        self._asked = 0  # the last step after which all was examined that does not rest on validations

    @property
    def checked(self) -> list[str]:
        """Names of the diagnoses that were looked for."""
        unseen = self.unseen
        return [diagnosis.name for diagnosis in self.diagnoses if diagnosis.name not in unseen]

    @property
    def unseen(self) -> dict[str, str]:
        """Names of the diagnoses that were not looked for, and why."""
        missing = {d.name: next((n for n in d.needs if not getattr(self.history, n)), "") for d in self.diagnoses}
        found = {name: UNSEEN[need] for name, need in missing.items() if need}
        return found | dict.fromkeys(self.ignore, "ignored") | dict.fromkeys(sorted(self._failed), "failed")

    @property
    def causes(self) -> list[Finding]:
        """The findings that do not follow from others."""
        return [finding for finding in self.findings if finding.follows_from is None]

    # ---- to go on

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": self.history.state(),
            "watch": self.watch_state(),
            "findings": json.dumps([asdict(finding) for finding in self.findings]),
            "repairs": json.dumps(self.repairs),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = History.from_state(state_dict["history"])
        self.load_watch_state(state_dict["watch"])
        self.findings = [Finding(**finding) for finding in json.loads(state_dict["findings"])]
        self.repairs = json.loads(state_dict["repairs"])

    # ---- when

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        before = self.history.step
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        step = self.history.step
        every = 10 if step <= 100 else 25 if step <= 300 else 100
        if step > before and (step % every == 0 or step in (3, 5, 12, 15, 25)):
            self._asked = step
            self.examine(trainer, [diagnosis for diagnosis in self.diagnoses if not diagnosis.of_validations])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            # what was asked a few steps ago has no other answer now
            lately = self.history.step - self._asked < 50
            asked = (
                [d for d in self.diagnoses if d.of_validations or d.name == OverRegularised.name] if lately else None
            )
            self.examine(trainer, asked)
            if time.monotonic() > self._written + REWRITE:  # a run that is killed has one, too
                self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave()
        self.history.ended = True
        if self.stopped is None:
            self.examine(trainer)
        self._write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._leave()
        if isinstance(exception, NonFiniteError):
            # what was to blame; the rest is for the error's own line
            found = self._bad_inputs(trainer)
            parts = str(exception).removeprefix("loss: ").split("; ")
            samples = [part for part in parts if part.startswith("sample")] if found is not None else []
            self.history.bad = {"text": "; ".join(parts[:2] + samples), "step": trainer.global_step}
            if found is not None:
                self.history.bad.update(inputs=True, columns=found)
            self.examine(trainer, alone=True)
        with contextlib.suppress(Exception):  # what is being raised is the one to be told
            self._write(trainer)

    @staticmethod
    def _bad_inputs(trainer: Trainer) -> list[int] | None:
        """The columns of the batch's inputs that have a value that is not finite; None where all are finite."""
        results: Any = trainer.fit_loop.epoch_loop._results
        batch = getattr(results, "batch", None)
        inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point() or inputs.isfinite().all():
            return None
        return facts("", inputs).bad_columns

    # ---- what

    def examine(self, trainer: Trainer, asked: Sequence[Diagnosis] | None = None, alone: bool = False) -> None:
        """Look for the problems that were not found yet, all or those that are asked for.

        Called in all processes, unless this one is `alone`.
        """
        new = self._look(trainer, self.diagnoses if asked is None else asked) if trainer.is_global_zero else []
        if trainer.world_size > 1 and not alone:
            _, anything = agree(trainer, 0, bool(new))
            if not anything:
                return
            told = trainer.strategy.broadcast([asdict(finding) for finding in new])
            new = [Finding(**finding) for finding in told]
        for finding in new:
            self._take(trainer, finding)

    def _look(self, trainer: Trainer, asked: Sequence[Diagnosis]) -> list[Finding]:
        found: list[Finding] = []
        known = {finding.name for finding in self.findings}
        self.history.begin()
        for diagnosis in asked:
            if diagnosis.name in known or diagnosis.name in self._failed or known & set(diagnosis.excludes):
                continue
            try:
                evidence = diagnosis.examine(self.history, self.thresholds)
                if evidence is not None:
                    found.append(self._finding(trainer, diagnosis, evidence, found))
                    known.add(diagnosis.name)
            except Exception as error:  # to watch a run is no reason to end it
                self._failed.add(diagnosis.name)
                warnings.warn(
                    f"the doctor can't look for {diagnosis.name}: {type(error).__name__}: {error}", stacklevel=2
                )
        return found

    def _finding(self, trainer: Trainer, diagnosis: Diagnosis, evidence: Evidence, new: list[Finding]) -> Finding:
        # what was there first is the cause, also where it is usually the other way round
        related = [
            f for f in (*self.findings, *new) if f.follows_from is None and self._related(f, diagnosis, evidence)
        ]
        cause = related[0].name if related else None
        remedies = [] if cause else list(dict.fromkeys(diagnosis.remedies(evidence, self.history, self.keys)))
        folder = trainer.loggers[0].log_dir if trainer.loggers else None
        config = shlex.quote(str(Path(folder, "config.yaml"))) if folder else "FILE"
        return Finding(
            diagnosis.name,
            diagnosis.title,
            max(self.history.step, evidence.since),
            evidence.since,
            trainer.current_epoch,
            evidence.text,
            remedies,
            diagnosis.told(evidence, remedies, config),
            cause,
            evidence.numbers,
        )

    def _causes(self, finding: Finding) -> tuple[str, ...]:
        return next(d.causes for d in self.diagnoses if d.name == finding.name)

    def _related(self, earlier: Finding, diagnosis: Diagnosis, evidence: Evidence) -> bool:
        """Whether a finding explains one that comes later."""
        if earlier.name in diagnosis.causes:
            return True
        return diagnosis.name in self._causes(earlier) and evidence.since > earlier.since

    def _take(self, trainer: Trainer, finding: Finding) -> None:
        self.findings.append(finding)
        hopeless = next(diagnosis for diagnosis in self.diagnoses if diagnosis.name == finding.name).hopeless
        for earlier in self.findings:  # which this one explains
            if earlier.follows_from is None and finding.follows_from is None and finding.name in self._causes(earlier):
                earlier.follows_from = finding.name
        if finding.follows_from is None:
            self._say(trainer, finding)
            if (self.action == "repair" and finding.remedies) or (self.action == "stop" and hopeless):
                self._stop(trainer, finding)
        elif self.action == "stop" and finding.name == NotLearning.name:  # whatever it is that it follows from
            self._stop(trainer, next(cause for cause in self.findings if cause.name == finding.follows_from))
        if not self.history.ended:
            self._write(trainer)

    def _stop(self, trainer: Trainer, finding: Finding) -> None:
        if self.stopped is None:
            self.stopped = finding
            trainer.should_stop = True
            trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = 0, None

    def _say(self, trainer: Trainer, finding: Finding) -> None:
        if not trainer.is_global_zero:
            return
        bar: Any = trainer.progress_bar_callback
        line = f"doctor: step {finding.step}: {finding.line}"
        if bar is not None:
            bar.print(line)
        else:
            print(line, flush=True)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                with contextlib.suppress(OSError):  # a disk that is full
                    logger.experiment.add_text("doctor", as_markdown(finding), finding.step)

    def _write(self, trainer: Trainer) -> None:
        folder = trainer.loggers[0].log_dir if trainer.loggers else None
        if not folder or not trainer.is_global_zero or not Path(folder).is_dir():
            return
        self._written = time.monotonic()
        path = Path(folder, FILE)
        temporary = path.with_name(f".{FILE}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a disk that is full
            temporary.write_text(json.dumps(self.report(), indent=2) + "\n", encoding="utf-8")
            temporary.replace(path)

    def report(self) -> dict[str, Any]:
        """What `doctor.json` holds."""
        total = self.history.total
        if math.isinf(total) and self.history.ended:  # of a stream nobody knew
            total = self.history.step
        return {
            "checked": self.checked,
            "unseen": self.unseen,
            "steps": int(total) if math.isfinite(total) else None,
            "findings": [asdict(finding) for finding in self.findings],
            "repairs": self.repairs,
        }

    def summary(self) -> dict[str, Any]:
        """What the end of the run says: causes, and what was looked for."""
        keep = ("name", "title", "step", "since", "evidence", "remedies", "advice")
        causes = [{key: value for key, value in asdict(found).items() if key in keep} for found in self.causes]
        return {"checked": self.checked, "unseen": self.unseen, "findings": causes}


def as_markdown(finding: Finding) -> str:
    """A finding as TensorBoard shows texts."""
    cures = "".join(f"\n- `{remedy}`" for remedy in finding.remedies)
    advice = f"\n\n{finding.advice}" if finding.advice else ""
    return f"**{finding.title}**, from step {finding.since} on\n\n{finding.evidence}\n{cures}{advice}"
