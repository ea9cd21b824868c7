"""A run, seen from outside: its config, its checkpoints, and the trained module."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningDataModule, LightningModule

from runs.checkpoints import load_state, read_checkpoint
from runs.errors import UserError, nearest
from runs.files import read_yaml
from runs.parser import Parser, add_model_and_data, check_yaml

LOGS = Path("lightning_logs")
VERSION = re.compile(r"version_(\d+)")


class Run:
    """A run's folder, and what can be had from it.

    Args:
        place: The folder, or the name of a recipe for its latest run.
        logs: Where recipes have their runs.

    Raises:
        UserError: There is no such run.
    """

    def __init__(self, place: str | Path, logs: str | Path = LOGS) -> None:
        self.folder = _find(str(place), Path(logs))

    @property
    def config_file(self) -> Path:
        """The complete config; a new run from it gives the same weights."""
        path = self.folder / "config.yaml"
        if not path.is_file():
            raise UserError(f"{self.folder}: not the folder of a run, there is no config.yaml in it")
        return path

    @property
    def config(self) -> dict[str, Any]:
        """The complete config as plain dicts."""
        check_yaml(self.config_file)
        return read_yaml(self.config_file.read_text(encoding="utf-8"))

    @property
    def data_class(self) -> str:
        """Name of the datamodule's class, under which Lightning keeps its state in a checkpoint."""
        return str((self.config.get("data") or {}).get("class_path", "")).rsplit(".", 1)[-1]

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        elsewhere = (self.config.get("checkpoint") or {}).get("dirpath")
        if not elsewhere:
            return self.folder / "checkpoints"
        # as seen from where the run was started, which has `lightning_logs` in it
        there = Path(os.path.abspath(self.folder)).parents[2] / elsewhere
        return there if there.is_dir() and not Path(elsewhere).is_dir() else Path(elsewhere)

    @property
    def summary(self) -> dict[str, Any]:
        """What the fit printed at its end; empty while it goes on or when it did not come so far."""
        path = self.folder / "summary.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there yet, or cut short
            return {}

    @property
    def finished(self) -> bool:
        """Whether the fit has come to its end, written its summary, and has that end on the disk."""
        return bool(self.summary) and not self.summary.get("unsaved")

    def checkpoint(self, which: str | Path = "best") -> Path:
        """The file of the `best` or the `last` checkpoint, or of the one at a path.

        A run that kept no best one (it monitored nothing) gives its last one instead.

        Raises:
            UserError: There is no such file.
        """
        if which == "last":
            path = self.checkpoints / "last.ckpt"
        elif which == "best":
            path = self._best()
        else:
            path = Path(which)
            if not path.is_file() and (self.checkpoints / path).is_file():
                path = self.checkpoints / path
        if not path.is_file():
            there = sorted(str(p) for p in self.checkpoints.glob("*.ckpt"))
            hint = nearest(str(path), there) or (f"; there are best, last, {', '.join(there)}" if there else "")
            raise UserError(f"--ckpt: no such checkpoint: {path}{hint}")
        return path

    def load(self, which: str | Path = "best") -> tuple[LightningModule, LightningDataModule | None]:
        """The module with the weights of a checkpoint, in evaluation mode on the CPU, and its datamodule.

        Raises:
            UserError: The checkpoint is missing, damaged, or does not fit the config.
        """
        path = self.checkpoint(which)
        state = read_checkpoint(path)
        parser = Parser(data_state=state.get(self.data_class))
        add_model_and_data(parser)
        config = self.config
        made = parser.instantiate_classes(
            parser.parse_object({key: config[key] for key in ("model", "data") if config.get(key)})
        )
        module, data = cast(LightningModule, made.model), made.get("data")
        load_state(module, data, state, path)
        return module.eval(), data

    def _best(self) -> Path:
        last = self.checkpoints / "last.ckpt"
        if name := self.summary.get("best_checkpoint"):
            return self.folder / name
        # a run that was cut short: the callback's state says which checkpoint was best so far
        for state in read_checkpoint(last)["callbacks"].values() if last.is_file() else ():
            if state.get("monitor") and state.get("best_model_path"):
                name = Path(state["best_model_path"])
                if name.is_absolute() or ".." in name.parts:
                    raise UserError(f"{last}: refused: it names {str(name)!r}, which is outside the run's folder")
                return self.checkpoints / name
        return last


def _find(place: str, logs: Path) -> Path:
    for folder in (Path(place), logs / place):
        if (folder / "config.yaml").is_file():
            return folder
        if runs := versions(folder):
            return runs[-1]
    if Path(place).exists():
        home = next((str(path) for path in Path(place).parents if (path / "config.yaml").is_file()), "")
        hint = f"; did you mean {home}?" if home else ""
        raise UserError(f"{place}: not the folder of a run, there is no config.yaml in it{hint}")
    raise unknown_run(place, logs)


def unknown_run(place: str, logs: Path) -> UserError:
    """What to raise where there is no such run, with what there is: only what has a config can be meant."""
    known = [folder for folder in run_folders(logs) if (folder / "config.yaml").is_file()]
    homes = dict.fromkeys(folder.parent if VERSION.fullmatch(folder.name) else folder for folder in known)
    recipes = [home.relative_to(logs).as_posix() for home in homes if logs in home.parents]
    hint = nearest(place, [*recipes, *map(str, known)]) or _some(recipes)
    return UserError(f"no run {place!r}, neither as a folder nor in {logs.resolve()}{hint}")


def _some(names: list[str], most: int = 12) -> str:
    return f"; there are {', '.join(names[:most])}{', …' * (len(names) > most)}" if names else ""


def versions(folder: Path) -> list[Path]:
    """The runs of a recipe, oldest first."""
    found = [(VERSION.fullmatch(path.name), path) for path in folder.glob("version_*")]
    numbered = [(int(match[1]), path) for match, path in found if match and (path / "config.yaml").is_file()]
    return [path for _, path in sorted(numbered)]


def run_folders(place: Path) -> Iterator[Path]:
    """The folder itself if it is a run, or else those in it and below it, in natural order."""
    if (place / "config.yaml").is_file() or VERSION.fullmatch(place.name):
        yield place
        return
    try:
        entries = sorted((entry for entry in os.scandir(place) if entry.is_dir(follow_symlinks=False)), key=_natural)
    except OSError:  # gone, or not ours to look into
        return
    for entry in entries:
        yield from run_folders(Path(entry.path))


def _natural(entry: Any) -> list[Any]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", entry.name)]
