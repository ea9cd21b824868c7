"""The environment of a run."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.environment import Environment, read_status
from tests.conftest import ROOT, quick_trainer

FILE = Path("logs/run/version_0/environment.json")


def git(folder: Path, *args: str) -> str:
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {**os.environ, **identity, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(["git", *args], cwd=folder, env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "my project"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "trunk")
    (folder / "code.py").write_text("1")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def fit(callback: Environment, model: LightningModule | None = None, **options: Any) -> list[dict[str, Any]]:
    logger = TensorBoardLogger("logs", "run", version=0)
    options = {"max_epochs": 2, "limit_train_batches": 2, "limit_val_batches": 1, **options}
    trainer: Trainer = quick_trainer(logger=logger, callbacks=[callback], log_every_n_steps=1, **options)
    trainer.fit(model or BoringModel())
    return json.loads(FILE.read_text())["starts"]


def test_versions_device_and_commit_are_written(repository: Path) -> None:
    (start,) = fit(Environment(lambda: {"optimizer.lr": 0.1}, repository))
    assert start["torch"] == torch.__version__
    assert (start["device"], start["processes"], start["nodes"], start["step"]) == ("cpu", 1, 1, 0)
    assert start["device_name"]
    assert start["cpus"] == os.cpu_count()
    assert start["changed"] == {"optimizer.lr": 0.1}
    commit = git(repository, "rev-parse", "HEAD")
    assert start["git"] == {"commit": commit, "branch": "trunk", "dirty": False, "changed": [], "changed_files": 0}


def test_what_is_not_in_the_commit_is_named(repository: Path) -> None:
    (repository / "code.py").write_text("2")
    (repository / "new file.py").write_text("3")
    for number in range(30):
        (repository / f"x{number:02}").touch()
    (start,) = fit(Environment(project=repository))
    assert start["git"]["dirty"]
    assert start["git"]["changed"][:2] == ["code.py", "new file.py"]
    assert (len(start["git"]["changed"]), start["git"]["changed_files"]) == (20, 32)


def test_each_start_is_kept(repository: Path) -> None:
    fit(Environment(project=repository))
    starts = fit(Environment(project=repository))
    assert len(starts) == 2
    assert all("git" in start for start in starts)


def test_without_a_repository_the_rest_is_there(tmp_path: Path) -> None:
    (start,) = fit(Environment(project=tmp_path))
    assert start["git"] is None
    assert start["torch"]


def test_without_git_the_rest_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    (start,) = fit(Environment(project=ROOT))
    assert start["git"] is None


def test_a_git_that_takes_too_long_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(slow.parent), prepend=os.pathsep)
    monkeypatch.setattr("callbacks.environment.PATIENCE", 0.1)
    callback = Environment(project=ROOT)
    (start,) = fit(callback)
    assert start["git"] is None
    assert callback._git is None, "the process is gone"


class Breaks(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert "torch" in json.loads(FILE.read_text())["starts"][0], "before the first step"
        raise RuntimeError("broken")


def test_a_run_that_breaks_has_it_too(repository: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        fit(Environment(project=repository), Breaks())
    (start,) = json.loads(FILE.read_text())["starts"]
    assert start["git"]["branch"] == "trunk"


def test_defaults_that_can_not_be_found_out_are_left_out(repository: Path) -> None:
    def fail() -> dict[str, Any]:
        raise TypeError

    (start,) = fit(Environment(fail, repository))
    assert "changed" not in start
    assert start["git"]


def test_a_folder_that_can_not_be_written_does_not_end_the_training(repository: Path) -> None:
    FILE.mkdir(parents=True)  # in its place
    logger = TensorBoardLogger("logs", "run", version=0)
    options = {"limit_train_batches": 1, "limit_val_batches": 1, "log_every_n_steps": 1}
    trainer = quick_trainer(logger=logger, callbacks=[Environment(project=repository)], **options)
    trainer.fit(BoringModel())
    assert trainer.global_step == 1


@pytest.mark.parametrize("content", ["", "[1]", '{"starts": 1}', '{"starts": [1, {"step": 3}]}'])
def test_a_file_of_another_form_is_no_error(content: str, repository: Path) -> None:
    FILE.parent.mkdir(parents=True)
    FILE.write_text(content)
    assert fit(Environment(project=repository))[-1]["torch"] == torch.__version__


def test_all_kinds_of_changes_are_read() -> None:
    answer = """# branch.oid abc
# branch.head (detached)
1 .M N... 100644 100644 100644 aaa bbb a file.py
2 R. N... 100644 100644 100644 aaa bbb R100 new name.py\told name.py
u UU N... 100644 100644 100644 100644 aaa bbb ccc both.py
? folder/
"""
    found = read_status(answer)
    assert found
    assert found["changed"] == ["a file.py", "new name.py", "both.py", "folder/"]
    assert (found["commit"], found["branch"], found["dirty"]) == ("abc", "(detached)", True)
    assert read_status("") is None
    assert read_status("# branch.oid (initial)\n# branch.head main\n") is None
