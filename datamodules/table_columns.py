"""The columns of a table, and how they become the inputs of a network."""

import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import skops.io
import torch
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer, RobustScaler, StandardScaler

from datamodules.table_files import to_texts

Scale = Literal["standard", "robust", "quantile", "none"]
Numbers = Callable[[pd.Series], np.ndarray]  # a column as float64 `(N,)`, NaN for what is none
MISSING = "(missing)"  # the kind of what has none
TRUSTED = ["numpy.dtype"]  # beside scikit-learn's own types; nothing that could do anything


class Columns:
    """Columns of numbers, imputed by their median and scaled, and columns of kinds, one-hot encoded.

    Args:
        kinds: Of each column, in their order, `number` or `kind`.
        transformer: Fitted on them.
    """

    def __init__(self, kinds: dict[str, str], transformer: ColumnTransformer) -> None:
        self.kinds, self.transformer = kinds, transformer

    @classmethod
    def fit(
        cls,
        frame: pd.DataFrame,
        numbers: Numbers,
        kinds: dict[str, str],
        scale: Scale = "standard",
        max_categories: int = 50,
    ) -> "Columns":
        """Learn medians, scales and kinds.

        Args:
            frame: Rows of the training part.
            numbers: Reads a column of numbers.
            kinds: As `find_kinds` gives them; at least one.
            scale: As in `datamodules.Table`.
            max_categories: One-hot columns of a column of kinds; rarer kinds share one.
        """
        transformer = _transformer(kinds, len(frame), scale, max_categories)
        transformer.fit(_typed(frame, numbers, kinds))
        return cls(kinds, transformer)

    # ---- to keep

    def state(self) -> dict[str, Any]:
        """All of it in plain types and a tensor, of which nothing is ever executed."""
        stored = np.frombuffer(zlib.compress(skops.io.dumps(self.transformer)), dtype=np.uint8)
        return {"kinds": dict(self.kinds), "transformer": torch.from_numpy(stored.copy())}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Columns":
        """What `state` gave.

        Raises:
            skops.io.exceptions.UntrustedTypesFoundException: There is something else in it.
        """
        stored = zlib.decompress(state["transformer"].cpu().numpy().tobytes())
        return cls(dict(state["kinds"]), skops.io.loads(stored, trusted=TRUSTED))

    # ---- to use

    @property
    def width(self) -> int:
        """Numbers of a row, after encoding."""
        return len(self.transformer.get_feature_names_out())

    def prepare(self, frame: pd.DataFrame, numbers: Numbers) -> np.ndarray:
        """Rows as a network takes them, `(N, width)` float32.

        Args:
            frame: Has these columns, in any order, and may have others.
            numbers: Reads a column of numbers.
        """
        return np.asarray(self.transformer.transform(_typed(frame, numbers, self.kinds)), dtype=np.float32)

    def unseen(self, frame: pd.DataFrame) -> dict[str, set[str]]:
        """By column of kinds, those that no training row had."""
        names = [name for name, kind in self.kinds.items() if kind == "kind"]
        if not names:
            return {}
        encoder = self.transformer.named_transformers_["kind"][-1]
        found = {
            name: {text for text in to_texts(frame[name]) if text is not None} - set(known)
            for name, known in zip(names, encoder.categories_, strict=True)
        }
        return {name: texts for name, texts in found.items() if texts}


def find_kinds(
    frame: pd.DataFrame,
    numbers: Numbers,
    numeric: Sequence[str] = (),
    categorical: Sequence[str] = (),
    max_categories: int = 50,
) -> dict[str, str]:
    """Of each column of a training part that says something, `number` or `kind`.

    Args:
        frame: Rows of the training part.
        numbers: Reads a column of numbers.
        numeric: Columns of numbers; what is none in them is missing.
        categorical: Columns of kinds.
        max_categories: More different texts than these are too many for a column of numbers with some mistakes.

    Raises:
        ValueError: A column of numbers has some values that are none.
    """
    kinds: dict[str, str] = {}
    for name in frame.columns:
        named = "number" if name in numeric else "kind" if name in categorical else ""
        kind = _kind(name, frame[name], numbers, named, max_categories)
        if kind is not None:
            kinds[name] = kind
    return kinds


def _kind(name: str, values: pd.Series, numbers: Numbers, named: str, max_categories: int) -> str | None:
    """`number` or `kind`; None for a column that says nothing."""
    different = values.nunique()
    if different + values.hasnans < 2:
        warnings.warn(f"data: column {name!r} has a single value, and is left out", stacklevel=3)
        return None
    if named:
        return named
    wrong = np.isnan(numbers(values)) & values.notna().to_numpy()
    if not wrong.any():
        return "number"
    if wrong.mean() < 0.5 and different > max_categories:
        first = str(values.iloc[int(wrong.argmax())])
        raise ValueError(
            f"data.numeric: column {name!r} is numbers but for {int(wrong.sum())} values such as {first!r}; "
            f"--data.numeric takes these for missing, --data.categorical or --data.drop are the other ways"
        )
    if different > max(max_categories, 0.5 * len(values)):
        warnings.warn(
            f"data: column {name!r} has {different} different texts in {len(values)} rows, of which a network learns "
            "nothing; --data.drop leaves it out",
            stacklevel=3,
        )
    return "kind"


def _typed(frame: pd.DataFrame, numbers: Numbers, kinds: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            # without the dtype pandas makes another kind of missing values of None
            name: numbers(frame[name]) if kind == "number" else pd.Series(to_texts(frame[name]), dtype=object)
            for name, kind in kinds.items()
        }
    )


def _transformer(kinds: dict[str, str], rows: int, scale: Scale, max_categories: int) -> ColumnTransformer:
    scalers: dict[str, Any] = {
        "standard": StandardScaler(),
        "robust": RobustScaler(),
        "quantile": QuantileTransformer(output_distribution="normal", n_quantiles=min(1000, rows), random_state=0),
        "none": "passthrough",
    }
    numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), scalers[scale])
    texts = make_pipeline(
        SimpleImputer(strategy="constant", fill_value=MISSING, missing_values=None),
        OneHotEncoder(
            handle_unknown="infrequent_if_exist", max_categories=max_categories, sparse_output=False, dtype=np.float32
        ),
    )
    by_kind = {kind: [name for name, found in kinds.items() if found == kind] for kind in ("number", "kind")}
    return ColumnTransformer([("number", numbers, by_kind["number"]), ("kind", texts, by_kind["kind"])])
