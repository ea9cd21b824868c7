"""What all datamodules of text have in common: a tokenizer, which a run keeps."""

import json
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from datamodules.arrays import Arrays
from datamodules.token_files import Tokenizer, configured_tokenizer, tokenizer_from


class Tokenized(Arrays):
    """Samples that are made of tokens; a subclass keeps the tokenizer's state in its facts.

    Attributes:
        tokenizer_file: `bytes`, or a file of a Hugging Face tokenizer.
    """

    tokenizer_file: str
    _tokenizer: Tokenizer | None = None

    @property
    @abstractmethod
    def context(self) -> int:
        """Most tokens of a sample."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the run, if there is one, or of the config."""
        if self._tokenizer is None:
            known = tokenizer_from(self._facts["tokenizer"]) if self._facts else None
            self._tokenizer = known or configured_tokenizer(self.tokenizer_file)
        return self._tokenizer

    def exported(self) -> tuple[Callable[[Tensor], Tensor], Tensor, dict[str, Any]]:
        """How an exported network begins: with tokens as they are, some, tokenizer and most tokens.

        The tokenizer is `bytes` or the content of a `tokenizer.json`.
        """
        about = {
            "tokenizer": json.loads(state) if (state := self.tokenizer.state()) else "bytes",
            "context": self.context,
        }
        generator = torch.Generator().manual_seed(0)
        some = torch.randint(self.tokenizer.size, (3, self.context), generator=generator)
        return lambda tokens: tokens, some, about

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._tokenizer = None
