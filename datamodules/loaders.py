"""Any DataLoader, made so that an epoch can be begun in its middle and shared by several devices, sample by sample."""

import ctypes
import random
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from datamodules.batches import mix_seed

PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when the one that has started it ends


class Numbered(list):
    """The samples of a batch and the seed of their random numbers, as they travel to a worker."""

    seed = 0


class Index:
    """The same for a loader that makes no batches: the index of a sample, of whatever type."""

    def __init__(self, key: Any, seed: int) -> None:
        self.key, self.seed = key, seed


class EpochOrder:
    """The order of an epoch's batches, from (seed, epoch) alone; it stands where a batch sampler was.

    The loader's own sampler decides on the order, of whatever kind it is; it does so under generators that are seeded
    for the epoch. Several devices get their share of each batch: equal shares in training, where the last batch may
    lose a few samples for that; in evaluation each sample once, and at least one for every device.

    Args:
        inner: The batch sampler, or the sampler of a loader that makes no batches. It has a length.
        seed: Of the order, and of the random numbers that the dataset draws.
        training: Whether it is for training.
        rank: This process among `world_size`.
        world_size: Number of processes that share each batch.
    """

    def __init__(self, inner: Any, seed: int, training: bool, rank: int = 0, world_size: int = 1) -> None:
        self.inner, self.seed, self.training = inner, seed, training
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self._start = 0
        self._order: tuple[int, list[Any]] | None = None
        # generators of the sampler's own, each with the seed that it was made with
        own = [getattr(part, "generator", None) for part in (inner, getattr(inner, "sampler", None))]
        self._generators = [(g, g.initial_seed()) for g in own if isinstance(g, torch.Generator)]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)  # batch_size, drop_last, …

    @property
    def sampler(self) -> "EpochOrder":
        """Itself, which has the `set_epoch` that Lightning calls."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this before each epoch."""
        self.epoch = epoch
        parts: list[Any] = [self.inner, getattr(self.inner, "sampler", None)]
        for part in parts:
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    def start_at(self, batch: int) -> None:
        """Leave out the first batches of the next pass, without loading them."""
        self._start = batch

    def indices_of(self, batch: int) -> list[int]:
        """The samples of a batch of this epoch, this process's share of them."""
        found = self._batches()[batch]
        return [int(index) for index in found] if _is_batch(found) else [found]

    def __len__(self) -> int:
        return len(self.inner) if self.world_size == 1 else len(self._batches())

    def __iter__(self) -> Iterator[Any]:
        start, self._start = self._start, 0
        batches = self._batches()
        for number in range(start, len(batches)):
            item, seed = batches[number], mix_seed(self.seed, self.epoch, number, self.rank)
            if not _is_batch(item):
                yield Index(item, seed)
                continue
            numbered = Numbered(item)
            numbered.seed = seed
            yield numbered

    def _batches(self) -> list[Any]:
        if self._order is None or self._order[0] != self.epoch:
            with isolate_rng(include_cuda=False):
                seed_generators(mix_seed(self.seed, self.epoch))
                for generator, seed in self._generators:
                    generator.manual_seed(mix_seed(seed, self.epoch))
                batches = list(self.inner)
            self._order = (self.epoch, batches if self.world_size == 1 else self._shares(batches))
        return self._order[1]

    def _shares(self, batches: list[Any]) -> list[Any]:
        world = self.world_size
        batches = [list(batch) for batch in batches]
        if 0 < (total := sum(map(len, batches))) < world:
            raise ValueError(f"data: {world} devices can't share {total} sample{'s' * (total != 1)}")
        if self.training:
            batches = [batch[: len(batch) // world * world] for batch in batches]
            return [batch[self.rank :: world] for batch in batches if batch]
        if min(map(len, batches), default=world) < world:  # a device without a sample could not go along
            everything = list(chain.from_iterable(batches))
            count = max(1, min(len(batches), len(everything) // world))
            edges = [len(everything) * i // count for i in range(count + 1)]
            batches = [everything[a:b] for a, b in pairwise(edges)]
        return [batch[self.rank :: world] for batch in batches]


class EpochSeed:
    """Stands where the sampler of a loader over an IterableDataset was, and seeds its workers anew for each epoch."""

    def __init__(self, inner: Any, generator: torch.Generator, seed: int) -> None:
        self.inner, self.generator, self.seed = inner, generator, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the workers' seeds; Lightning calls this before each epoch."""
        self.generator.manual_seed(mix_seed(self.seed, epoch))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.inner)


class SeededDataset(Dataset):
    """A dataset whose random numbers follow from the batch, whichever process loads it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, Index | Numbered):
            return self.inner[index]
        with isolate_rng(include_cuda=False):
            seed_generators(index.seed)
            return self.inner[index.key if isinstance(index, Index) else list(index)]

    def __getitems__(self, indices: list[int]) -> Any:
        # isolated, so that the random numbers of the training do not depend on where the data are loaded
        with isolate_rng(include_cuda=False):
            if isinstance(indices, Numbered):
                seed_generators(indices.seed)
            if hasattr(self.inner, "__getitems__"):
                return self.inner.__getitems__(list(indices))
            return [self.inner[index] for index in indices]


class CalmWorker:
    """Starts a loader's worker so that a signal that stops the run leaves it at work until the step is done.

    Without it, a signal to all processes of a run (a terminal's Ctrl-C, a service manager's SIGTERM) would end the
    workers first, and there would be no step to end.
    """

    def __init__(self, inner: Callable[[int], Any] | None) -> None:
        self.inner = inner

    def __call__(self, worker: int) -> None:
        for name in ("SIGINT", "SIGUSR1"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        if hasattr(signal, "setitimer"):  # by then whoever needs it has ended it, or does not
            signal.signal(signal.SIGTERM, lambda *_: signal.setitimer(signal.ITIMER_REAL, 15))
        if sys.platform == "linux":  # end with the process that it works for, in the middle of a sample, too
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if self.inner is not None:
            self.inner(worker)


def make_exact(loaders: Any, seed: int, training: bool, rank: int = 0, world_size: int = 1) -> Any:
    """The same loader, or collection of loaders, with the order and the random numbers of `EpochOrder`.

    Loaders that are no DataLoader, or keep a state of their own, stay as they are. One whose sampler has no length, or
    over an IterableDataset, gets seeds for its workers and nothing else: dividing it among devices is its own affair.

    Raises:
        ValueError: The batches of a training can't be shared equally, or there are fewer samples than devices.
    """
    more = (seed, training, rank, world_size)
    if isinstance(loaders, dict):
        return {name: make_exact(loader, *more) for name, loader in loaders.items()}
    if isinstance(loaders, list | tuple):
        return type(loaders)([make_exact(loader, *more) for loader in loaders])
    for loader in loaders.flattened if isinstance(loaders, CombinedLoader) else [loaders]:
        if isinstance(loader, DataLoader):
            _change(loader, *more)
    return loaders


def _change(loader: DataLoader, seed: int, training: bool, rank: int, world_size: int) -> None:
    name = "batch_sampler" if loader.batch_sampler is not None else "sampler"
    inner: Any = getattr(loader, name)
    if isinstance(inner, EpochOrder) or isinstance(loader.sampler, EpochSeed) or hasattr(loader, "load_state_dict"):
        return
    if loader.num_workers:
        loader.worker_init_fn = CalmWorker(loader.worker_init_fn)
    if loader.generator is None:  # the workers' seeds come from it, and not from the generator of the training
        loader.generator = torch.Generator()
    if isinstance(loader.dataset, IterableDataset) or not _has_length(inner):
        object.__setattr__(loader, "sampler", EpochSeed(loader.sampler, loader.generator, seed))
        return
    if isinstance(loader.sampler, DistributedSampler):
        world_size = 1  # shared already
    if world_size > 1:
        _check_shares(loader, training, world_size)
    # a DataLoader forbids changing these, so that nobody takes them for settings; a new one would lose its class
    object.__setattr__(loader, name, EpochOrder(inner, seed, training, rank, world_size))
    object.__setattr__(loader, "dataset", SeededDataset(loader.dataset))


def _check_shares(loader: DataLoader, training: bool, world_size: int) -> None:
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    if loader.batch_sampler is None:
        raise ValueError(f"data: {world_size} devices can't share a DataLoader with batch_size None")
    if training and size and size % world_size:
        raise ValueError(
            f"data: a DataLoader's batch_size {size} is shared by {world_size} devices and must be a multiple of "
            f"that; nearest is {max(1, round(size / world_size)) * world_size}"
        )
    if len(loader.sampler) < world_size:  # type: ignore[arg-type]
        samples = f"{len(loader.sampler)} sample{'s' * (len(loader.sampler) != 1)}"  # type: ignore[arg-type]
        raise ValueError(f"data: {world_size} devices can't share {samples}")


def _is_batch(item: Any) -> bool:
    return hasattr(item, "__iter__") and not isinstance(item, str | bytes) and getattr(item, "ndim", 1) > 0


def _has_length(sampler: Any) -> bool:
    try:
        len(sampler)
    except TypeError:  # a BatchSampler has `__len__`, and its sampler has none
        return False
    return True


def seed_generators(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch, on the CPU, in this process."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
