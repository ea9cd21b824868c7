"""The rows of a user's own table files, read for prediction."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from datamodules.table_columns import Columns
from datamodules.table_files import TableFile


class TableRows:
    """Iterate over batches `(N, width)` float32 of the rows of files; files that can't be read are left out.

    While it is iterated over, `read`, `unread` and `unseen` fill.

    Args:
        paths: CSV or Parquet files with the columns of the training.
        columns: Those of the training.
        batch_size: Rows per batch.

    Attributes:
        read: Of each row its file and its number, from 1.
        unread: Files, and why they could not be read.
        unseen: By column, kinds that no training row had.
    """

    names = ("file", "row")

    def __init__(self, paths: list[Path], columns: Columns, batch_size: int = 1024) -> None:
        self.paths, self.columns, self.batch_size = paths, columns, batch_size
        self.read: list[tuple[Path, int]] = []
        self.unread: list[tuple[Path, str]] = []
        self.unseen: dict[str, set[str]] = {}

    def __iter__(self) -> Iterator[Tensor]:
        self.read, self.unread, self.unseen = [], [], {}
        for path in self.paths:
            count = 0
            try:
                file = TableFile(path)
                if missing := [name for name in self.columns.kinds if name not in file.columns]:
                    raise ValueError(f"no column {missing[0]!r}" + f", and {len(missing) - 1} more" * bool(missing[1:]))
                for part in file.parts(list(self.columns.kinds)):
                    inputs = torch.from_numpy(self.columns.prepare(part, file.numbers))
                    for name, texts in self.columns.unseen(part).items():
                        self.unseen.setdefault(name, set()).update(texts)
                    self.read += [(path, count + i + 1) for i in range(len(part))]
                    count += len(part)
                    yield from inputs.split(self.batch_size)
            except (OSError, ValueError) as error:
                reason = str(error).removeprefix(f"{path}: ")
                self.unread.append((path, f"{reason} (after {count} rows)" if count else reason))
