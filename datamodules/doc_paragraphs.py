"""Paragraphs of Python's help as a table of text and label: a real file to try `TextClassification` with."""

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from datamodules.labelled_texts import TextClassification

TOPICS = ("compound", "debugger", "formatstrings", "specialnames", "string-methods", "types", "typesmapping")


class DocParagraphs(TextClassification):
    """Paragraphs of Python's own help (`pydoc_data.topics`), to be told by the topic that they are from.

    They are written as a table of text and label when there is no such file.
    """

    def __init__(self, path: str = "data/paragraphs.csv", **kwargs: Any) -> None:
        super().__init__(path, **kwargs)

    def load(self) -> None:
        if not self.path.exists():
            self._write()
        super().load()

    def _write(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.parent / f".{self.path.name}.lock"):
                if not self.path.exists():  # another process may have written it meanwhile
                    write_paragraphs(self.path)
        except OSError as error:
            raise ValueError(f"data.path: can't write {self.path} ({error.strerror or error})") from error


def write_paragraphs(path: Path) -> None:
    """Write them as a CSV file, whole or not at all.

    Raises:
        OSError: It can't be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *paragraphs(TOPICS)])
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def paragraphs(topics: Sequence[str]) -> list[tuple[str, str]]:
    """Paragraphs of Python's help, each with its topic; those of two topics are left out, and so are tables."""
    from pydoc_data.topics import topics as known

    found: dict[str, set[str]] = {}
    for topic in topics:
        for paragraph in re.split(r"\n\s*\n", known[topic]):
            text = " ".join(paragraph.split())
            if len(text) >= 60 and re.search(r"[a-z]{3,} [a-z]{2,} ", text):
                found.setdefault(text, set()).add(topic)
    return [(text, topic) for text, (topic, *others) in found.items() if not others]
