"""Real processes of `scripts/fit.py`, for tests that end them: started, watched, and always cleared away.

They are forked from one that has imported everything (`tests.preloaded`), the second one of a run of two, too. Tests of
the start itself start Python.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tests.preloaded import Process

ROOT = Path(__file__).resolve().parents[1]
MARKS = "marks.txt"
# six steps an epoch, of two samples on each of two devices
NOISY = [
    *("--model", "tests.noisy.Noisy", "--data", "tests.noisy.NoisyData", "--data.train", "24"),
    *("--optimizer", "torch.optim.AdamW", "--optimizer.lr", "0.02", "--seed_everything", "3"),
    *("--trainer.callbacks", "[{class_path: tests.processes.Marks}]", "--trainer.max_epochs", "3"),
    *("--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"),
]
DDP = [
    *("--config", str(ROOT / "configs/trainer/ddp.yaml"), "--name", "run"),
    *("--trainer.accelerator", "cpu", "--trainer.devices", "2"),
]
RUN = Path("lightning_logs/run/version_0")


class Marks(Callback):
    """Writes a line into `marks.txt` whenever a process of a run comes to something: what, which step, which rank."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _mark("start", trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        _mark("train", trainer)

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if not trainer.sanity_checking:
            _mark("validation", trainer)


def _mark(what: str, trainer: Trainer) -> None:
    with open(MARKS, "a", encoding="utf-8") as file:
        file.write(f"{what} {trainer.global_step} rank {trainer.global_rank}\n")


class Fit:
    """A process of `scripts/fit.py`, and those that it has started.

    Args:
        folder: Where it is started.
        args: Its command line.
        pair: Whether it is the first of two, which its command line does not say.
        environment: Variables that are different for it.
    """

    def __init__(self, folder: Path, *args: str | Path, pair: bool = False, **environment: str) -> None:
        self.folder = folder
        self.marks_before = len(self._marks())
        self._out, self._err = folder / f"{time.time_ns()}.out", folder / f"{time.time_ns()}.err"
        own = ("FIT_", "SLURM_", "PL_", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_", "COLUMNS")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        line = [str(ROOT / "scripts" / "fit.py"), *map(str, args)]
        variables = {**inherited, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = Process(line, folder, variables, out, err, spare=pair or "--trainer.devices" in args)

    @property
    def out(self) -> str:
        """What it has printed."""
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """What it has printed on standard error, without Lightning's advice to the author of `tests.noisy`."""
        lines = self._err.read_text(encoding="utf-8").splitlines(keepends=True)
        return "".join(line for line in lines if "It is recommended to use `self.log(" not in line)

    @property
    def marks(self) -> list[str]:
        """The lines that it has written into `marks.txt`."""
        return self._marks()[self.marks_before :]

    def _marks(self) -> list[str]:
        path = self.folder / MARKS
        return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []

    def others(self) -> list[int]:
        """The processes of its session that are alive, without itself."""
        return [pid for pid in processes_of(self.process.pid) if pid != self.process.pid]

    def until(self, true: Callable[[], Any], seconds: float = 120) -> Any:
        """Wait for something that happens while it lives."""
        end = time.monotonic() + seconds
        while not (found := true()):
            assert self.process.poll() is None, f"it ended, {self.process.returncode}: {self.out}{self.err}"
            assert time.monotonic() < end, f"not within {seconds} s: {self.out}{self.err}"
            time.sleep(0.01)
        return found

    def until_marked(self, mark: str) -> None:
        """Wait for a line of `marks.txt` that begins like this."""
        self.until(lambda: any(line.startswith(mark) for line in self.marks))

    def signal(self, number: int, group: bool = False) -> None:
        """Send a signal to it, or to all processes that it has started, too, as a terminal does."""
        (os.killpg if group else os.kill)(self.process.pid, number)

    def end(self, seconds: float = 90) -> int:
        """Wait for its end, and for that of all that it has started; its exit status."""
        status = self.process.wait(seconds)
        end = time.monotonic() + 10
        while (left := processes_of(self.process.pid)) and time.monotonic() < end:
            time.sleep(0.05)
        assert left == [], f"processes {left} are left: {self.out}{self.err}"
        return status


@contextmanager
def running(folder: Path, *args: str | Path, pair: bool = False, **environment: str) -> Iterator[Fit]:
    """A process of `scripts/fit.py`; whatever is left of it and its children at the end of the `with` is killed."""
    fit = Fit(folder, *args, pair=pair, **environment)
    try:
        yield fit
    finally:
        for pid in {fit.process.pid, *processes_of(fit.process.pid)}:
            if pid != fit.process.pid or fit.process.poll() is None:  # its number may be another's by now
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        fit.process.wait(30)


def processes_of(session: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                found.append(int(path.parent.name))
    return found
