"""What all datamodules have in common whose samples are taken by index out of two tensors."""

import os
from abc import abstractmethod
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor

from datamodules.batches import Batches


class Arrays(LightningDataModule):
    """Samples in memory, or in a file that is mapped into it, handed out as whole batches.

    A subclass gives `load`; what it learns there of the training part is in `facts`, and in every checkpoint.

    Args:
        batch_size: Training samples per step, over all devices together.
        eval_batch_size: Samples per batch in validation, test and prediction.
    """

    def __init__(self, batch_size: int, eval_batch_size: int) -> None:
        super().__init__()
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.files: Any = None  # of the user, to be predicted
        self._facts: dict[str, Any] = {}

    @abstractmethod
    def load(self) -> None:
        """Read the training part, and fill `_facts` unless a checkpoint has."""

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

    def predict_dataloader(self) -> Any:
        if self.files is None:
            raise ValueError("data: nothing to predict; call `read_files`, or set `files`")
        return self.files

    @property
    def ranks(self) -> tuple[int, int]:
        """The number of this process, and of all that share a batch."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def check_shares(self, batch_size: int) -> None:
        """Refuse a batch that the devices can't share.

        Raises:
            ValueError: It is no multiple of their number.
        """
        _, world_size = self.ranks
        if batch_size % world_size:
            raise ValueError(
                f"data.batch_size: {batch_size} is shared by {world_size} devices and must be a multiple of "
                f"that; nearest is {max(1, round(batch_size / world_size)) * world_size}"
            )

    def train_batches(self, inputs: Tensor, labels: Tensor, indices: Tensor, batch_size: int) -> Batches:
        """Batches of some samples, in another order in each epoch, which follows from `seed_everything`."""
        seed: int | None = int(os.environ.get("PL_GLOBAL_SEED", "0"))  # where `seed_everything` keeps it
        if self.trainer and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            seed = None  # the same batches again and again
        return Batches(inputs, labels, indices, batch_size, seed, *self.ranks)

    def batches(self, inputs: Tensor, labels: Tensor, indices: Tensor, batch_size: int = 0) -> Batches:
        """Batches of some samples in their order, of `eval_batch_size` if nothing else is said."""
        return Batches(inputs, labels, indices, batch_size or self.eval_batch_size, None, *self.ranks)
