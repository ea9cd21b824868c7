"""A crash at every moment of a run, and what `--resume` makes of it.

A process that dies leaves its files and nothing else. So the folder of a run is copied while it trains, whenever
something in it is another than at the event before: at each of Lightning's hooks, and around each opening, writing,
renaming, cutting and removing of a file. Each copy is what a crash at that moment leaves behind.
"""

import builtins
import io
import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from callbacks import LastCheckpoint, TensorBoardViews
from scripts import fit
from scripts.fitting import FitCLI
from scripts.main import main
from tests.conftest import CNN, SMALL, Command
from tests.same import differences, scalars, unequal

PARTS = 4
STRIDE = int(os.environ.get("CRASH_STRIDE", "5"))  # each fifth moment; CRASH_STRIDE=1 tries them all
Files = dict[Path, bytes | None]  # None for a folder
Times = dict[Path, int]  # of the last changes

HOOKS = "[{class_path: tests.scripts.test_crash.EveryHook, init_args: {share: %s}}]"
COMMON = [
    *("--trainer.accumulate_grad_batches", "2", "--trainer.log_every_n_steps", "1", "--checkpoint.save_top_k", "2"),
    *("--trainer.enable_progress_bar", "false"),
]
RUNS = {
    "cnn": [  # four batches, two steps, and a validation before the second one, an epoch; stopped in the third epoch
        # best checkpoints are held in memory until `last.ckpt` is written
        *(
            "--config",
            CNN,
            *COMMON,
            "--trainer.callbacks",
            HOOKS % "-1",
            "--seed_everything",
            "1",
            "--checkpoint.every_n_train_steps",
            "2",
        ),
        *("--model.net.width", "2", "--model.net.depth", "1", "--model.net.dropout", "0.2"),
        *("--optimizer", "torch.optim.SGD", "--optimizer.momentum", "0.9", "--optimizer.lr", "1.5"),
        *("--lr_scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"),
        *("--lr_scheduler.patience", "0", "--lr_scheduler.threshold", "0.5", "--early_stopping.patience", "1"),
        *(
            "--trainer.limit_train_batches",
            "4",
            "--trainer.val_check_interval",
            "3",
            "--trainer.limit_val_batches",
            "2",
        ),
        *("--trainer.limit_test_batches", "1", "--trainer.max_epochs", "9"),
    ],
    "run": [  # five batches, three steps, and two validations an epoch; ended within the second epoch
        # best checkpoints are written at once
        *("--model", "tests.noisy.Noisy", "--data", "tests.noisy.NoisyData", "--data.train", "18", *COMMON),
        *("--trainer.callbacks", HOOKS % "1e9"),
        *("--optimizer", "torch.optim.AdamW", "--optimizer.lr", "0.02", "--checkpoint.every_n_train_steps", "1"),
        *("--lr_scheduler", "torch.optim.lr_scheduler.CosineAnnealingLR"),
        *("--trainer.val_check_interval", "2", "--trainer.max_steps", "4", "--seed_everything", "7"),
    ],
}


@dataclass
class Moment:
    """What was on the disk from an event on."""

    number: int
    event: str
    files: Files
    times: Times


@dataclass
class Watch:
    """Notes events, and copies a folder when something in it has changed."""

    folder: Path
    events: list[str] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)

    def event(self, name: str) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self.events.append(name)
        files = read_folder(self.folder)
        if not self.moments or files != self.moments[-1].files:
            times = {path: (self.folder / path).stat().st_mtime_ns for path in files}
            self.moments.append(Moment(len(self.events), name, files, times))


def read_folder(folder: Path) -> Files:
    return {p.relative_to(folder): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def write_folder(moment: Moment, folder: Path) -> None:
    folder.mkdir()
    for name, content in moment.files.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
            os.utime(folder / name, ns=(moment.times[name], moment.times[name]))


class EveryHook(Callback):
    """Tells the watch, when there is one, of each hook that a callback can have; says what saving may cost."""

    watch: ClassVar[Watch | None] = None

    def __init__(self, share: float = 0.02) -> None:
        self.share = share

    def state_dict(self) -> dict[str, Any]:
        note("state_dict")
        return {}


def note(name: str) -> None:
    if EveryHook.watch is not None:
        EveryHook.watch.event(name)


def _hook(name: str) -> Callable[..., None]:
    return lambda *args, **kwargs: note(name)


for _name in dir(Callback):
    if _name.startswith("on_") or _name in ("setup", "teardown"):
        setattr(EveryHook, _name, _hook(_name))


def _say_share(self: EveryHook, trainer: Any, *args: Any) -> None:
    note("on_fit_start")
    next(callback for callback in trainer.callbacks if isinstance(callback, LastCheckpoint)).share = self.share


EveryHook.on_fit_start = _say_share  # type: ignore[method-assign]


@contextmanager
def watching(folder: Path) -> Iterator[Watch]:
    """Make each change of a file under a folder an event."""
    watch = Watch(folder)
    open_, save, write_text = io.open, torch.save, Path.write_text

    def inside(path: Any) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and Path(os.fsdecode(path)).absolute().is_relative_to(folder)

    def around(name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            path = os.fsdecode(args[0]).rsplit("/", 1)[-1] if not isinstance(args[0], int) else ""
            watch.event(f"before {name} {path}")
            result = call(*args, **kwargs)
            watch.event(f"after {name} {path}")
            return result

        return called

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        result = open_(file, mode, *args, **kwargs)
        if set(mode) & set("wax+") and inside(file):
            watch.event(f"open {Path(os.fsdecode(file)).name}")
        return result

    def save_in_halves(state: Any, file: Any) -> None:
        whole = io.BytesIO()
        save(state, whole)
        data = whole.getvalue()
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            file.write(part)
            file.flush()
            watch.event(f"{len(part)} bytes of a checkpoint")

    def write_in_halves(path: Path, text: str, encoding: str | None = None) -> int:
        write_text(path, text[: len(text) // 2], encoding=encoding)
        watch.event(f"half of {path.name}")
        return write_text(path, text, encoding=encoding)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "rename", "unlink", "remove", "truncate", "mkdir", "fsync"):
            patch.setattr(os, name, around(name))
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)
        patch.setattr(torch, "save", save_in_halves)
        patch.setattr(Path, "write_text", write_in_halves)
        patch.setattr(EveryHook, "watch", watch)
        watch.event("start")
        yield watch
        watch.event("end")


@dataclass
class Recording:
    """An undisturbed run, and what a crash would have left at each of its moments."""

    run: Path
    watch: Watch


Recordings = Callable[[str], Recording]


@pytest.fixture(autouse=True)
def _without_report(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Neither a report nor pictures, which take longer than the training.

    They come after the run's end is on the disk, and can be made again.
    """
    if not request.node.get_closest_marker("pictures"):
        monkeypatch.setattr(FitCLI, "report", lambda *args: None)
        monkeypatch.setattr(TensorBoardViews, "on_train_end", lambda *args: None)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """Each of RUNS by its name, trained once."""
    made: dict[str, Recording] = {}

    def recording(name: str) -> Recording:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = Recording(run_of(folder, name), record(folder, RUNS[name]))
        return made[name]

    return recording


def record(folder: Path, args: list[str]) -> Watch:
    here = Path.cwd()
    os.chdir(folder)
    try:
        with watching(folder) as watch:
            assert main(fit.fit, args) == 0
        return watch
    finally:
        os.chdir(here)


def run_of(folder: Path, name: str) -> Path:
    """The latest run."""
    versions = sorted(folder.glob(f"lightning_logs/{name}/version_*"), key=lambda path: int(path.name[8:]))
    return versions[-1] if versions else folder / "lightning_logs" / name / "version_0"


def unlike(run: Path, other: Path) -> list[str]:
    """What is different between two finished runs, in what they hold and in which files there are."""
    found = differences(run, other)
    for folder in (".", "best"):
        found += [f"{folder}: {tag} is only in one" for tag in sorted(tags(run / folder) ^ tags(other / folder))]
    found += [f"best: {place}" for place in unequal(scalars(run / "best"), scalars(other / "best"))]
    names = [
        {path.relative_to(folder) for path in folder.rglob("*") if "tfevents" not in path.name}
        for folder in (run, other)
    ]
    return found + [f"file {name}" for name in sorted(names[0] ^ names[1])]


def tags(folder: Path) -> set[tuple[str, int]]:
    """What is in TensorBoard's files beside numbers: names and steps."""
    return {
        (value.tag, event.step)
        for path in folder.glob("events.out.tfevents.*")
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name != "scalars"
    }


def resume(moment: Moment, folder: Path, name: str, command: Command) -> list[str]:
    """Go on in a new folder with what a crash has left: the command's error, if any."""
    if not folder.exists():
        write_folder(moment, folder)
    os.chdir(folder)
    done = command("fit", *RUNS[name], "--resume")
    return [] if (done.status, done.err) == (0, "") else [f"exit {done.status}: {done.err}"]


@pytest.mark.parametrize("name", RUNS)
def test_the_runs_have_in_them_what_a_crash_could_break(name: str, recordings: Recordings) -> None:
    recording = recordings(name)
    moments = recording.watch.moments
    assert len(recording.watch.events) > 150
    assert len(moments) > 50
    for before, after in pairwise(moments):
        changed = [p for p in {**before.files, **after.files} if before.files.get(p, 0) != after.files.get(p, 0)]
        changed = [path for path in changed if "tfevents" not in path.name]
        renamed = " replace " in after.event and len(changed) == 2
        assert len(changed) <= 1 or renamed, f"{before.event}, {after.event}: what is between them is not tried"
    assert any(moment.event.startswith("after unlink epoch000") for moment in moments)
    assert sum(" bytes of a checkpoint" in moment.event for moment in moments) >= 12
    rates = {rate for _, rate in scalars(recording.run)["lr"]}
    assert len(rates) >= 2
    last = torch.load(recording.run / "checkpoints" / "last.ckpt", weights_only=True)
    stopped = json.loads((recording.run / "summary.json").read_text())["stopped"]
    ends = {"cnn": (5, "val/loss has not fallen for 1 evaluation"), "run": (4, "trainer.max_steps 4 reached")}
    assert (last["global_step"], stopped) == ends[name]


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_crashed_at_any_moment_goes_on_to_the_same_end(
    name: str, part: int, recordings: Recordings, command: Command, tmp_path: Path
) -> None:
    recording, wrong = recordings(name), []
    for place, moment in enumerate(recording.watch.moments):
        if place % (PARTS * STRIDE) == part * STRIDE:
            folder = tmp_path / str(moment.number)
            if found := resume(moment, folder, name, command) or unlike(recording.run, run_of(folder, name)):
                wrong.append(f"event {moment.number}, {moment.event}: {'; '.join(found)[:500]}")
    assert not wrong


@pytest.mark.parametrize("seed", range(6))
def test_a_run_that_crashed_twice_goes_on_to_the_same_end(
    seed: int, recordings: Recordings, command: Command, tmp_path: Path
) -> None:
    recording, chance = recordings("run"), random.Random(seed)
    first = chance.choice(recording.watch.moments)
    folder = tmp_path / "first"
    write_folder(first, folder)
    with watching(folder) as watch:
        assert not resume(first, folder, "run", command)
    for second in chance.sample(watch.moments, min(2, len(watch.moments))):
        folder = tmp_path / f"second_{second.number}"
        found = resume(second, folder, "run", command) or unlike(recording.run, run_of(folder, "run"))
        assert not found, f"event {first.number}, {first.event}; then event {second.number}, {second.event}"


def test_what_a_crash_left_of_a_logged_value_is_no_part_of_the_log(
    recordings: Recordings, command: Command, tmp_path: Path
) -> None:
    recording = recordings("run")
    moment = next(m for m in recording.watch.moments if m.event == "after replace .last.ckpt.part")
    events = next(path for path in moment.files if "tfevents" in path.name and path.parent.name == "version_0")
    whole = (recording.run / events.name).read_bytes()
    before = moment.files[events]
    assert before is not None
    assert whole.startswith(before)
    moment = replace(moment, files={**moment.files, events: whole[: len(before) + 30]})
    assert not resume(moment, tmp_path / "torn", "run", command)
    assert not unlike(recording.run, run_of(tmp_path / "torn", "run"))


# ---- a run that came to its end, and is made longer

LONGER = [
    *("--model", "tests.noisy.Noisy", "--data", "tests.noisy.NoisyData"),  # six steps an epoch
    *("--optimizer", "torch.optim.AdamW", "--optimizer.lr", "0.02"),
    *("--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"),
]
SCHEDULES = {
    "none": [],
    "StepLR": ["--lr_scheduler", "torch.optim.lr_scheduler.StepLR", "--lr_scheduler.step_size", "1"],
    "ReduceLROnPlateau": [
        *("--lr_scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"),
        *("--lr_scheduler.patience", "0", "--lr_scheduler.threshold", "0.5"),
    ],
}


def longer(command: Command, options: list[str], first: list[str], then: list[str]) -> tuple[Path, Path]:
    """A run that is as long as `then` says from the start, and one that is made so when it has ended."""
    for args in (["--name", "at_once", *then], ["--name", "in_two", *first], ["--name", "in_two", "--resume", *then]):
        done = command("fit", *LONGER, *options, *args)
        assert (done.status, done.err) == (0, "")
    return Path("lightning_logs/at_once/version_0"), Path("lightning_logs/in_two/version_0")


def changed_at(step: int) -> list[str]:
    """All that is different when a config has been changed on the way."""
    return [f".: ('config/text_summary', {step}) is only in one", f"file config_until_step{step:06d}.yaml"]


@pytest.mark.parametrize(("schedule", "rates"), [("none", 1), ("StepLR", 4), ("ReduceLROnPlateau", 3)])
def test_a_finished_run_that_is_given_more_epochs_is_one_that_had_them_from_the_start(
    schedule: str, rates: int, command: Command
) -> None:
    two, four = (["--trainer.max_epochs", count] for count in ("2", "4"))
    at_once, in_two = longer(command, SCHEDULES[schedule], two, four)
    assert len({rate for _, rate in scalars(at_once).get("lr", [(0, 0.02)])}) == rates
    assert unlike(at_once, in_two) == changed_at(12)


@pytest.mark.parametrize("schedule", ["none", "StepLR"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_ended_within_an_epoch_and_is_given_more_steps_is_one_that_had_them_from_the_start(
    schedule: str, accumulate: int, command: Command
) -> None:
    options = [*SCHEDULES[schedule], "--trainer.accumulate_grad_batches", str(accumulate)]
    seven, twelve = (["--trainer.max_steps", count] for count in ("7", "12"))
    at_once, in_two = longer(command, options, seven, twelve)
    assert unlike(at_once, in_two) == changed_at(7)


def test_a_run_that_was_out_of_time_and_is_given_more_takes_the_same_steps(command: Command) -> None:
    options = ["--trainer.max_steps", "12", "--data.pause", "0.03"]
    second, hour = (["--trainer.max_time", f"00:{time}"] for time in ("00:00:01", "01:00:00"))
    at_once, in_two = longer(command, options, second, hour)
    (until,) = in_two.glob("config_until_step*.yaml")
    assert 1 <= int(until.stem[-6:]) < 12
    one, other = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (at_once, in_two))
    for key in ("global_step", "epoch", "state_dict", "optimizer_states"):
        assert unequal(one[key], other[key]) == []
    one, other = scalars(at_once), scalars(in_two)
    for name in ("train/loss_step", "train/acc_step"):
        assert len(one[name]) == 12
        assert one[name] == other[name]


# ---- what other callbacks bring

STEPWISE = [*LONGER, "--checkpoint.every_n_train_steps", "2", "--trainer.max_epochs", "2", "--name", "noisy"]
AVERAGE = "{class_path: lightning.pytorch.callbacks.EMAWeightAveraging}"
ACCUMULATE = "{class_path: lightning.pytorch.callbacks.GradientAccumulationScheduler, init_args: {scheduling: {1: 2}}}"


@pytest.mark.parametrize("callback", [pytest.param(AVERAGE, id="average"), pytest.param(ACCUMULATE, id="accumulate")])
def test_what_a_callback_does_to_the_training_lasts(callback: str, command: Command, tmp_path: Path) -> None:
    args = [*STEPWISE, "--trainer.callbacks", f"[{callback}]"]
    folder = tmp_path / "whole"
    folder.mkdir()
    watch = record(folder, args)
    saved = [moment for moment in watch.moments if moment.event == "after replace .last.ckpt.part"]
    for moment in saved[-4:-1]:
        write_folder(moment, tmp_path / str(moment.number))
        os.chdir(tmp_path / str(moment.number))
        assert command("fit", *args, "--resume").status == 0
        assert unlike(run_of(folder, "noisy"), run_of(Path.cwd(), "noisy")) == []


# ---- what a run leaves beside its checkpoints


@pytest.mark.pictures
def test_a_run_that_crashed_after_its_last_step_has_its_pictures_in_tensorboard(command: Command) -> None:
    assert command("fit", *SMALL).status == 0
    run = Path("lightning_logs/cnn/version_0")
    there = tags(run)
    assert {"__run_graph__", "mistakes", "confusion_matrix", "inputs/stored"} <= {name for name, _ in there}
    (run / "summary.json").unlink()
    assert command("fit", *SMALL, "--resume").status == 0
    assert tags(run) == there


def test_a_command_that_adds_a_callback_adds_it_once_when_the_run_goes_on(command: Command) -> None:
    args = [*LONGER, "--trainer.max_steps", "7", "--trainer.callbacks+", "tests.scripts.test_crash.EveryHook"]
    assert command("fit", *args).status == 0
    Path("lightning_logs/run/version_0/summary.json").unlink()
    done = command("fit", *args, "--resume")
    assert done.status == 0
    assert "changed:" not in done.out
