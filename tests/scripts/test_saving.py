"""Runs whose checkpoints can't be written for a while, or any more; and when `last.ckpt` is written."""

import builtins
import errno
import gc
import io
import os
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from runs.checkpoints import read_checkpoint
from tests.conftest import Command, Result
from tests.same import differences

# in these tests warnings are lines for the user, as they are outside of tests
pytestmark = pytest.mark.filterwarnings("default::UserWarning")

RUN = Path("lightning_logs/run/version_0")
LAST = RUN / "checkpoints" / "last.ckpt"
ARGS = [  # six steps an epoch
    *("--model", "tests.noisy.Noisy", "--data", "tests.noisy.NoisyData", "--data.train", "24"),
    *("--optimizer", "torch.optim.AdamW", "--optimizer.lr", "0.02", "--seed_everything", "3"),
    *("--trainer.callbacks", "[{class_path: tests.scripts.test_saving.AtSteps}]", "--trainer.max_epochs", "3"),
    *("--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"),
]
EVERY_STEP = ["--checkpoint.every_n_train_steps", "1"]


class AtSteps(Callback):
    """Calls what a test asks for, before the first batch with the number of a step."""

    calls: ClassVar[dict[int, Callable[[], Any]]] = {}
    always: ClassVar[list[Callable[[int], Any]]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        for call in self.always:
            call(trainer.global_step)
        self.calls.get(trainer.global_step, lambda: None)()


@pytest.fixture
def at_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[AtSteps]]:
    """AtSteps with nothing to do yet."""
    monkeypatch.setattr(AtSteps, "calls", {})
    monkeypatch.setattr(AtSteps, "always", [])
    return AtSteps


class Disk:
    """Refuses to keep checkpoints while it is full: with the error that the system gives at this step of writing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, step: str = "fsync") -> None:
        self.number = number
        self._patch, self._step = monkeypatch.context(), step

    def fill(self) -> None:
        patch = self._patch.__enter__()
        owner: Any = os if self._step == "fsync" else Path
        call = getattr(owner, self._step)

        def refuse(*args: Any, **kwargs: Any) -> Any:
            if self._step == "open" and not str(args[0]).endswith(".part"):
                return call(*args, **kwargs)
            raise OSError(self.number, os.strerror(self.number))

        patch.setattr(owner, self._step, refuse)

    def free(self) -> None:
        self._patch.__exit__(None, None, None)


def saved() -> dict[str, bytes]:
    """The run's checkpoints."""
    return {path.name: path.read_bytes() for path in LAST.parent.iterdir()}


def undisturbed(command: Command, *args: str) -> Path:
    AtSteps.calls.clear()
    done = command("fit", *ARGS, *args, "--name", "undisturbed")
    assert (done.status, done.err) == (0, "")
    return Path("lightning_logs/undisturbed/version_0")


def check_goes_on(command: Command, *args: str, run: Path = RUN) -> None:
    """That a run goes on from where it was saved, and comes to the end of one that nothing has happened to."""
    AtSteps.calls.clear()
    done = command("fit", "--resume", run)
    assert (done.status, done.err) == (0, "")
    assert "going on with" in done.out
    assert differences(undisturbed(command, *args), run) == []


def raised_by(command: Command, *args: str | Path) -> tuple[Result | None, str]:
    """What a run comes to; and the error that it ends with instead, if any, without the files that it leaves open."""
    try:
        return command("fit", *args), ""
    except OSError as error:
        reason = repr(error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
    return None, reason


# ---- a disk that is full, as the system tells it


@pytest.mark.parametrize(("number", "step"), [(errno.ENOSPC, "fsync"), (errno.ENOSPC, "open"), (errno.EDQUOT, "fsync")])
def test_on_a_disk_that_is_full_for_a_while_the_training_goes_on(
    number: int, step: str, command: Command, at_steps: type[AtSteps], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, seen = Disk(monkeypatch, number, step), []
    at_steps.always.append(lambda step: seen.append(saved()) if 3 <= step <= 9 else None)
    at_steps.calls = {3: disk.fill, 9: disk.free}  # over the end of the first epoch, which has the best weights so far
    done = command("fit", *ARGS, *EVERY_STEP)
    assert done.status == 0
    lines = done.err.splitlines()
    assert {line.partition(":")[0] for line in lines} == {"warning"}
    for path in (str(LAST), "epoch000-step000006.ckpt"):
        found = [line for line in lines if path in line]
        assert found, f"nothing was said of {path}"
        assert os.strerror(number) in found[0]
        assert "it needs 0.0 MB" in found[0]
        assert "MB are free" in found[0]
        assert "The training goes on" in found[0]
    assert len(seen) == 7
    assert list(seen[0]) == ["last.ckpt"]
    assert all(files == seen[0] for files in seen), "what was there stays, and no half of a file is left"
    Path("kept.ckpt").write_bytes(seen[-1]["last.ckpt"])
    assert read_checkpoint(Path("kept.ckpt"))["global_step"] == 3
    # by then there was space again
    assert read_checkpoint(LAST)["global_step"] == 18
    assert all(read_checkpoint(path)["state_dict"] for path in LAST.parent.glob("epoch*.ckpt"))
    weights = [torch.load(run / "checkpoints/last.ckpt")["state_dict"] for run in (RUN, undisturbed(command))]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_full_disk_is_told_in_one_line_for_each_file(
    command: Command, at_steps: type[AtSteps], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, errno.ENOSPC)
    at_steps.calls = {2: disk.fill, 5: disk.free}
    # what is free changes all the time
    free = iter(range(10**6, 10**9, 10**6))
    monkeypatch.setattr("callbacks.last_checkpoint._free", lambda path: f"{next(free) / 1e6:,.1f}")
    done = command("fit", *ARGS, *EVERY_STEP, "--trainer.max_epochs", "1")
    assert done.status == 0
    assert done.err.count(f"can't write {LAST}") == 1


def test_a_run_whose_end_could_not_be_saved_says_so_and_goes_on_when_there_is_space(
    command: Command, at_steps: type[AtSteps], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, errno.ENOSPC)
    at_steps.calls = {8: disk.fill}
    done = command("fit", *ARGS, *EVERY_STEP)
    disk.free()
    assert done.status == 1
    lines = done.err.splitlines()
    assert [line for line in lines if not line.startswith("warning: ")] == lines[-1:]
    assert lines[-1].startswith(f"error: {LAST}: No space left on device")
    assert "its end is not on the disk" in lines[-1]
    assert read_checkpoint(LAST)["global_step"] == 8
    check_goes_on(command, *EVERY_STEP)


def test_a_signal_on_a_full_disk_says_that_nothing_was_saved(
    command: Command, at_steps: type[AtSteps], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, errno.ENOSPC)

    def stop() -> None:
        disk.fill()
        os.kill(os.getpid(), 15)

    at_steps.calls = {8: stop}
    done = command("fit", *ARGS)
    disk.free()
    assert done.status == 128 + 15
    assert f"{LAST}: No space left on device" in done.out
    assert "to go on: " in done.out  # from an earlier step
    check_goes_on(command)


# ---- a disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, where one may be made."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        made = subprocess.run(mount, capture_output=True, timeout=10, check=False).returncode == 0
    except OSError:
        made = False
    if not made:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, timeout=10, check=False)


def fill(place: Path) -> None:
    """Leave no byte free on a file system."""
    with (place / "filler").open("ab", buffering=0) as file:
        for size in (4096, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def test_a_file_system_that_fills_up_costs_nothing_but_the_time_until_it_is_free_again(
    command: Command, at_steps: type[AtSteps], small_disk: Path
) -> None:
    run = small_disk / RUN
    before: dict[str, bytes] = {}

    def full() -> None:
        before.update({path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()})
        fill(small_disk)

    at_steps.calls = {8: full}
    longer = [*EVERY_STEP, "--trainer.max_epochs", "9"]  # there is some room in a file's last block
    done = command("fit", *ARGS, *longer, "--trainer.default_root_dir", small_disk)
    assert done.status == 1
    lines = done.err.splitlines()
    assert [line for line in lines if not line.startswith("warning: ")] == lines[-1:]
    assert lines[-1].startswith(f"error: {run}/checkpoints/last.ckpt: No space left on device")
    assert any("last.ckpt" in line and "and 0.0 MB are free" in line for line in lines)
    assert any("TensorBoard" in line and "the training goes on" in line for line in lines)
    assert {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before
    (small_disk / "filler").unlink()
    check_goes_on(command, *longer, run=run)


def test_a_file_system_that_is_full_from_the_start_is_one_line(command: Command, small_disk: Path) -> None:
    fill(small_disk)
    done, error = raised_by(command, *ARGS, "--trainer.default_root_dir", small_disk)
    assert done, error
    assert done.status == 2
    assert done.err.startswith(f"error: trainer.default_root_dir: can't write {small_disk}")
    assert "No space left on device" in done.err
    assert done.err.count("\n") == 1


def test_a_log_that_can_not_be_begun_does_not_end_the_training(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = io.open

    def refuse(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "tfevents" in str(file) and set(mode) & set("wa"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        return opened(file, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", refuse)
        patch.setattr(io, "open", refuse)
        done, error = raised_by(command, *ARGS)
    assert done, error
    assert done.status == 0
    (line,) = done.err.splitlines()
    assert line.startswith(f"warning: can't write TensorBoard's log in {RUN}: No space left on device")
    assert read_checkpoint(LAST)["global_step"] == 18


# ---- a folder that can't be written


def test_a_folder_that_is_gone_while_a_run_trains_is_told_and_the_run_goes_on_when_it_is_back(
    command: Command, at_steps: type[AtSteps]
) -> None:
    elsewhere = RUN / "moved"

    def take_away() -> None:
        LAST.parent.rename(elsewhere)
        LAST.parent.write_text("mine")

    at_steps.calls = {8: take_away}
    done = command("fit", *ARGS, *EVERY_STEP)
    assert done.status == 1
    lines = done.err.splitlines()
    assert [line for line in lines if not line.startswith("warning: ")] == lines[-1:]
    assert any(f"can't write {LAST}" in line for line in lines)
    assert lines[-1].startswith(f"error: {LAST}: ")
    assert LAST.parent.read_text() == "mine"
    LAST.parent.unlink()
    elsewhere.rename(LAST.parent)
    check_goes_on(command, *EVERY_STEP)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_becomes_read_only_is_told_and_the_run_goes_on_when_it_is_not(
    command: Command, at_steps: type[AtSteps]
) -> None:
    at_steps.calls = {8: lambda: LAST.parent.chmod(0o555)}
    try:
        done = command("fit", *ARGS, *EVERY_STEP)
    finally:
        LAST.parent.chmod(0o755)
    assert done.status == 1
    assert f"can't write {LAST}: Permission denied" in done.err
    assert done.err.splitlines()[-1].startswith(f"error: {LAST}: Permission denied")
    check_goes_on(command, *EVERY_STEP)


# ---- when last.ckpt is written


def steps_on_disk(at_steps: type[AtSteps]) -> list[tuple[int, int]]:
    """Filled by a run: before each batch, the number of its step, and how far `last.ckpt` is by then."""
    found: list[tuple[int, int]] = []
    at_steps.always.append(
        lambda step: found.append((step, torch.load(LAST)["global_step"] if LAST.is_file() else 0)),
    )
    return found


def test_the_last_checkpoint_is_written_after_so_many_steps(command: Command, at_steps: type[AtSteps]) -> None:
    found = steps_on_disk(at_steps)
    done = command("fit", *ARGS, "--checkpoint.every_n_train_steps", "4", "--trainer.max_epochs", "2")
    assert (done.status, done.err) == (0, "")
    expected = {0: 0, 1: 0, 2: 0, 3: 0, 4: 4, 5: 4, 8: 8, 9: 8, 10: 8, 11: 8}  # an epoch ends with 6
    assert {step: saved for step, saved in found if step not in (6, 7)} == expected


def test_the_last_checkpoint_is_written_after_so_many_minutes(command: Command, at_steps: type[AtSteps]) -> None:
    found = steps_on_disk(at_steps)
    one = ["--trainer.max_epochs", "1", "--data.pause", "0.02"]  # 80 ms a step
    done = command("fit", *ARGS, *one, "--checkpoint.every_n_minutes", "0.0003")
    assert (done.status, done.err) == (0, "")
    assert found == [(step, step) for step in range(6)]
    found.clear()
    (RUN / "summary.json").unlink()
    done = command("fit", *ARGS, *one, "--checkpoint.every_n_minutes", "10")
    assert (done.status, done.err) == (0, "")
    assert LAST.is_file()


# ---- temporary files


@pytest.mark.parametrize("place", ["/nonexistent", "/dev/shm"])
def test_the_folder_for_temporary_files_changes_nothing(
    place: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = undisturbed(command)
    monkeypatch.setenv("TMPDIR", place)
    monkeypatch.setattr(tempfile, "tempdir", None)
    done = command("fit", *ARGS)
    assert (done.status, done.err) == (0, "")
    assert differences(whole, RUN) == []
