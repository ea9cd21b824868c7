"""A run's history out of its log, for runs that had no doctor."""

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from torch.utils.tensorboard import SummaryWriter

from callbacks.doctor import Doctor, Keys
from callbacks.doctor.history import History
from callbacks.doctor.steps import NotFinite
from runs import Run
from runs.errors import UserError
from runs.events import Curve, read_log
from scripts import explain
from scripts.explain import examine_history, explain_run, history_of, read_findings


def log(folder: Path, curves: dict[str, list[tuple[int, float]]]) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"class_path": "x.Y"}}))
    with SummaryWriter(str(folder)) as writer:
        for name, points in curves.items():
            for step, value in points:
                writer.add_scalar(name, value, step)
    return Run(folder)


def curves(epochs: int = 12, per_epoch: int = 20, rise: float = 0.0) -> dict[str, list[tuple[int, float]]]:
    """A run that learns; with `rise`, its validation loss comes up again from the fourth epoch on."""
    ends = [(epoch + 1) * per_epoch - 1 for epoch in range(epochs)]
    steps = range(0, epochs * per_epoch, 5)
    return {
        "train/loss_step": [(step, 2.3 * math.exp(-step / 60)) for step in steps],
        "train/loss": [(step, 2.3 * math.exp(-step / 60)) for step in ends],
        "val/loss": [(step, 2.3 * math.exp(-min(i, 3) / 3) + rise * max(0, i - 3)) for i, step in enumerate(ends)],
        "epoch": [(step, float(i)) for i, step in enumerate(ends)],
        "lr-AdamW": [(step, 0.01) for step in steps],
        "grad_norm/all": [(step, 1.0) for step in steps],
    }


def test_curves_become_a_history(tmp_path: Path) -> None:
    history = history_of(log(tmp_path / "a run", curves()))
    assert history.losses[0] == (1, pytest.approx(2.3)), "the log counts from 0"
    assert len(history.evaluations) == 12
    assert history.evaluations[3].val_loss == pytest.approx(2.3 * math.exp(-1))
    assert history.rates[0] == (1, pytest.approx(0.01))
    assert history.norms[0] == (1, 1.0)
    assert history.step == history.total == 240
    assert history.ended


def test_overfitting_shows_in_the_curves_alone(tmp_path: Path) -> None:
    findings, checked = examine_history(history_of(log(tmp_path / "ill", curves(rise=0.3))), Keys({}), Doctor())
    assert [finding.name for finding in findings] == ["overfitting"]
    assert findings[0].advice
    assert {"overfitting", "nan_or_inf"} <= set(checked)
    assert "dead_relus" not in checked, "no unit is in the log"
    assert examine_history(history_of(log(tmp_path / "well", curves())), Keys({}), Doctor())[0] == []


def test_a_log_is_read_with_the_runs_own_keys_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = log(tmp_path / "ill", curves(rise=0.3))
    config = {"model": {"class_path": "x.Y", "init_args": {"dropout": 0.1}}}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert explain_run(str(run.folder))
    assert "try --model.dropout 0.3" in capsys.readouterr().out
    for doctor in ({"ignore": ["overfitting"]}, {"thresholds": {"overfitting": 50.0}}):
        (run.folder / "config.yaml").write_text(yaml.safe_dump({**config, "doctor": doctor}))
        assert not explain_run(str(run.folder))
        assert "no problems found" in capsys.readouterr().out
    (run.folder / "config.yaml").write_text(yaml.safe_dump({"doctor": {"thresholds": {"old": 1.0}}}))
    assert explain_run(str(run.folder)), "what it can't read keeps it from nothing"


def test_losses_that_are_nan_are_found(tmp_path: Path) -> None:
    points = [(step, math.nan if step > 50 else 1.0) for step in range(0, 100, 5)]
    findings, _ = examine_history(history_of(log(tmp_path / "nan", {"train_loss": points})), Keys({}), Doctor())
    assert findings[0].name == "nan_or_inf"


def test_a_rule_that_fails_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object) -> None:
        raise IndexError("list index")

    monkeypatch.setattr(NotFinite, "examine", fail)
    history = History()
    history.add_loss(1, 1.0)
    assert "nan_or_inf" not in examine_history(history, Keys({}), Doctor())[1]
    assert capsys.readouterr().out == "warning: can't look for nan_or_inf: IndexError: list index\n"


def test_a_log_of_100000_steps_is_looked_at_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = log(tmp_path / "long", curves())
    steps = np.arange(100_000)
    short = read_log(run.folder)
    short.curves["train/loss_step"] = Curve(steps, 1 + 1 / (1 + steps), steps.astype(float), np.zeros_like(steps))
    monkeypatch.setattr(explain, "read_log", lambda folder: short)
    started = time.process_time()
    history = history_of(run)
    findings, _ = examine_history(history, Keys({}), Doctor())
    assert time.process_time() - started < 10
    assert history.step == 100_000
    assert "nan_or_inf" not in [finding.name for finding in findings]
    assert len(history.losses) < 10_000


@pytest.mark.parametrize("name", ["events.out.tfevents.1.x.1.0", "nothing"])
def test_a_run_without_a_log_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.yaml").write_text("model:\n")
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="no log of a training loss in it"):
        history_of(Run(tmp_path))


def test_findings_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "doctor.json"
    known = {"name": "a", "title": "b", "step": 2, "since": 1, "epoch": 0, "evidence": "c"}
    path.write_text(json.dumps({"checked": ["a"], "findings": [known], "steps": None}))
    findings, checked, repairs = read_findings(path)
    assert (findings[0].name, findings[0].remedies, checked, repairs) == ("a", [], ["a"], [])
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="can't be read"):
        read_findings(path)
