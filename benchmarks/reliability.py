"""Runs that are killed at random moments and gone on with: this project's, and Lightning's own next to them.

usage: python benchmarks/reliability.py [--kills 100] [--seed 0] [--json FILE]

Each attempt is a real process that is ended in the given way at a moment of its own, and started again by the same
command: with `--resume`, and for Lightning's (`benchmarks/stock.py`, the same module and data) with `ckpt_path="last"`.
The moments are random and spread evenly over the time from the first file that a run writes to the end of its process.
Every fourth run is killed three times. A tenth of as many attempts as kills is made in each of the other ways.

same       the end is that of a run of the same kind that nobody disturbed, bit for bit. This project's: weights,
           optimizer, schedule, best checkpoints, all logged values, summary. Lightning's: weights and optimizer.
other      it went on, and came to another end
refused    it did not go on
lost       there was no checkpoint to go on from, and it came to another end

At most two runs of one process each, or one run of two processes (and its workers), go on at a time.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.stock import EPOCHS, SAMPLES
from tests.same import differences, unequal

OUTCOMES = ("same", "other", "refused", "lost")
PAUSE = 0.015  # seconds that each training sample takes: a run trains for some seconds, wherever
PATIENCE = 120  # seconds after which a process has to have ended
STEPS = 3
BEGUN = "events.out.tfevents.*.{pid}.*"  # the first file that both sides write, when all is set up

Processes = dict[int, subprocess.Popen[bytes]]


@dataclass(frozen=True)
class Way:
    """One row of the table.

    Attributes:
        name: What is done to a run.
        by: What ends it.
        harm: What is done to its `last.ckpt` then, by a function of the file and of chance.
        share: How many attempts there are, as a part of all kills.
        workers: Of the training data.
        devices: How many processes train.
        steps: After how many steps there is a checkpoint, beside that of each epoch.
        chains: Whether every fourth run is ended three times.
    """

    name: str
    by: signal.Signals = signal.SIGKILL
    harm: Callable[[Path, random.Random], None] | None = None
    share: float = 0.1
    workers: int = 0
    devices: int = 1
    steps: int | None = None
    chains: bool = False


def flip_a_bit(path: Path, chance: random.Random) -> None:
    """Change one bit of the largest tensor among a checkpoint's weights."""
    weights = torch.load(path, weights_only=False)["state_dict"]
    largest = max(weights.values(), key=torch.numel).numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(largest) + chance.randrange(len(largest))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut_off(path: Path, chance: random.Random) -> None:
    """Leave only a part of a file."""
    os.truncate(path, chance.randrange(path.stat().st_size))


WAYS = (
    Way("kill -9", share=0.34, chains=True),
    Way("kill -9, 2 workers", share=0.33, workers=2, chains=True),
    Way(f"kill -9, a checkpoint every {STEPS} steps, two validations an epoch", share=0.33, steps=STEPS, chains=True),
    Way("SIGTERM", signal.SIGTERM),
    Way("Ctrl-C", signal.SIGINT),
    Way("kill -9, and one bit of the weights in last.ckpt flipped", harm=flip_a_bit),
    Way("kill -9, and last.ckpt cut off", harm=cut_off),
    Way("kill -9 of the first of two processes (DDP)", devices=2),
)


class Side:
    """This project, or Lightning alone."""

    name: str

    def command(self, way: Way, resume: bool) -> list[str]:
        raise NotImplementedError

    def checkpoints(self, folder: Path) -> Path:
        """Where they are."""
        raise NotImplementedError

    def end(self, folder: Path) -> Path:
        """The file that a run writes when it has come to its end."""
        raise NotImplementedError

    def differences(self, one: Path, other: Path) -> list[str]:
        """Between two runs that came to their ends."""
        raise NotImplementedError


class Project(Side):
    """This project's command line."""

    name = "this project"

    def command(self, way: Way, resume: bool) -> list[str]:
        args = [sys.executable, str(ROOT / "scripts" / "fit.py")]
        args += ["--model", "benchmarks.stock.Net", "--data", "tests.noisy.NoisyData", f"--data.train={SAMPLES}"]
        args += [f"--data.num_workers={way.workers}", f"--data.pause={PAUSE}", f"--trainer.max_epochs={EPOCHS}"]
        args += ["--trainer.log_every_n_steps=3"]
        if way.steps:
            args += [f"--checkpoint.every_n_train_steps={way.steps}", "--trainer.val_check_interval=5"]
        if way.devices > 1:
            args += ["--config", str(ROOT / "configs" / "trainer" / "ddp.yaml"), "--name=run"]
            args += ["--trainer.accelerator=cpu", f"--trainer.devices={way.devices}"]
        return args + ["--resume"] * resume

    def checkpoints(self, folder: Path) -> Path:
        return self._run(folder) / "checkpoints"

    def end(self, folder: Path) -> Path:
        return self._run(folder) / "summary.json"

    def differences(self, one: Path, other: Path) -> list[str]:
        # which file was still to be removed when another one was written: by the end it is
        return differences(self._run(one), self._run(other))

    @staticmethod
    def _run(folder: Path) -> Path:
        return folder / "lightning_logs" / "run" / "version_0"


class Stock(Side):
    """Lightning's Trainer with its ModelCheckpoint, EarlyStopping and TensorBoardLogger."""

    name = "Lightning alone"

    def command(self, way: Way, resume: bool) -> list[str]:
        args = [sys.executable, str(ROOT / "benchmarks" / "stock.py"), f"--pause={PAUSE}"]
        args += [f"--workers={way.workers}", f"--devices={way.devices}"]
        return args + [f"--steps={way.steps}"] * bool(way.steps) + ["--resume"] * resume

    def checkpoints(self, folder: Path) -> Path:
        return folder / "checkpoints"

    def end(self, folder: Path) -> Path:
        return folder / "final.ckpt"

    def differences(self, one: Path, other: Path) -> list[str]:
        states = [torch.load(folder / "final.ckpt", weights_only=False) for folder in (one, other)]
        return [place for key in ("state_dict", "optimizer_states") for place in unequal(*(s[key] for s in states))]


SIDES: tuple[Side, ...] = (Project(), Stock())


class Runner:
    """Starts processes, and sees to it that none is left."""

    def __init__(self) -> None:
        self.processes: Processes = {}

    def start(self, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own; what it prints goes into a file, and a pipe tells when all ended."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.processes[process.pid] = process
        return process

    def wait_for(self, pattern: str, folder: Path, process: subprocess.Popen[bytes]) -> bool:
        """Wait until there is such a file; whether there was before the process ended."""
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            if next(folder.rglob(pattern.format(pid=process.pid)), None):
                return True
            time.sleep(0.01)
        return False

    def end(self, process: subprocess.Popen[bytes]) -> tuple[int | None, str]:
        """Wait for a process and all that it has started: its status, None when they did not end; and its output."""
        try:
            out, _ = process.communicate(timeout=PATIENCE)
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            (out, _), status = process.communicate(), None
        del self.processes[process.pid]
        return status, out.decode(errors="replace")

    def close(self) -> None:
        """Kill what is left."""
        for process in list(self.processes.values()):
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            process.communicate()


@dataclass
class Attempt:
    """One run.

    Attributes:
        moments: When it is ended, as parts of the time that is left of an undisturbed run's.
        seed: Of the harm that is done.
    """

    moments: list[float]
    seed: int


@dataclass
class Result:
    """What came of the runs of one row on one side."""

    ended: int = 0  # how often
    outcomes: Counter[str] = field(default_factory=Counter)
    left: int = 0  # runs some of whose processes did not end


def plan(way: Way, kills: int, chance: random.Random) -> list[Attempt]:
    """So many ends of runs, at random moments that are spread evenly."""
    count = max(1, round(kills * way.share))
    moments = [(i + chance.random()) / count for i in range(count)]
    chance.shuffle(moments)
    attempts: list[Attempt] = []
    while moments:
        several = 3 if way.chains and len(attempts) % 4 == 3 else 1
        attempts.append(Attempt(moments[:several], chance.randrange(2**31)))
        del moments[:several]
    return attempts


def undisturbed(runner: Runner, side: Side, way: Way, folder: Path) -> float:
    """Train to the end: the seconds from the first file to the end of the process."""
    folder.mkdir(parents=True)
    process = runner.start(side.command(way, False), folder)
    if not runner.wait_for(BEGUN, folder, process):
        raise SystemExit(runner.end(process)[1])
    started = time.monotonic()
    status, out = runner.end(process)
    if status != 0:
        raise SystemExit(out)
    return time.monotonic() - started


def attempt(
    runner: Runner, side: Side, way: Way, reference: Path, seconds: float, task: tuple[Path, Attempt]
) -> tuple[str, str, int, int]:
    """End a run as often as planned, and go on with it.

    Returns:
        What came of it, and a word on that; how often the run was ended, and how often something of it was left.
    """
    folder, planned = task
    folder.mkdir()
    ended = left = 0
    chance, rest = random.Random(planned.seed), seconds
    for moment in planned.moments:
        process = runner.start(side.command(way, ended > 0), folder)
        if not runner.wait_for(BEGUN, folder, process):
            status, out = runner.end(process)
            if status != 0:
                return "refused", out[-300:], ended, left  # after an earlier end
            break  # there was nothing left to do
        if way.harm:  # there has to be something
            runner.wait_for("last.ckpt", folder, process)
        time.sleep(moment * rest * (0.7 if way.harm else 1))
        rest *= 1 - moment
        late = process.poll() is not None
        if not late:
            process.send_signal(way.by)
        status, _ = runner.end(process)
        if late or (way.harm and side.end(folder).exists()):
            break
        ended += 1
        left += status is None
    if not ended:  # it was faster than the undisturbed one
        shutil.rmtree(folder)
        return attempt(runner, side, way, reference, 0.8 * seconds, task)
    if way.harm:
        way.harm(side.checkpoints(folder) / "last.ckpt", chance)
    nothing = not list(side.checkpoints(folder).glob("*.ckpt"))
    status, out = runner.end(runner.start(side.command(way, True), folder))
    found = side.differences(reference, folder) if status == 0 else [out[-300:]]
    outcome = "refused" if status != 0 else "same" if not found else "lost" if nothing else "other"
    shutil.rmtree(folder)
    return outcome, "; ".join(found[:3]), ended, left


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def measure(runner: Runner, way: Way, kills: int, seed: int, folder: Path) -> dict[str, Result]:
    """One row: the same moments on both sides."""
    results = {}
    for side in SIDES:
        here = folder / side.name.replace(" ", "_")
        reference = here / "undisturbed"
        seconds = undisturbed(runner, side, way, reference)
        say(f"{way.name}: {side.name}: {seconds:.1f} s undisturbed")
        attempts = plan(way, kills, random.Random(f"{seed} {way.name}"))
        tasks = [(here / str(i), planned) for i, planned in enumerate(attempts)]
        result = results[side.name] = Result()
        with ThreadPoolExecutor(1 if way.workers or way.devices > 1 else 2) as pool:
            done: Iterator[Any] = pool.map(partial(attempt, runner, side, way, reference, seconds), tasks)
            for (_, planned), (outcome, word, ended, left) in zip(tasks, done, strict=True):
                result.outcomes[outcome] += 1
                result.ended += ended
                result.left += left
                moments = ", ".join(f"{moment:.0%}" for moment in planned.moments)
                say(f"{way.name}: {side.name}: ended at {moments}: {outcome} {word}".rstrip())
        shutil.rmtree(here)
    return results


def show(rows: dict[str, dict[str, Result]]) -> None:
    """Print the table."""
    table = Table()
    table.add_column("what was done", max_width=34)
    for side in SIDES:
        short = side.name.replace(" ", "\n")
        for name in ("runs", "ended", *OUTCOMES):
            table.add_column(f"{short}\n{name}" if name == "runs" else f"\n\n{name}", justify="right")
    for name, results in rows.items():
        cells = []
        for side in SIDES:
            result = results[side.name]
            cells += [result.outcomes.total(), result.ended, *(result.outcomes[outcome] for outcome in OUTCOMES)]
        table.add_row(name, *(str(cell) if cell else "·" for cell in cells))
    Console(width=130).print(table)
    for side in SIDES:
        if left := sum(results[side.name].left for results in rows.values()):
            print(f"{side.name}: {left} times some process did not end by itself within {PATIENCE} s")


def main() -> None:
    """Try everything, print, and write JSON when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    out = given.json.resolve() if given.json else None
    runner, rows = Runner(), {}
    # a shell lets its background jobs ignore this, and they what they start
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # a benchmark that is stopped leaves nothing behind either
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        try:
            for i, way in enumerate(WAYS):
                rows[way.name] = measure(runner, way, given.kills, given.seed, Path(folder, str(i)))
        finally:
            runner.close()
    show(rows)
    if out:
        table = {
            name: {side: {"ended": r.ended, "left": r.left, **r.outcomes} for side, r in results.items()}
            for name, results in rows.items()
        }
        out.write_text(json.dumps({"kills": given.kills, "seed": given.seed, "rows": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
