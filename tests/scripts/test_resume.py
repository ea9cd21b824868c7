"""Going on with a run: which one, from which file, with which config, and what is said about it."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule

from modules import Classifier
from runs import Run
from scripts import fit
from scripts.main import main
from tests.conftest import CNN, SMALL, Command, Result
from tests.noisy import Noisy
from tests.same import differences, scalars, unequal

NOISY = [  # six steps an epoch
    *("--model", "tests.noisy.Noisy", "--data", "tests.noisy.NoisyData"),
    *("--optimizer", "torch.optim.AdamW", "--optimizer.lr", "0.02", "--trainer.max_epochs", "3"),
    *("--checkpoint.every_n_train_steps", "5", "--checkpoint.save_top_k", "-1"),
    *("--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"),
]
NAMED = [*NOISY, "--name", "noisy"]
RUN = Path("lightning_logs/noisy/version_0")
Files = dict[Path, tuple[bytes, int]]


class Crash(Exception):
    """Ends a run in its middle."""


@contextmanager
def crash(module: type[LightningModule], step: int) -> Iterator[None]:
    """Let the training of a module break off before a step."""
    training_step: Any = module.training_step

    def broken(self: LightningModule, *args: Any) -> Any:
        if self.trainer.global_step == step:
            raise Crash
        return training_step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "training_step", broken)
        with pytest.raises(Crash):
            yield


def in_a_folder(folder: Path, work: Callable[[], Any]) -> None:
    here = Path.cwd()
    os.chdir(folder)
    try:
        work()
    finally:
        os.chdir(here)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has interrupted; to read, not to change."""
    folder = tmp_path_factory.mktemp("whole")
    in_a_folder(folder, lambda: main(fit.fit, NAMED))
    return folder / RUN


@pytest.fixture(scope="module")
def cut_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, broken off in its third epoch before step 16; `last.ckpt` is that of step 15."""
    folder = tmp_path_factory.mktemp("cut")
    with crash(Noisy, 16):
        in_a_folder(folder, lambda: main(fit.fit, NAMED))
    return folder / RUN


@pytest.fixture
def cut(cut_run: Path) -> Path:
    """That run's folder here, to go on with."""
    return Path(shutil.copytree(cut_run, RUN))


@pytest.fixture(scope="module")
def small_cut_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `configs/cnn.yaml` with other keys, broken off in its second epoch."""
    folder = tmp_path_factory.mktemp("small")
    with crash(Classifier, 25):
        in_a_folder(folder, lambda: main(fit.fit, SMALL))
    return folder / "lightning_logs" / "cnn" / "version_0"


@pytest.fixture
def small_cut(small_cut_run: Path) -> Path:
    return Path(shutil.copytree(small_cut_run, "lightning_logs/cnn/version_0"))


def files_of(folder: Path) -> Files:
    """All files but the lock, in which the last process that trained has its number."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def last(run: Path) -> Any:
    return load(run / "checkpoints" / "last.ckpt")


def rate(run: Path) -> float:
    """The learning rate that the run's last step had."""
    return last(run)["optimizer_states"][0]["param_groups"][0]["lr"]


def lines(result: Result, start: str) -> list[str]:
    return [line for line in result.out.splitlines() if line.startswith(start)]


def versions(name: str = "noisy") -> list[str]:
    return sorted(path.name for path in Path("lightning_logs", name).iterdir())


def assert_goes_on(result: Result, run: Path | str, step: int | None = None) -> None:
    """The command went on with that run, from that step, to its end."""
    assert (result.status, result.err) == (0, ""), result.out + result.err
    (line,) = lines(result, "going on with ")
    assert f"going on with {run} from " in line
    if step is not None:
        assert line.endswith(f" step {step}")
    assert Path(run, "summary.json").is_file()


def assert_refused(result: Result, *parts: str, status: int = 2) -> None:
    """One line on stderr with all `parts`."""
    assert result.status == status, result.out + result.err
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1, result.err
    for part in parts:
        assert part in result.err


# ---- which run


def test_an_unfinished_run_goes_on_to_the_end_that_it_would_have_had(cut: Path, whole: Path, command: Command) -> None:
    config = (cut / "config.yaml").read_bytes()
    assert not Run(cut).finished
    assert_goes_on(command("fit", *NAMED, "--resume"), cut, 15)
    assert versions() == ["version_0"]
    assert (cut / "config.yaml").read_bytes() == config
    assert not list(cut.glob("config_until*"))
    assert differences(cut, whole) == []


def test_no_step_is_in_tensorboard_twice(cut: Path, command: Command) -> None:
    assert max(step for step, _ in scalars(cut)["train/loss_step"]) == 15  # the last line in the log, and in no file
    assert command("fit", *NAMED, "--resume").status == 0
    logged = scalars(cut)
    del logged["epoch"]  # Lightning writes it beside each group of values
    for name, values in logged.items():
        assert max(Counter(step for step, _ in values).values()) == 1, name
    assert [step for step, _ in scalars(cut)["train/loss_step"]] == list(range(18))


@pytest.mark.parametrize("args", [["--resume", f"./{RUN}/"], ["--resume", "noisy"], ["--resume=lightning_logs/noisy"]])
def test_a_run_is_named_by_its_folder_or_its_recipe(args: list[str], cut: Path, whole: Path, command: Command) -> None:
    assert_goes_on(command("fit", *args), cut, 15)
    assert differences(cut, whole) == []
    assert versions() == ["version_0"]


def test_the_recipe_finds_its_run(small_cut: Path, command: Command, trained: Run) -> None:
    assert_goes_on(command("fit", *SMALL, "--resume"), small_cut)
    assert differences(small_cut, trained.folder) == []


@pytest.mark.parametrize("args", [["--config", CNN, "--resume"], ["--resume", "cnn"]])
def test_a_finished_run_is_said_to_be_so_and_stays_as_it_is(trained: Run, command: Command, args: list[str]) -> None:
    run = Path(shutil.copytree(trained.folder, "lightning_logs/cnn/version_0"))
    before = files_of(run)
    done = command("fit", *args)
    assert (done.status, done.err) == (0, "")
    assert f"{run} is finished: trainer.max_epochs 2 reached" in done.out
    assert "epoch   " not in done.out
    assert files_of(run) == before
    assert versions("cnn") == ["version_0"]


def test_a_run_that_was_stopped_early_stays_as_it_is(command: Command) -> None:
    early = [*NAMED, "--early_stopping.patience", "1", "--early_stopping.min_delta", "100"]
    assert command("fit", *early).status == 0
    before = files_of(RUN)
    assert len(Run(RUN).summary["stopped"]) > 0
    assert last(RUN)["global_step"] == 12
    done = command("fit", *early, "--resume")
    assert (done.status, done.err) == (0, "")
    assert "is finished: val/loss has not fallen for 1 evaluation" in done.out
    assert files_of(RUN) == before


def test_without_a_run_a_first_one_is_started(whole: Path, command: Command) -> None:
    done = command("fit", *NAMED, "--resume")
    assert (done.status, done.err) == (0, "")
    assert f"no run of noisy in {Path('lightning_logs').resolve()}: starting one" in done.out
    assert differences(RUN, whole) == []


def test_one_line_for_a_requeue_loop(whole: Path, command: Command) -> None:
    for step in (3, 8):
        with crash(Noisy, step):
            command("fit", *NAMED, "--resume")
    assert_goes_on(command("fit", *NAMED, "--resume"), RUN, 6)
    assert "is finished" in command("fit", *NAMED, "--resume").out
    assert versions() == ["version_0"]
    assert differences(RUN, whole) == []


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(whole: Path, command: Command) -> None:
    with crash(Noisy, 3):
        command("fit", *NAMED)
    done = command("fit", *NAMED, "--resume")
    assert (done.status, done.err) == (0, "")
    assert f"{RUN} has no checkpoint yet: it begins anew" in done.out
    assert versions() == ["version_0"]
    assert differences(RUN, whole) == []


def test_of_two_unfinished_runs_the_latest_goes_on(cut: Path, command: Command) -> None:
    for number in (9, 10):  # not in the order of the alphabet
        shutil.copytree(cut, cut.with_name(f"version_{number}"))
    before = [files_of(cut), files_of(cut.with_name("version_9"))]
    assert_goes_on(command("fit", *NAMED, "--resume"), cut.with_name("version_10"))
    assert [files_of(cut), files_of(cut.with_name("version_9"))] == before
    assert_goes_on(command("fit", *NAMED, "--resume"), cut.with_name("version_9"))  # the other one is finished now
    assert files_of(cut) == before[0]


def test_without_a_recipe_it_asks_for_one(command: Command) -> None:
    assert_refused(command("fit", "--resume"), "--resume", "--config FILE")


@pytest.mark.parametrize(
    ("place", "hint"),
    [("nosy", "'noisy'"), ("lightning_logs/noisy/version_1", "lightning_logs/noisy/version_0"), ("xyz", "noisy")],
)
def test_an_unknown_run_is_told_with_the_nearest_one(place: str, hint: str, cut: Path, command: Command) -> None:
    assert_refused(command("fit", *NAMED, "--resume", place), f"no run '{place}'", hint)
    assert versions() == ["version_0"]


def test_a_folder_that_is_no_run_is_refused(cut: Path, command: Command) -> None:
    assert_refused(command("fit", "--resume", cut / "checkpoints"), "checkpoints", "no config.yaml")


# ---- a run that another process trains

HOLD = """
import fcntl, json, os, socket, sys
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.truncate(0)
file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "launch": ""}))
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(run: Path) -> Iterator[int]:
    """Another process that trains a run, as far as its lock says."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate(timeout=60)


def test_a_run_that_another_process_trains_is_refused_by_name(cut: Path, command: Command) -> None:
    before = files_of(cut)
    with held(cut) as pid:
        for place in (str(cut), "noisy"):
            assert_refused(command("fit", "--resume", place), str(cut), "is being trained right now", f"process {pid}")
        assert files_of(cut) == before
    assert_goes_on(command("fit", "--resume", cut), cut)  # the lock ends with the process, not with the file


def test_a_run_that_another_process_trains_is_left_to_it(cut: Path, command: Command) -> None:
    other = Path(shutil.copytree(cut, cut.with_name("version_1")))
    before = files_of(other)
    with held(other):
        assert_goes_on(command("fit", *NAMED, "--resume"), cut)
        done = command("fit", *NAMED, "--resume")  # nothing is left for this process, and not all is done
        assert (done.status, done.out) == (2, "")
        assert f"{other}: is being trained right now, by process" in done.err
        assert files_of(other) == before
    assert versions() == ["version_0", "version_1"]


def test_when_another_process_trains_the_only_run_no_second_one_is_started(cut: Path, command: Command) -> None:
    with held(cut):
        done = command("fit", *NAMED, "--resume")
    assert (done.status, done.out) == (2, "")
    assert f"error: {cut}: is being trained right now, by process" in done.err
    assert versions() == ["version_0"]


def test_a_run_holds_its_lock_while_it_trains(cut: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    try_lock = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    status = []

    def on_train_start(self: Noisy) -> None:
        status.append(
            subprocess.run(
                [sys.executable, "-c", try_lock, str(cut / ".lock")], check=False, stderr=subprocess.DEVNULL, timeout=60
            ).returncode
        )

    monkeypatch.setattr(Noisy, "on_train_start", on_train_start)
    assert_goes_on(command("fit", "--resume", cut), cut)
    assert status == [1]
    with (cut / ".lock").open("r+") as file:
        holder = json.loads(file.read())
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # and no longer
    assert holder["pid"] == os.getpid()


# ---- keys on the command line


def test_keys_on_the_command_line_win_and_are_said(cut: Path, command: Command) -> None:
    config = (cut / "config.yaml").read_bytes()
    assert last(cut)["optimizer_states"][0]["param_groups"][0]["lr"] == 0.02
    done = command("fit", *NAMED, "--resume", "--optimizer.lr", "0.005", "--early_stopping.patience", "3")
    assert_goes_on(done, cut, 15)
    assert lines(done, "changed: ") == [
        "changed: optimizer.lr 0.02 → 0.005",
        "changed: early_stopping.patience 10 → 3",
    ] or lines(done, "changed: ") == ["changed: early_stopping.patience 10 → 3", "changed: optimizer.lr 0.02 → 0.005"]
    assert (cut / "config_until_step000015.yaml").read_bytes() == config
    new, old = yaml.safe_load((cut / "config.yaml").read_text()), yaml.safe_load(config)
    assert (new["optimizer"]["init_args"]["lr"], new["early_stopping"]["patience"]) == (0.005, 3)
    old["optimizer"]["init_args"]["lr"], old["early_stopping"]["patience"] = 0.005, 3
    assert new == old
    assert rate(cut) == 0.005
    (stopping,) = (state for name, state in last(cut)["callbacks"].items() if name.startswith("EarlyStopping"))
    assert stopping["patience"] == 3


def test_a_learning_rate_of_nothing_keeps_the_weights(cut: Path, command: Command) -> None:
    before = last(cut)["state_dict"]
    options = ["--optimizer.lr", "0", "--optimizer.weight_decay", "0"]
    assert_goes_on(command("fit", "--resume", cut, *options), cut, 15)
    after = last(cut)
    assert after["global_step"] == 18
    for name in ("net.0.weight", "net.0.bias", "net.4.weight", "net.4.bias"):
        assert torch.equal(after["state_dict"][name], before[name]), name


def test_another_weight_decay_is_used_and_the_rate_stays(cut: Path, command: Command) -> None:
    done = command("fit", "--resume", cut, "--optimizer.weight_decay", "0.25")
    assert_goes_on(done, cut, 15)
    assert lines(done, "changed: ") == ["changed: optimizer.weight_decay 0.01 → 0.25"]
    (group,) = last(cut)["optimizer_states"][0]["param_groups"]
    assert (group["weight_decay"], group["lr"]) == (0.25, 0.02)


def test_another_patience_stops_the_run(cut: Path, command: Command) -> None:
    options = ["--early_stopping.min_delta", "100", "--early_stopping.patience", "1", "--trainer.max_epochs", "9"]
    assert_goes_on(command("fit", "--resume", cut, *options), cut, 15)
    assert Run(cut).summary["stopped"] == "val/loss has not fallen for 1 evaluation"
    assert last(cut)["global_step"] == 18


def test_the_same_keys_again_are_no_change(cut: Path, whole: Path, command: Command) -> None:
    config = (cut / "config.yaml").read_bytes()
    options = ["--optimizer.lr=0.02", "--early_stopping.patience", "10", "--trainer.max_epochs=3"]
    done = command("fit", "--resume", cut, *options)
    assert_goes_on(done, cut, 15)
    assert "changed:" not in done.out
    assert (cut / "config.yaml").read_bytes() == config
    assert differences(cut, whole) == []


def test_a_config_that_changes_twice_is_kept_twice(cut: Path, command: Command) -> None:
    with crash(Noisy, 17):
        command("fit", "--resume", cut, "--optimizer.lr", "0.01", "--checkpoint.every_n_train_steps", "1")
    assert_goes_on(command("fit", "--resume", cut, "--optimizer.lr", "0.003"), cut)
    kept = sorted(cut.glob("config_until_step*.yaml"))
    rates = [yaml.safe_load(path.read_text())["optimizer"]["init_args"]["lr"] for path in [*kept, cut / "config.yaml"]]
    assert rates == [0.02, 0.01, 0.003]
    assert kept[0].stem.endswith("000015")
    assert rate(cut) == 0.003


def test_a_wrong_key_is_told_before_anything_is_changed(cut: Path, command: Command) -> None:
    before = files_of(cut)
    assert_refused(command("fit", "--resume", cut, "--optimizer.lrr", "1"), "optimizer.lrr", "'optimizer.lr'")
    assert_refused(command("fit", "--resume", cut, "--trainer.max_epochs", "1"), "trainer.max_epochs", "less than")
    assert files_of(cut) == before


def test_more_epochs_are_those_of_a_longer_run(command: Command) -> None:
    constant = [*SMALL, "--lr_scheduler", "null"]
    assert command("fit", *constant, "--name", "at_once").status == 0
    assert command("fit", *constant, "--name", "in_two", "--trainer.max_epochs", "1").status == 0
    done = command("fit", *constant, "--name", "in_two", "--resume")
    assert lines(done, "changed: ") == ["changed: trainer.max_epochs 1 → 2"]
    assert "epoch   0 " not in done.out
    runs = [Path("lightning_logs", name, "version_0") for name in ("in_two", "at_once")]
    assert differences(*runs) == []


def test_less_epochs_than_are_done_are_no_reason_to_train(trained: Run, command: Command) -> None:
    run = Path(shutil.copytree(trained.folder, "lightning_logs/cnn/version_0"))
    before = files_of(run)
    assert_refused(command("fit", "--resume", run, "--trainer.max_epochs", "1"), "trainer.max_epochs: 1", str(run))
    assert files_of(run) == before


# ---- the recipe's file is another one by now


@pytest.fixture(scope="module")
def recipe_and_run(tmp_path_factory: pytest.TempPathFactory, cut_run: Path) -> Path:
    """A folder with a recipe, `mine.yaml`, and its run, which was broken off like the other one."""
    folder = tmp_path_factory.mktemp("recipe")
    config = yaml.safe_load((cut_run / "config.yaml").read_text())
    del config["name"]
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    with crash(Noisy, 16):
        in_a_folder(folder, lambda: main(fit.fit, ["--config", "mine.yaml"]))
    return folder


@pytest.fixture
def recipe(recipe_and_run: Path) -> Path:
    shutil.copytree(recipe_and_run, ".", dirs_exist_ok=True)
    return Path("mine.yaml")


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a YAML, written `a__b`."""
    config = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        *groups, name = key.split("__")
        node = config
        for group in groups:
            node = node[group]
        node[name] = value
    path.write_text(yaml.safe_dump(config))


def test_what_the_recipe_has_otherwise_is_noted_and_not_used(recipe: Path, whole: Path, command: Command) -> None:
    run = Path("lightning_logs/mine/version_0")
    config = (run / "config.yaml").read_bytes()
    edit(recipe, optimizer__init_args__lr=0.5, trainer__max_epochs=9)
    done = command("fit", "--config", recipe, "--resume")
    assert_goes_on(done, run, 15)
    (note,) = lines(done, "note: ")
    assert note.startswith("note: not as in mine.yaml, the run keeps its ")
    assert "optimizer.lr 0.02 (not 0.5)" in note
    assert "trainer.max_epochs 3 (not 9)" in note
    assert "changed:" not in done.out
    assert (run / "config.yaml").read_bytes() == config
    assert rate(run) == 0.02
    assert differences(run, whole) == []


def test_a_key_on_the_command_line_is_no_difference_to_the_recipe(recipe: Path, command: Command) -> None:
    run = Path("lightning_logs/mine/version_0")
    edit(recipe, optimizer__init_args__lr=0.5)
    done = command("fit", "--config", recipe, "--resume", "--optimizer.lr", "0.25")
    assert_goes_on(done, run)
    assert lines(done, "note: ") == []
    assert lines(done, "changed: ") == ["changed: optimizer.lr 0.02 → 0.25"]
    assert rate(run) == 0.25


def test_many_differences_are_counted(small_cut: Path, command: Command, trained: Run) -> None:
    Path("more.yaml").write_text("seed_everything: 5\ncheckpoint: {save_top_k: 7}\ntrainer: {gradient_clip_val: 2.0}\n")
    done = command("fit", "--config", CNN, "--config", "more.yaml", "--resume")
    assert_goes_on(done, small_cut)
    (note,) = lines(done, "note: ")
    assert ", 2 more; " in note  # width, depth and epochs, and those three
    assert differences(small_cut, trained.folder) == []


@pytest.mark.parametrize("how", ["broken", "gone", "another class"])
def test_a_recipe_that_can_not_be_used_any_more_is_noted(how: str, recipe: Path, whole: Path, command: Command) -> None:
    if how == "broken":
        recipe.write_text("model: [\n")
    elif how == "gone":
        recipe.unlink()
    else:
        edit(recipe, model__class_path="tests.noisy.Gone")
    run = Path("lightning_logs/mine/version_0")
    done = command("fit", "--config", recipe, "--resume")
    assert_goes_on(done, run, 15)
    (note,) = lines(done, "note: ")
    assert "mine.yaml can't be used any more (" in note
    assert differences(run, whole) == []


# ---- what is in a checkpoint does not count where the config says something


def tamper(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the content of all checkpoints of a run."""
    for path in (run / "checkpoints").glob("*.ckpt"):
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        state = load(path)
        change(state)
        torch.save(state, path)
        os.utime(path, ns=times)


def set_rate(state: dict[str, Any], value: float) -> None:
    for group in state["optimizer_states"][0]["param_groups"]:
        group.update(lr=value, weight_decay=value)


def set_record(state: dict[str, Any], value: float) -> None:
    """What the checkpoint says of the time when the optimizer was new."""
    for group in state["callbacks"]["Resume"]["groups"][0]:
        group.update(lr=value, weight_decay=value)


def test_the_rate_of_the_config_counts_and_not_that_of_the_checkpoint(cut: Path, whole: Path, command: Command) -> None:
    def change(state: dict[str, Any]) -> None:
        set_rate(state, 99.0)
        set_record(state, 99.0)

    tamper(cut, change)
    assert_goes_on(command("fit", "--resume", cut), cut, 15)
    assert rate(cut) == 0.02
    assert unequal(last(cut)["state_dict"], last(whole)["state_dict"]) == []


@pytest.mark.parametrize("record", [False, True])
def test_a_rate_on_the_command_line_beats_that_of_the_checkpoint(record: bool, cut: Path, command: Command) -> None:
    def change(state: dict[str, Any]) -> None:
        set_rate(state, 99.0)
        if record:
            set_record(state, 99.0)

    tamper(cut, change)
    options = ["--optimizer.lr", "0.005", "--optimizer.weight_decay", "0.125"]
    assert_goes_on(command("fit", "--resume", cut, *options), cut, 15)
    (group,) = last(cut)["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["weight_decay"]) == (0.005, 0.125)


def test_hyper_parameters_in_a_checkpoint_do_not_count(cut: Path, whole: Path, command: Command) -> None:
    def change(state: dict[str, Any]) -> None:
        state["hyper_parameters"] = {"optimizer": {"lr": 99.0}, "trainer.max_epochs": 1, "pause": 9.0}
        state["datamodule_hyper_parameters"] = {"batch_size": 1, "train": 3}

    tamper(cut, change)
    assert_goes_on(command("fit", "--resume", cut), cut, 15)
    assert unequal(last(cut)["state_dict"], last(whole)["state_dict"]) == []
    assert rate(cut) == 0.02


def test_the_patience_in_a_checkpoint_does_not_count(cut: Path, whole: Path, command: Command) -> None:
    def change(state: dict[str, Any]) -> None:
        for name, callback in state["callbacks"].items():
            if name.startswith("EarlyStopping"):
                callback["patience"] = 0

    tamper(cut, change)
    assert_goes_on(command("fit", "--resume", cut), cut, 15)
    assert unequal(last(cut), last(whole)) == []


def test_a_model_of_another_shape_is_refused_with_the_first_tensor(small_cut: Path, command: Command) -> None:
    before = files_of(small_cut)
    done = command("fit", "--resume", small_cut, "--model.net.width", "4")
    weights = last(small_cut)["state_dict"]
    first = next(name for name, value in weights.items() if value.ndim > 1)
    assert_refused(done, first, str(tuple(weights[first].shape)), "last.ckpt", "does not fit")
    assert files_of(small_cut) == before


# ---- damaged files


def flip(path: Path) -> None:
    """One bit, in the largest tensor."""
    with zipfile.ZipFile(path) as file:
        info = max(file.infolist(), key=lambda info: info.file_size if "/data/" in info.filename else 0)
    data = bytearray(path.read_bytes())
    header = info.header_offset
    names = int.from_bytes(data[header + 26 : header + 28], "little") + int.from_bytes(
        data[header + 28 : header + 30], "little"
    )
    data[header + 30 + names + info.file_size // 2] ^= 1
    rewrite(path, bytes(data))


def truncate(path: Path) -> None:
    rewrite(path, path.read_bytes()[:-100])


def empty(path: Path) -> None:
    rewrite(path, b"")


def rewrite(path: Path, data: bytes) -> None:
    """With the time of its last change, as a disk does it."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(data)
    os.utime(path, ns=times)


def weights_alone(path: Path) -> None:
    torch.save({"state_dict": load(path)["state_dict"]}, path)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (flip, "checksum"),
        (truncate, "damaged"),
        (empty, "0 bytes"),
        (weights_alone, "weights only"),
    ],
)
def test_after_a_damaged_last_checkpoint_the_newest_whole_one_is_used(
    damage: Callable[[Path], None], why: str, cut: Path, whole: Path, command: Command
) -> None:
    path = cut / "checkpoints" / "last.ckpt"
    damage(path)
    done = command("fit", *NAMED, "--resume")
    assert_goes_on(done, cut, 12)
    (warning,) = lines(done, "warning: ")
    assert str(path) in warning
    assert why in warning
    assert "from epoch001-step000012.ckpt" in done.out
    assert differences(cut, whole) == []


def test_a_missing_last_checkpoint_is_no_reason_to_begin_anew(cut: Path, whole: Path, command: Command) -> None:
    (cut / "checkpoints" / "last.ckpt").unlink()
    assert_goes_on(command("fit", *NAMED, "--resume"), cut, 12)
    assert differences(cut, whole) == []


def test_each_damaged_one_is_named(cut: Path, whole: Path, command: Command) -> None:
    names = ["last.ckpt", "epoch001-step000012.ckpt"]
    for name in names:
        flip(cut / "checkpoints" / name)
    done = command("fit", *NAMED, "--resume")
    assert_goes_on(done, cut, 6)
    for name in names:
        assert any(name in line for line in lines(done, "warning: "))
    assert differences(cut, whole) == []


def test_when_all_are_damaged_nothing_is_changed(cut: Path, command: Command) -> None:
    paths = sorted((cut / "checkpoints").glob("*.ckpt"))
    assert len(paths) == 3
    for path in paths:
        truncate(path)
    before = files_of(cut)
    for args in ([*NAMED, "--resume"], ["--resume", cut, "--optimizer.lr", "0.5"]):
        assert_refused(command("fit", *args), str(cut), "no checkpoint to go on from", *(path.name for path in paths))
        assert files_of(cut) == before
    assert versions() == ["version_0"]


# ---- a run that is elsewhere by now


@pytest.mark.parametrize("place", ["moved", "größe & maß/ein Lauf/№ 1"])
def test_a_run_that_was_moved_goes_on_where_it_is(place: str, cut: Path, whole: Path, command: Command) -> None:
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    cut.rename(place)
    assert_goes_on(command("fit", "--resume", place), place, 15)
    assert differences(Path(place), whole) == []
    assert list(Path("lightning_logs/noisy").iterdir()) == []
    assert Run(place).checkpoint("best").is_relative_to(place)


def test_a_run_goes_on_from_within_its_folder(cut: Path, whole: Path, command: Command) -> None:
    os.chdir(cut)
    assert_goes_on(command("fit", "--resume", "."), ".", 15)
    assert differences(Path(), whole) == []
    assert {path.name for path in Path().iterdir() if path.is_dir()} == {"checkpoints", "best"}


def test_a_renamed_recipe_has_its_runs(cut: Path, whole: Path, command: Command) -> None:
    cut.parent.rename("lightning_logs/neu gemacht")
    assert_goes_on(command("fit", *NOISY, "--name", "neu gemacht", "--resume"), "lightning_logs/neu gemacht/version_0")
    assert differences(Path("lightning_logs/neu gemacht/version_0"), whole) == []


def test_runs_are_found_under_a_relative_root(whole: Path, command: Command, tmp_path: Path) -> None:
    root = f"../{tmp_path.name}/out/"
    args = [*NAMED, "--trainer.default_root_dir", root]
    with crash(Noisy, 16):
        command("fit", *args)
    run = Path(root) / RUN
    assert_goes_on(command("fit", *args, "--resume"), run, 15)
    assert differences(run, whole) == []
    assert not Path("lightning_logs").exists()


def test_a_run_under_a_relative_root_is_named_by_its_folder_from_anywhere(whole: Path, command: Command) -> None:
    with crash(Noisy, 16):
        command("fit", *NAMED, "--trainer.default_root_dir", "out")
    os.chdir("out")
    assert_goes_on(command("fit", "--resume", RUN), RUN, 15)
    assert differences(RUN, whole) == []
    assert not Path("out").exists()


def test_runs_are_found_under_a_root_that_the_recipe_names(recipe: Path, command: Command) -> None:
    shutil.rmtree("lightning_logs")
    edit(recipe, trainer__default_root_dir="out")
    with crash(Noisy, 16):
        command("fit", "--config", recipe)
    run = Path("out/lightning_logs/mine/version_0")
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert_goes_on(command("fit", "--config", recipe, "--resume"), run, 15)


# ---- a new run from the weights of another one

STILL = [*NAMED, "--optimizer.lr", "0", "--optimizer.weight_decay", "0", "--trainer.max_steps", "1"]


def test_weights_are_taken_as_far_as_they_fit(cut_run: Path, command: Command) -> None:
    assert command("fit", *STILL).status == 0
    fresh, given = last(RUN)["state_dict"], last(cut_run)["state_dict"]
    del given["net.0.bias"]
    given["net.9.more"] = torch.zeros(3)
    given["net.4.weight"] = torch.zeros(3, 16)
    torch.save({"state_dict": given}, "given.ckpt")
    done = command("fit", *STILL, "--weights", "given.ckpt")
    assert (done.status, done.err) == (0, "")
    report = done.out[done.out.index("weights: ") :].splitlines()[:4]
    assert report[0].startswith(f"weights: {len(given) - 2} of {len(fresh)} tensors from given.ckpt, ")
    assert report[1:] == [
        "  missing: 1 (net.0.bias)",
        "  unexpected: 1 (net.9.more)",
        "  of another shape: 1 (net.4.weight (3, 16) → (2, 16))",
    ]
    used = last(RUN.with_name("version_1"))["state_dict"]
    for name in ("net.0.weight", "net.1.weight", "net.1.bias", "net.4.bias"):
        assert torch.equal(used[name], given[name]), name
        assert not torch.equal(used[name], fresh[name]), name
    for name in ("net.0.bias", "net.4.weight"):  # as new
        assert torch.equal(used[name], fresh[name]), name


def test_the_optimizer_and_the_counters_begin_anew(cut_run: Path, command: Command) -> None:
    path = cut_run / "checkpoints" / "last.ckpt"
    assert {float(state["step"]) for state in load(path)["optimizer_states"][0]["state"].values()} == {15.0}
    done = command("fit", *NAMED, "--weights", path, "--trainer.max_epochs", "1")
    assert (done.status, done.err) == (0, "")
    new = last(RUN)
    assert {float(state["step"]) for state in new["optimizer_states"][0]["state"].values()} == {6.0}
    assert (new["global_step"], new["epoch"]) == (6, 0)
    assert yaml.safe_load((RUN / "config.yaml").read_text())["weights"] == str(path)


def test_a_file_of_weights_alone_is_enough(cut_run: Path, command: Command) -> None:
    given = last(cut_run)["state_dict"]
    torch.save(given, "weights.pt")
    done = command("fit", *STILL, "--weights", "weights.pt")
    assert f"weights: {len(given)} of {len(given)} tensors from weights.pt, 100.0% of the parameters\n" in done.out
    assert torch.equal(last(RUN)["state_dict"]["net.0.weight"], given["net.0.weight"])


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ("nothing fits", ["--weights", "other.a", "net.0.weight"]),
        ("other shapes", ["--weights", "net.0.weight"]),
        ("missing", ["no such file"]),
        ("damaged", ["damaged"]),
        ("no tensors", ["no weights"]),
    ],
)
def test_weights_that_can_not_be_used_are_told_and_leave_no_run(
    how: str, parts: list[str], cut_run: Path, command: Command
) -> None:
    path, given = Path("given.ckpt"), last(cut_run)["state_dict"]
    if how == "nothing fits":
        torch.save({"state_dict": {"other.a": torch.zeros(3)}}, path)
    elif how == "other shapes":
        torch.save({"state_dict": {name: value.new_zeros(7, 7) for name, value in given.items()}}, path)
    elif how == "no tensors":
        torch.save({"state_dict": {"a": 3}}, path)
    elif how == "damaged":
        shutil.copy(cut_run / "checkpoints" / "last.ckpt", path)
        truncate(path)
    assert_refused(command("fit", *NAMED, "--weights", path), "given.ckpt", *parts)
    assert list(Path().rglob("config.yaml")) == []


def test_a_run_that_goes_on_has_its_own_weights(cut: Path, trained: Run, command: Command) -> None:
    before = files_of(cut)
    for args in ([*NAMED, "--resume"], ["--resume", cut]):
        done = command("fit", *args, "--weights", trained.checkpoint("last"))
        assert_refused(done, "--weights", str(cut), "leave --resume out")
        assert files_of(cut) == before


def test_a_requeue_loop_may_begin_with_weights(cut_run: Path, command: Command) -> None:
    args = [*NAMED, "--weights", str(cut_run / "checkpoints" / "last.ckpt")]
    assert command("fit", *args, "--name", "whole").status == 0
    for step in (3, 8):  # before there is a checkpoint, too: the weights are those of the file again
        with crash(Noisy, step):
            command("fit", *args, "--resume")
    done = command("fit", *args, "--resume")
    assert_goes_on(done, RUN)
    assert "weights: " not in done.out
    assert differences(RUN, Path("lightning_logs/whole/version_0")) == []


# ---- checkpoints that are not where they were


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_without_its_checkpoints_is_not_begun_anew(
    finished: bool, cut: Path, whole: Path, command: Command
) -> None:
    if finished:
        shutil.copytree(whole, cut, dirs_exist_ok=True)
    shutil.move(cut / "checkpoints", "elsewhere")
    before = files_of(cut)
    done = command("fit", "--resume", cut, "--trainer.max_epochs", "5")
    assert done.status == 2
    assert f"error: {cut / 'checkpoints'}: no checkpoint, and the run has come to epoch " in done.err
    assert files_of(cut) == before
    shutil.move("elsewhere", cut / "checkpoints")
    if not finished:
        assert_goes_on(command("fit", "--resume", cut), cut)


def test_weights_are_taken_from_a_run_by_its_folder(whole: Path, command: Command) -> None:
    done = command("fit", *NOISY, "--name", "new", "--weights", whole)
    assert (done.status, done.err) == (0, "")
    assert f"from {Run(whole).checkpoint()}" in done.out


def test_a_checkpoint_in_the_place_of_a_run_is_told(cut: Path, command: Command) -> None:
    done = command("fit", "--resume", cut / "checkpoints" / "last.ckpt")
    assert done.status == 2
    assert f"did you mean {cut}?" in done.err


def test_a_config_of_a_run_that_is_cut_short_is_named(cut: Path, command: Command) -> None:
    path = cut / "config.yaml"
    path.write_text(path.read_text().replace("save_top_k: -1", "save_top_k: -x"))
    done = command("fit", "--resume", cut)
    assert done.status == 2
    assert f"error: {path}: checkpoint.save_top_k: " in done.err


def test_another_optimizer_is_one_line_and_what_it_has_otherwise(cut: Path, command: Command) -> None:
    done = command("fit", "--resume", cut, "--optimizer", "torch.optim.SGD")
    assert_goes_on(done, cut)
    assert lines(done, "changed: ")[0] == "changed: optimizer torch.optim.AdamW → torch.optim.SGD"
    assert not any("nothing" in line for line in lines(done, "changed: "))
