"""`runs.generation`: the pieces of a text are the text, whatever a token stands for."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from runs.errors import UserError
from runs.generation import write_text

TEXT = "naïve 🙂 — ça va"


class Writer:
    """Writes given tokens."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens

    def generate(self, prompt: Any, count: int, *more: Any) -> Iterator[int]:
        yield from self.tokens[:count]


class Bytes:
    def encode(self, text: bytes) -> np.ndarray:
        return np.frombuffer(text, np.uint8)

    def decode(self, tokens: Sequence[int]) -> bytes:
        return bytes(tokens)


class Halves(Bytes):
    """Gives text, as Hugging Face's do: a token of a part of a character is a question mark for itself, and a space
    stands at the beginning of a word and not of a text."""

    def decode(self, tokens: Sequence[int]) -> bytes:
        return bytes(tokens).decode(errors="replace").encode().removeprefix(b" ")


def given(count: int = 99, prompt: str = "x") -> Namespace:
    return Namespace(run="gpt", prompt=prompt, tokens=count, temperature=1.0, top_k=0, seed=0)


@pytest.mark.parametrize("tokenizer", [Bytes(), Halves()])
def test_pieces_are_whole_characters_and_together_the_text(tokenizer: Bytes) -> None:
    pieces = list(write_text(Writer(list(TEXT.encode())), Namespace(tokenizer=tokenizer), given()))
    assert "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)
    assert len([piece for piece in pieces if piece]) > 10


def test_a_character_that_is_cut_off_at_the_end_is_shown_as_such() -> None:
    tokens = list(TEXT.encode())
    cut = "".join(write_text(Writer(tokens), Namespace(tokenizer=Bytes()), given(count=3)))
    assert cut == "na\ufffd"


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--prompt: it is empty"):
        list(write_text(Writer([]), Namespace(tokenizer=Bytes()), given(prompt="")))
