"""Signals that end a run: the first one at the next safe point, a second one at once."""

import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]

# here the first one says who it is, to those that it starts
PARENT = "FIT_STARTED_BY"


def is_child() -> bool:
    """Whether this is not the first process of a run."""
    return any(os.environ.get(name, "0") != "0" for name in ("LOCAL_RANK", "SLURM_PROCID"))


class Stopped(Exception):
    """A signal ended the run, and all that could be saved is saved.

    Attributes:
        signal: Its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


class Stop:
    """What the handlers note, and the loops look at between two batches.

    Attributes:
        signal: The number of the signal that has come; 0 before that.
        at_once: Nothing is left to be saved: the first signal ends the process.
        children: Gives the other processes of this run, as far as this one has started them.
        before_leaving: Called with the signal that ends a run whose training is done.
        hint: What a second signal says of how to go on.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.at_once = False
        self._process = os.getpid()
        self.hint = ""
        self.children: Callable[[], list[Any]] = list
        self.before_leaving: Callable[[int], None] = lambda number: None

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Handle the signals inside a `with`; only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        # one that is ignored stays so: a shell starts its background jobs like that
        heard = [number for number in SIGNALS if is_child() or signal.getsignal(number) is not signal.SIG_IGN]
        if not is_child():
            os.environ[PARENT] = str(os.getpid())
        before = {number: signal.signal(number, self._handle) for number in heard}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def now(self, number: int) -> None:
        """End the run.

        Raises:
            Stopped: Always.
        """
        self.signal = number
        raise Stopped(number)

    def wait(self, seconds: float = 10) -> None:
        """Let the other processes end, which have stopped at the same place, so that none stays behind."""
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a DataLoader's handler takes their end for a failure
        for worker in multiprocessing.active_children():  # of loaders; they do not listen to the signals that end a run
            worker.kill()
        for child in self.children():
            try:
                child.wait(seconds)
            except subprocess.TimeoutExpired:
                child.kill()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker that has inherited this handler; it is ended by the process that it works for
        if self.signal or self.at_once:
            first, self.signal = not self.signal, number
            if first:
                self._tell(number, "the training is done and saved; --resume tests it")
                if not is_child():
                    self.before_leaving(number)
            elif self.hint:
                self._tell(number, f"left at once; {self.hint}")
            self.leave(number)
            return
        self.signal = number
        self._tell(number, "stopping after this step; a second signal ends it at once")

    def _tell(self, number: int, text: str) -> None:
        if not is_child():
            # not `print`, which the handler may be interrupting
            os.write(2, f"\n{signal.Signals(number).name}: {text}\n".encode())

    def leave(self, number: int) -> None:
        """End all processes of this run at once."""
        if os.environ.get(PARENT) == str(os.getppid()):
            os.kill(os.getppid(), number)  # which ends all of them
            return
        if os.isatty(1):
            os.write(1, b"\x1b[?25h")  # the cursor, which a progress bar hides
        for process in [*self.children(), *multiprocessing.active_children()]:
            process.kill()
        os._exit(128 + number)


def agree(trainer: Trainer, signal: int, wanted: bool = False) -> tuple[int, bool]:
    """The largest signal and whether anybody wants something, over all processes; all of them must ask."""
    if trainer.world_size == 1:
        return signal, wanted
    votes = torch.tensor([signal, int(wanted)], device=trainer.strategy.root_device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    signal, anybody = votes.tolist()
    return signal, bool(anybody)
