"""The parts of `--doctor.action repair`: what is changed, from which weights, and what is told of it."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callbacks.doctor import Finding
from callbacks.doctor.history import Evaluation, History
from scripts.repair import Try, _change, _known, _tell, _without_symptoms


def finding(name: str = "learning_rate_too_high", since: int = 1, remedy: str = "--optimizer.lr 0.01") -> Finding:
    return Finding(name, "title", since + 5, since, 0, "evidence", [remedy, "--other 1"])


def cli(val_loss: float | None = 0.5, best: str = "best.ckpt", total: float = 100) -> Any:
    history = History(total=total)
    history.losses = [(step, 2.0) for step in (1, 2, 3)]
    history.evaluations = [Evaluation(0, 20, 2.0, val_loss)]
    return SimpleNamespace(doctor=SimpleNamespace(history=history), best_checkpoint=lambda: (best, True))


@pytest.mark.parametrize(
    ("run", "found", "change"),
    [
        (cli(), finding(since=60), ["--optimizer.lr=0.01", "--weights=best.ckpt"]),
        (cli(), finding(since=10), ["--optimizer.lr=0.01"]),  # no weights that are worth keeping so early
        (cli(), finding("over_regularised", since=60), ["--optimizer.lr=0.01"]),  # they are ill as well
        (cli(val_loss=1.9), finding(since=60), ["--optimizer.lr=0.01"]),  # as good as chance
        (cli(val_loss=None), finding(since=60), ["--optimizer.lr=0.01"]),
        (cli(best=""), finding(since=60), ["--optimizer.lr=0.01"]),
        (cli(total=float("inf")), finding(since=60), ["--optimizer.lr=0.01"]),
        (cli(), finding(remedy='--data.names ["a", "b c"]'), ['--data.names=["a", "b c"]']),
        (cli(), finding(remedy="--model.norm batch --model.act relu"), ["--model.norm=batch", "--model.act=relu"]),
    ],
)
def test_the_first_remedy_and_good_weights_are_taken(run: Any, found: Finding, change: list[str]) -> None:
    assert _change(run, found) == change


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"repairs": [{"name": 1}]}', '{"repairs": [1]}'])
def test_what_was_tried_before_is_read_as_far_as_it_can_be(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "doctor.json"
    if content is not None:
        path.write_text(content)
    assert _known(tmp_path) == []
    tries = [Try("version_0", "dead_relus", ["--a=1"], {"val/loss": 1.0})]
    path.write_text(json.dumps({"repairs": [asdict(known) for known in tries]}))
    assert _known(tmp_path) == tries


def test_each_try_is_a_line_with_what_was_changed_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    tries = [
        Try("logs/a run/version_0", "nan_or_inf", ["--optimizer.lr=0.01", "--weights=x.ckpt"]),
        Try("logs/a run/version_10", "dead_relus", ["--model.act=gelu"], {"val/acc": 0.25, "val/loss": 2.0}),
        Try(str(Path("logs/a run/version_11")), result={"val/loss": 0.5}, failed=True),
    ]
    _tell(tries)
    assert capsys.readouterr().out.splitlines() == [
        "",
        "repairs",
        "  version_0   as configured: nothing to measure (ended: nan_or_inf)",
        "  version_10  --optimizer.lr=0.01 --weights=x.ckpt: loss 2.0000, acc 0.2500 (ended: dead_relus)",
        "  version_11  --model.act=gelu: loss 0.5000 (failed)",
    ]


def test_what_was_changed_for_a_symptom_is_undone_when_its_cause_is_found() -> None:
    tries = [
        Try("version_0", "learning_rate_too_high", ["--optimizer.lr=0.01"]),
        Try("version_1", "exploding_gradients", ["--trainer.gradient_clip_val=2.0"]),
        Try("version_2", "dead_relus", ["--model.net.activation=gelu"]),
    ]
    args = ["--config", "a.yaml", "--optimizer.lr=0.01", "--trainer.gradient_clip_val=2.0"]
    args.append("--model.net.activation=gelu")
    # sizes of steps; what was changed of the network has mended what it was changed for
    kept = ["--config", "a.yaml", "--model.net.activation=gelu"]
    assert _without_symptoms(args, tries, "bad_initialisation") == kept
    assert _without_symptoms(args, tries[:1], "overfitting") == args
