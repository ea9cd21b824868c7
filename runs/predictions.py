"""Predictions for files, as a CSV table."""

import csv
import io
import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from runs.errors import UserError


def expand(inputs: Sequence[str], suffixes: Container[str] | None = None) -> list[Path]:
    """The files to predict, in the order given; a folder stands for the files in it and below it, sorted by name.

    Args:
        inputs: Files and folders.
        suffixes: Of a folder's files, only those with such an ending (`.png`) are taken; None takes all.

    Raises:
        UserError: There is no file at all.
    """
    paths: list[Path] = []
    for path in map(Path, inputs):
        if not path.is_dir():
            paths.append(path)
            continue
        visible = (p for p in sorted(path.rglob("*")) if p.is_file() and p.name[0] != ".")
        paths += [p for p in visible if suffixes is None or p.suffix.lower() in suffixes]
    if not paths:
        raise UserError(f"nothing to predict: no files in {', '.join(inputs)}")
    return paths


def to_csv(places: Sequence[Any], probabilities: Tensor, class_names: Sequence[str], heads: Sequence[str]) -> str:
    """One row for each sample: where it is, the most probable class, that probability, and those of all classes.

    Args:
        places: Of N samples each a file, or a file and more.
        probabilities: `(N, K)`, each row sums to 1.
        class_names: K names.
        heads: What the places' columns are called.
    """
    rows = []
    for row in probabilities.tolist():
        best = max(range(len(row)), key=row.__getitem__)
        rows.append([class_names[best], *(f"{value:.6f}" for value in (row[best], *row))])
    return _table(places, heads, ["prediction", "confidence", *class_names], rows)


def labels_to_csv(places: Sequence[Any], probabilities: Tensor, names: Sequence[str], heads: Sequence[str]) -> str:
    """One row for each sample: where it is, the labels whose probability is above 0.5, and the probability of each.

    Args:
        places: Of N samples each a file, or a file and more.
        probabilities: `(N, K)`.
        names: K names.
        heads: What the places' columns are called.
    """
    rows = []
    for row in probabilities.tolist():
        found = ";".join(name for name, value in zip(names, row, strict=True) if value > 0.5)
        rows.append([found, *(f"{value:.6f}" for value in row)])
    return _table(places, heads, ["labels", *names], rows)


def numbers_to_csv(places: Sequence[Any], numbers: Tensor, names: Sequence[str], heads: Sequence[str]) -> str:
    """One row for each sample: where it is, and what was predicted for it.

    Args:
        places: Of N samples each a file, or a file and more.
        numbers: `(N, T)`.
        names: T names.
        heads: What the places' columns are called.
    """
    rows = [[f"{value:.7g}" for value in row] for row in numbers.tolist()]
    return _table(places, heads, names, rows)


def _table(places: Sequence[Any], heads: Sequence[str], names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*heads, *names])
    for place, row in zip(places, rows, strict=True):
        writer.writerow([*(place if isinstance(place, tuple) else (place,)), *row])
    return text.getvalue()


def check_out(out: str, overwrite: bool, option: str = "--out") -> None:
    """Refuse a file that can't be written, before the work and not after it.

    Raises:
        UserError: `out` exists already and is not to be overwritten, or its folder is missing or read-only.
    """
    path = Path(out)
    if path.exists() and not overwrite:
        raise UserError(f"{option}: {out} exists already; give another name, or --overwrite")
    if not path.parent.is_dir():
        raise UserError(f"{option}: no such folder: {path.parent}")
    if not os.access(path.parent, os.W_OK) or path.is_dir():
        raise UserError(f"{option}: can't write {out}")
