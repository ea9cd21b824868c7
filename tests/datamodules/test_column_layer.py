"""A table's preparation as the first layer of a network: the same numbers as scikit-learn's."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.column_layer import ColumnLayer
from datamodules.table_columns import Columns, find_kinds


def numbers(column: pd.Series) -> np.ndarray:
    return pd.to_numeric(column, errors="coerce").to_numpy(np.float64, copy=True)


def frame(rows: int = 400) -> pd.DataFrame:
    random = np.random.default_rng(0)
    found = pd.DataFrame({"city": random.choice(["Rome", "Bern", "Oslo", "Ulm"], rows, p=[0.5, 0.3, 0.15, 0.05])})
    found["size"] = random.lognormal(3, 1, rows)
    found["year"] = 1.7e9 + random.normal(0, 1e6, rows)  # float32 would have nothing of it but steps
    found["rooms"] = random.integers(1, 4, rows).astype(float)  # equal quantiles
    found["street"] = random.choice([f"street {i}" for i in range(30)], rows)
    for name in ("size", "city"):
        found.loc[random.choice(rows, 40, replace=False), name] = None
    return found


def fitted(found: pd.DataFrame, **options: Any) -> Columns:
    return Columns.fit(found, numbers, find_kinds(found, numbers), **options)


def as_rows(found: pd.DataFrame, layer: ColumnLayer) -> torch.Tensor:
    """What a user makes of a file, with what `about` says."""
    rows = []
    for column in layer.about():
        values = found[column["name"]]
        if kinds := column.get("kinds"):
            codes = {kind: code for code, kind in enumerate(kinds)}
            rows.append([np.nan if pd.isna(value) else codes.get(value, -1) for value in values])
        else:
            rows.append(numbers(values).tolist())
    return torch.tensor(rows, dtype=torch.float64).T


@pytest.mark.parametrize("scale", ["standard", "robust", "quantile", "none"])
@pytest.mark.parametrize("most", [50, 3])
def test_rows_become_what_scikit_learn_makes_of_them(scale: Any, most: int) -> None:
    columns = fitted(frame(), scale=scale, max_categories=most)
    layer = ColumnLayer(columns)
    other = frame(1000)
    other.loc[5, "city"], other.loc[6, "city"] = "Paris", "(missing)"
    other.loc[7, "size"], other.loc[8, "size"] = -1e9, 1e9
    made = layer(as_rows(other, layer))
    assert made.dtype == torch.float32
    np.testing.assert_allclose(made.numpy(), columns.prepare(other, numbers), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("names", [["size", "year"], ["city"], ["street", "city"]])
def test_columns_of_one_sort_alone(names: list[str]) -> None:
    found = frame()[names]
    layer = ColumnLayer(columns := fitted(found))
    np.testing.assert_allclose(layer(as_rows(found, layer)).numpy(), columns.prepare(found, numbers), atol=1e-5)


def test_kinds_are_known_by_their_place_in_a_list() -> None:
    found = frame()[["size", "city"]]
    assert ColumnLayer(fitted(found)).about() == [
        {"name": "size"},
        {"name": "city", "kinds": ["(missing)", "Bern", "Oslo", "Rome", "Ulm"]},
    ]


def test_codes_that_are_no_kind_count_as_unseen() -> None:
    found = frame()[["city"]].dropna()
    layer = ColumnLayer(fitted(found))
    rows = torch.tensor([[-1.0], [-0.5], [4.0], [1e18], [float("inf")], [float("nan")], [3.0]], dtype=torch.float64)
    made = layer(rows)
    assert made[:6].eq(0).all(), "a missing one, too, where the training had none"
    assert made[6].tolist() == [0, 0, 0, 1]


def test_examples_have_what_is_missing_and_what_is_unseen() -> None:
    layer = ColumnLayer(fitted(frame()))
    some = layer.examples()
    assert some.isnan().any(0).all()
    assert (some[:, 0] == -1).any()
    assert not some.isnan().all(1).any()


def test_another_preparation_than_scikit_learns_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = fitted(frame())
    prepare = columns.prepare
    monkeypatch.setattr(columns, "prepare", lambda *args: prepare(*args) + np.float32(1e-3))
    with pytest.raises(ValueError, match=r"^data: the columns as a layer differ from what scikit-learn makes"):
        ColumnLayer(columns)
