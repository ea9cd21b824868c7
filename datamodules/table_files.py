"""Tables in CSV and Parquet files, read part by part, so that a file may be larger than the memory."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

SEPARATORS = (",", ";", "\t", "|")
MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "?"]
SNIFFED = 1 << 18  # bytes of a CSV file from which its separator follows
BLOCK = 1 << 22  # bytes of a CSV file that are read at once
ROWS = 1 << 16  # rows of a Parquet file that are read at once
DECIMAL = re.compile(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*")
PARQUET = (".parquet", ".pq")


class TableFile:
    """A CSV or Parquet file.

    Values of a CSV file are texts, and None where they are missing (`NA`, `NaN`, `null`, `?`, …). Its separator is
    found among comma, semicolon, tab and bar; the first line holds the names of the columns.

    Args:
        path: Ends in `.parquet` or `.pq`; anything else is taken for CSV. It may be compressed (`.csv.gz`).

    Raises:
        ValueError: The file is empty, its lines don't have the same number of values, or a name is there twice.
        OSError: It can't be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise OSError(f"{self.path}: {'a folder' if self.path.is_dir() else 'no such file'}")
        self.decimal_comma = False
        self.parquet = self.path.suffix.lower() in PARQUET
        try:
            if self.parquet:
                self.columns = [str(name) for name in pq.read_schema(self.path).names]
            else:
                self.separator, self.columns = self._header()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self.path}: no Parquet file ({_reason(error)})") from error
        except OSError as error:
            raise OSError(f"{self.path}: can't be read ({_reason(error)})") from error
        twice = [name for name in self.columns if self.columns.count(name) > 1]
        if twice:
            raise ValueError(f"{self.path}: the column {twice[0]!r} is there twice")

    def numbers(self, values: pd.Series) -> np.ndarray:
        """A column of this file as float64 `(N,)`, NaN for what is missing, infinite, or no number."""
        return to_numbers(values, self.decimal_comma)

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """The rows in their order, some at a time.

        Args:
            columns: Those that are wanted; the default is all.

        Raises:
            ValueError: A line has more or fewer values than there are columns.
        """
        names = list(self.columns if columns is None else columns)
        try:
            if self.parquet:
                with pq.ParquetFile(self.path) as file:
                    for batch in file.iter_batches(ROWS, columns=names):
                        yield batch.to_pandas()
                return
            with pa_csv.open_csv(
                self.path,
                pa_csv.ReadOptions(use_threads=False, block_size=BLOCK, column_names=self.columns, skip_rows=1),
                pa_csv.ParseOptions(delimiter=self.separator, newlines_in_values=True),
                pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(self.columns, pa.string()),
                    null_values=MISSING,
                    strings_can_be_null=True,
                    include_columns=names,
                ),
            ) as reader:
                for batch in reader:
                    yield pd.DataFrame(
                        {name: batch.column(i).to_numpy(zero_copy_only=False) for i, name in enumerate(names)},
                        dtype=object,
                    )
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise ValueError(f"{self.path}: {_reason(error)}") from error

    def _header(self) -> tuple[str, list[str]]:
        """The separator, and the names of the columns."""
        with pa.input_stream(str(self.path), compression="detect") as file:
            raw = file.read(SNIFFED)
        text = raw.decode("utf-8-sig", errors="replace")
        if not text.strip():
            raise ValueError(f"{self.path}: the file is empty")
        if "\x00" in text:
            raise ValueError(f"{self.path}: no text, and no Parquet file by its name")
        whole = len(raw) < SNIFFED
        rows = {separator: _rows(text, separator, whole) for separator in SEPARATORS}
        fitting = [s for s in SEPARATORS if len(rows[s][0]) > 1 and {len(row) for row in rows[s]} == {len(rows[s][0])}]
        separator = max(fitting or SEPARATORS, key=lambda s: len(rows[s][0]))
        if separator not in fitting:
            self._check_lines(rows[separator], separator)
        self.decimal_comma = separator != "," and any(DECIMAL.fullmatch(v) for row in rows[separator][1:] for v in row)
        return separator, [name.strip() for name in rows[separator][0]]

    def _check_lines(self, rows: list[list[str]], separator: str) -> None:
        """Say in which line another separator begins, or a value is too many or missing."""
        count = len(rows[0])
        for number, row in enumerate(rows, 1):
            if len(row) == count:
                continue
            other = next((s for s in SEPARATORS if s != separator and len(_split(row, s)) == count > 1), None)
            if other is not None:
                raise ValueError(
                    f"{self.path}: two separators: the first line has {separator!r}, and line {number} has {other!r}"
                )
            raise ValueError(
                f"{self.path}: line {number} has {len(row)} values and the first line {count}, "
                f"separated by {separator!r}"
            )


class Frame:
    """A DataFrame where a `TableFile` would be."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self.columns = list(frame.columns)

    def numbers(self, values: pd.Series) -> np.ndarray:
        """A column as float64 `(N,)`, NaN for what is missing, infinite, or no number."""
        return to_numbers(values)

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """All rows at once."""
        yield self.frame if columns is None else self.frame[list(columns)]


def to_numbers(values: Any, decimal_comma: bool = False) -> np.ndarray:
    """A column as float64 `(N,)`, NaN for what is missing, infinite, or no number; times in seconds since 1970.

    Args:
        values: A pandas Series of any dtype.
        decimal_comma: Whether 1,5 is one and a half.
    """
    if isinstance(values.dtype, np.dtype) and values.dtype.kind == "M":
        seconds = values.to_numpy().astype("datetime64[ms]").astype(np.float64) / 1000
        return np.where(values.isna(), np.nan, seconds)
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "fiub":
        numbers = values.to_numpy(np.float64)
    else:
        if decimal_comma:
            values = values.str.replace(",", ".", regex=False)
        try:  # all at once where all are numbers
            column = pc.cast(pc.utf8_trim_whitespace(pa.array(values, pa.string())), pa.float64())
            numbers = column.to_numpy(zero_copy_only=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def to_texts(values: Any) -> np.ndarray:
    """A column as texts `(N,)` object, None for what is missing; 3 for 3.0, so that a kind is one whatever its type."""
    missing = values.isna().to_numpy()
    texts = np.array([_text(value) for value in values], dtype=object)
    texts[missing] = None
    return texts


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _rows(text: str, separator: str, whole: bool) -> list[list[str]]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if row]
    except csv.Error:
        return [[text]]
    return rows if whole or len(rows) < 2 else rows[:-1]  # the last one is cut off


def _split(row: Sequence[str], separator: str) -> list[str]:
    return next(csv.reader([row[0]], delimiter=separator)) if len(row) == 1 else []


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).removeprefix("CSV parse error: ")
    return text if len(text) < 200 else f"{text[:200]}…"
