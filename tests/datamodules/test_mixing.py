"""`datamodules.mixing`: an image's label is mixed as the image is."""

import pytest
import torch
from torch import Tensor

from datamodules.mixing import mix

CLASSES = 5


def constant(count: int) -> tuple[Tensor, Tensor]:
    """Images that are their label everywhere."""
    labels = torch.arange(count) % CLASSES
    return labels.float()[:, None, None, None].expand(-1, 2, 16, 12), labels


def mixed(mixup: float, cutmix: float, count: int = 300, seed: int = 0) -> tuple[Tensor, Tensor]:
    return mix(*constant(count), CLASSES, mixup, cutmix, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (0.4, 1.0), (0.05, 0.0)])
def test_the_label_has_each_class_by_its_share_of_the_image(mixup: float, cutmix: float) -> None:
    x, y = mixed(mixup, cutmix)
    assert y.shape == (300, CLASSES)
    assert torch.allclose(y.sum(1), torch.ones(300))
    assert y.min() >= 0
    # of images that are constant, the mean is the mean of the labels
    assert torch.allclose(x.mean((1, 2, 3)), y @ torch.arange(CLASSES).float(), atol=1e-5)


def test_mixup_adds_and_cutmix_pastes_a_rectangle() -> None:
    added, _ = mixed(1.0, 0.0)
    assert (added.flatten(1).std(1) < 1e-6).all()
    pasted, y = mixed(0.0, 1.0)
    one = int((pasted.flatten(1).std(1) * (y.max(1).values < 0.8)).argmax())
    values = pasted[one, 0].unique()
    assert len(values) == 2
    places = [(pasted[one, 0] == value).nonzero() for value in values]
    boxes = [(place.max(0).values - place.min(0).values + 1).prod() for place in places]
    assert any(box == len(place) < 16 * 12 for box, place in zip(boxes, places, strict=True))


def test_with_both_about_every_second_image_is_mixed_by_either() -> None:
    x, y = mixed(1.0, 1.0)
    between = y.max(1).values < 0.95
    pasted = (x.flatten(1).std(1) > 1e-6)[between].float().mean()
    assert 0.35 < pasted < 0.65


def test_shares_are_drawn_for_each_image_and_from_the_beta_distribution() -> None:
    _, y = mixed(0.2, 0.0, count=4000)
    largest = y.max(1).values
    assert len(largest.unique()) > 1000
    # of Beta(a, a): variance 1 / (4 (2a + 1)); of pairs of different classes
    _, other = mixed(2.0, 0.0, count=4000)
    for alpha, found in ((0.2, y), (2.0, other)):
        pairs = found[(found > 0).sum(1) == 2]
        share = pairs.max(1).values
        assert float((share - 0.5).square().mean()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_the_same_generator_gives_the_same() -> None:
    for first, second, third in zip(mixed(1, 1), mixed(1, 1), mixed(1, 1, seed=1), strict=True):
        assert torch.equal(first, second)
        assert not torch.equal(first, third)
