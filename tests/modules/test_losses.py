"""`modules.losses`, against torch's own and against the formula."""

import math

import pytest
import torch
from torch.nn import functional as F

from modules.losses import binary_focal_loss, focal_loss

LOGITS = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.arange(50) % 4
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 4.0])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_gamma_0_is_cross_entropy(weight: torch.Tensor | None, smoothing: float) -> None:
    expected = F.cross_entropy(LOGITS, LABELS, weight, label_smoothing=smoothing)
    assert torch.allclose(focal_loss(LOGITS, LABELS, 0.0, weight, smoothing), expected)
    soft = F.one_hot(LABELS.roll(1), 4) * 0.3 + F.one_hot(LABELS, 4) * 0.7
    expected = F.cross_entropy(LOGITS, soft, weight, label_smoothing=smoothing)
    assert torch.allclose(focal_loss(LOGITS, soft, 0.0, weight, smoothing), expected)


def test_two_samples_by_hand() -> None:
    # probabilities 0.9 and 0.2 of the right class
    logits = torch.tensor([[math.log(0.9), math.log(0.1)], [math.log(0.8), math.log(0.2)]])
    expected = -(0.1**2 * math.log(0.9) + 0.8**2 * math.log(0.2)) / 2
    assert float(focal_loss(logits, torch.tensor([0, 1]))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_are_finite_where_a_sample_is_sure(gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0]), gamma)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


SEVERAL = torch.rand(50, 4, generator=torch.Generator().manual_seed(1)).round()


def test_gamma_0_is_binary_cross_entropy_for_labels_of_which_there_may_be_several() -> None:
    for weight in (None, WEIGHT):
        expected = F.binary_cross_entropy_with_logits(LOGITS, SEVERAL, pos_weight=weight)
        assert torch.allclose(binary_focal_loss(LOGITS, SEVERAL, 0.0, weight), expected)


def test_two_labels_by_hand() -> None:
    logits = torch.tensor([[math.log(9.0), math.log(0.25)]])  # probabilities 0.9 and 0.2
    expected = -(0.1**2 * math.log(0.9) + 0.2**2 * math.log(0.8)) / 2
    assert float(binary_focal_loss(logits, torch.tensor([[1.0, 0.0]]))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_are_finite_where_a_label_is_sure(gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0, 200.0, -200.0]], requires_grad=True)
    loss = binary_focal_loss(logits, torch.tensor([[1.0, 1.0, 0.0, 0.0]]), gamma)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]
