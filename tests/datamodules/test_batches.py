"""`datamodules.batches`: which samples a batch holds."""

import pytest
import torch
from torch import Tensor

from datamodules.batches import Batches, mix_seed


def samples(count: int) -> tuple[Tensor, Tensor]:
    """Inputs that tell their own index, and labels that tell it too."""
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1), torch.arange(count) * 10


def make(count: int, batch_size: int, shuffle_seed: int | None = None, rank: int = 0, world_size: int = 1) -> Batches:
    return Batches(*samples(count), torch.arange(count), batch_size, shuffle_seed, rank, world_size)


def seen(batches: Batches) -> list[list[int]]:
    return [labels.div(10).int().tolist() for _, labels in batches]


def flat(batches: Batches) -> list[int]:
    return [index for batch in seen(batches) for index in batch]


def epoch(batches: Batches, number: int) -> list[int]:
    batches.set_epoch(number)
    return flat(batches)


def test_inputs_and_labels_belong_together_and_come_as_stored() -> None:
    for inputs, labels in make(33, 8, shuffle_seed=0):
        assert inputs.dtype == torch.uint8
        assert inputs.shape == (8, 1, 1, 1)
        assert torch.equal(inputs.flatten() * 10, labels.to(torch.uint8))


def test_only_the_chosen_samples_are_used() -> None:
    chosen = torch.tensor([4, 9, 2, 7, 30])
    assert seen(Batches(*samples(33), chosen, 2)) == [[4, 9], [2, 7], [30]]
    assert set(flat(Batches(*samples(33), chosen, 2, shuffle_seed=1))) <= set(chosen.tolist())


def test_evaluation_keeps_the_order_and_the_last_partial_batch() -> None:
    batches = make(33, 8)
    assert flat(batches) == list(range(33))
    assert [len(batch) for batch in seen(batches)] == [8, 8, 8, 8, 1]
    assert len(batches) == 5


def test_training_leaves_out_the_last_partial_batch() -> None:
    batches = make(33, 8, shuffle_seed=0)
    assert [len(batch) for batch in seen(batches)] == [8, 8, 8, 8]
    assert len(batches) == 4


@pytest.mark.parametrize(("count", "training", "evaluation"), [(32, 4, 4), (39, 4, 5), (7, 0, 1), (8, 1, 1)])
def test_the_length_is_the_number_of_batches_that_come(count: int, training: int, evaluation: int) -> None:
    for batches, expected in ((make(count, 8, shuffle_seed=0), training), (make(count, 8), evaluation)):
        assert len(batches) == len(list(batches)) == expected


def test_each_epoch_of_training_is_a_permutation_of_its_own() -> None:
    batches = make(32, 8, shuffle_seed=3)
    orders = [epoch(batches, number) for number in range(5)]
    assert all(sorted(order) == list(range(32)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5


def test_samples_left_out_in_one_epoch_come_in_another() -> None:
    batches = make(33, 8, shuffle_seed=0)
    assert set().union(*(epoch(batches, number) for number in range(5))) == set(range(33))


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    first, second = make(32, 8, shuffle_seed=5), make(32, 8, shuffle_seed=5)
    torch.manual_seed(1)
    expected = epoch(first, 7)
    torch.manual_seed(2)
    epoch(second, 0)  # what came before does not matter
    torch.rand(3)
    assert epoch(second, 7) == expected
    assert epoch(make(32, 8, shuffle_seed=6), 7) != expected


def test_going_through_the_batches_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(make(32, 8, shuffle_seed=0))
    assert torch.equal(torch.rand(1), expected)


def test_an_epoch_can_be_begun_again() -> None:
    batches = make(32, 8, shuffle_seed=0)
    first = next(iter(batches))[1]
    assert torch.equal(next(iter(batches))[1], first)


@pytest.mark.parametrize("shuffle_seed", [None, 3])
def test_an_epoch_can_be_begun_at_any_batch(shuffle_seed: int | None) -> None:
    batches = make(33, 8, shuffle_seed)
    batches.set_epoch(5)
    expected = seen(batches)
    for first in range(len(expected) + 1):
        batches.start_at(first)
        torch.rand(1)  # the generator of the training does not matter
        assert seen(batches) == expected[first:]
    assert seen(batches) == expected, "only the next pass begins in the middle"
    assert len(batches) == len(expected)


def test_an_epoch_begun_in_the_middle_is_that_of_its_number() -> None:
    batches, other = make(32, 8, shuffle_seed=3), make(32, 8, shuffle_seed=3)
    batches.start_at(2)
    batches.set_epoch(6)  # in whatever order it is said
    other.set_epoch(6)
    assert seen(batches) == seen(other)[2:]


@pytest.mark.parametrize("shuffle_seed", [None, 3])
@pytest.mark.parametrize("world_size", [1, 2])
def test_the_samples_of_a_batch_can_be_asked_for(shuffle_seed: int | None, world_size: int) -> None:
    for rank in range(world_size):
        batches = make(33, 8, shuffle_seed, rank, world_size)
        for number in (0, 4):
            batches.set_epoch(number)
            expected = seen(batches)
            assert [batches.indices_of(batch) for batch in range(len(expected))] == expected
    chosen = torch.tensor([4, 9, 2])
    assert Batches(*samples(33), chosen, 2).indices_of(1) == [2], "the number of the sample, not its place"


@pytest.mark.parametrize("first", [0, 1, 3, 4])
def test_the_ranks_begin_at_the_same_place(first: int) -> None:
    alone = make(33, 8, shuffle_seed=4)
    parts = [make(33, 8, 4, rank, 2) for rank in range(2)]
    for batches in (alone, *parts):
        batches.set_epoch(2)
        batches.start_at(first)
    shares = zip(*map(seen, parts), strict=True)
    assert [sorted(one + other) for one, other in shares] == [sorted(batch) for batch in seen(alone)]


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_ranks_share_each_evaluated_sample_exactly_once(world_size: int) -> None:
    parts = [seen(make(33, 6, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert sorted(index for part in parts for batch in part for index in batch) == list(range(33))
    assert {len(part) for part in parts} == {6}  # as many batches on each rank: none waits for another


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_ranks_share_the_very_batch_that_one_device_would_see(world_size: int) -> None:
    alone = seen(make(33, 6, shuffle_seed=4))
    parts = [seen(make(33, 6, 4, rank, world_size)) for rank in range(world_size)]
    for number, batch in enumerate(alone):
        shares = [part[number] for part in parts]
        assert {len(share) for share in shares} == {6 // world_size}
        assert sorted(index for share in shares for index in share) == sorted(batch)


def test_mixed_seeds_differ_for_neighbouring_counters_and_fit_a_generator() -> None:
    seeds = {mix_seed(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix_seed(0) != mix_seed(1)


def balanced(counts: list[int], batch_size: int = 1, seed: int = 0) -> Batches:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    inputs = torch.arange(len(labels))
    return Batches(inputs, labels, inputs, batch_size, seed, balanced=True)


def test_balanced_batches_have_as_many_of_each_class_and_an_epoch_is_as_long() -> None:
    batches = balanced([90, 9, 1])
    for number in range(3):
        batches.set_epoch(number)
        inputs, labels = (torch.cat(column) for column in zip(*batches, strict=True))
        assert sorted(torch.bincount(labels).tolist()) == [33, 33, 34]
        assert len(inputs[labels == 0].unique()) == (labels == 0).sum(), "none of a frequent class twice"
        rare = torch.bincount(inputs[labels == 1] - 90)
        assert rare.max() - rare.min() <= 1, "each of a rare class as often as any other"


def test_balanced_epochs_take_other_samples_of_frequent_classes_and_mix_the_classes() -> None:
    batches = balanced([400, 4], batch_size=404)
    (first,), _ = (list(batches), batches.set_epoch(1))
    (second,) = list(batches)
    parts = [set(inputs[labels == 0].tolist()) for inputs, labels in (first, second)]
    assert 0.3 < len(parts[0] & parts[1]) / len(parts[0]) < 0.7
    assert 80 < int(first[1][:202].sum()) < 122
    batches.set_epoch(0)
    assert torch.equal(next(iter(batches))[0], first[0])


def test_balanced_batches_are_of_the_chosen_samples_and_shared() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    chosen = torch.tensor([0, 2, 4, 5])
    seen_by = [
        torch.cat([x for x, _ in Batches(torch.arange(7), labels, chosen, 2, 0, rank, 2, balanced=True)])
        for rank in (0, 1)
    ]
    assert sorted(labels[torch.cat(seen_by)].tolist()) == [0, 0, 1, 1]
    assert set(torch.cat(seen_by).tolist()) <= set(chosen.tolist())
