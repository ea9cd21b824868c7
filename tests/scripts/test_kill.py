"""`kill -9` at random moments of real runs, twice each; `--resume` comes to the end of a run that nobody disturbed."""

import random
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import Command
from tests.processes import DDP, NOISY, RUN, Fit, running
from tests.same import differences

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

STEPS = ["--checkpoint.every_n_train_steps", "3"]
PAUSE = ["--data.pause", "0.05"]  # a run takes about four seconds


def kill_at_random(fit: Fit, chance: random.Random) -> str:
    """Kill a run and all its processes soon after its training has begun; what it was at."""
    fit.until_marked("start")
    time.sleep(chance.uniform(0.2, 1.2))
    fit.signal(signal.SIGKILL, group=True)
    assert fit.end() == -signal.SIGKILL
    return fit.marks[-1]


def in_the_middle(mark: str) -> bool:
    what, step, _, _ = mark.split()
    return what != "start" and 0 < int(step) < 18


def saved_step(run: Path) -> int:
    """How far a run has come that is on the disk."""
    last = run / "checkpoints" / "last.ckpt"
    return torch.load(last, weights_only=True)["global_step"] if last.is_file() else 0


@pytest.mark.parametrize(("workers", "seed"), [(0, 1), (2, 2)])
def test_a_run_that_is_killed_twice_goes_on_to_the_same_end(
    workers: int, seed: int, command: Command, tmp_path: Path
) -> None:
    chance, args = random.Random(seed), [*NOISY, *STEPS, "--data.num_workers", str(workers)]
    with running(tmp_path, *args, *PAUSE) as fit:
        first = kill_at_random(fit, chance)
    saved = saved_step(RUN)
    with running(tmp_path, *args, *PAUSE, "--resume") as fit:
        second = kill_at_random(fit, chance)
    story = f"seed {seed}: killed at {first}, saved at step {saved}; at {second}, saved at step {saved_step(RUN)}"
    print(story)
    assert in_the_middle(first) or in_the_middle(second), story
    assert saved <= saved_step(RUN) <= 18
    assert not (RUN / "summary.json").exists()
    done = command("fit", *args, "--resume", "--data.pause", "0")
    assert (done.status, done.err) == (0, "")
    assert command("fit", *args, "--name", "undisturbed").status == 0
    assert differences(Path("lightning_logs/undisturbed/version_0"), RUN) == [], story
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]


def test_two_processes_that_are_killed_go_on_to_the_same_end(tmp_path: Path) -> None:
    seed = 3
    chance, args = random.Random(seed), [*DDP, *NOISY, *STEPS, "--data.pause", "0.06"]
    apart = tmp_path / "undisturbed"
    apart.mkdir()
    with running(apart, *args) as whole, running(tmp_path, *args) as fit:
        killed = kill_at_random(fit, chance)
        with running(tmp_path, *args, "--resume") as again:
            assert (again.end(), again.err) == (0, "")
        assert (whole.end(), whole.err) == (0, "")
    story = f"seed {seed}: killed at {killed}, went on at {again.marks[0]}"
    print(story)
    assert in_the_middle(killed), story
    assert differences(apart / RUN, tmp_path / RUN) == [], story
