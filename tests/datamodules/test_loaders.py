"""`datamodules.loaders`: the same batches whatever was before, and fair shares of them."""

import random
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from datamodules.loaders import make_exact
from tests.conftest import Loader
from tests.same import unequal

COUNT = 11


class Noisy(Dataset[tuple[int, torch.Tensor, float, float]]):
    """Gives an index, and numbers out of three random generators."""

    def __init__(self, count: int = COUNT) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, float, float]:
        return int(index), torch.rand(2), np.random.rand(), random.random()


class Bulk(Noisy):
    """Gives all samples of a batch at once."""

    def __getitems__(self, indices: list[int]) -> list[tuple[int, torch.Tensor, float, float]]:
        noise = torch.rand(len(indices), 2)
        return [(index, row, np.random.rand(), random.random()) for index, row in zip(indices, noise, strict=True)]


class Stream(IterableDataset[tuple[int, torch.Tensor, float, float]]):
    """The same without indices, each worker a part of it."""

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor, float, float]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in range(first, COUNT, step):
            yield index, torch.rand(2), np.random.rand(), random.random()


class Thrown(Sampler[int]):
    """An order out of the two other generators."""

    def __len__(self) -> int:
        return COUNT

    def __iter__(self) -> Iterator[int]:
        order = np.random.permutation(COUNT).tolist()
        random.shuffle(order)
        return iter(order)


class Uneven(Sampler[list[int]]):
    """Batches of 1, 2, 3 and 5 samples, shuffled."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(COUNT).tolist()
        return iter([order[:1], order[1:3], order[3:6], order[6:]])


class Backwards(Sampler[int]):
    """Only knows the epoch."""

    epoch = 0

    def __len__(self) -> int:
        return COUNT

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter([(index + self.epoch) % COUNT for index in reversed(range(COUNT))])


def as_list(samples: list[Any]) -> list[Any]:
    return samples


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "sequential": lambda: {"batch_size": 4},
    "shuffle": lambda: {"batch_size": 4, "shuffle": True},
    "drop_last": lambda: {"batch_size": 4, "shuffle": True, "drop_last": True},
    "collate_fn": lambda: {"batch_size": 4, "shuffle": True, "collate_fn": as_list},
    "replacement": lambda: {"batch_size": 4, "sampler": RandomSampler(range(COUNT), replacement=True, num_samples=9)},
    "weights": lambda: {"batch_size": 4, "sampler": WeightedRandomSampler([0.0, *range(1, COUNT)], COUNT)},
    "subset": lambda: {"batch_size": 4, "sampler": SubsetRandomSampler(range(2, 9))},
    "own sampler": lambda: {"batch_size": 4, "sampler": Thrown()},
    "own batch sampler": lambda: {"batch_sampler": Uneven()},
    "no batches": lambda: {"batch_size": None, "shuffle": True},
    "no batches, own sampler": lambda: {"batch_size": None, "sampler": Thrown()},
}
SHUFFLED = [kind for kind in KINDS if kind != "sequential"]
WORKERS = [{"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}]


def make(
    kind: str,
    seed: int = 0,
    training: bool = True,
    rank: int = 0,
    world: int = 1,
    dataset: Any = None,
    **options: Any,
) -> DataLoader:
    data = Noisy() if dataset is None else dataset
    return make_exact(DataLoader(data, **KINDS[kind](), **options), seed, training, rank, world)


def order_of(loader: DataLoader) -> Any:
    """The part of a loader that can start in the middle."""
    return loader.batch_sampler if loader.batch_sampler is not None else loader.sampler


def epoch(loader: Any, number: int = 0) -> list[Any]:
    """The batches of an epoch, chosen as Lightning does it."""
    for part in loader.flattened if isinstance(loader, CombinedLoader) else [loader]:
        _set_sampler_epoch(part, number)
    return list(loader)


def indices(batches: list[Any]) -> list[list[int]]:
    """Which samples the batches hold."""
    found = []
    for batch in batches:
        first = [sample[0] for sample in batch] if isinstance(batch, list) and isinstance(batch[0], tuple) else batch[0]
        found.append(torch.as_tensor(first).flatten().tolist())
    return found


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def disturb() -> None:
    """Leave the generators of this process anywhere."""
    seed = random.randrange(2**32)
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def states() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state(), name, keys.tolist(), rest, random.getstate()


# ---- the same batches


@pytest.mark.parametrize("kind", KINDS)
def test_batches_follow_from_seed_and_epoch_alone(kind: str) -> None:
    one, other = make(kind), make(kind)
    first, second = epoch(one, 0), epoch(one, 1)
    disturb()
    assert unequal(epoch(other, 1), second) == [], "what came before matters"
    disturb()
    assert unequal(epoch(one, 0), first) == []


@pytest.mark.parametrize("workers", WORKERS, ids=["workers", "persistent"])
@pytest.mark.parametrize("kind", KINDS)
def test_workers_change_nothing(kind: str, workers: dict[str, Any]) -> None:
    alone, shared = make(kind), make(kind, **workers)
    for number in (0, 1, 0):
        expected = epoch(alone, number)
        disturb()
        assert unequal(epoch(shared, number), expected) == []


def test_a_dataset_that_gives_many_samples_at_once_may_draw_random_numbers_too() -> None:
    loaders = [make("shuffle", dataset=Bulk(), **options) for options in ({}, *WORKERS)]
    for number in (0, 3):
        first, *others = (epoch(loader, number) for loader in loaders)
        assert all(unequal(first, other) == [] for other in others)
        assert len({float(row[0]) for batch in first for row in batch[1]}) == COUNT


@pytest.mark.parametrize("kind", SHUFFLED)
def test_each_epoch_and_each_seed_has_an_order_of_its_own(kind: str) -> None:
    loader = make(kind)
    orders = [indices(epoch(loader, number)) for number in range(4)] + [indices(epoch(make(kind, seed=1)))]
    assert len({str(order) for order in orders}) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_each_epoch_each_batch_and_each_sample_has_random_numbers_of_its_own(kind: str) -> None:
    numbers: list[float] = []
    samples = 0
    for seed, number in ((0, 0), (0, 1), (1, 0)):
        for batch in epoch(make(kind, seed=seed), number):
            single = isinstance(batch, list) and isinstance(batch[0], tuple)
            for index, *drawn in batch if single else [batch]:
                samples += torch.as_tensor(index).numel()
                numbers += [value for part in drawn for value in torch.as_tensor(part).double().flatten().tolist()]
    assert len(set(numbers)) == len(numbers) == 4 * samples


def test_an_order_that_is_not_random_stays() -> None:
    for number in (0, 1):
        assert indices(epoch(make("sequential"), number)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_the_loaders_own_sampler_decides_which_samples_come() -> None:
    assert sorted(flat(indices(epoch(make("shuffle"))))) == list(range(COUNT))
    assert [len(batch) for batch in indices(epoch(make("drop_last")))] == [4, 4]
    assert sorted(flat(indices(epoch(make("subset"))))) == list(range(2, 9))
    assert sorted(len(batch) for batch in indices(epoch(make("own batch sampler")))) == [1, 2, 3, 5]
    assert sorted(flat(indices(epoch(make("no batches"))))) == list(range(COUNT))
    weighted, repeated = make("weights"), make("replacement")
    drawn = [index for number in range(50) for index in flat(indices(epoch(weighted, number)))]
    assert 0 not in drawn
    assert drawn.count(10) > 2 * drawn.count(2), "10 has five times the weight of 2"
    assert any(len(set(flat(indices(epoch(repeated, number))))) < 9 for number in range(5))


def test_a_sampler_is_told_the_epoch() -> None:
    loader = make_exact(DataLoader(Noisy(), batch_size=11, sampler=Backwards()), 0, True)
    assert indices(epoch(loader, 0)) == [[10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]]
    assert indices(epoch(loader, 2)) == [[1, 0, 10, 9, 8, 7, 6, 5, 4, 3, 2]]


@pytest.mark.parametrize("where", ["loader", "sampler"])
def test_a_generator_of_its_own_gives_an_order_that_follows_from_the_epoch(where: str) -> None:
    def loader() -> DataLoader:
        generator = torch.Generator().manual_seed(5)
        if where == "loader":
            return make_exact(DataLoader(Noisy(), 4, shuffle=True, generator=generator), 0, True)
        return make_exact(DataLoader(Noisy(), 4, sampler=RandomSampler(range(COUNT), generator=generator)), 0, True)

    whole, cut = loader(), loader()
    orders = [indices(epoch(whole, number)) for number in range(3)]
    assert indices(epoch(cut, 2)) == orders[2]
    assert orders[0] != orders[1]


# ---- in the middle of an epoch


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_can_be_begun_at_any_batch(kind: str) -> None:
    for workers in ({}, WORKERS[1]):
        loader = make(kind, **workers)
        expected = epoch(make(kind), 2)
        for first in {0, 1, 2, len(expected) - 1, len(expected)}:
            disturb()
            order_of(loader).start_at(first)
            assert unequal(epoch(loader, 2), expected[first:]) == []
        assert unequal(epoch(loader, 2), expected) == [], "only the next pass begins in the middle"


@pytest.mark.parametrize("kind", KINDS)
def test_batches_that_are_left_out_are_not_loaded(kind: str) -> None:
    dataset = Noisy()
    loaded: list[int] = []
    dataset.__class__ = type("Noting", (Noisy,), {"__getitem__": lambda self, i: loaded.append(int(i)) or (int(i), 0)})
    loader = make(kind, dataset=dataset)
    expected = indices(epoch(loader, 1))
    loaded.clear()
    order_of(loader).start_at(2)
    list(loader)
    assert loaded == flat(expected[2:])


@pytest.mark.parametrize("kind", KINDS)
def test_the_samples_of_a_batch_can_be_asked_for(kind: str) -> None:
    loader = make(kind)
    for number in (0, 3):
        expected = indices(epoch(loader, number))
        assert [order_of(loader).indices_of(batch) for batch in range(len(expected))] == expected


# ---- what is left alone


@pytest.mark.parametrize("workers", [{}, *WORKERS], ids=["0", "workers", "persistent"])
@pytest.mark.parametrize("kind", KINDS)
def test_loading_does_not_touch_the_generators_of_the_training(kind: str, workers: dict[str, Any]) -> None:
    loader = make(kind, **workers)
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    before = states()
    for number in (0, 1):
        epoch(loader, number)
        order_of(loader).indices_of(0)
        assert unequal(states(), before) == []


def test_workers_of_a_stream_do_not_touch_the_generators_either() -> None:
    loader = make_exact(DataLoader(Stream(), 4, num_workers=2), 0, True)
    before = states()
    epoch(loader)
    assert unequal(states(), before) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_stays_what_it_is(kind: str) -> None:
    class Mine(DataLoader):
        extra = "mine"

    loader = Mine(Noisy(), **KINDS[kind]())
    size, length, sampler, collate = loader.batch_size, len(loader), loader.sampler, loader.collate_fn
    made = make_exact(loader, 0, True)
    assert made is loader
    assert (loader.batch_size, len(loader), loader.collate_fn, loader.extra) == (size, length, collate, "mine")
    assert len(epoch(loader)) == length
    assert len(loader.dataset) == COUNT
    assert loader.dataset.count == COUNT
    if loader.batch_sampler is not None:
        assert loader.sampler is sampler
        inner = KINDS[kind]().get("batch_sampler", BatchSampler(sampler, size or 1, False))
        assert getattr(loader.batch_sampler, "batch_size", None) == getattr(inner, "batch_size", None)


def test_making_a_loader_exact_twice_changes_nothing() -> None:
    loader = make("shuffle")
    expected = epoch(loader, 1)
    assert unequal(epoch(make_exact(loader, 99, False, 1, 2), 1), expected) == []


@pytest.mark.parametrize("loader", [Loader([1, 2]), [1, 2], (3,), range(3), None, "text"], ids=str)
def test_what_is_no_dataloader_stays_as_it_is(loader: Any) -> None:
    assert make_exact(loader, 0, True) == loader
    assert type(make_exact(loader, 0, True)) is type(loader)


def test_a_loader_that_keeps_a_state_of_its_own_stays_as_it_is() -> None:
    class Stateful(DataLoader):
        def state_dict(self) -> dict[str, int]:
            return {}

        def load_state_dict(self, state: dict[str, int]) -> None: ...

    loader = Stateful(Noisy(), 4, shuffle=True)
    before = dict(vars(loader))
    assert vars(make_exact(loader, 0, True)) == before


# ---- streams


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}], ids=["0", "workers"])
@pytest.mark.parametrize("batch_size", [4, None])
def test_a_stream_gives_what_it_gave(options: dict[str, Any], batch_size: int | None) -> None:
    expected = indices(list(DataLoader(Stream(), batch_size, **options)))
    assert indices(epoch(make_exact(DataLoader(Stream(), batch_size, **options), 0, True))) == expected
    assert sorted(flat(expected)) == list(range(COUNT))


def test_the_workers_of_a_stream_draw_numbers_that_follow_from_seed_and_epoch() -> None:
    def loader(seed: int = 0) -> DataLoader:
        return make_exact(DataLoader(Stream(), 4, num_workers=2), seed, True)

    one = loader()
    first, second = epoch(one, 0), epoch(one, 1)
    disturb()
    assert unequal(epoch(loader(), 1), second) == []
    assert unequal(epoch(one, 0), first) == []
    assert unequal(first, second) != []
    assert unequal(epoch(loader(seed=1), 0), first) != []


class Endless(Sampler[int]):
    """Without a length or an end. (A test must have one.)"""

    def __iter__(self) -> Iterator[int]:
        for _ in range(10_000):
            yield int(torch.randint(COUNT, ()))
        pytest.fail("read to its end")


@pytest.mark.parametrize(
    "batch_size",
    [
        pytest.param(4),
        None,
    ],
)
def test_an_endless_sampler_is_not_read_to_its_end(batch_size: int | None) -> None:
    loader = make_exact(DataLoader(Noisy(), batch_size, sampler=Endless()), 0, True)
    batches = iter(loader)
    assert len([next(batches) for _ in range(5)]) == 5


# ---- indices of other kinds


class Tensors(Sampler[torch.Tensor]):
    """Batches as tensors."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.randperm(COUNT).split(4))


class Named(Dataset[tuple[int, torch.Tensor, float, float]]):
    """Samples by name."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, name: str) -> tuple[int, torch.Tensor, float, float]:
        return int(name.removeprefix("sample ")), torch.rand(2), np.random.rand(), random.random()


NAMES = [f"sample {index}" for index in range(COUNT)]


class Slices(Noisy):
    """Asked for a whole batch by a list of indices, as in torch's documentation."""

    def __getitem__(self, index: Any) -> Any:
        assert isinstance(index, list)
        count = len(index)
        return torch.tensor(index), torch.rand(count, 2), np.random.rand(count), [random.random() for _ in index]


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(
            lambda **options: DataLoader(Noisy(), batch_sampler=Tensors(), **options),
            id="tensors",
        ),
        pytest.param(lambda **options: DataLoader(Named(), 4, sampler=NAMES, **options), id="names"),
        pytest.param(
            lambda **options: DataLoader(Named(), None, sampler=NAMES, **options),
            id="names, no batches",
        ),
        pytest.param(
            lambda **options: DataLoader(
                Slices(), None, sampler=BatchSampler(SequentialSampler(range(COUNT)), 4, False), **options
            ),
            id="batches by the dataset",
        ),
    ],
)
def test_indices_may_be_of_any_kind(build: Callable[..., DataLoader]) -> None:
    plain, alone = build(), make_exact(build(), 0, True)
    assert sorted(flat(indices(list(plain)))) == sorted(flat(indices(epoch(alone)))) == list(range(COUNT))
    before = states()
    expected = epoch(alone, 1)
    assert unequal(states(), before) == []
    disturb()
    assert unequal(epoch(make_exact(build(num_workers=2), 0, True), 1), expected) == []


# ---- several loaders


def test_a_dict_or_a_list_of_loaders_has_each_of_them_made_exact() -> None:
    expected = [epoch(make(kind), 1) for kind in ("shuffle", "weights")]

    def pair() -> list[DataLoader]:
        return [DataLoader(Noisy(), **KINDS[kind]()) for kind in ("shuffle", "weights")]

    made = make_exact(dict(zip("ab", pair(), strict=True)), 0, True)
    assert list(made) == ["a", "b"]
    assert unequal([epoch(loader, 1) for loader in made.values()], expected) == []
    for kind in (list, tuple):
        made = make_exact(kind(pair()), 0, True)
        assert type(made) is kind
        assert unequal([epoch(loader, 1) for loader in made], expected) == []
    nested = make_exact({"a": [pair()[0], {"b": pair()[1]}], "c": Loader([1])}, 0, True)
    assert unequal([epoch(nested["a"][0], 1), epoch(nested["a"][1]["b"], 1)], expected) == []


def test_a_combined_loader_has_each_of_its_loaders_made_exact() -> None:
    def combined(**options: Any) -> CombinedLoader:
        loaders = {kind: DataLoader(Noisy(), **KINDS[kind](), **options) for kind in ("shuffle", "weights")}
        return make_exact(CombinedLoader(loaders, "max_size"), 0, True)

    expected = [epoch(make(kind), 1) for kind in ("shuffle", "weights")]
    for loader in (combined(), combined(num_workers=2)):
        disturb()
        found = [batch for batch, _, _ in epoch(loader, 1)]
        assert unequal([[batch[kind] for batch in found] for kind in ("shuffle", "weights")], expected) == []


# ---- shares


def shares(count: int, batch: int, world: int, training: bool, **options: Any) -> list[list[list[int]]]:
    """For each rank, its part of each batch."""
    loaders = [
        make_exact(DataLoader(Noisy(count), batch, shuffle=training, **options), 0, training, rank, world)
        for rank in range(world)
    ]
    found = [indices(epoch(loader, 1)) for loader in loaders]
    assert [len(part) for part in found] == [len(loader) for loader in loaders]
    return found


@pytest.mark.parametrize("world", [2, 3, 4])
def test_evaluation_gives_each_sample_to_one_rank_and_each_rank_a_part_of_each_batch(world: int) -> None:
    for count, batch in product([*range(world, 20), 33, 64, 65], [1, 2, 3, 4, 7, 16, 32, 100]):
        parts = shares(count, batch, world, training=False)
        assert sorted(flat([share for part in parts for share in part])) == list(range(count)), (count, batch)
        assert len({len(part) for part in parts}) == 1, (count, batch)
        assert min(len(share) for part in parts for share in part) >= 1, (count, batch)
        for together in zip(*parts, strict=True):
            sizes = [len(share) for share in together]
            assert max(sizes) - min(sizes) <= 1, (count, batch)


def test_33_samples_on_two_and_three_ranks() -> None:
    assert shares(33, 8, 2, training=False)[0][0][:2] == [0, 2], "every second sample"
    for world in (2, 3):
        parts = shares(33, 16, world, training=False)  # the last batch would have a single sample
        assert sorted(flat([share for part in parts for share in part])) == list(range(33))
        assert [sum(len(part[i]) for part in parts) for i in range(3)] == [11, 11, 11]
    parts = shares(33, 6, 2, training=False)
    assert [sum(len(part[i]) for part in parts) for i in range(6)] == [6, 6, 6, 6, 6, 3]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_training_gives_each_rank_as_many_samples_of_the_batch_that_one_device_would_see(world: int) -> None:
    for count, batch, drop_last in product([*range(world, 20), 33], [world, 2 * world, 5 * world], [False, True]):
        (alone,) = shares(count, batch, 1, training=True, drop_last=drop_last)
        parts = shares(count, batch, world, training=True, drop_last=drop_last)
        whole = [part[: len(part) // world * world] for part in alone]
        expected = [sorted(part) for part in whole if part]
        together = [sorted(flat(list(pieces))) for pieces in zip(*parts, strict=True)]
        assert together == expected, (count, batch)
        assert all(len({len(piece) for piece in pieces}) == 1 for pieces in zip(*parts, strict=True))


def test_training_on_several_ranks_loses_less_than_a_sample_for_each_rank() -> None:
    for count, world in product(range(4, 20), [2, 3, 4]):
        kept = flat([share for part in shares(count, 2 * world, world, training=True) for share in part])
        assert count - len(kept) < world
        assert len(set(kept)) == len(kept)


def test_a_batch_sampler_of_its_own_is_shared_too() -> None:
    for training, expected in ((True, [2, 2, 4]), (False, None)):
        parts = [indices(epoch(make("own batch sampler", training=training, rank=rank, world=2))) for rank in (0, 1)]
        sizes = [len(one) + len(other) for one, other in zip(*parts, strict=True)]
        if training:
            assert sizes == expected, "1, 2, 3 and 5 samples, rounded down to pairs"
        else:
            assert sum(sizes) == COUNT
            assert sorted(flat(parts[0] + parts[1])) == list(range(COUNT))
            assert min(len(share) for part in parts for share in part) >= 1


def test_ranks_agree_on_the_order_and_draw_numbers_of_their_own() -> None:
    one, other = (epoch(make("shuffle", rank=rank, world=2), 1) for rank in (0, 1))
    assert not set(flat(indices(one))) & set(flat(indices(other)))
    noise = [torch.cat([batch[1].flatten() for batch in part]).tolist() for part in (one, other)]
    assert not set(noise[0]) & set(noise[1])


def test_a_rank_can_begin_in_the_middle_and_say_which_samples_it_has() -> None:
    loader = make("shuffle", rank=1, world=2)
    expected = epoch(loader, 4)
    assert [loader.batch_sampler.indices_of(i) for i in range(len(expected))] == indices(expected)
    loader.batch_sampler.start_at(1)
    assert unequal(epoch(loader, 4), expected[1:]) == []


@pytest.mark.parametrize("training", [True, False])
def test_a_loader_that_is_shared_already_is_not_shared_again(training: bool) -> None:
    parts = []
    for rank in (0, 1):
        sampler = DistributedSampler(Noisy(12), num_replicas=2, rank=rank, shuffle=True, seed=7)
        loader = make_exact(DataLoader(Noisy(12), 3, sampler=sampler), 0, training, rank, 2)
        sampler.set_epoch(5)
        expected = list(sampler)
        parts.append(flat(indices(epoch(loader, 5))))
        assert parts[rank] == expected
    assert sorted(parts[0] + parts[1]) == list(range(12))


def test_streams_divide_themselves() -> None:
    loader = make_exact(DataLoader(Stream(), 4), 0, True, 1, 2)
    assert sorted(flat(indices(epoch(loader)))) == list(range(COUNT))


# ---- what can't be


@pytest.mark.parametrize(("size", "world", "nearest"), [(33, 2, 32), (5, 3, 6), (1, 2, 2), (3, 4, 4), (63, 4, 64)])
def test_a_training_batch_that_can_not_be_shared_equally_is_told(size: int, world: int, nearest: int) -> None:
    with pytest.raises(ValueError, match=rf"^data: .*batch_size {size} .* {world} devices .* nearest is {nearest}$"):
        make_exact(DataLoader(Noisy(100), size), 0, True, 0, world)
    make_exact(DataLoader(Noisy(100), size), 0, False, 0, world)


@pytest.mark.parametrize("training", [True, False])
def test_fewer_samples_than_devices_are_told(training: bool) -> None:
    with pytest.raises(ValueError, match=r"^data: 4 devices can't share 3 samples$"):
        make_exact(DataLoader(Noisy(3), 4), 0, training, 0, 4)


@pytest.mark.parametrize("training", [True, False])
def test_a_sampler_with_fewer_samples_than_devices_is_told(training: bool) -> None:
    with pytest.raises(ValueError, match=r"^data: 2 devices can't share 1 samples?$"):
        epoch(make_exact(DataLoader(Noisy(), 4, sampler=SubsetRandomSampler([5])), 0, training, 1, 2))


def test_single_samples_can_not_be_shared() -> None:
    with pytest.raises(ValueError, match=r"^data: 2 devices can't share a DataLoader with batch_size None$"):
        make_exact(DataLoader(Noisy(), None), 0, True, 0, 2)
