"""Learning rate schedules that torch does not have."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class CosineWithWarmup(LRScheduler):
    """A linear rise to the optimizer's learning rate, and half a cosine down to a part of it.

    As Loshchilov and Hutter 2016 (https://arxiv.org/abs/1608.03983) without restarts, after a warm-up as of Goyal et
    al. 2017 (https://arxiv.org/abs/1706.02677). It ticks once a step.

    Args:
        optimizer: The optimizer.
        total_steps: Steps until the end. The run's length when left out.
        warmup: Steps of the rise; a number below 1 is a share of all steps.
        final_scale: The last learning rate over the highest one.
        last_epoch: Of a schedule that goes on.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        warmup: float = 0.05,
        final_scale: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is None or total_steps < 1:
            raise ValueError(f"total_steps {total_steps} is not a positive number")
        if warmup < 0:
            raise ValueError(f"warmup {warmup} is below 0")
        if not 0 <= final_scale <= 1:
            raise ValueError(f"final_scale {final_scale} is outside [0, 1]")
        self.total_steps, self.final_scale = total_steps, final_scale
        self.warmup_steps = round(warmup * total_steps) if warmup < 1 else min(round(warmup), total_steps)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """The learning rate of each parameter group, at step `last_epoch`."""
        step = self.last_epoch
        if step < self.warmup_steps:
            scale = (step + 1) / (self.warmup_steps + 1)
        else:
            share = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
            scale = self.final_scale + (1 - self.final_scale) * 0.5 * (1 + math.cos(math.pi * share))
        return [rate * scale for rate in self.base_lrs]

    _get_closed_form_lr = get_lr  # where torch, and a run that goes on, look for rates that follow from the step alone
