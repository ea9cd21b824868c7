"""CSV and Parquet files, read part by part."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules import table_files
from datamodules.table_files import TableFile, to_numbers, to_texts


def whole(path: Path) -> pd.DataFrame:
    return pd.concat(list(TableFile(path).parts()), ignore_index=True)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_separator_is_found(tmp_path: Path, separator: str, end: str) -> None:
    path = tmp_path / "a file.csv"
    lines = [["a", "b c", "ä"], ["1", '"x, y; z"', "NA"], ["2.5", "", "-1e3"]]
    path.write_text(end.join(separator.join(line) for line in lines) + end, encoding="utf-8", newline="")
    file = TableFile(path)
    assert file.columns == ["a", "b c", "ä"]
    frame = whole(path)
    assert to_numbers(frame["a"]).tolist() == [1.0, 2.5]
    assert to_texts(frame["b c"]).tolist() == ["x, y; z", None]
    assert np.isnan(to_numbers(frame["ä"])).tolist() == [True, False]


def test_a_byte_order_mark_a_compressed_file_and_a_single_column(tmp_path: Path) -> None:
    path = tmp_path / "marked.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\n1,2\n")
    assert TableFile(path).columns == ["a", "b"]
    assert whole(path).columns.tolist() == ["a", "b"]
    packed = tmp_path / "packed.csv.gz"
    packed.write_bytes(gzip.compress(b"a,b\n1,2\n3,4\n"))
    assert to_numbers(whole(packed)["b"]).tolist() == [2, 4]
    single = tmp_path / "single.csv"
    single.write_text("a\n1\n2\n")
    assert to_numbers(whole(single)["a"]).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        (" \n", "the file is empty"),
        ("a,b,c\n1,2,3\n4;5;6\n", "two separators: the first line has ',', and line 3 has ';'"),
        ("a,b\n1,2\n3\n", "line 3 has 1 values and the first line 2, separated by ','"),
        ("a,b\n1,2,3\n", "line 2 has 3 values and the first line 2, separated by ','"),
        ("a,b,a\n1,2,3\n", "the column 'a' is there twice"),
        ("a\0b", "no text, and no Parquet file by its name"),
    ],
)
def test_a_file_that_is_no_table_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{path}: ") as error:
        TableFile(path)
    assert str(error.value) == f"{path}: {said}"


def test_a_line_far_down_that_is_separated_otherwise_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "SNIFFED", 100)
    path = tmp_path / "late.csv"
    path.write_text("a,b,c\n" + "1,2,3\n" * 100 + "1;2;3\n")
    with pytest.raises(ValueError, match=r"late.csv: Row #102: Expected 3 columns, got 1: 1;2;3"):
        whole(path)


def test_a_missing_file_and_a_broken_parquet_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"no.csv: no such file$"):
        TableFile(tmp_path / "no.csv")
    with pytest.raises(OSError, match=f"^{tmp_path}: a folder$"):
        TableFile(tmp_path)
    (tmp_path / "x.parquet").write_text("a,b\n")
    with pytest.raises(ValueError, match=r"x.parquet: no Parquet file \("):
        TableFile(tmp_path / "x.parquet")


def test_a_file_is_read_in_parts_and_only_the_columns_that_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.DataFrame({"a": range(5000), "b": ["x"] * 5000, "c": 0.5})
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    monkeypatch.setattr(table_files, "BLOCK", 1 << 12)
    monkeypatch.setattr(table_files, "ROWS", 700)
    for name in ("x.csv", "x.parquet"):
        parts = list(TableFile(tmp_path / name).parts(["c", "a"]))
        assert len(parts) > 5
        assert parts[0].columns.tolist() == ["c", "a"]
        assert np.concatenate([to_numbers(part["a"]) for part in parts]).tolist() == list(range(5000))


def test_numbers_of_all_kinds() -> None:
    assert to_numbers(pd.Series([" 1 ", "2e3", None, "x", "inf"], dtype=object)).tolist()[:2] == [1, 2000]
    assert np.isnan(to_numbers(pd.Series(["1", None, "x", "inf"], dtype=object))).tolist() == [False, True, True, True]
    assert to_numbers(pd.Series([1, 2], dtype="Int64").astype("float64")).tolist() == [1, 2]
    assert to_numbers(pd.Series([True, False])).tolist() == [1, 0]
    assert to_numbers(pd.Series(pd.to_datetime(["1970-01-02", None]))).tolist()[0] == 86400
    assert to_numbers(pd.Series(["1,5", "2"], dtype=object), decimal_comma=True).tolist() == [1.5, 2]


def test_a_kind_is_one_whatever_its_type() -> None:
    assert to_texts(pd.Series([3.0, 4.5, np.nan])).tolist() == ["3", "4.5", None]
    assert to_texts(pd.Series([3, 4])).tolist() == ["3", "4"]
    assert to_texts(pd.Series([" 3", "x "], dtype=object)).tolist() == ["3", "x"]


def test_a_decimal_comma_is_seen_where_commas_do_not_separate(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a;b\n1,5;x\n2;y\n")
    (tmp_path / "b.csv").write_text("a,b\n1,5\n2,3\n")
    assert [TableFile(tmp_path / name).decimal_comma for name in ("a.csv", "b.csv")] == [True, False]


def test_names_with_spaces_around_them(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a, b \n1, 2\n")
    (part,) = TableFile(tmp_path / "a.csv").parts(["b"])
    assert to_numbers(part["b"]).tolist() == [2]
