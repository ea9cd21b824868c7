"""Real processes that are told to stop, and what `--resume` makes of them."""

import os
import re
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from scripts.resume import requeue
from tests.conftest import Command
from tests.noisy import Noisy, NoisyData, Samples
from tests.processes import DDP, MARKS, NOISY, RUN, Fit, running
from tests.same import differences

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


class SlowValidation(NoisyData):
    """Each sample of the validation takes as long as each of the training does in NoisyData."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Samples(self.train), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Samples(self.val, self.pause), self.batch_size, **self.workers)


class NeverReady(Samples):
    """Notes when a sample is asked for, and gives none within the time of a test."""

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        with open(MARKS, "a", encoding="utf-8") as file:
            file.write("asked for a sample\n")
        time.sleep(100)
        return super().__getitem__(i)


class NoTrainingData(NoisyData):
    """Loads its first batch for a long time, in a worker."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(NeverReady(self.train), self.batch_size, num_workers=1)


class BreaksOnOneDevice(Noisy):
    """Raises an error in the fourth step, on the second device only."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if self.global_rank == 1 and batch_idx == 3:
            raise RuntimeError("my check: a wrong batch on one device")
        return super().training_step(batch, batch_idx)


def check_told(fit: Fit, name: str) -> list[str]:
    """That a run which was stopped says so, once, and nothing else; the command that it gives to go on."""
    assert fit.err.split("\n") == ["", f"{name}: stopping after this step; a second signal ends it at once", ""]
    (stopped,) = re.findall(r"^stopped in epoch \d+, step (\d+): (.*last.ckpt)$", fit.out, re.MULTILINE)
    state = torch.load(fit.folder / stopped[1], weights_only=True)
    assert state["global_step"] == int(stopped[0])
    (command,) = re.findall(r"^to go on: python .*scripts/fit.py'? (--resume .*)$", fit.out, re.MULTILINE)
    return shlex.split(command)


def undisturbed(command: Command, *args: str) -> Path:
    done = command("fit", *NOISY, *args, "--name", "undisturbed")
    assert (done.status, done.err) == (0, "")
    return Path("lightning_logs/undisturbed/version_0")


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `scontrol` was asked for, a line each; one that does not control anything."""
    folder, calls = tmp_path / "bin", tmp_path / "calls.txt"
    folder.mkdir()
    script = folder / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(calls))}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return calls


# ---- one process


@pytest.mark.parametrize(
    ("number", "args", "group"),
    [
        pytest.param(signal.SIGTERM, [], False, id="SIGTERM"),
        # as Ctrl-C in a terminal, which sends it to the workers, too
        pytest.param(signal.SIGINT, ["--data.num_workers", "2"], True, id="SIGINT to the workers, too"),
    ],
)
def test_a_run_that_is_stopped_while_it_trains_goes_on_to_the_same_end(
    number: signal.Signals, args: list[str], group: bool, calls: Path, command: Command, tmp_path: Path
) -> None:
    with running(tmp_path, *NOISY, *args, "--data.pause", "0.05", SLURM_JOB_ID="4711") as fit:
        fit.until_marked("train 3")
        assert bool(fit.others()) == group, "workers are processes of their own"
        fit.signal(number, group)
        assert fit.end() == 128 + number
        assert fit.marks[-1].startswith(("train 3", "train 4", "train 5")), "in the middle of the first epoch"
    assert not calls.exists(), "under SLURM SIGTERM is what `scancel` sends, and Ctrl-C is a person"
    resume = check_told(fit, number.name)
    done = command("fit", *resume, "--data.pause", "0")
    assert (done.status, done.err) == (0, "")
    assert differences(undisturbed(command, *args), RUN) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_stopped_within_a_long_validation_does_not_wait_for_its_end(
    workers: int, command: Command, tmp_path: Path
) -> None:
    data = ["--data", "tests.scripts.test_stop.SlowValidation", "--data.train", "24", "--data.val", "200"]
    data += ["--data.num_workers", str(workers)]
    data += ["--trainer.num_sanity_val_steps", "0"]
    with running(tmp_path, *NOISY, *data, "--data.pause", "0.1") as fit:  # fifty batches, 20 s
        fit.until_marked("validation 6")
        fit.signal(signal.SIGUSR1)
        assert fit.end() == 128 + signal.SIGUSR1
        seen = [mark for mark in fit.marks if mark.startswith("validation")]
        assert len(seen) < 35
        assert "train 6 rank 0" not in fit.marks
    assert "stopped in epoch 0, step 6" in fit.out
    resume = check_told(fit, "SIGUSR1")
    done = command("fit", *resume, "--data.pause", "0")
    assert (done.status, done.err) == (0, "")
    assert differences(undisturbed(command, *data), RUN) == []


# ---- a second signal


@pytest.mark.parametrize("devices", [1, 2])
def test_a_second_signal_ends_a_run_at_once(devices: int, tmp_path: Path) -> None:
    args = [*(DDP if devices == 2 else []), *NOISY, "--data", "tests.scripts.test_stop.NoTrainingData"]
    with running(tmp_path, *args) as fit:
        fit.until(lambda: fit.marks.count("asked for a sample") == devices)
        assert len(fit.others()) == 2 * devices - 1
        fit.signal(signal.SIGTERM, group=True)
        fit.until(lambda: "SIGTERM: stopping after this step; a second signal ends it at once" in fit.err)
        time.sleep(0.5)  # it is not a race: the first one alone ends nothing
        assert fit.process.poll() is None
        assert len(fit.others()) == 2 * devices - 1
        fit.signal(signal.SIGINT, group=True)
        assert fit.end(20) == 128 + signal.SIGINT
        assert "Traceback" not in fit.err


# ---- two processes


@pytest.mark.parametrize(("to", "number"), [("first", signal.SIGTERM), ("all", signal.SIGINT)])
def test_two_processes_stop_together(to: str, number: signal.Signals, tmp_path: Path) -> None:
    with running(tmp_path, *DDP, *NOISY, "--data.pause", "0.05") as fit:
        fit.until_marked("train 8")
        fit.signal(number, group=to == "all")
        assert fit.end() == 128 + number
        last = [max(mark for mark in fit.marks if mark.endswith(f"rank {rank}")) for rank in (0, 1)]
        assert last[0].split()[:2] == last[1].split()[:2], "at the same step"
        assert not any(mark.startswith("train 12") for mark in fit.marks)
    check_told(fit, number.name)


def test_two_processes_stop_together_when_the_second_hears_the_signal_and_go_on_to_the_same_end(tmp_path: Path) -> None:
    apart = tmp_path / "undisturbed"
    apart.mkdir()
    args = [*DDP, *NOISY, "--data.pause", "0.05"]
    with running(apart, *args) as whole, running(tmp_path, *args) as fit:
        fit.until_marked("train 8 rank 1")
        (second,) = fit.others()
        os.kill(second, signal.SIGUSR1)
        assert fit.end() == 128 + signal.SIGUSR1
        assert not any(mark.startswith("train 12") for mark in fit.marks)
        assert fit.err == "", "the first process has heard nothing"
        (resume,) = re.findall(r"^to go on: python .*scripts/fit.py'? (--resume .*)$", fit.out, re.MULTILINE)
        with running(tmp_path, *shlex.split(resume), pair=True) as again:
            assert (again.end(), again.err) == (0, "")
        assert (whole.end(), whole.err) == (0, "")
    assert {"train 17 rank 0", "train 17 rank 1"} <= set(again.marks)
    assert "train 7 rank 0" not in again.marks
    assert differences(apart / RUN, tmp_path / RUN) == []
    assert [path.name for path in (tmp_path / RUN).parent.iterdir()] == ["version_0"]


@pytest.mark.parametrize("how", ["killed", "an error"])
def test_when_one_of_two_processes_dies_the_other_one_does_not_wait_for_it(how: str, tmp_path: Path) -> None:
    model = ["--model", "tests.scripts.test_stop.BreaksOnOneDevice"] if how == "an error" else []
    with running(tmp_path, *DDP, *NOISY, *model, "--data.pause", "0.05") as fit:
        fit.until_marked("train 3 rank 1")
        if how == "killed":
            (second,) = fit.others()
            os.kill(second, signal.SIGKILL)
        assert fit.end(20) != 0
        assert "to go on" not in fit.out
    if how == "killed":
        assert fit.err.startswith("error: the process of rank 1 was ended by SIGKILL")
        assert fit.err.count("\n") == 1
    else:
        assert fit.err.endswith("error: the process of rank 1 has failed with status 1; its own error is above\n")
        reason, consequence = "RuntimeError: my check: a wrong batch on one device", "gloo"
        assert reason in fit.err
        assert consequence not in fit.err.partition(reason)[0], "what was wrong comes before what it led to"


# ---- SLURM


def test_a_slurm_job_puts_itself_back_into_the_queue_and_the_same_command_goes_on(
    calls: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("fit", *NOISY, "--trainer.max_epochs", "1").status == 0  # another run of that recipe, not of the job
    args = [*NOISY, "--data.pause", "0.05"]
    with running(tmp_path, *args, SLURM_JOB_ID="4711") as fit:
        fit.until_marked("train 3")
        fit.signal(signal.SIGUSR1)
        assert fit.end() == 128 + signal.SIGUSR1
    check_told(fit, "SIGUSR1")
    assert calls.read_text() == "requeue 4711\n"
    assert fit.out.splitlines()[-1] == "job 4711 is in the queue again"
    assert "going on" not in fit.out
    with monkeypatch.context() as patch:
        for name, value in (("SLURM_JOB_ID", "4711"), ("SLURM_RESTART_COUNT", "1")):
            patch.setenv(name, value)
        done = command("fit", *args)
        assert (done.status, done.err) == (0, "")
        assert "going on with lightning_logs/run/version_1" in done.out
        again = command("fit", *args)
        assert again.status == 0
        assert "Nothing to train" in again.out
    assert differences(undisturbed(command), RUN.with_name("version_1")) == []
    assert {path.name for path in RUN.parent.iterdir()} == {"version_0", "version_1"}


def test_a_task_of_a_slurm_array_is_put_back_by_its_number(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("JOB_ID", "4713"), ("ARRAY_JOB_ID", "4711"), ("ARRAY_TASK_ID", "2")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    requeue(signal.SIGUSR1)
    assert calls.read_text() == "requeue 4711_2\n"


def test_a_job_that_can_not_be_put_back_says_so(calls: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    (calls.parent / "bin" / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    requeue(signal.SIGUSR1)
    assert capfd.readouterr().out.startswith("warning: job 4711 could not be put back into the queue")
