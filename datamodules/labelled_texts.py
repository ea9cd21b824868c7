"""Texts of classes, out of a table of text and label."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.arrays import Classes, Sampler, known_sampler
from datamodules.names import in_order, nearest
from datamodules.ragged import Ragged, TextBatches
from datamodules.splits import PARTS, Samples, check_fractions, counted
from datamodules.table_files import TableFile, to_texts
from datamodules.text_rows import TextRows, joined, tokens_of_texts
from datamodules.tokenized import Tokenized


class TextClassification(Tokenized, Classes):
    """A table with a column of texts and one of labels.

    All tokens are kept in memory, four bytes each. Parts that no column says are drawn, seeded, each with its share of
    each class; equal texts come into the same part.

    It tells a network what it needs to know: `num_classes`, `vocab_size`, `context` (the most tokens of a text) and
    `pad_id`, the token that fills up shorter texts.

    Args:
        path: A CSV or Parquet file.
        text_column: The column of texts, or several, whose texts are put together.
        label_column: The column of labels, texts or numbers.
        split_column: The column of parts (train, val, test), where there is one.
        tokenizer: `bytes`, or a file of a Hugging Face tokenizer (`tokenizer.json`).
        max_tokens: What is longer is cut off.
        batch_size: Texts per step, over all devices together; 0 takes the whole training part.
        val_fraction: Share of the texts that is held out for validation where no column says, in (0, 1).
        test_fraction: Share that is held out for the test where no column says, in [0, 1).
        split_seed: Which texts are held out. Apart from `seed_everything`, so that runs with different seeds are
            measured on the same texts.
        eval_batch_size: Texts per batch in validation, test and prediction; changes speed and memory only.
        sampler: `balanced` trains with as many texts of each class as of any other.
        drop_missing: Leave out rows without a text or a label, in place of an error.

    Raises:
        ValueError: An argument is out of its range, or the file can't be used; with the first row at fault.
    """

    def __init__(
        self,
        path: str,
        text_column: str | list[str] = "text",
        label_column: str = "label",
        split_column: str = "split",
        tokenizer: str = "bytes",
        max_tokens: int = 128,
        batch_size: int = 32,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        eval_batch_size: int = 128,
        sampler: Sampler = "shuffle",
        drop_missing: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size)
        if max_tokens < 3:  # two may be those that a model wants at the beginning and the end
            raise ValueError(f"data.max_tokens: {max_tokens} is below 3")
        check_fractions(val_fraction, test_fraction)
        self.path, self.sampler = Path(path).expanduser(), known_sampler(sampler)
        self.text_columns = [text_column] if isinstance(text_column, str) else list(text_column)
        self.label_column, self.split_column = label_column, split_column
        self.tokenizer_file, self.max_tokens, self.drop_missing = tokenizer, max_tokens, drop_missing
        self.shares, self.split_seed = {"test": test_fraction, "val": val_fraction}, split_seed

    # ---- what the network is told

    @property
    def vocab_size(self) -> int:
        """Number of tokens, with the one that fills up."""
        return max(self.tokenizer.size, self.pad_id + 1)

    @property
    def pad_id(self) -> int:
        """The token that fills up shorter texts."""
        return self.tokenizer.pad_id

    @property
    def context(self) -> int:
        """Most tokens of a text."""
        return self._facts.get("context", self.max_tokens)

    @property
    def has_test_data(self) -> bool:
        """Whether there is a test part."""
        if not hasattr(self, "parts"):
            self.load()
        return "test" in self.parts

    # ---- Lightning's hooks

    def part(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        return self.texts.starts, self.labels, self.parts[name]

    def loader(self, part: str, batch_size: int, seed: int | None = None) -> TextBatches:
        balanced = part == "train" and self.sampler == "balanced"
        _, labels, indices = self.part(part)
        return TextBatches(self.texts, labels, indices, batch_size, seed, *self.ranks, balanced=balanced)

    # ---- files of the user

    example_file = "texts.csv"  # for the command that the end of a run shows
    file_suffixes = frozenset({".csv", ".tsv", ".txt", ".parquet", ".pq"})

    def read_files(self, paths: list[Path]) -> TextRows:
        """The texts that `predict_dataloader` goes through."""
        columns = self._facts.get("text_columns", self.text_columns)
        self.files = TextRows(paths, columns, self.tokenizer, self.context, self.eval_batch_size)
        return self.files

    def exported(self) -> tuple[Callable[[Tensor], Tensor], Tensor, dict[str, Any]]:
        """As of all texts; and which token fills up shorter ones."""
        prepare, some, about = super().exported()
        some[1, self.context // 2 :] = self.pad_id
        return prepare, some, {**about, "pad_id": self.pad_id}

    # ---- inside

    def load(self) -> None:
        """Read the table, divide its rows, and make tokens of the texts."""
        texts, kinds, given = self._rows()
        known = self._facts.get("class_names")
        names = known or in_order({kind for kind, part in zip(kinds, given, strict=True) if part in ("", "train")})
        if len(names) < 2:
            found = f"a single label, {names[0]!r}" if names else "no rows to train on"
            raise ValueError(f"data.label_column: {self.path} has {found}")
        places = {name: place for place, name in enumerate(names)}
        if strange := next((kind for kind in kinds if kind not in places), None):
            raise ValueError(f"data.label_column: {strange!r} has no training row{nearest(strange, names)}")
        self.labels = torch.tensor([places[kind] for kind in kinds], dtype=torch.int64)
        samples = Samples(texts, self.labels.numpy(), names, "data.path", "text")
        parts = samples.divide(np.array(given), self.shares, self.split_seed)
        counts = np.bincount(self.labels.numpy()[parts["train"]], minlength=len(names))
        if not known and not counts.min():
            raise ValueError(f"data.path: class {names[int(counts.argmin())]!r} has no text to train on")
        self.parts = {name: torch.from_numpy(parts[name]) for name in parts if name == "train" or len(parts[name])}
        self._warn_of_twins(samples, parts)
        if not self._facts:
            self._facts = {
                "class_names": names,
                "context": self.max_tokens,
                "text_columns": self.text_columns,
                "tokenizer": self.tokenizer.state(),
            }
        self.texts = Ragged(list(tokens_of_texts(texts, self.tokenizer, self.context)), self.pad_id)

    def _rows(self) -> tuple[list[str], list[str], list[str]]:
        """Of each row its text, its label, and its part, "" where none is given."""
        if not self.path.exists():
            raise ValueError(f"data.path: no such file: {self.path}")
        file = TableFile(self.path)
        for key, columns in (("text_column", self.text_columns), ("label_column", [self.label_column])):
            for name in columns:
                if name not in file.columns:
                    raise ValueError(f"data.{key}: no column {name!r} in {self.path}{nearest(name, file.columns)}")
        divided = self.split_column in file.columns
        wanted = [*self.text_columns, self.label_column, *([self.split_column] if divided else [])]
        texts, kinds, given, number = [], [], [], 0
        for part in file.parts(wanted):
            written = joined([to_texts(part[name]) for name in self.text_columns])
            words = to_texts(part[self.split_column]) if divided else [""] * len(part)
            for text, kind, word in zip(written, to_texts(part[self.label_column]), words, strict=True):
                number += 1
                if text is None or kind is None:
                    self._refuse(number, self.label_column if kind is None else ", ".join(self.text_columns))
                    continue
                if divided and str(word or "train").lower() not in PARTS:
                    raise ValueError(f"data.split_column: row {number} of {self.path} is of part {word!r}; allowed are "
                                     "train, val, test")  # fmt: skip
                texts.append(text)
                kinds.append(kind)
                given.append(PARTS[str(word or "train").lower()] if divided else "")
        return texts, kinds, given

    def _refuse(self, number: int, column: str) -> None:
        if not self.drop_missing:
            raise ValueError(
                f"data.path: row {number} of {self.path} has no {column}; --data.drop_missing true leaves such rows out"
            )

    def _warn_of_twins(self, samples: Samples, parts: Mapping[str, np.ndarray]) -> None:
        if pairs := samples.contradictions():
            self._warn(samples, pairs, f"with two labels in {self.path}")
        for name, pairs in samples.leaks(parts).items():
            self._warn(samples, pairs, f"of the {name} part of {self.path} among the training texts")

    @staticmethod
    def _warn(samples: Samples, pairs: list[tuple[int, int]], what: str) -> None:
        first = samples.keys[pairs[0][0]][:60]
        warnings.warn(f"{counted(len(pairs), 'text')} {what}, the first: {first!r}", UserWarning, stacklevel=3)
