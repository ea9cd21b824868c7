"""Tables: numbers and kinds in columns, one of which is to be predicted."""

import difflib
import os
import tempfile
import warnings
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import skops.io
import torch
from lightning.pytorch import LightningDataModule
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer, RobustScaler, StandardScaler
from torch import Tensor

from datamodules.batches import Batches
from datamodules.table_files import TableFile, to_numbers, to_texts

Scale = Literal["standard", "robust", "quantile", "none"]
TRUSTED = ["numpy.dtype"]  # beside scikit-learn's own types; nothing that could do anything


class Frame:
    """A DataFrame where a `TableFile` would be."""

    decimal_comma = False

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self.columns = list(frame.columns)

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """All rows at once."""
        yield self.frame if columns is None else self.frame[list(columns)]


class Table(LightningDataModule):
    """Rows of a CSV or Parquet file; what `TableRegression` and `TableClassification` have in common.

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
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 0),
            ("eval_batch_size", eval_batch_size, 1),
            ("max_categories", max_categories, 2),
            ("fit_rows", fit_rows, 1),
        ):
            if value < least:
                raise ValueError(f"data.{name}: {value} is below {least}")
        for name, share in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
            if not (share > 0 or (share == 0 and name == "test_fraction")) or share >= 1:
                raise ValueError(f"data.{name}: {share} is outside {'[' if name == 'test_fraction' else '('}0, 1)")
        if val_fraction + test_fraction >= 1:
            raise ValueError(
                f"data.val_fraction: {val_fraction} and test_fraction {test_fraction} leave nothing to train on"
            )
        if scale not in get_args(Scale):
            raise ValueError(f"data.scale: {scale!r} is unknown; allowed are {', '.join(get_args(Scale))}")
        self.path = path
        self.targets = [target] if isinstance(target, str) else list(target)
        self.numeric, self.categorical, self.drop = numeric, categorical, tuple(drop)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.scale, self.max_categories = scale, max_categories
        self.drop_missing_target, self.fit_rows = drop_missing_target, fit_rows
        self.memory_mb, self.cache_dir = memory_mb, cache_dir
        self.files: TableRows | None = None
        self._facts: dict[str, Any] = {}
        self._transformer: ColumnTransformer | None = None

    # ---- what a subclass gives

    @abstractmethod
    def encode(self, columns: list[pd.Series]) -> np.ndarray:
        """The target's columns `(n,)`, of a part of the rows and without missing values, as numbers `(n, ...)`.

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

    @property
    def facts(self) -> dict[str, Any]:
        """All that is learnt from the training part, in plain types; saved in every checkpoint."""
        if not self._facts:
            self._load()
        return self._facts

    def state_dict(self) -> dict[str, Any]:
        return dict(self.facts)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # what the weights were trained with, even where the file has changed or is gone
        self._facts, self._transformer = dict(state_dict), None

    @property
    def transformer(self) -> ColumnTransformer:
        """Imputes, scales and encodes the columns `facts["kinds"]` of a DataFrame; fitted."""
        if self._transformer is None:
            stored = self.facts["transformer"].cpu().numpy().tobytes()
            self._transformer = skops.io.loads(zlib.decompress(stored), trusted=TRUSTED)
        return self._transformer

    # ---- Lightning's hooks

    def setup(self, stage: str) -> None:
        if stage == "predict":
            return
        if not hasattr(self, "inputs"):
            self._load()
        world_size = self.trainer.world_size if self.trainer else 1
        if self._steps_of() % world_size:
            raise ValueError(
                f"data.batch_size: {self.batch_size} is shared by {world_size} devices and must be a multiple of "
                f"that; nearest is {max(1, round(self.batch_size / world_size)) * world_size}"
            )

    def train_dataloader(self) -> Batches:
        seed: int | None = int(os.environ.get("PL_GLOBAL_SEED", "0"))  # where `seed_everything` keeps it
        if self.trainer and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            seed = None  # the same batches again and again
        return self._batches(self.parts["train"], self._steps_of(), seed)

    def val_dataloader(self) -> Batches:
        return self._batches(self.parts["val"], self.eval_batch_size)

    def test_dataloader(self) -> Batches:
        return self._batches(self.parts["test"], self.eval_batch_size)

    def predict_dataloader(self) -> "TableRows":
        if self.files is None:
            raise ValueError("data: nothing to predict; set `files` to a `TableRows`, or call `read_files`")
        return self.files

    def _steps_of(self) -> int:
        """Rows of a step."""
        if self.batch_size:
            return self.batch_size
        world_size = self.trainer.world_size if self.trainer else 1
        return len(self.parts["train"]) // world_size * world_size

    def _batches(self, indices: Tensor, batch_size: int, shuffle_seed: int | None = None) -> Batches:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return Batches(self.inputs, self.labels, indices, batch_size, shuffle_seed, rank, world_size)

    # ---- files of the user

    example_file = "rows.csv"  # for the command that the end of a run shows
    file_suffixes = frozenset({".csv", ".tsv", ".txt", ".parquet", ".pq"})

    def read_files(self, paths: list[Path]) -> "TableRows":
        """The rows that `predict_dataloader` goes through, prepared as those of the training."""
        self.files = TableRows(paths, self)
        return self.files

    def prepare(self, frame: pd.DataFrame, decimal_comma: bool = False) -> np.ndarray:
        """Rows as the network takes them, `(N, in_features)` float32.

        Args:
            frame: Has the columns of the training, in any order, and may have others.
            decimal_comma: Whether 1,5 is one and a half.

        Raises:
            ValueError: A column is missing.
        """
        typed = self._typed(frame, self.facts["kinds"], decimal_comma)
        return np.asarray(self.transformer.transform(typed), dtype=np.float32)

    @staticmethod
    def _typed(frame: pd.DataFrame, kinds: dict[str, str], decimal_comma: bool) -> pd.DataFrame:
        missing = [name for name in kinds if name not in frame.columns]
        if missing:
            raise ValueError(f"no column {missing[0]!r}" + (f", and {len(missing) - 1} more" if missing[1:] else ""))
        return pd.DataFrame(
            {
                # without the dtype pandas makes another kind of missing values of None
                name: to_numbers(frame[name], decimal_comma)
                if kind == "number"
                else pd.Series(to_texts(frame[name]), dtype=object)
                for name, kind in kinds.items()
            }
        )

    # ---- inside

    def _load(self) -> None:
        source = self.source()
        self._check_columns(source.columns)
        rows, self.labels = self._targets(source)
        self.parts = self._split(self.labels)
        if self.batch_size > len(self.parts["train"]):
            raise ValueError(
                f"data.batch_size: {self.batch_size} is larger than the training part; "
                f"allowed are 1 to {len(self.parts['train'])}, and 0 for all of it"
            )
        if not self._facts:
            self._fit(source, rows)
        self.inputs = self._prepared(source, rows)

    def _check_columns(self, columns: Sequence[str]) -> None:
        given = {"target": self.targets, "numeric": self.numeric, "categorical": self.categorical, "drop": self.drop}
        for key, names in given.items():
            for name in names or ():
                if name not in columns:
                    raise ValueError(f"data.{key}: no column {name!r} in {self.path}{_nearest(name, columns)}")
        both = set(self.numeric or ()) & set(self.categorical or ())
        if both:
            raise ValueError(f"data.categorical: {min(both)!r} is among the numeric columns, too")

    def _targets(self, source: TableFile | Frame) -> tuple[np.ndarray, Tensor]:
        """The rows that have a target `(N,)` int64, and their labels."""
        encoded, masks = [], []
        for part in source.parts(self.targets):
            there = part[self.targets].notna().to_numpy().all(1)
            masks.append(there)
            encoded.append(self.encode([part[name][there].reset_index(drop=True) for name in self.targets]))
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
        sizes = {"val": round(self.val_fraction * count), "test": round(self.test_fraction * count)}
        sizes["train"] = count - sizes["val"] - sizes["test"]
        least = 1 if strata is None else int(strata.max()) + 1
        for name, size in sizes.items():
            if size < least and not (name == "test" and not self.test_fraction):
                raise ValueError(
                    f"data.{'val' if name == 'train' else name}_fraction: the {name} part has {size} of {count} rows, "
                    f"and needs at least {least}"
                )
        rest, parts = np.arange(count), {}
        for name in ("test", "val"):
            if sizes[name]:
                groups = None if strata is None else strata[rest]
                rest, held = train_test_split(
                    rest, test_size=sizes[name], stratify=groups, random_state=self.split_seed
                )
                parts[name] = torch.from_numpy(np.sort(held))
        return {"train": torch.from_numpy(np.sort(rest)), **parts}

    def _fit(self, source: TableFile | Frame, rows: np.ndarray) -> None:
        """Fit imputation, scaling and encoding on rows of the training part."""
        chosen = self.parts["train"].numpy()
        if len(chosen) > self.fit_rows:
            chosen = np.sort(np.random.default_rng(self.split_seed).choice(chosen, self.fit_rows, replace=False))
        columns = [name for name in source.columns if name not in (*self.targets, *self.drop)]
        frame = _take(source, columns, rows[chosen])
        kinds: dict[str, str] = {}
        for name in columns:
            kind = self._kind(name, frame[name], source.decimal_comma)
            if kind is None:
                warnings.warn(f"data: column {name!r} has a single value, and is left out", stacklevel=2)
            else:
                kinds[name] = kind
        if not kinds:
            raise ValueError(f"data.path: no column of {self.path} is left to predict {', '.join(self.targets)} from")
        transformer = self._new_transformer(kinds, len(frame))
        transformer.fit(self._typed(frame, kinds, source.decimal_comma))
        stored = np.frombuffer(zlib.compress(skops.io.dumps(transformer)), dtype=np.uint8)
        self._transformer = transformer
        self._facts = {
            "kinds": kinds,
            "in_features": len(transformer.get_feature_names_out()),
            "transformer": torch.from_numpy(stored.copy()),
            "targets": list(self.targets),
            **self.target_facts(self.labels[self.parts["train"]]),
        }

    def _kind(self, name: str, values: pd.Series, decimal_comma: bool) -> str | None:
        """`number` or `kind`; None for a column that says nothing."""
        if values.nunique(dropna=False) < 2:
            return None
        if name in (self.numeric or ()):
            return "number"
        if name in (self.categorical or ()):
            return "kind"
        numbers = to_numbers(values, decimal_comma)
        wrong = np.isnan(numbers) & values.notna().to_numpy()
        if not wrong.any():
            return "number"
        texts = to_texts(values)
        if wrong.mean() < 0.5 and values.nunique() > self.max_categories:
            first = str(texts[np.flatnonzero(wrong)[0]])
            raise ValueError(
                f"data.numeric: column {name!r} is numbers but for {int(wrong.sum())} values such as {first!r}; "
                f"--data.numeric takes these for missing, --data.categorical or --data.drop are the other ways"
            )
        return "kind"

    def _new_transformer(self, kinds: dict[str, str], rows: int) -> ColumnTransformer:
        scalers: dict[str, Any] = {
            "standard": StandardScaler(),
            "robust": RobustScaler(),
            "quantile": QuantileTransformer(output_distribution="normal", n_quantiles=min(1000, rows), random_state=0),
            "none": "passthrough",
        }
        numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), scalers[self.scale])
        texts = make_pipeline(
            SimpleImputer(strategy="constant", fill_value="(missing)", missing_values=None),
            OneHotEncoder(
                handle_unknown="infrequent_if_exist",
                max_categories=self.max_categories,
                sparse_output=False,
                dtype=np.float32,
            ),
        )
        by_kind = {kind: [name for name, found in kinds.items() if found == kind] for kind in ("number", "kind")}
        return ColumnTransformer([("number", numbers, by_kind["number"]), ("kind", texts, by_kind["kind"])])

    def _prepared(self, source: TableFile | Frame, rows: np.ndarray) -> Tensor:
        """All rows as the network takes them, `(N, in_features)` float32, in memory or on the disk."""
        shape = (len(rows), self.in_features)
        matrix = self._matrix(shape)
        place, start = 0, 0
        for part in source.parts(list(self.facts["kinds"])):
            inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(part))] - start
            if len(inside):
                matrix[place : place + len(inside)] = self.prepare(part.iloc[inside], source.decimal_comma)
            place, start = place + len(inside), start + len(part)
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

    def encode(self, columns: list[pd.Series]) -> np.ndarray:
        numbers = []
        for name, column in zip(self.targets, columns, strict=True):
            found = to_numbers(column)
            if (bad := np.isnan(found)).any():
                value = str(column[int(bad.argmax())])
                raise ValueError(
                    f"data.target: {name!r} has values that are no finite numbers, {value!r} the first; "
                    "TableClassification predicts kinds"
                )
            numbers.append(found)
        return np.stack(numbers, 1).astype(np.float32)

    def labels_of(self, encoded: np.ndarray) -> Tensor:
        return torch.from_numpy(encoded)

    def target_facts(self, labels: Tensor) -> dict[str, Any]:
        std = labels.double().std(0, correction=0)
        for name, value in zip(self.targets, std.tolist(), strict=True):
            if value == 0:
                raise ValueError(f"data.target: {name!r} has a single value in the training part")
        return {"target_mean": labels.double().mean(0).tolist(), "target_std": std.tolist()}


class TableClassification(Table):
    """A table of which one column of kinds is to be predicted.

    It tells a module what it needs to know: `num_classes`, `class_names` and `class_counts`. Each part has its share of
    each class.

    Args:
        target: The column. Its values may be texts or numbers.
    """

    def __init__(self, path: str, target: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(path, target, *args, **kwargs)
        self._codes: dict[str, int] = {}  # of the classes, in the order in which they came up

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return self.facts["class_names"]

    @property
    def class_counts(self) -> list[int]:
        """Training rows of each class."""
        if not hasattr(self, "labels"):
            self._load()
        return torch.bincount(self.labels[self.parts["train"]], minlength=self.num_classes).tolist()

    def encode(self, columns: list[pd.Series]) -> np.ndarray:
        texts = to_texts(columns[0])
        for text in dict.fromkeys(texts.tolist()):
            self._codes.setdefault(text, len(self._codes))
        return np.fromiter((self._codes[text] for text in texts.tolist()), np.int32, len(texts))

    def labels_of(self, encoded: np.ndarray) -> Tensor:
        codes, self._codes = self._codes, {}
        names = self._facts.get("class_names") or _in_order(codes)
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


class Diabetes(TableRegression):
    """442 patients: age, sex, body mass index, blood pressure and six blood sera, to predict how far diabetes has gone
    on a year later (Efron et al. 2004, Least Angle Regression, https://doi.org/10.1214/009053604000000067). Inside
    scikit-learn, nothing to download.
    """

    def __init__(self, test_fraction: float = 0.2, **kwargs: Any) -> None:
        super().__init__("diabetes", "progression", test_fraction=test_fraction, **kwargs)

    def source(self) -> Frame:
        found = load_diabetes(as_frame=True, scaled=False)
        return Frame(found.data.assign(progression=found.target))


class BreastCancer(TableClassification):
    """569 tumours: 30 measurements of cell nuclei, to tell malignant from benign (Wolberg et al. 1993, UCI,
    https://doi.org/10.24432/C5DW2B). Inside scikit-learn, nothing to download.
    """

    def __init__(self, test_fraction: float = 0.2, **kwargs: Any) -> None:
        super().__init__("breast cancer", "diagnosis", test_fraction=test_fraction, **kwargs)

    def source(self) -> Frame:
        found = load_breast_cancer(as_frame=True)
        return Frame(found.data.assign(diagnosis=np.array(found.target_names)[found.target]))


class TableRows:
    """Iterate over batches `(N, in_features)` float32 of the rows of files; files that can't be read are left out.

    While it is iterated over, `read`, `unread` and `unseen` fill.

    Args:
        paths: CSV or Parquet files with the columns of the training.
        table: Prepares the rows.

    Attributes:
        read: Of each row its file and its number, from 1.
        unread: Files, and why they could not be read.
        unseen: By column, values that no training row had.
    """

    names = ("file", "row")

    def __init__(self, paths: list[Path], table: Table) -> None:
        self.paths, self.table = paths, table
        self.read: list[tuple[Path, int]] = []
        self.unread: list[tuple[Path, str]] = []
        self.unseen: dict[str, set[str]] = {}

    def __iter__(self) -> Iterator[Tensor]:
        self.read, self.unread, self.unseen = [], [], {}
        for path in self.paths:
            count = 0
            try:
                file = TableFile(path)
                kinds = self.table.facts["kinds"]
                if missing := [name for name in kinds if name not in file.columns]:
                    raise ValueError(f"no column {missing[0]!r}" + f", and {len(missing) - 1} more" * bool(missing[1:]))
                for part in file.parts(list(kinds)):
                    inputs = torch.from_numpy(self.table.prepare(part, file.decimal_comma))
                    self._note_unseen(part)
                    self.read += [(path, count + i + 1) for i in range(len(part))]
                    count += len(part)
                    yield from inputs.split(self.table.eval_batch_size)
            except (OSError, ValueError) as error:
                reason = (
                    "no such file" if isinstance(error, FileNotFoundError) else str(error).removeprefix(f"{path}: ")
                )
                self.unread.append((path, f"{reason} (after {count} rows)" if count else reason))

    def _note_unseen(self, part: pd.DataFrame) -> None:
        names = [name for name, kind in self.table.facts["kinds"].items() if kind == "kind"]
        if not names:
            return
        encoder = self.table.transformer.named_transformers_["kind"][-1]
        for name, known in zip(names, encoder.categories_, strict=True):
            new = {text for text in to_texts(part[name]) if text is not None} - set(known)
            if new:
                self.unseen.setdefault(name, set()).update(new)


def _take(source: TableFile | Frame, columns: Sequence[str], rows: np.ndarray) -> pd.DataFrame:
    """Some rows, by ascending numbers `(N,)`, of some columns."""
    found, start = [], 0
    for part in source.parts(columns):
        inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(part))] - start
        found.append(part.iloc[inside])
        start += len(part)
    return pd.concat(found, ignore_index=True)


def _in_order(names: Iterable[str]) -> list[str]:
    """Sorted, as numbers where all of them are."""
    try:
        return sorted(names, key=float)
    except ValueError:
        return sorted(names)


def _nearest(name: str, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, choices, n=1)
    return (
        f"; did you mean {close[0]!r}?"
        if close
        else f"; there are {', '.join(choices[:12])}{', …' * (len(choices) > 12)}"
    )
