"""`python scripts/test.py` and `python scripts/validate.py`: a run measured once more."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from callbacks.record import as_floats
from runs import Run
from scripts.evaluate import open_run
from tests.conftest import SMALL, Command

STAGES = [("validate", "val"), ("test", "test")]


def evaluated(run: Path | str, stage: str, ckpt: str = "best", *overrides: str) -> dict[str, float]:
    """The metrics, unrounded."""
    cli, _ = open_run(str(run), ckpt, overrides)
    getattr(cli.trainer, stage)(cli.model, datamodule=cli.datamodule, verbose=False)
    return as_floats(cli.trainer.callback_metrics)


def copied(run: Run, *versions: str) -> list[Path]:
    """Copies of a run as runs of the recipe `cnn` in this folder."""
    return [Path(shutil.copytree(run.folder, Path("lightning_logs", "cnn", version))) for version in versions]


@pytest.mark.parametrize(("stage", "key"), STAGES)
@pytest.mark.parametrize("which", ["trained", "early_best"])
def test_a_run_is_measured_exactly_as_its_fit_did(
    which: str, stage: str, key: str, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(which)
    assert evaluated(run.folder, stage) == run.summary[key]


@pytest.mark.parametrize(("stage", "key"), STAGES)
def test_the_numbers_and_the_checkpoint_are_printed(command: Command, trained: Run, stage: str, key: str) -> None:
    result = command(stage, trained.folder)
    metrics = trained.summary[key]
    assert (result.status, result.err) == (0, "")
    said = [f"{name} {metrics[f'{key}/{name}']:.4f}" for name in ("loss", "acc", "macro_f1", "macro_recall")]
    assert result.out.splitlines() == [
        f"{key}  {', '.join(said)}",
        f"      {trained.folder}/checkpoints/epoch001-step000038.ckpt",
    ]


def test_the_test_metrics_are_those_of_all_test_images_at_once(trained: Run) -> None:
    module, data = trained.load()
    assert data is not None
    data.setup("test")
    images = data.on_after_batch_transfer(data.test_images, 0)
    with torch.no_grad():
        logits = module(images)
    labels = data.test_labels
    assert trained.summary["test"]["test/acc"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert trained.summary["test"]["test/loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


@pytest.mark.parametrize(("stage", "key"), STAGES)
def test_the_size_of_the_evaluation_batches_changes_no_metric(trained: Run, stage: str, key: str) -> None:
    assert evaluated(trained.folder, stage, "best", "--data.eval_batch_size=7") == pytest.approx(
        trained.summary[key], rel=1e-5
    )


def test_the_last_checkpoint_gives_other_numbers_than_the_best_one(command: Command, early_best: Run) -> None:
    best, last = command("test", early_best.folder), command("test", early_best.folder, "--ckpt", "last")
    assert last.status == 0
    assert "last.ckpt" in last.out
    assert best.out.splitlines()[0] != last.out.splitlines()[0]


def test_a_checkpoint_is_named_by_its_path_or_by_its_bare_name(command: Command, early_best: Run) -> None:
    path = early_best.folder / "checkpoints" / "last.ckpt"
    shutil.copy(path, "mine.ckpt")
    by_name = command("test", early_best.folder, "--ckpt", "last.ckpt")
    by_path = command("test", early_best.folder, "--ckpt", "mine.ckpt")
    assert (by_name.status, by_path.status) == (0, 0)
    assert str(path) in by_name.out
    assert by_path.out.splitlines()[0] == by_name.out.splitlines()[0]


@pytest.mark.parametrize("place", ["cnn", "lightning_logs/cnn", "lightning_logs/cnn/"])
def test_the_name_of_a_recipe_stands_for_its_latest_run(command: Command, trained: Run, place: str) -> None:
    copied(trained, "version_2", "version_10", "version_9")
    Path("lightning_logs/cnn/version_11").mkdir()  # claimed, and nothing in it yet
    assert "lightning_logs/cnn/version_10/checkpoints/" in command("test", place).out


def test_a_run_that_was_moved_takes_its_best_checkpoint_along(command: Command, trained: Run) -> None:
    moved = copied(trained, "version_0")[0].rename("moved run")
    result = command("test", moved)
    assert result.status == 0
    assert "moved run/checkpoints/epoch001-step000038.ckpt" in result.out


@pytest.mark.parametrize("which", ["trained", "early_best"])
def test_a_run_that_was_killed_knows_its_best_checkpoint_so_far(which: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(which)
    folder = copied(run, "version_0")[0]
    (folder / "summary.json").unlink()
    assert Run(folder).checkpoint("best").name == Path(run.summary["best_checkpoint"]).name


def test_keys_of_the_run_are_overridden(command: Command, trained: Run) -> None:
    same = command("validate", trained.folder).out
    assert command("validate", trained.folder, "--data.split_seed", "5").out != same
    limited = command("test", trained.folder, "--data.eval_batch_size", "36", "--trainer.limit_test_batches", "1").out
    correct = float(re.search(r"acc ([\d.]+)", limited)[1]) * 36  # type: ignore[index]
    assert correct == pytest.approx(round(correct), abs=36 * 0.00005 + 1e-9), "an accuracy of 36 images"


def test_evaluating_leaves_no_file_behind(command: Command, trained: Run) -> None:
    folder = copied(trained, "version_0")[0]
    before = sorted((path, path.stat().st_mtime_ns) for path in Path().rglob("*"))
    command("test", "cnn")
    command("validate", folder)
    assert sorted((path, path.stat().st_mtime_ns) for path in Path().rglob("*")) == before


@pytest.mark.parametrize("optimizer", [[], ["--optimizer", "SGD"]])
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_a_run_without_optimizer_or_schedule_in_its_config_is_measured_too(
    command: Command, foreign: str, optimizer: list[str], stage: str
) -> None:
    data = "lightning.pytorch.demos.boring_classes.BoringDataModule"
    fit = command("fit", "--model", f"{foreign}.Regression", "--data", data, *optimizer, "--trainer.max_epochs", "1")
    result = command(stage, "run")
    assert (result.status, result.err) == (0, "")
    name, value = re.search(r"(\w+_mse) (\S+)", result.out).groups()  # type: ignore[union-attr]
    assert re.search(rf"^{result.out.split()[0]} +{name} {re.escape(value)}", fit.out, re.MULTILINE)


def test_a_run_whose_schedule_was_switched_off_is_measured_and_repeated(command: Command) -> None:
    command("fit", *SMALL, "--trainer.max_epochs", "1", "--lr_scheduler", "null")
    assert command("test", "cnn").status == 0
    assert command("fit", "--config", "lightning_logs/cnn/version_0/config.yaml").status == 0
