"""Which checkpoints are the best ones: decided after a validation, written at the safe point after it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


@dataclass
class Decision:
    """What a ModelCheckpoint has decided after a validation, and what is done at the next safe point.

    Attributes:
        save: The file to write; None for one to remove.
        remove: The file to remove; None for one to write.
        epoch: The epoch that the weights are from.
        before: The callback's state without this decision, for when the file can't be written.
        state: What is to be written, when that was put off.
    """

    save: str | None
    remove: str | None
    epoch: int
    before: dict[str, Any]
    state: dict[str, Any] | None = None


class Checkpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which decides after a validation and writes at the safe point after it.

    So each of its files is a state from which a run can go on, and the file of the second best is removed when the
    new one is on the disk. A file that was there before the run is never overwritten. Where writing them all would take
    too much of the training time (see `LastCheckpoint`), one that is better still soon is not written at all.

    Args:
        dirpath: The folder; the default is `checkpoints/` in the run's folder.
        filename: Name of the files, with metrics in braces.
        monitor: The metric by which checkpoints are compared; None keeps the latest one, or all with `save_top_k: -1`.
        every_n_train_steps: Write `last.ckpt` after so many steps, too, and not only after epochs. Without a
            `monitor`, these are also the steps of the checkpoints that are kept.
        every_n_minutes: Write `last.ckpt` when so many minutes have passed since it was written.
        kwargs: All other arguments of ModelCheckpoint.

    Raises:
        ValueError: A number is not positive.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        every_n_train_steps: int | None = None,
        every_n_minutes: float | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value in (("every_n_train_steps", every_n_train_steps), ("every_n_minutes", every_n_minutes)):
            if value is not None and not value > 0:  # not a number neither
                raise ValueError(f"checkpoint.{name}: {value} is not a positive number")
        self.last_every_n_train_steps = every_n_train_steps
        self.last_every_n_minutes = every_n_minutes
        kwargs.pop("save_last", None)  # there always is a last one
        steps = every_n_train_steps if monitor is None else None
        super().__init__(dirpath, filename, monitor, every_n_train_steps=steps, **kwargs)
        self._own_folder = dirpath is None
        self.pending: list[Decision] = []
        self._before: dict[str, Any] = {}
        self._foreign: set[str] | None = None  # files that were there before the run
        self._written: set[str] = set()
        self._removed: set[str] = set()

    # ---- decide now, write later

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self._before = self.state_dict()
        super()._save_topk_checkpoint(trainer, monitor_candidates)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self.pending.append(Decision(filepath, None, trainer.current_epoch, self._before))
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        self._written.add(self._relative(filepath))
        self._removed.discard(self._relative(filepath))

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self.pending.append(Decision(None, filepath, trainer.current_epoch, {}))
        self._written.discard(self._relative(filepath))
        self._removed.add(self._relative(filepath))  # for a crash before it is done: `runs.resume.tidy` does it then

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        # the one that the run went on from, too: all that was in it is in later ones
        path, folder = Path(previous).resolve(), Path(str(self.dirpath)).resolve()
        return previous != current and path.is_relative_to(folder) and path.suffix == self.FILE_EXTENSION

    def file_exists(self, filepath: str | Path, trainer: Trainer) -> bool:
        # what a killed process has left of this run does not count: it will be written again
        name = self._relative(str(filepath))
        return name in self._written or name in (self._foreign or ())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self._foreign is None:
            # in the run's own folder there is nothing of others
            look = self.dirpath and trainer.is_global_zero and not self._own_folder
            there = sorted(Path(str(self.dirpath)).rglob("*.ckpt")) if look else []
            self._foreign = trainer.strategy.broadcast({self._relative(str(path)) for path in there})

    # ---- paths are kept relative, so that a run's folder can be moved

    def state_dict(self) -> dict[str, Any]:
        state = dict(super().state_dict())
        state["dirpath"] = "."
        state["best_k_models"] = {self._relative(path): score for path, score in self.best_k_models.items()}
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = self._relative(state[name])
        state["foreign"], state["written"] = sorted(self._foreign or ()), sorted(self._written)
        state["removed"] = sorted(self._removed)
        state["last_global_step_saved"] = self._last_global_step_saved
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        for name in (*state["best_k_models"], state["best_model_path"]):
            if name and (Path(name).is_absolute() or ".." in Path(name).parts):
                raise ValueError(
                    f"checkpoint: the state names {name!r}, which is outside the folder of the checkpoints"
                )
        state["dirpath"] = self.dirpath
        state["best_k_models"] = {self._absolute(name): score for name, score in state["best_k_models"].items()}
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = self._absolute(state[name])
        super().load_state_dict(state)
        self.current_score = state["current_score"]  # which Lightning saves, and does not load
        self._foreign, self._written = set(state["foreign"]), set(state["written"])
        self._removed = set(state["removed"])
        self._last_global_step_saved = state["last_global_step_saved"]

    def _relative(self, path: str) -> str:
        inside = path and self.dirpath and Path(path).is_relative_to(self.dirpath)
        return str(Path(path).relative_to(str(self.dirpath))) if inside else path

    def _absolute(self, name: str) -> str:
        return os.path.join(str(self.dirpath), name) if name else name
