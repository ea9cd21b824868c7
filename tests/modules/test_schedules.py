"""`modules.CosineWithWarmup`: the rates, by hand."""

import math
import warnings

import pytest
import torch
from torch import nn

from modules import CosineWithWarmup


def rates(steps: int, **options: float) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = CosineWithWarmup(optimizer, **options)  # type: ignore[arg-type]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schedule.step()
    return found


def test_it_rises_in_a_line_and_falls_by_half_a_cosine() -> None:
    found = rates(110, total_steps=100, warmup=0.2, final_scale=0.1)
    assert found[:20] == pytest.approx([2 * (i + 1) / 21 for i in range(20)])
    assert found[20] == 2.0
    assert found[60] == pytest.approx(2 * (0.1 + 0.9 * 0.5))
    assert found[40] == pytest.approx(2 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))))
    assert found[100:] == pytest.approx([0.2] * 10), "it stays at the end"


def test_the_rise_may_be_given_in_steps_or_left_out() -> None:
    assert rates(5, total_steps=100, warmup=3)[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates(1, total_steps=100, warmup=0) == [2.0]


@pytest.mark.parametrize("options", [{"total_steps": 0}, {"warmup": -1}, {"final_scale": 1.5}])
def test_impossible_values_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        rates(1, **({"total_steps": 10} | options))
