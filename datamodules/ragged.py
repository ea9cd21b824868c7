"""Texts of different lengths, and batches of them that are as long as they have to be."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.batches import Batches


class Ragged:
    """Rows of tokens of different lengths, in one tensor.

    Args:
        rows: The tokens of each of N texts.
        pad_id: Fills up the shorter ones of a batch.
    """

    def __init__(self, rows: Sequence[Sequence[int]], pad_id: int) -> None:
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        self.ends = lengths.cumsum(0)
        self.starts = self.ends - lengths
        self.tokens = torch.from_numpy(np.fromiter((token for row in rows for token in row), np.int32))
        self.pad_id = pad_id

    def padded(self, chosen: Tensor) -> Tensor:
        """Some rows `(B,)` as `(B, T)` int64, T the length of the longest of them and 1 at least."""
        starts, lengths = self.starts[chosen], (self.ends - self.starts)[chosen]
        places = torch.arange(max(1, int(lengths.max())) if len(chosen) else 1)
        there = places < lengths[:, None]
        found = torch.full(there.shape, self.pad_id, dtype=torch.int64)
        found[there] = self.tokens[(starts[:, None] + places)[there]].to(torch.int64)
        return found


class TextBatches(Batches):
    """Batches `(tokens, labels)` of texts: `(B, T)` int64, as long as the longest of them, and `(B,)` int64.

    Args:
        texts: All texts.
        more: As of `Batches`, after the inputs.
    """

    def __init__(self, texts: Ragged, *more: Any, **options: Any) -> None:
        super().__init__(torch.empty(0), *more, **options)
        self.texts = texts

    def fetch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        return self.texts.padded(chosen), self.labels.index_select(0, chosen)
