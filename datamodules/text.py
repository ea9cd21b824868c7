"""Text, for models that predict the next token."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.batches import Batches, mix_seed
from datamodules.splits import check_fractions
from datamodules.token_files import (
    files_key,
    read_texts,
    text_files,
    tokens_of,
)
from datamodules.tokenized import Tokenized


class Windows(Batches):
    """Batches of windows out of one row of tokens: `(inputs, targets)`, both `(N, context)` int64, one token apart.

    For training the row is cut into windows anew in each epoch, from an offset that follows from `(seed, epoch)`, and
    each is taken once, in random order. For evaluation the windows begin at the first token and follow one another.

    Args:
        tokens: `(T,)`, an unsigned integer dtype.
        context: Length of a window.
        batch_size: Windows per batch over all ranks together.
        shuffle_seed: As of `Batches`.
        rank: As of `Batches`.
        world_size: As of `Batches`.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        context: int,
        batch_size: int,
        shuffle_seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        # a target follows each input; an offset may cost a window
        count = _windows(len(tokens), context, shuffled=shuffle_seed is not None)
        none = torch.empty(0)  # the windows are cut out of the tokens, not kept
        super().__init__(none, none, torch.arange(count), batch_size, shuffle_seed, rank, world_size)
        self.tokens, self.context = tokens, context

    def _order(self) -> Tensor:
        starts = super()._order() * self.context
        if self.shuffle_seed is None:
            return starts
        offset = mix_seed(self.shuffle_seed, self.epoch, 1) % self.context
        return starts + offset

    def fetch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        places = chosen.numpy()[:, None] + np.arange(self.context + 1)
        windows = torch.from_numpy(self.tokens[places].astype(np.int64))
        return windows[:, :-1], windows[:, 1:]


class Text(Tokenized):
    """Text files, as one row of tokens in a file that is mapped into memory.

    The first part is for training, the next for validation, the last for the test, if there is one: text that
    resembles its neighbours would be no test. The tokens are made once, for each content and tokenizer.

    It tells a network what it needs to know: `vocab_size` and `context`; and a module `bytes_per_token`.

    Args:
        path: A file, a folder, or several of them.
        pattern: Of the files in folders, those that match.
        tokenizer: `bytes`, or a file of a Hugging Face tokenizer (`tokenizer.json`).
        context: Tokens in a window.
        batch_size: Windows per step, over all devices together; 0 takes all of them.
        val_fraction: Share of the tokens for validation, in (0, 1).
        test_fraction: Share of the tokens for the test, in [0, 1).
        eval_batch_size: Windows per batch in validation and test; changes speed and memory only.
        cache_dir: Where the files of tokens are.

    Raises:
        ValueError: An argument is out of its range, a file is missing or no text, or there is too little text.
    """

    def __init__(
        self,
        path: str | list[str],
        pattern: str = "*",
        tokenizer: str = "bytes",
        context: int = 64,
        batch_size: int = 12,
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
        eval_batch_size: int = 128,
        cache_dir: str = "data/cache",
    ) -> None:
        super().__init__(batch_size, eval_batch_size)
        if context < 1:
            raise ValueError(f"data.context: {context} is not a positive number")
        check_fractions(val_fraction, test_fraction)
        self.paths = [Path(name).expanduser() for name in ([path] if isinstance(path, str) else path)]
        self.pattern, self.tokenizer_file = pattern, tokenizer
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.window = context
        self.cache_dir = Path(cache_dir).expanduser()

    # ---- what a subclass may give

    def key(self) -> str:
        """What tells the content of the texts."""
        return files_key(text_files(self.paths, self.pattern))

    def texts(self) -> Iterator[bytes]:
        """The texts, part by part, in UTF-8."""
        return read_texts(text_files(self.paths, self.pattern))

    # ---- what the network is told

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self.tokenizer.size

    @property
    def context(self) -> int:
        """Tokens in a window."""
        return self._facts.get("context", self.window)

    @property
    def bytes_per_token(self) -> float:
        """Length of the text over that of its tokens."""
        return self.facts["bytes_per_token"]

    @property
    def has_test_data(self) -> bool:
        """Whether a part is held out for the test."""
        return self.test_fraction > 0

    # ---- Lightning's hooks

    def count(self, part: str) -> int:
        return _windows(len(self.parts[part]), self.context, shuffled=part == "train")

    def loader(self, part: str, batch_size: int, seed: int | None = None) -> Windows:
        return Windows(self.parts[part], self.context, batch_size, seed, *self.ranks)

    # ---- inside

    def load(self) -> None:
        """Make the tokens, or find them, and divide them."""
        tokens, size = tokens_of(self.texts, self.tokenizer, f"{self.key()} {self.tokenizer.state()}", self.cache_dir)
        if not len(tokens):
            raise ValueError("data.path: the texts are empty")
        held = [round(len(tokens) * share) for share in (self.val_fraction, self.test_fraction)]
        first, second = len(tokens) - sum(held), len(tokens) - held[1]
        self.parts = {"train": tokens[:first], "val": tokens[first:second]}
        if self.test_fraction:
            self.parts["test"] = tokens[second:]
        for name, part in self.parts.items():
            if not self.count(name):
                raise ValueError(
                    f"data.context: {self.context} tokens, and the {name} part has {len(part):,} of them: no window"
                )
        if not self._facts:
            self._facts = {
                "context": self.context,
                "bytes_per_token": size / len(tokens),
                "tokenizer": self.tokenizer.state(),
            }


class PythonDocs(Text):
    """The topics of Python's own help, 0.5 MB of English that comes with every CPython (`pydoc_data.topics`)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__([], **kwargs)

    def key(self) -> str:
        return hashlib.sha256(b"".join(self.texts())).hexdigest()

    def texts(self) -> Iterator[bytes]:
        from pydoc_data.topics import topics

        yield "\n\n".join(topics[name] for name in sorted(topics)).encode()


def _windows(tokens: int, context: int, shuffled: bool) -> int:
    """How many windows there are; a target follows each token, and an offset may cost one of them."""
    return max(0, (tokens - (context if shuffled else 1)) // context)
