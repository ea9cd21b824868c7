"""The TensorBoard logger of a run, which also decides on the run's folder."""

from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger


class RunLogger(TensorBoardLogger):
    """Logs into `<save_dir>/<name>/version_N`, a folder that no other run has or gets.

    Lightning's own logger takes the next free number without taking hold of it: two runs that start together
    then write into one folder.
    """

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

    def save(self) -> None:
        # without Lightning's hparams.yaml, since config.yaml says the same and more
        if self._experiment is not None:
            self.experiment.flush()
