"""Where and from which code a run was trained, in `environment.json`."""

import json
import os
import platform
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import torchmetrics
from lightning import __version__ as lightning_version
from lightning.pytorch import Callback, LightningModule, Trainer

FILE = "environment.json"
PROJECT = Path(__file__).resolve().parents[1]
PATIENCE = 2.0  # seconds that git has at the end of a run; it was started at its beginning
MOST = 20  # changed files that are named


class Environment(Callback):
    """Writes down versions, devices, processes, and the commit of the project with what was changed in it.

    Each start of a run adds an entry to the list `starts`. git runs beside the training, so that nobody waits for it,
    and its answer is added when the second epoch begins, or the run ends.

    Args:
        changed: Gives, when git's answer is there, the keys of the config that are not at their defaults, each with
            its default: `{"optimizer.lr": 0.001, …}`. It is asked late since it takes a while.
        project: The folder of the code.
    """

    def __init__(self, changed: Callable[[], dict[str, Any]] = dict, project: Path = PROJECT) -> None:
        self.changed, self.project = changed, project
        self._git: subprocess.Popen[str] | None = None
        self._starts: list[dict[str, Any]] = []
        self._path: Path | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = trainer.loggers[0].log_dir if trainer.loggers and trainer.is_global_zero else None
        if not folder:
            return
        self._path = Path(folder, FILE)
        device = trainer.strategy.root_device
        now = {
            "time": datetime.now().astimezone().isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "lightning": lightning_version,
            "torchmetrics": torchmetrics.__version__,
            "platform": platform.platform(),
            "host": socket.gethostname(),
            "cpus": os.cpu_count(),
            "device": device.type,
            "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
            "processes": trainer.world_size,
            "nodes": trainer.num_nodes,
            "threads": torch.get_num_threads(),
            "step": trainer.global_step,
        }
        self._starts = [*_read(self._path), now]
        self._write()
        with suppress(OSError):  # there is no git
            self._git = subprocess.Popen(
                ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch"],
                cwd=self.project,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                errors="replace",
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._path:  # a run that goes on knows by now from where
            self._starts[-1]["step"] = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # not at the end of the first one: `CheckMonitors` takes who has that hook for one who logs something there
        if not self._path or "git" in self._starts[-1] or trainer.global_step == self._starts[-1]["step"]:
            return
        if self._git is None or self._git.poll() is not None:
            self._complete()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._path and "git" not in self._starts[-1]:
            self._complete()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    def _complete(self) -> None:
        """Add what git has answered, and which keys of the config were changed."""
        answer = ""
        if self._git is not None:
            try:
                answer, _ = self._git.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                self._git.kill()
                self._git.communicate()
            if self._git.returncode != 0:  # not a repository, or a git that is too old
                answer = ""
            self._git = None
        self._starts[-1]["git"] = read_status(answer)
        with suppress(Exception):  # classes of others, whose defaults can't be looked at
            self._starts[-1]["changed"] = json.loads(json.dumps(self.changed(), default=str))
        self._write()

    def _write(self) -> None:
        assert self._path
        part = self._path.with_name(f".{FILE}.part")
        with suppress(OSError):  # a disk that is full: the run matters more
            part.write_text(json.dumps({"starts": self._starts}, indent=1) + "\n", encoding="utf-8")
            part.replace(self._path)


def read_status(answer: str) -> dict[str, Any] | None:
    """Commit, branch and changed files from `git status --porcelain=v2 --branch`; None without a commit."""
    lines = answer.splitlines()
    facts = dict(line.removeprefix("# branch.").split(" ", 1) for line in lines if line.startswith("# branch."))
    if "oid" not in facts or facts["oid"] == "(initial)":
        return None
    # the fields before the path: nine of a file that was renamed, eight of another, one of a new one
    fields = {"1": 8, "2": 9, "u": 10, "?": 1}
    changed = [line.split(" ", fields[line[0]])[-1].split("\t")[0] for line in lines if line[:1] in fields]
    return {
        "commit": facts["oid"],
        "branch": facts.get("head"),
        "dirty": bool(changed),
        "changed": changed[:MOST],
        "changed_files": len(changed),
    }


def cpu_name() -> str:
    """The processor's name, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["starts"]
        return [start for start in found if isinstance(start, dict)]
    except (OSError, ValueError, KeyError, TypeError):
        return []
