"""The TensorBoard logger of a run, which also decides on the run's folder."""

from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor


class RunLogger(TensorBoardLogger):
    """Logs into `<save_dir>/<name>/version_N`, a folder that no other run has or gets; or into a given one.

    Lightning's own logger takes the next free number without taking hold of it: two runs that start together
    then write into one folder. And a disk that is full would end the training.
    """

    lost = False

    @property
    def version(self) -> int | str:
        if self._version is None:
            first = getattr(rank_zero_only, "rank", 0) == 0
            self._version = self._claim() if first else self._get_next_version()
        return self._version

    def _claim(self) -> int:
        version = self._get_next_version()
        while True:
            folder = Path(self.root_dir, f"version_{version}")
            try:
                folder.mkdir(parents=True, exist_ok=False)
            except FileExistsError:
                version += 1
            else:
                return version

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """TensorBoard's writer; one that writes nothing where the log is lost."""
        if not self.lost:
            try:
                return super().experiment
            except OSError as error:
                self.lose(error)
        return _DummyExperiment()

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if not self.lost:
            try:
                single = {name: value for name, value in metrics.items() if isinstance(value, int | float | Tensor)}
                values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in single.items()]
                # all of them in one event: in events of their own each takes as long as ten
                if (writer := self.experiment._get_file_writer()) is not None:  # None where there is no log
                    writer.add_summary(Summary(value=values), step)
                if others := {name: value for name, value in metrics.items() if name not in single}:
                    super().log_metrics(others, step)
            except (OSError, ValueError) as error:  # Lightning makes a ValueError of whatever the writer raises
                cause = error if isinstance(error, OSError) else error.__cause__
                if not isinstance(cause, OSError):
                    raise
                self.lose(cause)

    def save(self) -> None:
        # without Lightning's hparams.yaml, since config.yaml says the same and more
        if self._experiment is not None and not self.lost:
            try:
                self.experiment.flush()
            except OSError as error:
                self.lose(error)

    def finalize(self, status: str) -> None:
        if not self.lost:
            try:
                super().finalize(status)
            except OSError as error:
                self.lose(error)

    def lose(self, error: OSError) -> None:
        """Log no more: TensorBoard's writer does not recover from a file that it could not write."""
        self.lost = True
        rank_zero_warn(
            f"can't write TensorBoard's log in {self.log_dir}: {error.strerror or error}; the training goes on",
            category=UserWarning,
        )
