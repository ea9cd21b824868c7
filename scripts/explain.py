"""What the doctor says of a run that is over, or that goes on elsewhere."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from callbacks.doctor import Doctor, Finding, History, Keys, Thresholds
from callbacks.doctor.history import Evaluation, Sample
from callbacks.doctor.probe import LossCall
from runs import Run
from runs.errors import UserError, one_line
from runs.events import Curve, Log, read_log
from runs.keys import flat
from runs.summary import hanging
from scripts.say import say

BY_LAYER = {"samples", "rectified", "squashed"}  # what a rule needs that looks at layers
FEW = 8  # looks at layers, of which a log has one every 50 or 100 steps: with fewer, silence says nothing


def explain_run(place: str) -> bool:
    """Print causes with their evidence and remedies, and what follows from them; whether there are any.

    Raises:
        UserError: There is no such run, its folder has neither a `doctor.json` that can be read nor a log.
    """
    run = Run(place)
    path = run.folder / "doctor.json"
    label = "looked for"
    try:
        if not path.is_file():
            raise UserError(f"{run.folder} has no doctor.json")
        findings, checked, repairs = read_findings(path)
    except UserError as error:
        try:
            history = history_of(run)
        except UserError as nothing:
            raise UserError(f"{error}, and {nothing}") from nothing
        say(f"note: {error}; this is what its TensorBoard log says, which has less in it than the doctor sees")
        config = shlex.quote(str(run.folder / "config.yaml"))
        findings, checked = examine_history(history, *_doctor_of(run), config)
        repairs, label = [], "looked for, as far as the log goes"
    console = Console(highlight=False)
    for known in repairs:
        change = " ".join(known["remedy"])
        _tell(console, "", f"before it: {known['run']}, ended for {known['finding']}, mended with {change}")
    causes = [finding for finding in findings if finding.follows_from is None]
    for finding in causes:
        said = f", said at step {finding.step}" if finding.step > finding.since else ""
        _tell(console, "", f"{finding.title} ({finding.name}), from step {finding.since} on{said}")
        _tell(console, "how it shows", finding.evidence)
        for i, remedy in enumerate(finding.remedies):
            _tell(console, "or" if i else "what mends it", f"try {remedy}")
        if finding.advice:
            _tell(console, "or" if finding.remedies else "what mends it", finding.advice)
        for other in findings:
            if other.follows_from == finding.name:
                _tell(console, "and so", f"{other.title}: {other.evidence}")
    if not causes:
        _tell(console, "", "no problems found")
        if checked:
            _tell(console, "", f"{label}: {', '.join(checked).replace('_', ' ')}")
    return bool(causes)


def _tell(console: Console, label: str, text: str) -> None:
    indent = 17 if label else 0
    console.print(
        (f"  {label:<{indent - 2}}" if label else "") + hanging(text, indent, console), soft_wrap=True, markup=False
    )


def read_findings(path: Path) -> tuple[list[Finding], list[str], list[dict[str, Any]]]:
    """Of a `doctor.json` the findings, the names of what was looked for, and the repairs.

    Raises:
        UserError: It can't be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        findings = [Finding(**finding) for finding in found["findings"]]
        repairs = [{key: known[key] for key in ("run", "finding", "remedy")} for known in found.get("repairs", [])]
        return findings, [str(name) for name in found["checked"]], repairs
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else one_line(error)
        if isinstance(error, TypeError | AttributeError):
            reason = "not of the form that the doctor writes"
        raise UserError(f"{path}: damaged ({reason})") from error


def _doctor_of(run: Run) -> tuple[Keys, Doctor]:
    """The keys of a run and the doctor that it was to have; without a config that can be read, none and the usual."""
    try:
        config = run.config
        given = config.get("doctor") or {}
        limits = Thresholds(**(given.get("thresholds") or {}))
        # whether a class knows a name can't be asked here
        return Keys(flat(config), accepts=lambda override: False), Doctor(
            ignore=given.get("ignore") or (), thresholds=limits
        )
    except (UserError, OSError, AttributeError, TypeError, ValueError) as error:
        say(f"note: the keys of {run.folder} are not known, {one_line(error)}")
        return Keys({}), Doctor()


def examine_history(
    history: History, keys: Keys, doctor: Doctor, config: str = "FILE"
) -> tuple[list[Finding], list[str]]:
    """What can be told from the curves of a whole run, and the names of what could be looked for.

    Args:
        history: The run.
        keys: Its keys, for the remedies.
        doctor: What is looked for, and where its lines are.
        config: Where the run's config is, as on a command line.
    """
    history.begin()
    found: list[Finding] = []
    checked: list[str] = []
    for diagnosis in doctor.diagnoses:
        if {known.name for known in found} & set(diagnosis.excludes):
            continue
        if not all(getattr(history, need) for need in diagnosis.needs):
            continue
        try:
            evidence = diagnosis.examine(history, doctor.thresholds)
        except Exception as error:  # the others have something to say
            say(f"warning: can't look for {diagnosis.name}: {type(error).__name__}: {one_line(error)}")
            continue
        if evidence is not None or len(history.samples) >= FEW or not BY_LAYER & set(diagnosis.needs):
            checked.append(diagnosis.name)
        if evidence is not None:
            cause = next((known.name for known in found if known.name in diagnosis.causes), None)
            remedies = [] if cause else list(dict.fromkeys(diagnosis.remedies(evidence, history, keys)))
            found.append(
                Finding(
                    diagnosis.name,
                    diagnosis.title,
                    history.step,
                    evidence.since,
                    epoch=0,
                    evidence=evidence.text,
                    remedies=remedies,
                    advice=diagnosis.told(evidence, remedies, config),
                    follows_from=cause,
                )
            )
    return found, checked


def history_of(run: Run) -> History:
    """As much of a run's history as its log has kept.

    Raises:
        UserError: There is no log.
    """
    log = read_log(run.folder)
    steps = _first(log, "train/loss_step", "train/loss", "train_loss", "loss")
    if steps is None:
        raise UserError(f"{run.folder}: no log of a training loss in it")
    history = History()
    history.epoch_steps = int(log.epochs[1][0]) + 1 if len(log.epochs[1]) else 0
    classes = _classes(run, log)
    for step, loss in _points(steps):
        history.add_loss(step, loss)
        if classes and math.isfinite(loss):
            counts = np.asarray(classes)
            history.add_call(step, LossCall("cross_entropy", loss, int(counts.sum()), k=len(counts), counts=counts))
    history.calls = history.calls[:400] + history.calls[400:][-400:]
    history.norms = _points(log.curves.get("grad_norm/all"))
    history.rates = next((_points(curve) for name, curve in log.curves.items() if name.startswith("lr")), [])
    history.samples = _samples(log)
    history.evaluations = _evaluations(log)
    history.total = history.step = max(history.step, *(found.step for found in history.evaluations), 0)
    history.ended = True
    return history


def _first(log: Log, *names: str) -> Curve | None:
    return next((log.curves[name] for name in names if name in log.curves), None)


def _points(curve: Curve | None) -> list[tuple[int, float]]:
    # the log counts from 0
    return (
        []
        if curve is None
        else [(step + 1, value) for step, value in zip(curve.steps.tolist(), curve.values.tolist(), strict=True)]
    )


def _classes(run: Run, log: Log) -> list[float]:
    """How often each class is in the validation data; nothing where that is not known."""
    path = Path(run.folder, "confusion_matrix.json")
    try:
        counts = json.loads(path.read_text(encoding="utf-8"))["counts"]
        return [float(sum(row)) for row in counts]
    except (OSError, ValueError, KeyError, TypeError):
        names = [name for name in log.curves if name.startswith("recall/") and name != "recall/lowest"]
        return [1.0] * len(names)


def _samples(log: Log) -> list[Sample]:
    families = {"grad_norm": "grads", "update_ratio": "updates", "dead_units": "dead"}
    found: dict[int, Sample] = {}
    for name, curve in log.curves.items():
        family, _, layer = name.partition("/")
        if family in families and layer not in ("", "all"):
            for step, value in _points(curve):
                sample = found.setdefault(step, Sample(step, 0.0))
                getattr(sample, families[family])[layer] = (value, 64) if family == "dead_units" else value
    rates = next((_points(curve) for name, curve in log.curves.items() if name.startswith("lr")), [])
    for sample in found.values():  # the rate was logged at other steps
        sample.lr = next((rate for step, rate in reversed(rates) if step <= sample.step), rates[0][1] if rates else 0.0)
    return [sample for _, sample in sorted(found.items()) if sample.updates]


def _evaluations(log: Log) -> list[Evaluation]:
    kept = {name: dict(_points(log.curves.get(name))) for name in ("train/loss", "train/acc", "val/loss", "val/acc")}
    epochs = {step: log.epoch_of(step - 1) or 0 for step in kept["val/loss"]}
    return [
        Evaluation(
            epochs[step],
            step,
            kept["train/loss"].get(step, math.nan),
            loss,
            kept["train/acc"].get(step),
            kept["val/acc"].get(step),
        )
        for step, loss in sorted(kept["val/loss"].items())
    ]
