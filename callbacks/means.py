"""The mean that `self.log(…, sync_dist=True)` takes over several processes, exactly."""

from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultMetric
from torch import Tensor


def use_exact_means() -> None:
    """Put `compute` in the place of Lightning's own.

    That one takes the mean of the numbers of samples over the processes as an integer (Lightning 2.6): with
    `sync_dist`, 33 samples on 2 processes are counted as 32.
    """
    _ResultMetric.compute = compute  # type: ignore[method-assign]


def compute(self: _ResultMetric) -> Tensor:
    """What `self.log` has gathered."""
    if not self.is_tensor:
        return self.value.compute()
    value = self.meta.sync(self.value.clone())
    return value / self.meta.sync(self.cumulated_batch_size.to(value.dtype)) if self.meta.is_mean_reduction else value
