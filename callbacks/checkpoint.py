"""The checkpoint to go on from, beside the best ones."""

from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """`last.ckpt`, written after every epoch; the `save_last` of another one writes only when that saves a best."""

    def __init__(self, dirpath: str | Path | None = None) -> None:
        super().__init__(dirpath, filename="last", save_top_k=1, enable_version_counter=False)
