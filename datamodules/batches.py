"""Whole batches out of tensors in memory, without any Python per sample."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler


class Batches(SequentialSampler):
    """Iterate over `(inputs, labels)` batches, taken by index out of two tensors.

    It stands where a `DataLoader` would, and is faster: a `DataLoader` fetches and collates sample by sample.
    Which samples a batch holds follows from `(seed, epoch)` alone, and not from the state of any random
    generator, so that an epoch can be repeated. (To Lightning it says that it is a `SequentialSampler`, which it takes
    as it is; any other sampler it would replace.)

    Args:
        inputs: `(N, ...)`, any dtype; handed out as stored.
        labels: `(N,)` int64.
        indices: The samples to use, in the order in which to use them when not shuffled, int64.
        batch_size: Samples per batch over all ranks together.
        shuffle_seed: Shuffle anew in each epoch, from this seed, and leave out the last batch when it is not
            full; None keeps the order and every sample.
        rank: This process among `world_size`; it gets every `world_size`-th sample of a batch.
        world_size: Number of processes that share each batch.
        balanced: When shuffled, take as many samples of each label as of any other: of frequent ones another part in
            each epoch, of rare ones each as often as needed. An epoch is as long as without.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        indices: Tensor,
        batch_size: int,
        shuffle_seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        balanced: bool = False,
    ) -> None:
        self.inputs, self.labels, self.indices = inputs, labels, indices
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self._start = 0
        self._classes = _by_label(indices, labels[indices]) if balanced else []

    batch_sampler = None  # Lightning looks for the pair `sampler`, `batch_sampler` of a `DataLoader`

    @property
    def sampler(self) -> "Batches":
        """Itself, which has the `set_epoch` that Lightning calls."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle; Lightning calls this before each epoch."""
        self.epoch = epoch

    def start_at(self, batch: int) -> None:
        """Leave out the first batches of the next pass."""
        self._start = batch

    def indices_of(self, batch: int) -> list[int]:
        """The samples of a batch of this epoch, this process's share of them."""
        return self._share(self._order(), batch).tolist()

    def __len__(self) -> int:
        n = len(self.indices)
        return n // self.batch_size if self.shuffle_seed is not None else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        first, self._start = self._start, 0
        order = self._order()
        for batch in range(first, len(self)):
            yield self.fetch(self._share(order, batch))

    def fetch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of some samples, by their indices `(B,)`."""
        # twice as fast as indexing with brackets
        return self.inputs.index_select(0, chosen), self.labels.index_select(0, chosen)

    def _order(self) -> Tensor:
        if self.shuffle_seed is None:
            return self.indices
        generator = torch.Generator().manual_seed(mix_seed(self.shuffle_seed, self.epoch))
        if not self._classes:
            return self.indices[torch.randperm(len(self.indices), generator=generator)]
        share, rest = divmod(len(self.indices), len(self._classes))
        one_more = set(torch.randperm(len(self._classes), generator=generator)[:rest].tolist())
        parts = [_drawn(part, share + (k in one_more), generator) for k, part in enumerate(self._classes)]
        order = torch.cat(parts)
        return order[torch.randperm(len(order), generator=generator)]

    def _share(self, order: Tensor, batch: int) -> Tensor:
        start, end = batch * self.batch_size, (batch + 1) * self.batch_size
        if self.shuffle_seed is None and self.world_size > 1:
            # batches of the same size, as far as that goes: a last one of a single sample can't be shared, and in
            # evaluation no sample is counted twice
            start, end = (len(order) * i // len(self) for i in (batch, batch + 1))
        return order[start:end][self.rank :: self.world_size]


def _by_label(indices: Tensor, labels: Tensor) -> list[Tensor]:
    """The indices of each label, in their order."""
    ordered, places = labels.sort(stable=True)
    return list(indices[places].split(ordered.unique_consecutive(return_counts=True)[1].tolist()))


def _drawn(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the indices at random, each as often as any other, or once more."""
    rounds = -(-count // len(indices))
    return torch.cat([indices[torch.randperm(len(indices), generator=generator)] for _ in range(rounds)])[:count]


def mix_seed(*counters: int) -> int:
    """One well-mixed 63-bit seed out of several non-negative counters, the same on every machine."""
    return int(np.random.SeedSequence(counters).generate_state(1, np.uint64)[0] >> np.uint64(1))
