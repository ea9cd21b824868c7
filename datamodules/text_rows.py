"""Texts in a user's own files, read for prediction."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.names import nearest
from datamodules.ragged import Ragged
from datamodules.table_files import TableFile, to_texts
from datamodules.token_files import Tokenizer

AT_ONCE = 1 << 12  # texts


class TextRows:
    """Iterate over batches of tokens `(B, T)` int64 of a user's own texts; files that can't be read are left out.

    While it is iterated over, `read` and `unread` fill.

    Args:
        paths: CSV or Parquet files with the columns of the training, each row a text; `.txt` files, each one text.
        columns: Those of the training.
        tokenizer: That of the training.
        most: Tokens after which a text is cut off.
        batch_size: Texts per batch.

    Attributes:
        read: Of each text its file and its row, from 1.
        unread: Files, and why they could not be read.
    """

    names = ("file", "row")

    def __init__(
        self, paths: list[Path], columns: list[str], tokenizer: Tokenizer, most: int, batch_size: int = 128
    ) -> None:
        self.paths, self.columns, self.tokenizer = paths, columns, tokenizer
        self.most, self.batch_size = most, batch_size
        self.read: list[tuple[Path, int]] = []
        self.unread: list[tuple[Path, str]] = []

    def __iter__(self) -> Iterator[Tensor]:
        self.read, self.unread = [], []
        for path in self.paths:
            count = 0
            try:
                for texts in self._texts(path):
                    if (missing := next((i for i, text in enumerate(texts) if text is None), None)) is not None:
                        raise ValueError(f"row {count + missing + 1} has no {', '.join(self.columns)}")
                    for start in range(0, len(texts), self.batch_size):
                        some = texts[start : start + self.batch_size]
                        rows = list(tokens_of_texts(some, self.tokenizer, self.most))
                        self.read += [(path, count + i + 1) for i in range(len(some))]
                        count += len(some)
                        yield Ragged(rows, self.tokenizer.pad_id).padded(torch.arange(len(rows)))
            except (OSError, ValueError) as error:
                reason = str(error).removeprefix(f"{path}: ")
                self.unread.append((path, f"{reason} (after {count} rows)" if count else reason))

    def _texts(self, path: Path) -> Iterator[list[Any]]:
        if path.suffix.lower() == ".txt":
            text = path.read_text(encoding="utf-8", errors="replace")
            if not text.strip():
                raise ValueError("the file is empty")
            yield [text]
            return
        file = TableFile(path)
        if missing := [name for name in self.columns if name not in file.columns]:
            raise ValueError(f"no column {missing[0]!r}{nearest(missing[0], file.columns)}")
        for part in file.parts(self.columns):
            yield joined([to_texts(part[name]) for name in self.columns])


def joined(columns: list[Any]) -> list[Any]:
    """The texts of several columns put together, row by row; None where all are missing."""
    rows = ([text for text in row if text is not None and text.strip()] for row in zip(*columns, strict=True))
    return ["\n".join(row) if row else None for row in rows]


def tokens_of_texts(texts: list[str], tokenizer: Tokenizer, most: int) -> Iterator[list[int]]:
    for start in range(0, len(texts), AT_ONCE):
        yield from tokenizer.encode_all(texts[start : start + AT_ONCE], most)
