"""What the handlers of signals note, and the small parts of the loops that need no training."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from callbacks.last_checkpoint import LastCheckpoint
from callbacks.loops import AtSafePoints, _mix, parts, seed_generators
from callbacks.nonfinite import OnNonFinite
from callbacks.record import Record
from callbacks.stop import SIGNALS, Stop, Stopped, agree
from datamodules.batches import Batches

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """As in a process in the foreground that nobody has told to ignore anything."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Left(BaseException):
    """Instead of the end of this process."""


class Child:
    """Another process of the run, which does not end by itself."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def kill(self) -> None:
        self.calls.append("kill")

    def wait(self, seconds: float) -> int:
        self.calls.append(seconds)
        raise subprocess.TimeoutExpired("child", seconds)


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit statuses of the processes that would have ended."""
    statuses: list[int] = []

    def leave(status: int) -> None:
        statuses.append(status)
        raise Left

    monkeypatch.setattr(os, "_exit", leave)
    return statuses


# ---- handlers


def test_the_three_signals_are_heard() -> None:
    assert set(SIGNALS) == set(NUMBERS)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_is_noted_and_told(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    with Stop().listening() as stop:
        assert stop.signal == 0
        os.kill(os.getpid(), number)
        assert stop.signal == number
    captured = capfd.readouterr()
    assert captured.err == f"\n{number.name}: stopping after this step; a second signal ends it at once\n"
    assert captured.out == ""


@pytest.mark.parametrize(("first", "second"), [(NUMBERS[0], NUMBERS[0]), (NUMBERS[2], NUMBERS[1])])
def test_the_second_signal_ends_the_process_and_those_it_has_started(
    leaving: list[int], first: signal.Signals, second: signal.Signals
) -> None:
    child = Child()
    worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    worker.start()
    stop = Stop()
    stop.children = lambda: [child]
    try:
        with stop.listening():
            os.kill(os.getpid(), first)
            assert (leaving, child.calls) == ([], [])
            with pytest.raises(Left):
                os.kill(os.getpid(), second)
        assert leaving == [128 + second]
        assert child.calls == ["kill"]
        worker.join(10)
        assert worker.exitcode == -signal.SIGKILL
    finally:
        worker.kill()
        worker.join()


def test_when_nothing_can_be_lost_the_first_signal_ends_the_process(
    leaving: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    left_with: list[int] = []
    stop = Stop()
    stop.at_once, stop.before_leaving = True, left_with.append
    with stop.listening(), pytest.raises(Left):
        os.kill(os.getpid(), signal.SIGTERM)
    assert (left_with, leaving) == ([15], [143])
    assert capfd.readouterr().err == "\nSIGTERM: the training is done and saved; --resume tests it\n"


def test_the_same_signal_by_two_ways_is_told_once(leaving: list[int], capfd: pytest.CaptureFixture[str]) -> None:
    left_with: list[int] = []

    def before_leaving(number: int) -> None:
        left_with.append(number)
        if len(left_with) == 1:
            signal.raise_signal(number)  # the other process has got it, too, and passes it on

    stop = Stop()
    stop.at_once, stop.before_leaving = True, before_leaving
    with stop.listening(), pytest.raises(Left):
        signal.raise_signal(signal.SIGUSR1)
    assert (left_with, leaving[0]) == ([signal.SIGUSR1], 138)
    assert capfd.readouterr().err == "\nSIGUSR1: the training is done and saved; --resume tests it\n"


def test_only_the_first_process_tells(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with Stop().listening() as stop:
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.signal == signal.SIGINT
    assert capfd.readouterr().err == ""


def test_an_orphaned_process_of_a_run_does_not_signal_a_stranger(
    monkeypatch: pytest.MonkeyPatch, leaving: list[int]
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    with Stop().listening():
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(os, "getppid", lambda: 1)  # whose children orphans become
        monkeypatch.setattr(os, "kill", lambda *call: sent.append(call))
        with pytest.raises(Left):
            signal.raise_signal(signal.SIGINT)
    assert (sent, leaving) == ([], [130])


@pytest.mark.parametrize("failing", [False, True])
def test_the_handlers_of_before_come_back(failing: bool) -> None:
    def mine(*args: Any) -> None:
        return None

    signal.signal(signal.SIGTERM, mine)
    try:
        with Stop().listening():
            assert signal.getsignal(signal.SIGTERM) is not mine
            if failing:
                raise KeyError
    except KeyError:
        assert failing
    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Stop().listening() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_thread_that_can_not_handle_signals_trains_without() -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    seen: list[Any] = []

    def listen() -> None:
        with Stop().listening() as stop:
            seen.append(stop.signal)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [0]
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_a_signal_of_another_process_is_this_ones_too() -> None:
    stop = Stop()
    with pytest.raises(Stopped, match="stopped by SIGUSR1") as found:
        stop.now(signal.SIGUSR1)
    assert found.value.signal == stop.signal == signal.SIGUSR1


def test_a_process_that_does_not_end_is_not_waited_for_for_ever() -> None:
    stop, slow = Stop(), Child()
    stop.children = lambda: [slow, quick]
    with subprocess.Popen([sys.executable, "-c", ""]) as quick:
        stop.wait(30)
        assert quick.returncode == 0
    assert slow.calls == [30, "kill"]


def test_alone_there_is_nobody_to_wait_for() -> None:
    stop, started = Stop(), time.monotonic()
    assert stop.children() == []
    stop.wait(30)
    assert time.monotonic() - started < 5


# ---- several processes


@pytest.mark.parametrize(("number", "wanted"), [(0, False), (15, True)])
def test_a_single_process_agrees_with_itself(number: int, wanted: bool) -> None:
    trainer: Any = SimpleNamespace(world_size=1)
    assert agree(trainer, number, wanted) == (number, wanted)


def test_two_processes_agree_on_what_one_of_them_knows(tmp_path: Path) -> None:
    questions = [[(0, False), (0, False)], [(0, False), (15, False)], [(10, True), (2, False)], [(0, True), (0, True)]]
    children = []
    for rank in (0, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: there may be other threads
            pid = os.fork()
        if pid == 0:
            try:
                dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=rank, world_size=2)
                trainer: Any = SimpleNamespace(world_size=2, strategy=SimpleNamespace(root_device=torch.device("cpu")))
                answers = [agree(trainer, *question[rank]) for question in questions]
                (tmp_path / f"{rank}.txt").write_text(repr(answers))
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    for rank in (0, 1):
        assert (tmp_path / f"{rank}.txt").read_text() == "[(0, False), (15, False), (10, True), (0, True)]"


# ---- parts of the loops


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def after(*counters: int) -> tuple[float, float, float]:
    seed_generators(*counters)
    return drawn()


def test_random_numbers_follow_from_the_counters() -> None:
    counters = [(0, 0, -1, 0), (0, 0, 0, 0), (0, 0, 1, 0), (0, 1, 0, 0), (0, 0, 0, 1), (2**32, 9, 10**6, 7)]
    seen = [after(*counter) for counter in counters]
    for numbers in zip(*seen, strict=True):
        assert len(set(numbers)) == len(counters), "others with each counter, in each of the three generators"
    assert [after(*counter) for counter in reversed(counters)] == seen[::-1]


def test_an_epoch_has_other_random_numbers_than_the_one_before_it_of_the_next_seed() -> None:
    assert after(42, 1, 0, 0) != after(43, 0, 0, 0)


def test_mixing_is_splitmix64() -> None:
    # the first two numbers of the published generator after the seed 1234567, and of each the upper 63 bits
    assert _mix(1234567) == 6457827717110365317 >> 1
    assert _mix(1234567 + 0x9E3779B97F4A7C15) == 3203168211198807973 >> 1


def test_the_part_of_a_loader_that_can_start_later() -> None:
    batches = Batches(torch.zeros(4, 1), torch.zeros(4), torch.arange(4), 2)
    assert next(parts(batches)) is batches
    loader = DataLoader([1, 2, 3])
    assert list(parts(loader)) == []
    sampler: Any = SimpleNamespace(start_at=lambda batch: None)
    assert list(parts(SimpleNamespace(batch_sampler=None, sampler=sampler))) == [sampler]
    assert list(parts(SimpleNamespace(batch_sampler=sampler, sampler=None))) == [sampler]


def test_who_has_something_to_do_at_safe_points() -> None:
    checkpoint: Any = SimpleNamespace()
    assert isinstance(LastCheckpoint(checkpoint), AtSafePoints)
    assert isinstance(OnNonFinite(), AtSafePoints)
    assert not isinstance(Record(), AtSafePoints)
