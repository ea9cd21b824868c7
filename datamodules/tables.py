"""Tables: numbers and kinds in columns, one of which is to be predicted."""

import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from datamodules.arrays import Arrays, Classes, Sampler, known_sampler
from datamodules.column_layer import ColumnLayer
from datamodules.names import in_order, nearest
from datamodules.splits import check_fractions, draw
from datamodules.table_columns import Columns, Numbers, Scale, find_kinds
from datamodules.table_files import Frame, TableFile, to_texts
from datamodules.table_rows import TableRows

# what a label may be called, in small letters; pandas writes 0.0 and 1.0 where some are missing
YES_NO = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "no": 0, "yes": 1, "n": 0, "y": 1, "f": 0, "t": 1}


class Table(Arrays):
    """Rows of a CSV or Parquet file; what the classes below have in common.

    Columns of numbers are imputed by their median and scaled, columns of kinds are one-hot encoded; all of it by a
    scikit-learn `ColumnTransformer` that is fitted on the training part alone, and is saved in every checkpoint, so
    that prediction does the same. A kind that was not among the training rows counts as a rare one, or as none. The
    file is read part by part: beside the prepared float32 matrix, which is on the disk where it is larger than
    `memory_mb`, about half a gigabyte is in use, and 26 bytes for each row.

    It tells a network what it needs to know: `in_features`.

    Args:
        path: The file, see `datamodules.table_files.TableFile`.
        target: Name of the column to be predicted.
        numeric: Columns of numbers. By default those whose every value is one.
        categorical: Columns of kinds. By default all others.
        drop: Columns that are left out. Those with a single value are left out anyway.
        batch_size: Training rows per step, over all devices together; 0 takes the whole training part.
        val_fraction: Share of the rows that is held out for validation, in (0, 1).
        test_fraction: Share of the rows that is held out for the test, in [0, 1).
        split_seed: Which rows are held out. Apart from `seed_everything`, so that runs with different seeds are
            measured on the same rows.
        eval_batch_size: Rows per batch in validation, test and prediction; changes speed and memory only.
        scale: Numbers to mean 0 and standard deviation 1; by median and quartiles, which outliers do not move
            (`robust`); to a normal distribution, by rank (`quantile`); or not at all.
        max_categories: One-hot columns of a column of kinds; rarer kinds share one.
        drop_missing_target: Leave out rows without a target, in place of an error.
        fit_rows: Rows, drawn from the training part, on which imputation, scaling and kinds are fitted at most.
        memory_mb: Size of the prepared matrix up to which it is kept in memory.
        cache_dir: Where a larger one is.
    """

    def __init__(
        self,
        path: str,
        target: str | list[str],
        numeric: Sequence[str] | None = None,
        categorical: Sequence[str] | None = None,
        drop: Sequence[str] = (),
        batch_size: int = 64,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        eval_batch_size: int = 1024,
        scale: Scale = "standard",
        max_categories: int = 50,
        drop_missing_target: bool = False,
        fit_rows: int = 200_000,
        memory_mb: float = 2048,
        cache_dir: str = "data/cache",
    ) -> None:
        super().__init__(batch_size, eval_batch_size)
        for name, value, least in (
            ("max_categories", max_categories, 2),
            ("fit_rows", fit_rows, 1),
        ):
            if value < least:
                raise ValueError(f"data.{name}: {value} is below {least}")
        check_fractions(val_fraction, test_fraction)
        if scale not in get_args(Scale):
            raise ValueError(f"data.scale: {scale!r} is unknown; allowed are {', '.join(get_args(Scale))}")
        self.path = path
        self.targets = [target] if isinstance(target, str) else list(target)
        self.numeric, self.categorical, self.drop = numeric, categorical, tuple(drop)
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.scale, self.max_categories = scale, max_categories
        self.drop_missing_target, self.fit_rows = drop_missing_target, fit_rows
        self.memory_mb, self.cache_dir = memory_mb, cache_dir
        self._columns: Columns | None = None

    # ---- what a subclass gives

    @abstractmethod
    def encode(self, columns: list[pd.Series], numbers: Numbers) -> np.ndarray:
        """The target's columns `(n,)`, of a part of the rows and without missing values, as numbers `(n, ...)`.

        Args:
            columns: One for each target.
            numbers: Reads a column of numbers.

        Raises:
            ValueError: They are of another kind.
        """

    @abstractmethod
    def labels_of(self, encoded: np.ndarray) -> Tensor:
        """The labels `(N, ...)` of all rows, from what `encode` gave `(N, ...)`.

        Raises:
            ValueError: They can't be learnt.
        """

    def target_facts(self, labels: Tensor) -> dict[str, Any]:
        """What is to be known of the training part's labels, in plain types."""
        return {}

    def strata(self, labels: Tensor) -> np.ndarray | None:
        """Of each row the group of which each part is to have its share; None for none."""
        return None

    def source(self) -> TableFile | Frame:
        """The table."""
        if not Path(self.path).exists():
            raise ValueError(f"data.path: no such file: {self.path}")
        return TableFile(self.path)

    # ---- what the network is told

    @property
    def in_features(self) -> int:
        """Columns after one-hot encoding."""
        return self.facts["in_features"]

    @property
    def has_test_data(self) -> bool:
        """Whether some rows are held out for the test."""
        return self.test_fraction > 0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._columns = None

    @property
    def columns(self) -> Columns:
        """What became of the columns in the training part."""
        if self._columns is None:
            self._columns = Columns.from_state(self.facts)
        return self._columns

    # ---- Lightning's hooks

    def part(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        return self.inputs, self.labels, self.parts[name]

    # ---- files of the user

    example_file = "rows.csv"  # for the command that the end of a run shows
    file_suffixes = frozenset({".csv", ".tsv", ".txt", ".parquet", ".pq"})

    def read_files(self, paths: list[Path]) -> TableRows:
        """The rows that `predict_dataloader` goes through, prepared as those of the training."""
        self.files = TableRows(paths, self.columns, self.eval_batch_size)
        return self.files

    def exported(self) -> tuple[ColumnLayer, Tensor, dict[str, Any]]:
        """How an exported network begins: the preparation of rows as a file has them, some rows, and their columns."""
        layer = ColumnLayer(self.columns)
        return layer, layer.examples(), {"columns": layer.about()}

    # ---- inside

    def load(self) -> None:
        source = self.source()
        self._check_columns(source.columns)
        rows, self.labels = self._targets(source)
        self.parts = self._split(self.labels)
        if not self._facts:
            self._fit(source, rows)
        self.inputs = self._prepared(source, rows)

    def _check_columns(self, columns: Sequence[str]) -> None:
        given = {"target": self.targets, "numeric": self.numeric, "categorical": self.categorical, "drop": self.drop}
        for key, names in given.items():
            for name in names or ():
                if name not in columns:
                    raise ValueError(f"data.{key}: no column {name!r} in {self.path}{nearest(name, columns)}")
        both = set(self.numeric or ()) & set(self.categorical or ())
        if both:
            raise ValueError(f"data.categorical: {min(both)!r} is among the numeric columns, too")

    def _targets(self, source: TableFile | Frame) -> tuple[np.ndarray, Tensor]:
        """The rows that have a target `(N,)` int64, and their labels."""
        encoded, masks = [], []
        for part in source.parts(self.targets):
            there = part[self.targets].notna().to_numpy().all(1)
            masks.append(there)
            columns = [part[name][there].reset_index(drop=True) for name in self.targets]
            encoded.append(self.encode(columns, source.numbers))
        there = np.concatenate(masks) if masks else np.empty(0, bool)
        if not len(there):
            raise ValueError(f"data.path: {self.path} has no rows")
        if not there.all() and not self.drop_missing_target:
            first = int((~there).argmax()) + 1
            raise ValueError(
                f"data.target: {int((~there).sum())} of {len(there)} rows have no {', '.join(self.targets)}, row "
                f"{first} the first; --data.drop_missing_target true leaves them out"
            )
        return np.flatnonzero(there), self.labels_of(np.concatenate(encoded))

    def _split(self, labels: Tensor) -> dict[str, Tensor]:
        count, strata = len(labels), self.strata(labels)
        sizes = {"test": round(self.test_fraction * count), "val": round(self.val_fraction * count)}
        least = 1 if strata is None else int(strata.max()) + 1
        for name, size in {**sizes, "train": count - sum(sizes.values())}.items():
            if size < least and not (name == "test" and not self.test_fraction):
                raise ValueError(
                    f"data.{'val' if name == 'train' else name}_fraction: the {name} part has {size} of {count} rows, "
                    f"and needs at least {least}"
                )
        parts = draw(np.arange(count), sizes, strata, self.split_seed)
        return {name: torch.from_numpy(rows) for name, rows in parts.items()}

    def _fit(self, source: TableFile | Frame, rows: np.ndarray) -> None:
        """Fit imputation, scaling and encoding on rows of the training part."""
        chosen = self.parts["train"].numpy()
        if len(chosen) > self.fit_rows:
            chosen = np.sort(np.random.default_rng(self.split_seed).choice(chosen, self.fit_rows, replace=False))
        columns = [name for name in source.columns if name not in (*self.targets, *self.drop)]
        parts = list(_chosen(source, columns, rows[chosen])) if columns else []
        frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        kinds = find_kinds(frame, source.numbers, self.numeric or (), self.categorical or (), self.max_categories)
        if not kinds:
            raise ValueError(f"data.path: no column of {self.path} is left to predict {', '.join(self.targets)} from")
        found = Columns.fit(frame, source.numbers, kinds, self.scale, self.max_categories)
        self._columns = found
        self._facts = {
            **found.state(),
            "in_features": found.width,
            "targets": list(self.targets),
            **self.target_facts(self.labels[self.parts["train"]]),
        }

    def _prepared(self, source: TableFile | Frame, rows: np.ndarray) -> Tensor:
        """All rows as the network takes them, `(N, in_features)` float32, in memory or on the disk."""
        matrix, place = self._matrix((len(rows), self.in_features)), 0
        for part in _chosen(source, list(self.columns.kinds), rows):
            matrix[place : place + len(part)] = self.columns.prepare(part, source.numbers)
            place += len(part)
        if place != len(rows):
            raise ValueError(f"data.path: {self.path} has changed while it was read")
        return torch.from_numpy(matrix)

    def _matrix(self, shape: tuple[int, int]) -> np.ndarray:
        if shape[0] * shape[1] * 4 <= self.memory_mb * 2**20:
            return np.empty(shape, np.float32)
        folder = Path(self.cache_dir)
        folder.mkdir(parents=True, exist_ok=True)
        # without a name: it is gone with the process, and processes do not get into each other's way
        with tempfile.TemporaryFile(dir=folder) as file:
            return np.memmap(file, np.float32, "w+", shape=shape)


class TableRegression(Table):
    """A table of which one column of numbers, or several, are to be predicted.

    It tells a module what it needs to know: `num_targets`, `target_mean` and `target_std` of the training part.

    Args:
        target: The column, or a list of them.
    """

    @property
    def num_targets(self) -> int:
        """Columns to predict."""
        return len(self.facts["targets"])

    @property
    def target_names(self) -> list[str]:
        """The columns to predict."""
        return self.facts["targets"]

    @property
    def target_mean(self) -> list[float]:
        """Of each target, over the training part."""
        return self.facts["target_mean"]

    @property
    def target_std(self) -> list[float]:
        """Of each target, over the training part."""
        return self.facts["target_std"]

    def encode(self, columns: list[pd.Series], numbers: Numbers) -> np.ndarray:
        targets = []
        for name, column in zip(self.targets, columns, strict=True):
            found = numbers(column)
            if (bad := np.isnan(found)).any():
                value = str(column[int(bad.argmax())])
                raise ValueError(
                    f"data.target: {name!r} has values that are no finite numbers, {value!r} the first; "
                    "TableClassification predicts kinds"
                )
            targets.append(found)
        return np.stack(targets, 1).astype(np.float32)

    def labels_of(self, encoded: np.ndarray) -> Tensor:
        return torch.from_numpy(encoded)

    def target_facts(self, labels: Tensor) -> dict[str, Any]:
        std = labels.double().std(0, correction=0)
        for name, value in zip(self.targets, std.tolist(), strict=True):
            if value == 0:
                raise ValueError(f"data.target: {name!r} has a single value in the training part")
        return {"target_mean": labels.double().mean(0).tolist(), "target_std": std.tolist()}


class TableClassification(Table, Classes):
    """A table of which one column of kinds is to be predicted.

    It tells a module what it needs to know: `num_classes`, `class_names` and `class_counts`. Each part has its share of
    each class.

    Args:
        target: The column. Its values may be texts or numbers.
        sampler: `balanced` trains with as many rows of each class as of any other.
    """

    def __init__(self, path: str, target: str, *args: Any, sampler: Sampler = "shuffle", **kwargs: Any) -> None:
        super().__init__(path, target, *args, **kwargs)
        self.sampler = known_sampler(sampler)
        self._codes: dict[str, int] = {}  # of the classes, in the order in which they came up

    def encode(self, columns: list[pd.Series], numbers: Numbers) -> np.ndarray:
        texts = to_texts(columns[0])
        for text in dict.fromkeys(texts.tolist()):
            self._codes.setdefault(text, len(self._codes))
        return np.fromiter((self._codes[text] for text in texts.tolist()), np.int32, len(texts))

    def labels_of(self, encoded: np.ndarray) -> Tensor:
        codes, self._codes = self._codes, {}
        names = self._facts.get("class_names") or in_order(codes)
        places = {name: place for place, name in enumerate(names)}
        if unknown := codes.keys() - places.keys():
            raise ValueError(
                f"data.target: {min(unknown)!r} is no class of this run; there are {', '.join(names[:12])}"
            )
        if len(names) < 2:
            raise ValueError(f"data.target: {self.targets[0]!r} has a single value, {names[0]!r}")
        labels = np.array([places[name] for name in codes], dtype=np.int64)[encoded]
        counts = np.bincount(labels, minlength=len(names))
        parts = 3 if self.test_fraction else 2
        if counts.min() < parts:
            name = names[int(counts.argmin())]
            few = f"class {name!r} has {int(counts.min())} of {len(labels)} rows, and each of {parts} parts needs one"
            hint = "; TableRegression predicts numbers" if len(names) > 0.2 * len(labels) else ""
            raise ValueError(f"data.target: {few}{hint}")
        self._names = names
        return torch.from_numpy(labels)

    def target_facts(self, labels: Tensor) -> dict[str, Any]:
        return {"class_names": self._names}

    def strata(self, labels: Tensor) -> np.ndarray:
        return labels.numpy()


class TableMultiLabel(Table):
    """A table of which several columns of 0 and 1 are to be predicted: labels, of which a row has any number.

    It tells a module what it needs to know: `num_classes`, `class_names` and `pos_weight`.

    Args:
        target: The columns. Their values are 0 and 1, true and false, yes and no, y and n, or t and f.
    """

    multi_label = True  # for those who say which module takes it

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)

    @property
    def class_names(self) -> list[str]:
        """The columns to predict."""
        return self.facts["targets"]

    @property
    def pos_weight(self) -> list[float]:
        """Of each label, training rows without it over those with it."""
        return self.facts["pos_weight"]

    def encode(self, columns: list[pd.Series], numbers: Numbers) -> np.ndarray:
        targets = []
        for name, column in zip(self.targets, columns, strict=True):
            texts = to_texts(column).tolist()
            codes = {text: YES_NO.get(text.lower()) for text in dict.fromkeys(texts)}
            if unknown := [text for text, code in codes.items() if code is None]:
                allowed = "0 and 1, true and false, yes and no"
                raise ValueError(f"data.target: {name!r} has the value {unknown[0]!r}; allowed are {allowed}")
            targets.append(np.array([codes[text] for text in texts], np.uint8))
        return np.stack(targets, 1)

    def labels_of(self, encoded: np.ndarray) -> Tensor:
        return torch.from_numpy(encoded)

    def target_facts(self, labels: Tensor) -> dict[str, Any]:
        there = labels.sum(0, dtype=torch.int64)
        for name, count in zip(self.targets, there.tolist(), strict=True):
            if count in (0, len(labels)):
                value = "no" if count else "yes"
                raise ValueError(f"data.target: {name!r} has no row of {value} in the training part")
        return {"pos_weight": ((len(labels) - there) / there).tolist()}


def _chosen(source: TableFile | Frame, columns: Sequence[str], rows: np.ndarray) -> Iterator[pd.DataFrame]:
    """Some rows, by ascending numbers `(N,)`, of some columns, part by part."""
    start = 0
    for part in source.parts(columns):
        first, last = np.searchsorted(rows, (start, start + len(part)))
        if first < last:
            yield part.iloc[rows[first:last] - start]
        start += len(part)
