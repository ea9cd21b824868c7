"""The table at the end of a run, and `summary.json`."""

import io
import json
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console

from runs.summary import format_metrics, looked_for, next_commands, print_summary, write_summary

SUMMARY: dict[str, Any] = {
    "best_epoch": 3,
    "best_step": 40,
    "last_epoch": 7,
    "stopped": "trainer.max_epochs 8 reached",
    "val": {"val/acc": 0.75, "val/loss": 0.25},
    "test": {"test/acc": 0.5, "test/loss": 0.125},
    "seconds": 12.34,
    "samples_per_second": 12345.6,
    "best_checkpoint": "checkpoints/best.ckpt",
}


def printed(summary: dict[str, Any], folder: Path | None, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=40, highlight=False)
    print_summary(summary, folder, console=console, **options)
    return console.file.getvalue()  # type: ignore[attr-defined]


PREDICT = "image.png --out predictions.csv"


def test_the_table_holds_what_the_summary_says() -> None:
    lines = printed(SUMMARY, Path("logs/cnn/version_0"), predict=PREDICT).splitlines()
    assert [line.split(maxsplit=2) if line[:4] == "best" else line.split(maxsplit=1) for line in lines[1:8]] == [
        ["best", "epoch", "3 of 0 to 7"],
        ["stopped", "trainer.max_epochs 8 reached"],
        ["val", "loss 0.2500, acc 0.7500"],
        ["test", "loss 0.1250, acc 0.5000"],
        ["time", "12.3 s, 12,346 samples/s"],
        ["run", "folder       logs/cnn/version_0"],
        ["best", "checkpoint", "logs/cnn/version_0/checkpoints/best.ckpt"],
    ]
    assert [line.split()[:2] for line in lines[9:]] == [
        ["tensorboard", "--logdir"],
        ["python", "scripts/test.py"],
        ["python", "scripts/predict.py"],
    ]


def test_long_paths_are_not_folded() -> None:
    folder = Path("/a/very/long/path/to/somebody's/runs/of/last/year/cnn/version_0")
    assert f"run folder       {folder}\n" in printed(SUMMARY, folder)


def test_brackets_in_a_path_are_printed_as_they_are() -> None:
    assert "logs/[bold]x/version_0" in printed(SUMMARY, Path("logs/[bold]x/version_0"))


def test_what_is_missing_is_left_out() -> None:
    text = printed({"best_epoch": None, "last_epoch": 0, "stopped": "why", "seconds": 1.0}, None)
    assert [line.split("  ")[0] for line in text.splitlines() if line] == ["stopped", "time"]
    assert "samples/s" not in text


def test_commands_are_offered_only_for_what_can_be_done() -> None:
    folder = Path("logs/cnn/version_0")
    assert len(next_commands(folder, can_test=False, predict="")) == 1
    assert any("test.py" in line for line in next_commands(folder, can_test=True, predict=""))
    assert not any("test.py" in line for line in next_commands(folder, can_test=False, predict=PREDICT))


def test_commands_can_be_pasted_whatever_the_folder_is_called() -> None:
    folder = Path("my logs/it's & more/version_0")
    tensorboard, test, predict = map(shlex.split, next_commands(folder, can_test=True, predict=PREDICT))
    assert tensorboard == ["tensorboard", "--logdir", "my logs"]
    assert test == ["python", "scripts/test.py", str(folder)]
    assert predict[:3] == ["python", "scripts/predict.py", str(folder)]


def test_metrics_are_written_loss_first_without_their_stage() -> None:
    assert (
        format_metrics({"val/f1": 0.5, "val/acc": 1, "val/loss": 0.12345}, "val")
        == "loss 0.1235, acc 1.0000, f1 0.5000"
    )
    assert format_metrics({}, "val") == ""


def test_a_written_summary_is_read_back_the_same(tmp_path: Path) -> None:
    write_summary(tmp_path, SUMMARY)
    assert json.loads((tmp_path / "summary.json").read_text()) == SUMMARY


def test_what_was_not_looked_for_is_told_by_its_reason() -> None:
    unseen = {"dead_relus": "no ReLU", "not_learning": "no classes", "underfitting": "no classes"}
    expected = "looked for 4 of 7 problems, not for dead relus (no ReLU), not learning, underfitting (no classes)"
    assert looked_for(["a", "b", "c", "d"], unseen) == expected
    assert looked_for(["a_b", "c"], unseen) == "looked for a b, c"
    assert looked_for(["a"], {}) == "looked for 1 of 1 problems"
