"""What all datamodules have in common whose samples are taken by index out of two tensors."""

import os
from abc import abstractmethod
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from datamodules.batches import Batches

Sampler = Literal["shuffle", "balanced"]


def known_sampler(sampler: Sampler) -> Sampler:
    """The sampler, or a ValueError that says which there are."""
    if sampler not in get_args(Sampler):
        raise ValueError(f"data.sampler: {sampler!r} is unknown; allowed are {', '.join(get_args(Sampler))}")
    return sampler


class Arrays(LightningDataModule):
    """Samples in memory, or in a file that is mapped into it, handed out as whole batches.

    A subclass gives `load`, and `part` or `loader` and `count`; what it learns of the training part is in `facts`,
    and in every checkpoint.

    Args:
        batch_size: Training samples per step, over all devices together; 0 takes the whole training part.
        eval_batch_size: Samples per batch in validation, test and prediction.

    Raises:
        ValueError: A size is out of its range.
    """

    parts: dict[str, Any]  # the samples of each part; filled by `load`
    sampler: Sampler = "shuffle"

    def __init__(self, batch_size: int, eval_batch_size: int) -> None:
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 0), ("eval_batch_size", eval_batch_size, 1)):
            if value < least:
                raise ValueError(f"data.{name}: {value} is below {least}")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.files: Any = None  # of the user, to be predicted
        self._facts: dict[str, Any] = {}

    # ---- what a subclass gives

    @abstractmethod
    def load(self) -> None:
        """Read the samples, fill `parts`, and fill `_facts` unless a checkpoint has."""

    def part(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs `(N, ...)`, labels `(N, ...)`, and which of them `(M,)` int64 are `train`, `val` or `test`."""
        raise NotImplementedError(f"{type(self).__name__} must define part, or loader")

    def count(self, part: str) -> int:
        """Number of samples of `train`, `val` or `test`."""
        return len(self.parts[part])

    def loader(self, part: str, batch_size: int, seed: int | None = None) -> Batches:
        """Batches of a part; with a seed in another order in each epoch, as `Batches` has it."""
        balanced = part == "train" and self.sampler == "balanced"
        return Batches(*self.part(part), batch_size, seed, *self.ranks, balanced=balanced)

    # ---- what is known of them

    @property
    def facts(self) -> dict[str, Any]:
        """All that is learnt from the training part, in plain types; saved in every checkpoint."""
        if not self._facts:
            self.load()
        return self._facts

    def state_dict(self) -> dict[str, Any]:
        return dict(self.facts)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # what the weights were trained with, even where the files have changed or are gone
        self._facts = dict(state_dict)

    @property
    def samples_of_step(self) -> int:
        """Training samples per step, over all devices together."""
        _, world_size = self.ranks
        return self.batch_size or self.count("train") // world_size * world_size

    @property
    def ranks(self) -> tuple[int, int]:
        """The number of this process, and of all that share a batch."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    # ---- Lightning's hooks

    def setup(self, stage: str) -> None:
        """Read the samples, once.

        Raises:
            ValueError: A batch is larger than the training part, or the devices can't share it.
        """
        if stage == "predict":
            return
        if not hasattr(self, "parts"):
            self.load()
        if stage != "fit":
            return
        count, (_, world_size) = self.count("train"), self.ranks
        if self.batch_size > count:
            raise ValueError(
                f"data.batch_size: {self.batch_size} is larger than the training part; "
                f"allowed are 1 to {count}, and 0 for all of it"
            )
        if (size := self.samples_of_step) % world_size:
            raise ValueError(
                f"data.batch_size: {size} is shared by {world_size} devices and must be a multiple of "
                f"that; nearest is {max(1, round(size / world_size)) * world_size}"
            )

    def train_dataloader(self) -> Batches:
        """In another order in each epoch, which follows from `seed_everything`."""
        seed: int | None = int(os.environ.get("PL_GLOBAL_SEED", "0"))  # where `seed_everything` keeps it
        if self.trainer and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            seed = None  # the same batches again and again
        return self.loader("train", self.samples_of_step, seed)

    def val_dataloader(self) -> Batches:
        return self.loader("val", self.eval_batch_size)

    def test_dataloader(self) -> Batches:
        return self.loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> Any:
        if self.files is None:
            raise ValueError("data: nothing to predict; call `read_files`, or set `files`")
        return self.files


class Classes(Arrays):
    """Samples of classes, whose names are in `facts["class_names"]`, in the order of the labels."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return self.facts["class_names"]

    @property
    def class_counts(self) -> list[int]:
        """Training samples of each class, without those that are held out."""
        if not hasattr(self, "parts"):
            self.load()
        _, labels, indices = self.part("train")
        return torch.bincount(labels[indices], minlength=self.num_classes).tolist()
