"""`Run`: a run, seen from outside."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from modules import Classifier
from runs import Run
from runs.checkpoints import read_checkpoint
from runs.errors import UserError


@pytest.fixture
def copy(trained: Run) -> Path:
    """A copy of a finished run, to damage."""
    return Path(shutil.copytree(trained.folder, "lightning_logs/cnn/version_0"))


def test_a_run_is_found_by_its_folder_its_recipe_and_its_recipes_folder(copy: Path) -> None:
    assert Run(copy).folder == Run(str(copy)).folder == Run("cnn").folder == Run(copy.parent).folder == copy


def test_the_latest_run_of_a_recipe_is_the_one_with_the_highest_number(copy: Path) -> None:
    for number in (9, 10):
        shutil.copytree(copy, copy.with_name(f"version_{number}"))
    copy.with_name("version_11").mkdir()  # claimed, and nothing in it yet
    copy.with_name("version_final").mkdir()
    assert Run("cnn").folder.name == "version_10"


def test_runs_may_lie_in_another_folder(copy: Path) -> None:
    Path("lightning_logs").rename("elsewhere")
    assert Run("cnn", logs="elsewhere").folder == Path("elsewhere/cnn/version_0")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("cmn", "did you mean 'cnn'"),
        ("lightning_logs/cnn/version_1", "did you mean 'lightning_logs/cnn/version_0'"),
        ("something_else", "there are cnn"),
        ("folder", "no config.yaml"),
    ],
)
def test_an_unknown_run_is_told_with_what_there_is(copy: Path, place: str, told: str) -> None:
    Path("folder").mkdir()
    with pytest.raises(UserError, match=told) as caught:
        Run(place)
    assert place in str(caught.value)


def test_what_is_suggested_is_a_run(copy: Path) -> None:
    Path("lightning_logs/failed").mkdir()  # what is left of a run that never began
    Path("lightning_logs/notes").write_text("a file of the user's")
    for place in ("failed", "notes", "fialed"):
        with pytest.raises(UserError, match=f"no run '{place}', neither as a folder nor in [^;]*; there are cnn$"):
            Run(place)


def test_a_run_below_another_folder_is_suggested_by_the_name_it_has(copy: Path) -> None:
    shutil.copytree(copy, "lightning_logs/vision/resnet/version_3")
    with pytest.raises(UserError, match="did you mean 'vision/resnet'"):
        Run("vision/resnett")
    assert Run("vision/resnet").folder == Path("lightning_logs/vision/resnet/version_3")
    with pytest.raises(UserError, match=r"; there are cnn, vision/resnet$"):
        Run("zzz")


def test_without_any_runs_the_folder_they_would_be_in_is_named() -> None:
    with pytest.raises(UserError, match=r"no run 'cnn', neither as a folder nor in .*lightning_logs$"):
        Run("cnn")


def test_a_loaded_module_is_ready_to_use_and_has_the_weights_of_its_checkpoint(trained: Run) -> None:
    module, data = trained.load()
    assert isinstance(module, Classifier)
    assert not any(part.training for part in module.modules())
    assert {parameter.device.type for parameter in module.parameters()} == {"cpu"}
    expected = torch.load(trained.checkpoint(), weights_only=True)["state_dict"]
    assert all(torch.equal(value, expected[name]) for name, value in module.state_dict().items())
    assert data is not None
    assert data.batch_size == 64  # type: ignore[attr-defined]


def test_a_module_is_loaded_from_the_checkpoint_that_is_asked_for(copy: Path) -> None:
    state = torch.load(copy / "checkpoints" / "last.ckpt", weights_only=True)
    state["state_dict"]["net.head.3.bias"].fill_(7)
    torch.save(state, "changed.ckpt")
    module, _ = Run(copy).load("changed.ckpt")
    assert module.state_dict()["net.head.3.bias"].tolist() == [7] * 10
    assert Run(copy).load("last")[0].state_dict()["net.head.3.bias"].tolist() != [7] * 10


def test_loading_changes_nothing_in_the_run(copy: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in Path().rglob("*"))
    Run(copy).load()
    assert sorted((path, path.stat().st_mtime_ns) for path in Path().rglob("*")) == before


def test_a_run_without_an_optimizer_in_its_config_is_loaded(copy: Path) -> None:
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config.update(optimizer=None, lr_scheduler=None)
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert isinstance(Run(copy).load()[0], Classifier)


def test_the_best_checkpoint_is_found_after_the_run_was_moved(copy: Path) -> None:
    moved = copy.rename("moved")
    assert Run(moved).checkpoint("best") == moved / "checkpoints" / "epoch001-step000038.ckpt"
    (moved / "summary.json").unlink()
    assert Run(moved).checkpoint("best") == moved / "checkpoints" / "epoch001-step000038.ckpt"


def test_a_run_that_is_still_going_on_has_no_summary(copy: Path) -> None:
    (copy / "summary.json").unlink()
    assert Run(copy).summary == {}
    assert Run(copy).config["name"] == "cnn"


def test_a_run_that_monitored_nothing_gives_its_last_checkpoint_for_the_best(copy: Path) -> None:
    (copy / "summary.json").unlink()
    state = torch.load(copy / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**state, "callbacks": {}}, copy / "checkpoints" / "last.ckpt")
    assert Run(copy).checkpoint("best").name == "last.ckpt"


def test_a_missing_checkpoint_is_told_with_those_there_are(copy: Path) -> None:
    with pytest.raises(UserError, match=r"no such checkpoint: first.ckpt; there are best, last, .*epoch001-step000038"):
        Run(copy).checkpoint("first.ckpt")
    shutil.rmtree(copy / "checkpoints")
    for which in ("best", "last"):
        with pytest.raises(UserError, match=r"no such checkpoint: .*version_0/checkpoints/"):
            Run(copy).checkpoint(which)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 half a zip"])
def test_a_damaged_checkpoint_is_told_with_its_name_and_size(copy: Path, content: bytes) -> None:
    (copy / "checkpoints" / "last.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=rf"last\.ckpt: damaged, or no checkpoint \({len(content)} bytes\)"):
        Run(copy).load("last")


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_nothing_in_a_checkpoint_is_executed(how: str) -> None:
    if how == "pickle":
        Path("evil.ckpt").write_bytes(pickle.dumps(Malicious(), protocol=2))
    else:
        torch.save({"state_dict": {}, "hyper_parameters": Malicious()}, "evil.ckpt")
    with pytest.raises(UserError, match=r"evil\.ckpt"):
        read_checkpoint(Path("evil.ckpt"))
    assert not Path("executed").exists()


def test_with_a_damaged_summary_the_best_checkpoint_is_found_by_the_last_one(copy: Path) -> None:
    best = Run(copy).checkpoint("best")
    (copy / "summary.json").write_text('{"best_epoch": ')
    assert Run(copy).checkpoint("best") == best


def test_a_damaged_config_is_told_by_its_name(copy: Path) -> None:
    (copy / "config.yaml").write_text("model: [")
    with pytest.raises(UserError, match=r"config\.yaml.*line 1"):
        Run(copy).load("last")


def test_a_config_that_names_an_unknown_class_is_told(copy: Path) -> None:
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("modules.nets.CNN", "modules.nets.CMN"))
    with pytest.raises(UserError, match=r"model\.net: no class 'CMN'.*did you mean 'modules\.nets\.CNN'"):
        Run(copy).load()
