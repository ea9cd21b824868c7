"""Tables: columns, parts, and what is learnt from the training part alone."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_diabetes

from datamodules import BreastCancer, Diabetes, TableClassification, TableMultiLabel, TableRegression
from datamodules.table_columns import TRUSTED
from datamodules.table_files import to_numbers

ROWS = 200


def frame(seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    size = random.normal(5, 2, ROWS)
    city = random.choice(["Rome", "Bern", "Oslo"], ROWS)
    found = pd.DataFrame({"size": size, "city": city, "rooms": random.integers(1, 5, ROWS), "same": 1})
    found["price"] = 10 * size + 3 * (city == "Rome") + 1000
    found["kind"] = np.where(size > 5, "large", "small")
    found.loc[::10, "size"] = None
    found.loc[::7, "city"] = None
    return found


@pytest.fixture
def csv(tmp_path: Path) -> str:
    path = tmp_path / "my houses.csv"
    frame().to_csv(path, index=False)
    return str(path)


def ready(table: Any, stage: str = "fit") -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has a single value, and is left out")
        table.setup(stage)
    return table


def test_columns_are_found_imputed_scaled_and_encoded(csv: str) -> None:
    table = ready(TableRegression(csv, "price", drop=["kind"]))
    assert table.facts["kinds"] == {"size": "number", "city": "kind", "rooms": "number"}
    assert table.in_features == 2 + 4, "two of numbers, three cities, and one for none"
    train = table.inputs[table.parts["train"]]
    assert table.inputs.dtype == torch.float32
    assert torch.allclose(train[:, :2].mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(train[:, :2].std(0, correction=0), torch.ones(2), atol=1e-5)
    assert torch.equal(train[:, 2:].sum(1), torch.ones(len(train)))
    # of the training part, and of no other
    there = frame()["size"][table.parts["train"].numpy()]
    first = int(table.parts["train"][there.isna().to_numpy().argmax()])
    filled = there.fillna(there.median())
    assert table.inputs[first, 0] == pytest.approx((there.median() - filled.mean()) / filled.std(ddof=0), abs=1e-5)
    assert not torch.allclose(table.inputs[:, :2].mean(0), torch.zeros(2), atol=1e-5)


def test_a_column_of_one_value_is_left_out_with_a_warning(csv: str) -> None:
    with pytest.warns(UserWarning, match="column 'same' has a single value, and is left out"):
        TableRegression(csv, "price").setup("fit")


def test_columns_can_be_named(csv: str) -> None:
    table = ready(TableRegression(csv, "price", categorical=["rooms"], drop=["kind", "size"]))
    assert table.facts["kinds"] == {"city": "kind", "rooms": "kind"}
    numbers = frame().assign(rooms=[*["many"] * 3, *["2", "3"] * 98, "4"])
    numbers.to_csv(csv, index=False)
    table = ready(TableRegression(csv, "price", numeric=["rooms"], drop=["kind"]))
    assert table.facts["kinds"]["rooms"] == "number", "what is none is missing"


@pytest.mark.parametrize(("test_fraction", "expected"), [(0.15, (140, 30, 30)), (0.0, (170, 30, 0))])
def test_each_row_is_in_one_part(csv: str, test_fraction: float, expected: tuple[int, ...]) -> None:
    table = ready(TableRegression(csv, "price", test_fraction=test_fraction))
    assert tuple(len(table.parts.get(name, ())) for name in ("train", "val", "test")) == expected
    assert sorted(torch.cat(list(table.parts.values())).tolist()) == list(range(ROWS))
    assert table.has_test_data == (test_fraction > 0)
    again = ready(TableRegression(csv, "price", test_fraction=test_fraction))
    assert all(torch.equal(again.parts[name], rows) for name, rows in table.parts.items())
    other = ready(TableRegression(csv, "price", test_fraction=test_fraction, split_seed=1))
    assert not torch.equal(other.parts["val"], table.parts["val"])


def test_classes_have_their_share_in_each_part(csv: str) -> None:
    table = ready(TableClassification(csv, "kind", drop=["price"]))
    assert table.class_names == ["large", "small"]
    shares = [float(table.labels[rows].float().mean()) for rows in table.parts.values()]
    assert max(shares) - min(shares) < 0.03
    assert sum(table.class_counts) == len(table.parts["train"])
    rooms = ready(TableClassification(csv, "rooms"))
    assert rooms.class_names == ["1", "2", "3", "4"]


def test_targets_are_told_in_their_units(csv: str) -> None:
    table = ready(TableRegression(csv, ["price", "rooms"]))
    assert (table.num_targets, table.target_names) == (2, ["price", "rooms"])
    values = frame()[["price", "rooms"]].to_numpy()[table.parts["train"].numpy()]
    assert table.target_mean == pytest.approx(values.mean(0), rel=1e-6)
    assert table.target_std == pytest.approx(values.std(0), rel=1e-5)
    assert "rooms" not in table.facts["kinds"]


def test_batches_and_the_whole_training_part_as_one(csv: str) -> None:
    table = ready(TableRegression(csv, "price", batch_size=32))
    batches = list(table.train_dataloader())
    assert [tuple(x.shape) for x, _ in batches] == [(32, table.in_features)] * 4
    assert [tuple(y.shape) for _, y in batches] == [(32, 1)] * 4
    full = ready(TableRegression(csv, "price", batch_size=0))
    assert [len(x) for x, _ in full.train_dataloader()] == [140]
    assert sum(len(x) for x, _ in full.val_dataloader()) == 30


@pytest.mark.parametrize("scale", ["standard", "robust", "quantile", "none"])
def test_scales(csv: str, scale: Any) -> None:
    table = ready(TableRegression(csv, "price", scale=scale))
    size = table.inputs[table.parts["train"], 0]
    assert size.isfinite().all()
    assert (float(size.median().abs()) < 0.2) == (scale != "none")


def test_rare_kinds_share_a_column(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    kinds = ["a"] * 100 + ["b"] * 80 + [f"rare {i}" for i in range(20)]
    pd.DataFrame({"kind": kinds, "y": np.arange(ROWS)}).to_csv(path, index=False)
    assert ready(TableRegression(str(path), "y", max_categories=3)).in_features == 3


def test_a_part_on_the_disk_has_the_same_values(csv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = ready(TableRegression(csv, "price"))
    monkeypatch.setattr("datamodules.table_files.BLOCK", 1 << 10)
    outside = ready(TableRegression(csv, "price", memory_mb=0, cache_dir=str(tmp_path / "cache")))
    assert torch.equal(inside.inputs, outside.inputs)
    assert not list((tmp_path / "cache").iterdir()), "nothing is left"
    few = ready(TableRegression(csv, "price", fit_rows=50))
    assert few.inputs.shape == inside.inputs.shape
    assert not torch.equal(few.inputs, inside.inputs), "fitted on fewer rows"


def test_a_parquet_file_gives_the_same(csv: str, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    frame().to_parquet(path)
    one, other = (ready(TableClassification(str(p), "kind")) for p in (csv, path))
    assert torch.allclose(one.inputs, other.inputs, atol=1e-5)
    assert torch.equal(one.labels, other.labels)


def test_what_was_learnt_is_kept_in_plain_types(csv: str, tmp_path: Path) -> None:
    table = ready(TableClassification(csv, "kind"))
    torch.save(table.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["transformer"].numel() < 100_000
    Path(csv).unlink()
    again = TableClassification(csv, "kind")
    again.load_state_dict(state)
    assert (again.in_features, again.class_names) == (table.in_features, ["large", "small"])
    assert np.array_equal(again.columns.prepare(frame(1), to_numbers), table.columns.prepare(frame(1), to_numbers))


def test_files_are_predicted_as_the_training_was_prepared(csv: str, tmp_path: Path) -> None:
    table = ready(TableRegression(csv, "price", drop=["kind"], eval_batch_size=3))
    new = frame().head(5)[["rooms", "city", "size"]].assign(city=["Rome", "Paris", None, "Oslo", "Kyiv"])
    new.to_csv(tmp_path / "new.csv", index=False)
    new.drop(columns="size").to_csv(tmp_path / "less.csv", index=False)
    (tmp_path / "empty.csv").touch()
    paths = [tmp_path / name for name in ("new.csv", "less.csv", "empty.csv", "no.csv")]
    rows = table.read_files(paths)
    batches = list(table.predict_dataloader())
    assert [len(batch) for batch in batches] == [3, 2]
    assert rows.read == [(paths[0], i) for i in range(1, 6)]
    assert [reason for _, reason in rows.unread] == ["no column 'size'", "the file is empty", "no such file"]
    assert rows.unseen == {"city": {"Paris", "Kyiv"}}
    assert torch.equal(torch.cat(batches), torch.from_numpy(table.columns.prepare(new, to_numbers)))
    assert not batches[0][1, 2:].any(), "of none of the known cities"


# ---- mistakes


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"target": "prise"}, r"data.target: no column 'prise' in .*; did you mean 'price'\?"),
        ({"drop": ["x y z"]}, "data.drop: no column 'x y z' in .*; there are size, city, rooms, same, price, kind"),
        ({"numeric": ["size"], "categorical": ["size"]}, "data.categorical: 'size' is among the numeric columns"),
        ({"target": "kind"}, "data.target: 'kind' has values that are no finite numbers, '.*' the first; TableClass"),
        ({"target": "same"}, "data.target: 'same' has a single value in the training part"),
        ({"batch_size": 141}, "data.batch_size: 141 is larger than the training part; allowed are 1 to 140, and 0"),
        ({"val_fraction": 0.001}, "data.val_fraction: the val part has 0 of 200 rows, and needs at least 1"),
        ({"drop": ["size", "city", "rooms", "kind"]}, "data.path: no column of .* is left to predict price from"),
        ({"target": "size"}, "data.target: 20 of 200 rows have no size, row 1 the first; --data.drop_missing_target"),
        ({"path": "no.csv"}, "data.path: no such file: no.csv"),
    ],
)
def test_mistakes_are_told_by_their_key(csv: str, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        ready(TableRegression(**{"path": csv, "target": "price", **keys}))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"val_fraction": 0}, r"data.val_fraction: 0 is outside \(0, 1\)"),
        ({"test_fraction": 1}, r"data.test_fraction: 1 is outside \[0, 1\)"),
        ({"val_fraction": 0.6, "test_fraction": 0.6}, "leave nothing to train on"),
        ({"scale": "max"}, "data.scale: 'max' is unknown; allowed are standard, robust, quantile, none"),
        ({"batch_size": -1}, "data.batch_size: -1 is below 0"),
    ],
)
def test_impossible_values(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TableRegression("x.csv", "y", **keys)


def test_rows_without_a_target_can_be_left_out(csv: str) -> None:
    table = ready(TableRegression(csv, "size", drop_missing_target=True))
    assert len(table.labels) == len(table.inputs) == ROWS - 20
    kept = frame()["size"].dropna().to_numpy(dtype=np.float32)
    assert torch.equal(table.labels[:, 0], torch.from_numpy(kept))


def test_a_class_needs_rows_in_each_part(csv: str) -> None:
    with pytest.raises(ValueError, match=r"class '.*' has 1 of 200 rows, and each of 3 .*; TableRegression predicts"):
        ready(TableClassification(csv, "price"))
    with pytest.raises(ValueError, match=r"data\.target: 'same' has a single value, '1'"):
        ready(TableClassification(csv, "same"))


def test_a_column_of_numbers_with_a_typing_error_is_no_column_of_kinds(csv: str) -> None:
    frame().assign(size=["5.1x", *map(str, np.linspace(0, 9, ROWS - 1))]).to_csv(csv, index=False)
    with pytest.raises(ValueError, match=r"data.numeric: column 'size' is numbers but for 1 values such as '5.1x'; "):
        ready(TableRegression(csv, "price", val_fraction=0.1, test_fraction=0, split_seed=3))


def labelled(**columns: Any) -> pd.DataFrame:
    found = frame().drop(columns=["same", "kind", "price"])
    return found.assign(old=found["rooms"] > 2, big=np.where(found["size"] > 5, "yes", "No"), **columns)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_labels_are_columns_of_yes_and_no(tmp_path: Path, suffix: str) -> None:
    path = str(tmp_path / f"x.{suffix}")
    cheap = np.where(np.arange(ROWS) % 4, 0.0, 1.0)
    rows = labelled(cheap=cheap)
    (rows.to_csv if suffix == "csv" else rows.to_parquet)(path, index=False)
    table = ready(TableMultiLabel(path, ["cheap", "big", "old"]))
    assert table.labels.dtype == torch.uint8
    expected = np.stack((cheap == 1, rows["size"] > 5, rows["rooms"] > 2), 1)
    assert torch.equal(table.labels, torch.from_numpy(expected).to(torch.uint8))
    assert (table.num_classes, table.class_names) == (3, ["cheap", "big", "old"])
    train = expected[table.parts["train"].numpy()]
    assert table.pos_weight == pytest.approx(((len(train) - train.sum(0)) / train.sum(0)).tolist())
    assert set(table.facts["kinds"]) == {"size", "city", "rooms"}
    (x, y), *_ = table.train_dataloader()
    assert (x.shape, y.shape) == ((64, table.in_features), (64, 3))
    again = TableMultiLabel(path, ["cheap", "big", "old"])
    again.load_state_dict(table.state_dict())
    assert again.pos_weight == table.pos_weight


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["yes", "Maybe"], "data.target: 'odd' has the value 'Maybe'; allowed are 0 and 1, true and false, yes and no"),
        ([0, 2], "data.target: 'odd' has the value '2'; allowed"),
        (["yes"], "data.target: 'odd' has no row of no in the training part"),
        ([0], "data.target: 'odd' has no row of yes in the training part"),
        ([1, None], "data.target: 100 of 200 rows have no old, odd, row 2 the first; --data.drop_missing_target"),
    ],
)
def test_a_label_that_is_none_is_told(tmp_path: Path, values: list[Any], said: str) -> None:
    path = tmp_path / "x.csv"
    labelled(odd=np.resize(np.array(values, object), ROWS)).to_csv(path, index=False)
    with pytest.raises(ValueError, match=said) as caught:
        ready(TableMultiLabel(str(path), ["old", "odd"]))
    assert "\n" not in str(caught.value)


def test_a_file_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match="has no rows"):
        ready(TableRegression(str(path), "b"))


# ---- real data


def test_the_embedded_tables() -> None:
    diabetes, cancer = ready(Diabetes()), ready(BreastCancer())
    assert (diabetes.in_features, diabetes.num_targets, len(diabetes.labels)) == (10, 1, 442)
    assert torch.equal(diabetes.labels[:, 0], torch.from_numpy(load_diabetes().target).float())
    assert (cancer.in_features, cancer.class_names, len(cancer.labels)) == (30, ["benign", "malignant"], 569)
    assert [len(diabetes.parts[name]) for name in ("train", "val", "test")] == [288, 66, 88]


def test_what_is_stored_can_not_be_made_to_run_anything(csv: str) -> None:
    table = ready(TableRegression(csv, "price"))
    state = table.state_dict()
    import zlib

    import skops.io

    evil = zlib.compress(skops.io.dumps({"a": Path("x")}))
    again = TableRegression(csv, "price")
    again.load_state_dict({**state, "transformer": torch.frombuffer(bytearray(evil), dtype=torch.uint8)})
    with pytest.raises(Exception, match=r"[Uu]ntrusted"):
        _ = again.columns
    assert TRUSTED == ["numpy.dtype"]


def test_targets_and_columns_with_a_decimal_comma(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    frame().drop(columns=["same", "kind"]).to_csv(path, index=False, sep=";", decimal=",")
    plain = tmp_path / "y.csv"
    frame().drop(columns=["same", "kind"]).to_csv(plain, index=False)
    comma, point = (ready(TableRegression(str(p), "price")) for p in (path, plain))
    assert torch.equal(comma.labels, point.labels)
    assert torch.equal(comma.inputs, point.inputs)
    rows = comma.read_files([path, plain])
    predicted = torch.cat(list(rows))
    assert torch.equal(predicted[:ROWS], predicted[ROWS:])


def test_a_column_of_names_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    frame().drop(columns="same").assign(name=[f"house {i}" for i in range(ROWS)]).to_csv(path, index=False)
    with pytest.warns(UserWarning, match=r"column 'name' has 140 different texts in 140 rows, .*; --data.drop leaves"):
        TableRegression(str(path), "price").setup("fit")


def test_only_classes_are_counted() -> None:
    assert not hasattr(Diabetes(), "class_counts")
    found = BreastCancer()
    assert sum(found.class_counts) == len(found.parts["train"])
