"""Checkpoints and configs from elsewhere: nothing in them is executed, and nothing outside is read or removed."""

import dataclasses
import enum
import os
import pickle
import shutil
import socket
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from runs import Run
from runs.errors import UserError
from tests.conftest import SMALL, Command, Result
from tests.noisy import Noisy
from tests.same import unequal

RUN = Path("lightning_logs/cnn/version_0")
USES = ["resume", "weights", "test", "validate", "predict"]
Use = Callable[..., Result]


@pytest.fixture
def run(trained: Run) -> Path:
    """A run that has all its files but the last one."""
    shutil.copytree(trained.folder, RUN)
    (RUN / "summary.json").unlink()
    return RUN


@pytest.fixture
def use(run: Path, command: Command) -> Use:
    """Use a checkpoint in one of the ways in which a command takes it."""

    def used(how: str, path: str | Path) -> Result:
        if how == "weights":
            return command("fit", *SMALL, "--trainer.max_epochs", "1", "--name", "new", "--weights", path)
        if how != "resume":
            inputs = [scan()] if how == "predict" else []
            return command(how, run, *inputs, "--ckpt", path)
        for there in (run / "checkpoints").iterdir():  # no other one is left to go on from
            if there != Path(path):
                there.unlink()
        if Path(path).parent != run / "checkpoints":
            shutil.copy(path, run / "checkpoints" / "last.ckpt")
        return command("fit", "--resume", run)

    return used


def scan() -> Path:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("scan.png")
    return Path("scan.png")


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def change(run: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the content of all checkpoints of a run."""
    for path in (run / "checkpoints").glob("*.ckpt"):
        state = load(path)
        edit(state)
        torch.save(state, path)


def assert_refused(result: Result, *parts: str) -> None:
    """One line on stderr with all `parts`."""
    assert result.status == 2, result.out + result.err
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1, result.err
    for part in parts:
        assert part in result.err


# ---- checkpoints that hold code


class Malicious:
    """Makes a folder when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.marker,)


def as_zip(state: dict[str, Any], path: Path) -> None:
    torch.save(state, path)


def as_legacy_file(state: dict[str, Any], path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def as_pickle(state: dict[str, Any], path: Path) -> None:
    path.write_bytes(pickle.dumps(state["callbacks"], protocol=2))


def test_the_files_of_these_tests_would_execute_something(tmp_path: Path) -> None:
    for number, write in enumerate((as_zip, as_legacy_file)):
        write({"callbacks": Malicious(tmp_path / str(number))}, tmp_path / "evil.ckpt")
        torch.load(tmp_path / "evil.ckpt", weights_only=False)
        assert (tmp_path / str(number)).is_dir()
    as_pickle({"callbacks": Malicious(tmp_path / "2")}, tmp_path / "evil.ckpt")
    pickle.loads((tmp_path / "evil.ckpt").read_bytes())
    assert (tmp_path / "2").is_dir()


@pytest.mark.parametrize(
    ("write", "forced"), [(as_zip, False), (as_zip, True), (as_legacy_file, True), (as_pickle, True)]
)
@pytest.mark.parametrize("how", USES)
def test_a_checkpoint_with_code_in_it_is_refused(
    how: str,
    write: Callable[[dict[str, Any], Path], None],
    forced: bool,
    use: Use,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker, path = tmp_path / "executed", Path("evil.ckpt")
    state = load(run / "checkpoints" / "last.ckpt")
    state["callbacks"]["Record"] = Malicious(marker)
    write(state, path)
    name = "last.ckpt" if how == "resume" else "evil.ckpt"
    assert_refused(use(how, path), name, "refused", "posix.mkdir" if os.name == "posix" else "mkdir")
    assert not marker.exists(), "code from the file was executed"


def test_a_run_goes_on_from_a_checkpoint_without_code(run: Path, tmp_path: Path, command: Command) -> None:
    path = run / "checkpoints" / "last.ckpt"
    torch.save({**load(path), "extra": Malicious(tmp_path / "executed")}, path)
    done = command("fit", "--resume", run)
    assert (done.status, done.err) == (0, "")
    (warning,) = [line for line in done.out.splitlines() if line.startswith("warning: ")]
    assert f"{path}: refused" in warning
    assert "from epoch001-step000038.ckpt" in done.out
    assert not (tmp_path / "executed").exists()


def test_code_in_another_file_of_the_folder_is_not_executed(run: Path, tmp_path: Path, command: Command) -> None:
    for name in ("newer.ckpt", "hparams.yaml", "model.pt", "data.pkl"):
        torch.save({"state_dict": {}, "extra": Malicious(tmp_path / "executed")}, run / "checkpoints" / name)
    done = command("fit", "--resume", run)
    assert (done.status, done.err) == (0, "")
    assert not (tmp_path / "executed").exists()


# ---- checkpoints that name code


@pytest.fixture
def marker_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A module `marker_module`, and whether anybody has imported it."""
    folder = tmp_path.parent / f"{tmp_path.name}_elsewhere"
    folder.mkdir()
    marker = folder / "imported"
    text = f"open({str(marker)!r}, 'w').close()\nclass Evil:\n    pass\ndef make(*args, **kwargs):\n    return Evil()\n"
    (folder / "marker_module.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "marker_module", raising=False)

    def imported() -> bool:
        found = marker.exists() or "marker_module" in sys.modules
        sys.modules.pop("marker_module", None)
        return found

    return imported


@pytest.mark.parametrize("how", USES)
def test_classes_that_a_checkpoint_names_are_not_imported(
    how: str, run: Path, use: Use, marker_module: Callable[[], bool]
) -> None:
    named = {
        "_class_path": "marker_module.Evil",
        "_instantiator": "marker_module.make",
        "class_path": "marker_module.Evil",
        "net": {"class_path": "marker_module.Evil", "init_args": {}},
    }

    def edit(state: dict[str, Any]) -> None:
        state["hyper_parameters"] = state["datamodule_hyper_parameters"] = named
        state["hparams_name"] = state["datamodule_hparams_name"] = "marker_module.Evil"
        state["hparams_type"] = "marker_module.Evil"
        state["callbacks"]["marker_module.Evil"] = named
        state["Digits"] = {**state.get("Digits", {}), **named}
        state["callbacks"]["Resume"]["optimizers"] = ["marker_module.Evil"]

    change(run, edit)
    done = use(how, run / "checkpoints" / "last.ckpt")
    assert not marker_module()
    assert done.status == 0, done.err


# a value that is wrong anywhere, and looks like the name of something in a module
VALUES = [("--trainer.max_epochs", "marker_module.x"), ("--data.batch_size", "marker_module.Evil")]


@pytest.mark.parametrize(("key", "value"), VALUES)
def test_a_wrong_value_is_not_imported(
    key: str, value: str, command: Command, marker_module: Callable[[], bool]
) -> None:
    done = command("fit", *SMALL, key, value)
    imported = marker_module()
    assert_refused(done, key[2:], value)
    assert not imported


@pytest.mark.parametrize("script", ["fit", "test"])
def test_a_wrong_value_in_the_config_of_a_run_is_not_imported(
    script: str, run: Path, command: Command, marker_module: Callable[[], bool]
) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"]["max_epochs"] = "marker_module.x"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    done = command("fit", "--resume", run) if script == "fit" else command(script, run, "--ckpt", "last")
    imported = marker_module()
    assert_refused(done, "max_epochs", "marker_module.x")
    assert not imported


# ---- configs that hold code

EVIL_YAML = "trainer:\n  max_epochs: !!python/object/apply:os.mkdir [executed]\n"
TAGS = [
    EVIL_YAML,
    "name: !!python/object/new:os.mkdir [executed]\n",
    "model: !!python/name:os.mkdir\n",
    "data: !!python/module:antigravity\n",
    "? !!python/object/apply:os.mkdir [executed]\n: 3\n",
    "<<: !!python/object/apply:os.mkdir [executed]\nname: x\n",
]


@pytest.mark.parametrize("text", TAGS)
def test_a_config_with_code_in_it_is_refused(text: str, command: Command) -> None:
    Path("evil.yaml").write_text(text)
    for args in (["--config", "evil.yaml"], [*SMALL, "--config", "evil.yaml"], ["--config=evil.yaml", "--resume"]):
        assert_refused(command("fit", *args), "evil.yaml, line ")
    assert not Path("executed").exists()
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize("script", ["fit", "validate", "test", "predict", "python"])
def test_the_config_of_a_run_with_code_in_it_is_refused(script: str, run: Path, command: Command) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text() + "extra: !!python/object/apply:os.mkdir [executed]\n")
    if script == "python":
        with pytest.raises(UserError, match=r"python/object/apply:os\.mkdir is refused"):
            Run(run).load("last")
    else:
        args = {"fit": ["--resume", run], "predict": [run, scan()]}.get(script, [run])
        assert_refused(command(script, *args), "config.yaml, line ", "!!python/object/apply:os.mkdir")
    assert not Path("executed").exists()


@pytest.mark.parametrize("key", ["--model", "--data", "--trainer", "--optimizer", "--trainer.callbacks", "--name"])
def test_code_in_a_value_of_the_command_line_is_not_executed(key: str, command: Command) -> None:
    value = "!!python/object/apply:os.mkdir [executed]"
    Path("evil.yaml").write_text(EVIL_YAML)
    for given in (value, f"{{class_path: {value}}}", "evil.yaml"):
        if key == "--name" and given == "evil.yaml":  # a name like any other
            continue
        assert_refused(command("fit", *SMALL, "--trainer.max_epochs", "1", key, given))
        assert not Path("executed").exists()


# ---- places outside


@pytest.mark.parametrize("how", USES)
def test_a_file_with_names_that_lead_out_of_it_is_refused(how: str, use: Use, run: Path) -> None:
    path = Path("evil.ckpt")
    shutil.copy(run / "checkpoints" / "last.ckpt", path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/../../evil", b"x")
    assert_refused(use(how, path), "refused", "'archive/../../evil'")
    assert not list(Path().rglob("evil"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Who was asked for over the network."""
    asked: list[Any] = []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        raise OSError("no network in tests")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return asked


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/x.ckpt", "s3://bucket/x.ckpt"])
@pytest.mark.parametrize("how", [*USES, "config", "run"])
def test_an_address_is_refused_and_not_asked(
    how: str, address: str, run: Path, command: Command, offline: list[Any]
) -> None:
    args = {
        "resume": ["fit", *SMALL, "--resume", address],
        "weights": ["fit", *SMALL, "--weights", address],
        "predict": ["predict", run, scan(), "--ckpt", address],
        "config": ["fit", "--config", address],
        "run": ["test", address],
    }.get(how, [how, run, "--ckpt", address])
    assert_refused(command(*args), "x.ckpt")
    assert offline == []


def test_a_checkpoint_can_not_have_files_outside_removed(run: Path, command: Command, tmp_path: Path) -> None:
    victims = [
        *(tmp_path / name for name in ("x.ckpt", "lightning_logs/x.ckpt", "lightning_logs/cnn/x.ckpt")),
        *(run / name for name in ("x.ckpt", "extra.yaml")),
        tmp_path.parent / f"{tmp_path.name}.ckpt",
    ]
    for victim in victims:
        victim.write_text("mine")
    inside = run / "checkpoints" / "second.ckpt"
    inside.write_bytes(b"")
    folder = (run / "checkpoints").resolve()
    away = tmp_path / "elsewhere"
    away.mkdir()
    (away / "y.ckpt").write_text("mine")
    (folder / "link").symlink_to(away)

    def edit(state: dict[str, Any]) -> None:
        names = [str(victim.resolve()) for victim in victims] + [os.path.relpath(victim, folder) for victim in victims]
        (key,) = [key for key in state["callbacks"] if key.startswith("Checkpoint{")]
        state["callbacks"][key]["removed"] = [*names, "link/y.ckpt", "..", ".", "", "second.ckpt"]

    change_last(run, edit)
    done = command("fit", "--resume", run)
    assert (done.status, done.err) == (0, "")
    for victim in [*victims, away / "y.ckpt"]:
        assert victim.read_text() == "mine"
    assert not inside.exists()  # what is the run's own is removed


def change_last(run: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = run / "checkpoints" / "last.ckpt"
    state = load(path)
    edit(state)
    torch.save(state, path)


def best_is(name: str) -> Callable[[dict[str, Any]], None]:
    """An edit: this file is said to be the best checkpoint."""

    def edit(state: dict[str, Any]) -> None:
        (key,) = [key for key in state["callbacks"] if key.startswith("Checkpoint{")]
        state["callbacks"][key].update(
            best_model_path=name,
            kth_best_model_path=name,
            last_model_path=name,
            best_k_models={name: torch.tensor(0.0)},
        )

    return edit


@pytest.mark.parametrize("place", ["../../x.ckpt", "absolute"])
def test_a_best_checkpoint_outside_is_refused_by_a_run_that_goes_on(
    place: str, run: Path, command: Command, tmp_path: Path
) -> None:
    victim = tmp_path / "lightning_logs" / "cnn" / "x.ckpt"
    shutil.copy(run / "checkpoints" / "last.ckpt", victim)
    before = victim.read_bytes()
    change_last(run, best_is(str(victim) if place == "absolute" else place))
    assert_refused(command("fit", "--resume", run, "--trainer.max_epochs", "3"), "x.ckpt", "outside")
    assert victim.read_bytes() == before


@pytest.mark.parametrize("name", ["kth_best_model_path", "last_model_path"])
def test_other_names_outside_are_not_removed(name: str, run: Path, command: Command, tmp_path: Path) -> None:
    victim = tmp_path / "lightning_logs" / "cnn" / "x.ckpt"
    victim.write_text("mine")

    def edit(state: dict[str, Any]) -> None:
        (key,) = [key for key in state["callbacks"] if key.startswith("Checkpoint{")]
        state["callbacks"][key][name] = str(victim)

    change_last(run, edit)
    with suppress(KeyError):  # Lightning looks the name up among the best ones
        command("fit", "--resume", run, "--trainer.max_epochs", "3")
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    ("script", "place"), [("test", "../../x.ckpt"), ("validate", "absolute"), ("predict", "../../x.ckpt")]
)
def test_a_best_checkpoint_outside_is_not_read(
    script: str, place: str, run: Path, command: Command, tmp_path: Path
) -> None:
    victim = tmp_path / "lightning_logs" / "cnn" / "x.ckpt"
    shutil.copy(run / "checkpoints" / "last.ckpt", victim)
    change_last(run, best_is(str(victim) if place == "absolute" else place))
    inputs = [scan()] if script == "predict" else []
    assert_refused(command(script, run, *inputs))


# ---- what is written can be read, whatever it was made of


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


@dataclasses.dataclass
class Sizes:
    width: int = 3
    place: Path = Path("somewhere")


class Opaque:
    """An object that nobody knows."""


class Odd(Noisy):
    """Takes, keeps and saves values of many types."""

    def __init__(
        self,
        place: Path,
        mode: Mode = Mode.FAST,
        sizes: Sizes = Sizes(),  # noqa: B008
        shape: tuple[int, float] = (1, 2.5),
        names: set[str] | None = None,
        time: timedelta = timedelta(minutes=3),
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.save_hyperparameters(
            {"scale": np.float32(0.1), "count": np.int64(3), "array": np.arange(3), "what": Opaque(), "kind": Opaque}
        )
        self.got = (place, mode, sizes, shape, names, time)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["odd"] = {
            "mode": Mode.SLOW,
            3: np.float64(1.5),
            ("a", 1): {1, 2},
            "place": Path("x"),
            "it": Opaque(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert checkpoint["odd"]["mode"] == "slow"
        assert checkpoint["odd"][3] == 1.5


class OddCallback(Callback):
    """Keeps values of many types."""

    got: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "place": Path("a/b"),
            "mode": Mode.FAST,
            "sizes": Sizes(5),
            "pair": (np.float64(0.5), np.bool_(True)),
            "set": {3},
            "frozen": frozenset({"x"}),
            "time": timedelta(seconds=90),
            "array": np.ones((2, 2), np.float32),
            "opaque": Opaque(),
            "function": os.mkdir,
            "dtype": np.dtype("int8"),
            "tensor": torch.arange(3),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        OddCallback.got = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Odd)


ODD = [
    *("--model", "tests.scripts.test_trust.Odd", "--model.place", "pläce/with space", "--model.mode", "SLOW"),
    *("--model.sizes", "{width: 7}", "--model.shape", "[4, 0.5]", "--model.names", "[a, b]"),
    *("--model.time", "0:00:07", "--data", "tests.noisy.NoisyData", "--optimizer", "torch.optim.AdamW"),
    *("--trainer.callbacks", "[{class_path: tests.scripts.test_trust.OddCallback}]", "--name", "odd"),
    *("--trainer.enable_progress_bar", "false"),
]


def test_values_of_any_type_are_saved_as_plain_ones_and_a_run_goes_on_with_them(command: Command) -> None:
    done = command("fit", *ODD, "--trainer.max_epochs", "1")
    assert (done.status, done.err) == (0, "")
    run = Path("lightning_logs/odd/version_0")
    paths = list((run / "checkpoints").iterdir())
    assert len(paths) == 2
    for path in paths:
        state = load(path)
        saved = state["hyper_parameters"]
        assert (saved["place"], saved["scale"], saved["count"]) == ("pläce/with space", np.float32(0.1).item(), 3)
        assert sorted(saved["names"]) == ["a", "b"]
        assert saved["sizes"]["width"] == 7
        kept = state["callbacks"]["OddCallback"]
        assert kept["sizes"] == {"width": 5, "place": "somewhere"}
        assert (kept["place"], kept["mode"], kept["pair"], kept["set"]) == ("a/b", "fast", (0.5, True), [3])
        assert torch.equal(kept["array"], torch.ones(2, 2))
    config = (run / "config.yaml").read_bytes()
    OddCallback.got = None
    (run / "summary.json").unlink()
    done = command("fit", *ODD, "--trainer.max_epochs", "1", "--resume")
    assert (done.status, done.err) == (0, "")
    assert OddCallback.got is not None
    assert unequal(OddCallback.got["tensor"], torch.arange(3)) == []
    assert "changed:" not in done.out
    assert (run / "config.yaml").read_bytes() == config
    done = command("fit", *ODD, "--trainer.max_epochs", "2", "--resume")
    assert (done.status, done.err) == (0, "")
    assert [line for line in done.out.splitlines() if line.startswith("changed: ")] == [
        "changed: trainer.max_epochs 1 → 2"
    ]
    assert load(run / "checkpoints" / "last.ckpt")["global_step"] == 12
    done = command("validate", "odd", "--ckpt", "last")
    assert (done.status, done.err) == (0, "")
    module, _ = Run("odd").load("last")
    assert isinstance(module, Odd)
    place, mode, sizes, shape, names, time = module.got
    assert (str(place), mode, sizes.width, shape, names, time) == (
        "pläce/with space",
        Mode.SLOW,
        7,
        (4, 0.5),
        {"a", "b"},
        timedelta(seconds=7),
    )
