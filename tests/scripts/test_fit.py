"""`python scripts/fit.py`: what a run prints and what it leaves."""

from pathlib import Path

from tests.conftest import SMALL, Command


def test_a_run_prints_one_short_table_and_nothing_on_stderr(command: Command) -> None:
    result = command("fit", *SMALL)
    assert result.status == 0
    assert result.err == ""
    labels = [line.split("  ")[0] for line in result.out.splitlines() if line and not line.startswith((" ", "epoch"))]
    assert labels[1:] == ["best epoch", "stopped", "val", "test", "time", "run folder", "best checkpoint", "next"]
    assert "trainer.max_epochs 2 reached" in result.out


def test_a_run_leaves_its_config_its_events_and_its_checkpoints(command: Command) -> None:
    command("fit", *SMALL)
    run = Path("lightning_logs/cnn/version_0")
    assert (run / "config.yaml").is_file()
    assert list(run.glob("events.out.tfevents.*"))
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["epoch001-step000038.ckpt", "last.ckpt"]
