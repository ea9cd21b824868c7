"""`report.py`, `compare.py`, and the page at the end of a fit."""

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest

from runs import Run
from runs import report as report_page
from runs.resume import RunLock
from tests.conftest import SMALL, Command

RUN = Path("lightning_logs/cnn/version_0")
QUICK = [*SMALL, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
QUICK += ["--trainer.limit_test_batches", "1"]


@pytest.fixture
def copy(trained: Run) -> Run:
    shutil.copytree(trained.folder, RUN)
    return Run(RUN)


def test_the_report_of_a_recipes_latest_run(copy: Run, command: Command) -> None:
    (RUN / "report.html").unlink()
    done = command("report", "cnn")
    assert (done.status, done.out, done.err) == (0, f"{RUN}/report.html\n", "")
    assert (RUN / "report.html").is_file()


def test_the_report_can_be_written_elsewhere(copy: Run, command: Command) -> None:
    before = (RUN / "report.html").stat().st_mtime_ns
    assert command("report", RUN, "--out", "a page.html").status == 0
    assert Path("a page.html").is_file()
    assert (RUN / "report.html").stat().st_mtime_ns == before
    assert command("report", RUN, "--out", "a page.html").status == 0, "ours may be written over"


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["cnm"], "no run 'cnm', neither as a folder nor in"),
        ([], "the following arguments are required: run (usage: python scripts/report.py RUN [--out FILE])"),
        (["cnn", "--ou", "x"], "--ou: no such option; did you mean '--out'?"),
        (["cnn", "--out", "page.pdf"], "--out: page.pdf is the name of a page; it should end in .html"),
        (["cnn", "--out", "nowhere/page.html"], "--out: no such folder: nowhere"),
        (["cnn", "--out", "mine.html"], "mine.html: not made by this project"),
    ],
)
def test_mistakes_are_one_line(args: list[str], error: str, copy: Run, command: Command) -> None:
    Path("mine.html").write_text("mine")
    done = command("report", *args)
    assert done.status == 2
    assert done.err.startswith(f"error: {error}")
    assert done.err.count("\n") == 1
    assert Path("mine.html").read_text() == "mine"


def test_help_is_the_text_of_the_file(command: Command) -> None:
    for name in ("report", "compare"):
        done = command(name, "--help")
        assert done.status == 0
        assert f"usage: python scripts/{name}.py" in done.out


def test_a_report_that_fails_costs_a_fit_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("in a\nchart")

    monkeypatch.setattr(report_page, "page_of", fail)
    done = command("fit", *QUICK)
    assert (done.status, done.err) == (0, "warning: no report: ZeroDivisionError: in a chart\n")
    assert json.loads((RUN / "summary.json").read_text())["last_epoch"] == 0
    assert "\nreport" not in done.out
    assert "run folder" in done.out


def test_a_page_of_the_users_own_stays(command: Command) -> None:
    assert command("fit", *QUICK).status == 0
    (RUN / "report.html").write_text("my notes")
    done = command("fit", "--resume", RUN, "--trainer.max_epochs", "2")
    assert done.status == 0
    assert done.err.startswith(f"warning: no report: {RUN}/report.html: not made by this project")
    assert (RUN / "report.html").read_text() == "my notes"
    starts = json.loads((RUN / "environment.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 2], "each start is kept"
    assert starts[1]["changed"]["trainer.max_epochs"] is None


@pytest.mark.parametrize(
    "quiet", [["--trainer.fast_dev_run", "true"], ["--trainer.barebones", "true"], ["--trainer.logger", "false"]]
)
def test_without_a_log_there_is_no_report(quiet: list[str], command: Command) -> None:
    done = command("fit", *SMALL, "--trainer.max_epochs", "1", "--trainer.max_steps", "2", *quiet)
    assert done.status == 0
    assert done.err == ""
    assert not list(Path().rglob("report.html"))
    assert not list(Path().rglob("environment.json"))


def _hold(folder: str, ready: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event) -> None:
    lock = RunLock(Path(folder))
    lock.take()
    ready.set()
    done.wait(60)
    lock.release()


def test_a_run_that_is_being_trained_is_told_by_its_lock(copy: Run, command: Command) -> None:
    (RUN / "summary.json").unlink()
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(RUN), ready, done))
    process.start()
    try:
        assert ready.wait(60)
        assert " running " in command("compare").out
        assert command("report", RUN).status == 0
        assert '<span class="status running">' in (RUN / "report.html").read_text()
        (RUN / ".lock").chmod(0o444)
        assert " running " in command("compare").out
    finally:
        done.set()
        process.join(60)
    assert " interrupted " in command("compare").out


def test_runs_are_compared(copy: Run, command: Command) -> None:
    shutil.copytree(RUN, RUN.with_name("version_1"))
    config = (RUN / "config.yaml").read_text()
    (RUN.with_name("version_1") / "config.yaml").write_text(config.replace("width: 8", "width: 64"))
    done = command("compare", "cnn", "--sort", "val/acc", "--html", "runs.html")
    assert (done.status, done.err) == (0, "")
    assert [line.split()[0] for line in done.out.splitlines()[:3]] == ["run", "cnn/version_0", "cnn/version_1"]
    assert "model.net.width" in done.out
    assert "optimizer" not in done.out
    assert "cnn/version_1" in Path("runs.html").read_text()
    Path("runs.html").write_text("mine")
    refused = command("compare", "--html", "runs.html")
    assert (refused.status, refused.out) == (2, "")
    assert refused.err.startswith(
        "error: runs.html: not made by this project; move it away, or give another name with --html"
    )
