"""What all datamodules of text have in common: a tokenizer, which a run keeps."""

from typing import Any

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
    def tokenizer(self) -> Tokenizer:
        """Of the run, if there is one, or of the config."""
        if self._tokenizer is None:
            known = tokenizer_from(self._facts["tokenizer"]) if self._facts else None
            self._tokenizer = known or configured_tokenizer(self.tokenizer_file)
        return self._tokenizer

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._tokenizer = None
