"""A run on one page."""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runs import Run
from runs.errors import UserError
from runs.events import read_log
from runs.facts import Facts, epoch_seconds, find_metrics
from runs.numbers import number, seconds
from runs.panels import confusion, doctor, gradients, matrix
from runs.report import draw, write_report
from tests.runs.test_events import write_log

CONFIG = "seed_everything: 1\nmodel:\n  class_path: a.Net\ncheckpoint:\n  monitor: val/loss\n  mode: min\n"


def text_of(page: Path) -> str:
    """What can be read on a page."""
    body = re.sub(r"<(style|script).*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def make(folder: Path, rows: Any = (), **files: Any) -> Run:
    """A run's folder with a log and JSON files."""
    write_log(folder, list(rows))
    (folder / "config.yaml").write_text(CONFIG)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return Run(folder)


@pytest.fixture
def copy(trained: Run, tmp_path: Path) -> Run:
    folder = tmp_path / "lightning_logs" / "cnn" / "version_0"
    shutil.copytree(trained.folder, folder)
    return Run(folder)


# ---- a real run


def test_each_fit_leaves_a_page_and_a_picture(trained: Run) -> None:
    page = text_of(trained.folder / "report.html")
    assert "cnn / version_0 finished trainer.max_epochs 2 reached" in page
    for value in {**trained.summary["val"], **trained.summary["test"]}.values():
        assert f"{value:.4f}" in page
    assert "No problems found" in page
    with Image.open(trained.folder / "curves.png") as picture:
        assert picture.size[0] >= 800
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**24) or []}
    assert {(59, 111, 212), (224, 112, 28)} <= colours, "lines of training and validation"


def test_the_page_is_the_same_when_made_again(copy: Run) -> None:
    before = (copy.folder / "report.html").read_text()
    (copy.folder / "report.html").unlink()
    assert write_report(copy) == copy.folder / "report.html"
    made = re.compile(r"Made [\d: -]+\S*")
    assert made.sub("", (copy.folder / "report.html").read_text()) == made.sub("", before)


def test_what_is_not_at_its_default_comes_first(copy: Run) -> None:
    page = text_of(write_report(copy))
    table = page[page.index("not at its default") : page.index("Every key")]
    assert "model.net.width 8 32" in table
    assert "optimizer.lr 0.01 0.001" in table
    assert "early_stopping.patience 15 10" in table
    assert "label_smoothing" not in table
    assert "label_smoothing: 0.0" in page


def test_a_run_of_another_project_has_its_config_all_the_same(copy: Run) -> None:
    (copy.folder / "environment.json").unlink()
    page = text_of(write_report(copy))
    assert "not at its default" not in page
    assert "label_smoothing: 0.0" in page
    assert "Environment" not in page


def test_the_best_epoch_of_an_interrupted_run_is_that_of_its_curve(copy: Run) -> None:
    (copy.folder / "summary.json").unlink()
    facts = Facts(copy)
    curve = read_log(copy.folder).curves["val/loss"]
    assert facts.best_epoch == int(curve.values.argmin())
    page = text_of(write_report(copy))
    assert "cnn / version_0 interrupted" in page
    assert "python scripts/fit.py --resume lightning_logs/cnn/version_0" in page


# ---- runs of other kinds


def test_a_run_without_anything_but_a_config_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(CONFIG)
    page = text_of(write_report(Run(tmp_path / "run")))
    assert "Nothing was logged." in page
    assert "interrupted" in page
    assert not (tmp_path / "run" / "curves.png").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"', '{"starts": 3, "checked": 1, "counts": [[1]]}'])
def test_files_of_another_form_cost_their_part_of_the_page_only(content: str, tmp_path: Path) -> None:
    names = ("doctor", "environment", "confusion_matrix", "residuals")
    run = make(tmp_path / "run", [(0, {"val/loss": 1.0})], **dict.fromkeys(names, content))
    page = text_of(write_report(run))
    assert "loss" in page
    for title in ("Findings", "Environment", "Confusion matrix", "Residuals"):
        assert title not in page


def test_a_broken_config_is_shown_as_it_is(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [(0, {"val/loss": 1.0})])
    run.config_file.write_text("a: [<script>")
    page = write_report(run)
    assert "broken" in text_of(page)
    assert "a: [&lt;script&gt;" in page.read_text()


def test_a_run_without_validation_shows_its_training(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [(step, {"train/loss": 1.0 / (step + 1), "epoch": 0.0}) for step in range(5)])
    facts = Facts(run)
    assert (facts.best_epoch, facts.best_step) == (None, None)
    page = write_report(run)
    assert 'data-name="train, by step"' in page.read_text()
    assert "last epoch 0" in text_of(page)


def test_a_training_loss_that_was_logged_by_step_has_a_mean_for_each_epoch(tmp_path: Path) -> None:
    rows = [(step, {"train_loss": float(step), "epoch": float(step // 4)}) for step in range(8)]
    rows += [(step, {"val_loss": 1.0, "epoch": float(step // 4)}) for step in (3, 7)]
    write_log(tmp_path, sorted(rows, key=lambda row: row[0]))
    (loss,) = find_metrics(read_log(tmp_path))
    assert loss.sampled
    assert loss.train is not None
    assert loss.by_step is not None
    assert loss.train.values.tolist() == [1.5, 5.5]
    assert loss.train.steps.tolist() == [3, 7]
    assert len(loss.by_step.steps) == 8


def test_metrics_of_other_projects_find_their_twins(tmp_path: Path) -> None:
    tags = ["mse", "valid_mse", "train_acc_step", "train_acc_epoch", "val_acc", "val/only", "lr-Adam", "epoch", "mine"]
    write_log(tmp_path, [(step, dict.fromkeys(tags, 1.0)) for step in range(3)])
    found = {m.name: m for m in find_metrics(read_log(tmp_path))}
    assert list(found) == ["acc", "mse", "only"]
    assert found["mse"].tag == "valid_mse"
    assert found["mse"].train is not None
    assert found["acc"].by_step is not None
    assert found["acc"].train is not None
    assert found["only"].train is None
    (tmp_path / "config.yaml").write_text(CONFIG)
    page = text_of(write_report(Run(tmp_path)))
    assert "More curves: mine" in page


def test_values_that_are_not_finite_are_told(tmp_path: Path) -> None:
    values = [1.0, float("nan"), float("inf"), 0.5]
    rows = [(step, {"train/loss": value, "val/loss": float("nan")}) for step, value in enumerate(values)]
    page = text_of(write_report(make(tmp_path / "run", rows)))
    assert "6 values are not finite" in page


def test_a_loss_that_was_not_finite_is_told(tmp_path: Path) -> None:
    found = {"loss": "nan", "step": 7, "epoch": 1, "batch": 2, "first": "the output of net.0 (Linear)"}
    page = text_of(write_report(make(tmp_path / "run", nonfinite=found)))
    assert "The loss was nan in step 7 (epoch 1, batch 2); first not finite: the output of net.0 (Linear)." in page


def test_nothing_in_a_run_can_break_out_of_the_page(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>'
    finding = dict.fromkeys(("name", "title", "evidence", "step"), evil) | {"remedies": [evil]}
    rows = [(step, {f"val/{evil}": 1.0, f"grad_norm/{evil}": 1.0, f"recall/{evil}": 1.0, evil: 2.0}) for step in (0, 1)]
    run = make(
        tmp_path / "run",
        rows,
        summary={"stopped": evil, "val": {evil: 1}, "test": {evil: evil}, "seconds": 1.0},
        doctor={"checked": [evil], "findings": [finding], "repairs": [{"remedy": evil, "result": {evil: evil}}]},
        confusion_matrix={"epoch": evil, "part": evil, "classes": [evil, "b"], "counts": [[0, 1, 3]]},
        environment={"starts": [{"git": {"commit": evil, "branch": evil}, "python": evil, "changed": {evil: 1}}]},
    )
    text = write_report(run).read_text(encoding="utf-8")
    assert text.count("<script") == 1, "its own"
    assert "alert(1)&lt;/script" in text


# ---- where it is written


def test_a_page_of_somebody_else_is_not_written_over(copy: Run) -> None:
    page = copy.folder / "report.html"
    page.write_text("<h1>My own notes</h1>")
    with pytest.raises(UserError, match="not made by this project"):
        write_report(copy)
    assert page.read_text() == "<h1>My own notes</h1>"
    picture = copy.folder / "curves.png"
    page.unlink()
    Image.new("RGB", (8, 8)).save(picture)
    before = picture.read_bytes()
    with pytest.raises(UserError, match=r"curves\.png: not made by this project"):
        write_report(copy)
    assert picture.read_bytes() == before


def test_a_picture_can_be_made_again(copy: Run) -> None:
    picture = copy.folder / "curves.png"
    picture.write_bytes(b"")  # of a process that was killed
    draw(Facts(copy), picture)
    assert picture.stat().st_size > 1000
    write_report(copy)


# ---- the parts


def test_epochs_are_as_long_as_the_clock_says_without_the_pause(tmp_path: Path) -> None:
    # ten steps an epoch, one second a step; cut after step 24, gone on with a day later from there
    steps = [(step, {"epoch": float(step // 10)}) for step in range(50)]
    write_log(tmp_path, steps[:25])
    write_log(tmp_path, steps[25:], started=1_700_086_400)
    epochs, took = epoch_seconds(read_log(tmp_path))
    assert epochs.tolist() == [0, 1, 2, 3, 4]
    assert took == pytest.approx([10, 10, 10, 10, 10], rel=0.02)


def test_an_epoch_of_one_value_has_no_time(tmp_path: Path) -> None:
    write_log(tmp_path, [(9, {"epoch": 0.0})])
    assert len(epoch_seconds(read_log(tmp_path))[0]) == 0


def test_layers_keep_their_order_and_each_has_a_row(tmp_path: Path) -> None:
    names = [f"net.{i}" for i in range(30)]
    rows = [
        (step, {"grad_norm/all": 9.0, **{f"grad_norm/{n}": i + 1.0 for i, n in enumerate(names)}}) for step in (0, 1)
    ]
    write_log(tmp_path, rows)
    found = gradients(read_log(tmp_path), None)
    assert found
    assert [row[0] for row in found["rows"]] == names
    assert [row[2] for row in found["rows"]][:2] == ["1.0000", "2.0000"]
    assert found["chart"]["legend"] == [], "thirty names would be longer than the chart"
    assert [name for name, _ in found["chart"]["ends"]] == ["net.0", "all"]


def test_findings_that_follow_from_another_are_below_it() -> None:
    findings = [
        {"name": "b", "title": "B", "follows_from": "a"},
        {"name": "a", "title": "A", "follows_from": None, "step": 3, "since": 1, "remedies": ["--x 1"]},
        {"name": "c", "follows_from": "not there"},
    ]
    found = doctor({"checked": ["nan_loss"], "findings": findings})
    assert found
    assert [f["title"] for f in found["findings"]] == ["A", "c"]
    assert [f["title"] for f in found["findings"][0]["symptoms"]] == ["B"]
    assert found["findings"][0]["place"] == "step 3, since step 1"


def test_without_a_finding_it_is_said_what_was_checked(copy: Run) -> None:
    (copy.folder / "doctor.json").write_text(json.dumps({"checked": ["nan_loss"], "findings": []}))
    assert "No problems found. looked for: nan loss" in text_of(write_report(copy))


def test_the_confusion_matrix_counts() -> None:
    counts = [[0, 0, 8], [0, 1, 2], [1, 1, 5], [2, 0, 1]]
    found = confusion({"epoch": 3, "part": "validation", "classes": ["cat", "dog", "a long name"], "counts": counts})
    assert found
    assert found["said"] == "epoch 3, validation: 16 samples, 3 mistakes"
    assert found["worst"] == [("cat", "dog", 2, "20.0%"), ("a long name", "cat", 1, "100.0%")]
    assert "cat → dog: 2" in found["svg"]
    assert re.findall(r'class="count[^>]*>(\d+)<', found["svg"]) == ["8", "2", "5", "1"]


@pytest.mark.parametrize("classes", [2, 31, 1000])
def test_a_matrix_of_many_classes_has_no_numbers_but_its_mistakes(classes: int) -> None:
    counts = [[i, i, 5] for i in range(classes)] + [[0, 1, 7]]
    found = confusion({"epoch": 0, "part": "", "classes": list(range(classes)), "counts": counts})
    assert found
    assert found["worst"] == [("0", "1", 7, "58.3%")]
    assert len(found["svg"]) < 100_000
    assert ('class="count' in found["svg"]) == (classes == 2)
    assert bool(found["svg"]) == (classes < 1000)


def test_a_class_without_samples_is_no_division_by_zero() -> None:
    assert "count" in matrix(np.array([[3, 0], [0, 0]]), ["a", "b"])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.02331, "0.0233"), (1234, "1,234"), (3.2e-5, "3.2e-05"), (float("nan"), "nan"), (None, "-"), (12.5, "12.5000")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.204, "0.20 s"), (6.14, "6.1 s"), (365, "6 min 5 s"), (7800, "2 h 10 min"), (273_600, "3 d 4 h")],
)
def test_times(value: float, text: str) -> None:
    assert seconds(value) == text
