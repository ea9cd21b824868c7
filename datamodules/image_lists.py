"""Which images there are, of which class and in which part: from folders, or from a table."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.names import nearest
from datamodules.splits import PARTS

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")


@dataclass
class Listed:
    """Images, sorted by their paths.

    Args:
        paths: Relative to the root.
        classes: The name of each image's class.
        parts: `train`, `val` or `test` of each, or nothing where they are still to be drawn.
        strays: Images that belong to no class, and are left out.
    """

    paths: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)


def list_folder(root: Path) -> Listed:
    """The images in `root/CLASS/`, or in `root/train/CLASS/`, `root/val/CLASS/`, `root/test/CLASS/`, and below these.

    Hidden files, and files that are not called as images, are passed over.

    Raises:
        ValueError: There is no such folder, no image in it, or its folders are parts and others side by side.
    """
    if not root.is_dir():
        siblings = [p.name for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
        kind = "a file, and no folder" if root.exists() else "no such folder"
        raise ValueError(f"data.root: {kind}: {root}{nearest(root.name, siblings) if siblings else ''}")
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".")
    known = [name for name in folders if name.lower() in PARTS]
    parts = {PARTS[name.lower()] for name in known}
    # a class may be called train, among vehicles say: it takes a second part to make the first one
    divided = ("train" in parts and len(parts) > 1) or len(parts) == len(folders) == 1
    if divided and len(known) < len(folders):
        others = ", ".join(name for name in folders if name not in known)
        raise ValueError(f"data.root: {root} has {', '.join(known)} beside {others}; parts and classes don't mix")
    found = Listed()
    for part in known if divided else [""]:
        for path in _images(root / part):
            relative = path.relative_to(root)
            inner = relative.parts[1:] if divided else relative.parts
            if len(inner) < 2:
                found.strays.append(relative.as_posix())
                continue
            found.paths.append(relative.as_posix())
            found.classes.append(inner[0])
            found.parts.append(PARTS[part.lower()] if divided else "")
    if not found.paths:
        hint = f"; {len(found.strays)} lie in no class's folder" if found.strays else ""
        raise ValueError(f"data.root: no image in {root}/CLASS/ ({', '.join(SUFFIXES)}){hint}")
    return found


def list_table(file: Path, root: Path, path_column: str, label_column: str, split_column: str) -> Listed:
    """The images of a CSV or Parquet file with a column of paths, relative to `root`, and one of labels.

    Where it has the third column, its values (train, val, test) are the parts.

    Raises:
        ValueError: A column is missing, a row has no path or label, a path is there twice, or a part is unknown.
        OSError: The file can't be read.
    """
    from datamodules.table_files import TableFile, to_texts  # pandas: only who has a table waits for it

    table = TableFile(file)
    columns = [path_column, label_column]
    for key, name in zip(("path_column", "label_column"), columns, strict=True):
        if name not in table.columns:
            raise ValueError(f"data.{key}: no column {name!r} in {file}{nearest(name, table.columns)}")
    divided = split_column in table.columns
    rows: dict[str, tuple[str, str]] = {}
    number = 0
    for part in table.parts([*columns, split_column] if divided else columns):
        texts = [to_texts(part[name]) for name in ([*columns, split_column] if divided else columns)]
        for name, label, *split in zip(*texts, strict=True):
            number += 1
            if name is None or label is None:
                missing = path_column if name is None else label_column
                raise ValueError(f"data.labels: row {number} of {file} has no {missing}")
            path = os.path.normpath(name.replace("\\", "/"))
            if path in rows:
                raise ValueError(f"data.labels: row {number} of {file} has {path}, which was there before")
            word = str(split[0] or "train").lower() if divided else ""
            if divided and word not in PARTS:
                raise ValueError(
                    f"data.labels: row {number} of {file} is of part {word!r}; allowed are train, val, test"
                )
            rows[path] = (label, PARTS[word] if divided else "")
    if not rows:
        raise ValueError(f"data.labels: {file} has no rows")
    paths = sorted(rows)
    return Listed(paths, [rows[path][0] for path in paths], [rows[path][1] for path in paths])


def _images(folder: Path) -> Iterator[Path]:
    """The images below a folder, sorted; links to folders are followed, once each."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(files):
            if name[0] != "." and name.lower().endswith(SUFFIXES):
                yield Path(place, name)
