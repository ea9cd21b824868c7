"""Which run goes on, and from which checkpoint."""

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from runs.checkpoints import read_checkpoint
from runs.errors import UserError
from runs.run import Run

try:
    import fcntl
except ImportError:  # Windows: nobody keeps two processes from going on with one run
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
STATE = "LastCheckpoint"  # under this name that callback keeps its state in a checkpoint
# what is in a checkpoint from which a run goes on
FORM = {
    "callbacks": dict,
    "loops": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "global_step": int,
    "epoch": int,
}
OWN = {"goes_on", "validation_due", "end_due", "should_stop", "callback_metrics", "events"}


@dataclass
class Point:
    """Where a run goes on.

    Attributes:
        path: The checkpoint; None for a run that was ended before it could write one.
        state: Its content.
        damaged: The newer checkpoints that could not be used, each with the reason.
    """

    path: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    @property
    def extra(self) -> dict[str, Any]:
        """What `LastCheckpoint` has written beside Lightning's own state."""
        return self.state.get("callbacks", {}).get(STATE, {})

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return self.state["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"] if self.state else 0

    @property
    def epochs_begun(self) -> int:
        """How many epochs are done or begun."""
        return self.state["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"] if self.state else 0

    @property
    def removed(self) -> list[str]:
        """The files in the folder of the checkpoints that are no longer among the best."""
        states = [state for state in self.state.get("callbacks", {}).values() if isinstance(state, dict)]
        return [name for state in states for name in state.get("removed", [])]


class RunLock:
    """Held by the process that trains a run, as long as that process lives.

    The lock of the file is of the kind that ends with the process and that its workers do not inherit (POSIX `fcntl`).
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Hold the lock.

        Raises:
            UserError: Another process holds it.
        """
        if fcntl is None or self._file:
            return
        file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            who = self.holder()
            file.close()
            place = f"process {who.get('pid', '?')} on {who.get('host', 'another machine')}"
            raise UserError(f"{self.path.parent}: is being trained right now, by {place}") from error
        self._file = file
        who = {"pid": os.getpid(), "host": socket.gethostname(), "launch": launch_id()}
        with suppress(OSError):  # a disk that is full: it is held all the same
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), json.dumps(who).encode())

    def release(self) -> None:
        """Let go of it."""
        if self._file:
            self._file.close()
            self._file = None

    def held_elsewhere(self) -> bool:
        """Whether a process of another launch than this one holds the lock."""
        if fcntl is None or not self.path.exists() or self._file:
            return False
        if self.holder().get("pid") == os.getpid() and self.holder().get("host") == socket.gethostname():
            return False  # asking, by a second handle, would end the lock
        try:
            # a shared one is enough to ask, and may be had of a file that is not ours to write
            with self.path.open(encoding="utf-8") as file:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            launch = launch_id()
            return not launch or self.holder().get("launch") != launch
        return False

    def holder(self) -> dict[str, Any]:
        """Who holds it, or did so last."""
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}


def launch_id() -> str:
    """What all processes of one SLURM job or torchrun have in common; empty without these."""
    if job := os.environ.get("SLURM_JOB_ID"):
        return f"slurm {job}"
    if run := os.environ.get("TORCHELASTIC_RUN_ID"):
        return f"torchrun {run} {os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    return ""


def resume_point(run: Run) -> Point:
    """The newest whole checkpoint of a run from which it can go on.

    Raises:
        UserError: It has checkpoints, and none of them is whole; or it has none, and must have had some.
    """
    point = Point()
    last = run.checkpoints / "last.ckpt"
    others = sorted(set(run.checkpoints.rglob("*.ckpt")) - {last})
    if not last.is_file() and not others:
        done = epochs_logged(run.folder)
        if done > 0 or run.summary:  # the first epoch's end is always saved
            raise UserError(
                f"{run.checkpoints}: no checkpoint, and the run has come to epoch {max(done, 0)}; bring them back, or "
                "leave --resume out for a new run"
            )
        return point
    written = last.stat().st_mtime_ns if last.is_file() else 0
    newer = [path for path in others if path.stat().st_mtime_ns > written]
    # all of them are read only when the latest ones are damaged
    for paths in ([last, *newer] if written else newer, [path for path in others if path not in newer]):
        found = [(path, state) for path in paths if (state := _readable(path, point)) is not None]
        if found:
            point.path, point.state = max(found, key=lambda item: (item[1]["global_step"], item[1]["epoch"]))
            return point
    if point.damaged:
        reasons = "; ".join(point.damaged)
        raise UserError(f"{run.folder}: no checkpoint to go on from: {reasons}; for a new run, leave --resume out")
    return point  # it was killed before there was a first one to go on from


def _readable(path: Path, point: Point) -> dict[str, Any] | None:
    """The content of a checkpoint from which a run can go on."""
    try:
        state = read_checkpoint(path)
        return state if _check_form(state, path) else None
    except UserError as error:
        point.damaged.append(str(error))
        return None


def _check_form(state: dict[str, Any], path: Path) -> bool:
    """Whether a run can go on from a checkpoint.

    Raises:
        UserError: It has not the form of one of this project.
    """
    callbacks = state.get("callbacks", {})
    own = callbacks.get(STATE) if isinstance(callbacks, dict) else callbacks
    if own is None:
        raise UserError(f"{path}: no run can go on from it, it holds weights only")
    if isinstance(own, dict) and own.get("goes_on") is False:
        return False  # from within an accumulation of gradients
    wrong = next((key for key, kind in FORM.items() if not isinstance(state.get(key), kind)), None)
    if wrong is None and not (isinstance(own, dict) and own.keys() >= OWN):
        wrong = STATE
    if wrong is None and "epoch_progress" not in state["loops"].get("fit_loop", {}):
        wrong = "loops"
    if wrong:
        raise UserError(f"{path}: no run can go on from it, there is no {wrong} of the right form in it")
    return True


def tidy(run: Run, point: Point) -> None:
    """Remove what a run that goes on has no more use for.

    Halves of files, a second best that was to be removed, the log behind the checkpoint, the summary of its first end.
    """
    if run.checkpoints.is_dir():
        for part in run.checkpoints.rglob(".*.ckpt.part"):
            part.unlink(missing_ok=True)
    root = run.checkpoints.resolve()
    for name in point.removed:
        path = (run.checkpoints / name).resolve()
        if path.is_relative_to(root) and path.suffix == ".ckpt" and path != point.path:
            path.unlink(missing_ok=True)
    cut_events(run.folder, point.extra.get("events", {}))
    cut_events(run.folder / "best", {})
    (run.folder / "summary.json").unlink(missing_ok=True)  # it says that a run is finished


def epochs_logged(folder: Path) -> int:
    """The last epoch that a run's log has a value of; -1 without any."""
    last = -1
    for path in folder.glob("events.out.tfevents.*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag == "epoch":  # Lightning logs it with whatever else is logged
                    last = max(last, int(tensor_util.make_ndarray(value.tensor)))
    return last


def cut_events(folder: Path, sizes: dict[str, int]) -> None:
    """Bring TensorBoard's files back to what they were when a checkpoint was saved; all later is logged again.

    Args:
        folder: The run's folder.
        sizes: The length of each file in bytes at that time; those that are not in it are removed.
    """
    for path in folder.glob("events.out.tfevents.*"):
        if path.name not in sizes:
            path.unlink()
        elif path.stat().st_size > sizes[path.name]:
            os.truncate(path, sizes[path.name])
