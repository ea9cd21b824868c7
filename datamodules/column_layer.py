"""What is done with the columns of a table, as the first layer of a network that leaves this project."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer
from torch import Tensor, nn

from datamodules.table_columns import MISSING, Columns

UNSEEN = "\0"  # a text that no file has
LEAST = 1e-7  # scikit-learn takes a value so near to the least, or to the greatest, for it; and cuts off such shares


class ColumnLayer(nn.Module):
    """Rows as a file has them, to what `Columns.prepare` makes of them.

    Texts are no tensors: in a column of kinds a row has the number of its kind in the list that `about` gives.

    Args:
        columns: Fitted.

    Raises:
        ValueError: It gives other numbers than `columns`.
    """

    def __init__(self, columns: Columns) -> None:
        super().__init__()
        names, found = list(columns.kinds), columns.transformer.named_transformers_
        numbers = [place for place, kind in enumerate(columns.kinds.values()) if kind == "number"]
        self.names, self.texts = names, dict[int, list[str]]()
        self.numbers = NumberLayer(numbers, found["number"]) if numbers else None
        self.kinds = nn.ModuleList()
        if len(numbers) < len(names):
            encoder = found["kind"][-1]
            kinds = [place for place in range(len(names)) if place not in numbers]
            self.texts = {place: texts.tolist() for place, texts in zip(kinds, encoder.categories_, strict=True)}
            self.kinds.extend(KindLayer(place, encoder, number) for number, place in enumerate(kinds))
        rows, frame = self._examples()
        expected = columns.prepare(frame, lambda column: column.to_numpy(np.float64))
        if not np.allclose(self(rows).numpy(), expected, rtol=1e-5, atol=1e-5):
            raise ValueError("data: the columns as a layer differ from what scikit-learn makes of them")

    def forward(self, rows: Tensor) -> Tensor:
        """`(N, columns)` float64, NaN where a value is missing, to `(N, width)` float32.

        The number of a kind that is none of the list's, such as -1, is that of a kind which no training row had.
        """
        numbers = [] if self.numbers is None else [self.numbers(rows)]
        return torch.cat([*numbers, *(kind(rows) for kind in self.kinds)], 1)

    def about(self) -> list[dict[str, Any]]:
        """Of each column its `name` and, of a column of kinds, its `kinds`, in the order of their numbers."""
        return [
            {"name": name, "kinds": self.texts[place]} if place in self.texts else {"name": name}
            for place, name in enumerate(self.names)
        ]

    def examples(self) -> Tensor:
        """Some rows `(N, columns)` float64, with values that are missing and kinds that are unknown."""
        return self._examples()[0]

    def _examples(self, count: int = 64) -> tuple[Tensor, pd.DataFrame]:
        """Rows, and the same as a file has them."""
        generator = np.random.default_rng(0)
        rows, frame = np.empty((count, len(self.names))), dict[str, pd.Series]()
        if self.numbers is not None:
            rows[:, self.numbers.places] = self.numbers.examples(generator, count)
        for place, name in enumerate(self.names):
            if place in self.texts:
                rows[:, place] = generator.integers(-1, len(self.texts[place]), count)
            rows[place % 2, place] = np.nan
            frame[name] = self._as_in_a_file(rows[:, place], self.texts.get(place))
        return torch.from_numpy(rows), pd.DataFrame(frame)

    @staticmethod
    def _as_in_a_file(values: np.ndarray, texts: list[str] | None) -> pd.Series:
        if texts is None:
            return pd.Series(values)
        named = [None if np.isnan(i) else UNSEEN if i < 0 else texts[int(i)] for i in values]
        return pd.Series(named, dtype=object)


class NumberLayer(nn.Module):
    """Columns of numbers, imputed and scaled in float64.

    Args:
        places: Of the columns in a row.
        fitted: A `SimpleImputer` and a scaler, or `passthrough`.
    """

    missing: Tensor
    center: Tensor
    scale: Tensor
    quantiles: Tensor
    shares: Tensor

    def __init__(self, places: list[int], fitted: Pipeline) -> None:
        super().__init__()
        imputer, scaler = fitted[0], fitted[-1]
        nothing = pd.DataFrame(np.full((1, len(places)), np.nan), columns=imputer.feature_names_in_)
        self.places, self.by_rank = places, isinstance(scaler, QuantileTransformer)
        arrays = {"missing": np.asarray(imputer.transform(nothing))[0], "center": 0.0, "scale": 1.0}
        if self.by_rank:
            arrays.update(quantiles=scaler.quantiles_.T, shares=scaler.references_)  # (columns, Q), (Q,)
        elif scaler != "passthrough":
            arrays.update(center=scaler.mean_ if hasattr(scaler, "mean_") else scaler.center_, scale=scaler.scale_)
        for name, array in arrays.items():
            self.register_buffer(name, torch.tensor(np.array(array, np.float64)))

    def forward(self, rows: Tensor) -> Tensor:
        """`(N, columns)` float64 to `(N, numbers)` float32."""
        values = rows[:, self.places]
        values = torch.where(values.isnan(), self.missing, values)
        if not self.by_rank:
            return ((values - self.center) / self.scale).float()
        columns = values.T.contiguous()
        low, high = self.quantiles[:, :1], self.quantiles[:, -1:]
        # where quantiles are equal, scikit-learn takes the middle of the shares that they have
        share = (
            _between(columns, self.quantiles, self.shares)
            - _between(-columns, -self.quantiles.flip(1), -self.shares.flip(0))
        ) / 2
        share = torch.where(columns + LEAST > high, 1.0, torch.where(columns - LEAST < low, 0.0, share))
        most = torch.special.ndtri(torch.tensor(1 - LEAST, dtype=torch.float64, device=rows.device))
        return torch.minimum(torch.maximum(torch.special.ndtri(share), -most), most).T.float()

    def examples(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """`(count, numbers)` float64, some far from those of the training."""
        if self.by_rank:
            low, high = self.quantiles[:, 0].numpy(), self.quantiles[:, -1].numpy()
            return low + (high - low) * generator.uniform(-0.2, 1.2, (count, len(self.places)))
        return self.center.numpy() + self.scale.numpy() * 3 * generator.standard_normal((count, len(self.places)))


class KindLayer(nn.Module):
    """A column of kinds, one-hot encoded.

    Args:
        place: Of the column in a row.
        encoder: Of all columns of kinds.
        number: Of the column among them.
    """

    table: Tensor

    def __init__(self, place: int, encoder: OneHotEncoder, number: int) -> None:
        super().__init__()
        texts = encoder.categories_[number]
        # what the encoder makes of each kind, and of one that it does not know, beside unknown ones everywhere else
        rows = np.full((len(texts) + 1, encoder.n_features_in_), UNSEEN, dtype=object)
        rows[:-1, number] = texts
        made = torch.tensor(encoder.transform(rows), dtype=torch.float32)
        columns = (made != made[-1]).any(0).nonzero()[:, 0]
        self.register_buffer("table", made[:, int(columns.min()) : int(columns.max()) + 1])
        self.place, self.unknown = place, len(texts)
        known = {text: code for code, text in enumerate(texts.tolist())}
        self.missing = known.get(MISSING, self.unknown)

    def forward(self, rows: Tensor) -> Tensor:
        """`(N, columns)` float64 to `(N, width)` float32."""
        column = rows[:, self.place]
        known = (column >= 0) & (column < self.unknown)
        codes = torch.where(known, column, torch.where(column.isnan(), self.missing, self.unknown))
        return self.table[codes.long()]


def _between(x: Tensor, known: Tensor, values: Tensor) -> Tensor:
    """As `numpy.interp`: x `(C, N)` between `known` `(C, Q)`, ascending, of which `values` are `(Q,)`; all float64."""
    left = (torch.searchsorted(known, x, right=True) - 1).clamp(0, known.shape[1] - 2)
    low, high = known.gather(1, left), known.gather(1, left + 1)
    share = ((x - low) / (high - low)).clamp(0, 1).nan_to_num(1.0)
    return values[left] + share * (values[left + 1] - values[left])
