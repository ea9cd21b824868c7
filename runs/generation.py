"""Text that a language model writes."""

import codecs
from collections.abc import Iterator
from typing import Any

import torch

from runs.errors import UserError


def check_generation(given: Any) -> None:
    """Refuse options that no text can be written with.

    Raises:
        UserError: A number is out of its range, or an option is for files.
    """
    for name, least in (("tokens", 1), ("temperature", 0), ("top_k", 0)):
        if not (value := getattr(given, name)) >= least:
            raise UserError(f"--{name.replace('_', '-')}: {value} is below {least}")
    if given.inputs:
        raise UserError(f"--prompt: text is written, or files are predicted: {given.inputs[0]} is one too many")


def write_text(module: Any, data: Any, given: Any) -> Iterator[str]:
    """The text that goes on with a prompt, piece by piece.

    Args:
        module: Has `generate`, as `modules.LanguageModel`.
        data: Has the `tokenizer` of the run.
        given: `prompt`, `tokens`, `temperature`, `top_k`, `seed`.

    Raises:
        UserError: The run is no language model, or the prompt has no tokens.
    """
    if not hasattr(module, "generate") or not hasattr(data, "tokenizer"):
        found = f"{type(module).__name__} on {type(data).__name__}"
        raise UserError(f"--prompt: {given.run} is no language model, but {found}")
    # a byte order mark and the like are passed on as they are
    prompt = data.tokenizer.encode(given.prompt.encode(errors="surrogateescape"))
    if not len(prompt):
        raise UserError("--prompt: it is empty; a line break will do: --prompt $'\\n'")
    generator = torch.Generator().manual_seed(given.seed)
    start = torch.from_numpy(prompt.astype("int64"))
    decoder, tokens, begin, end = codecs.getincrementaldecoder("utf-8")("replace"), [], 0, 0
    for token in module.generate(start, given.tokens, given.temperature, given.top_k, generator):
        tokens.append(token)
        # what a token stands for may depend on those before it: the last piece is decoded with the one before
        before, now = data.tokenizer.decode(tokens[begin:end]), data.tokenizer.decode(tokens[begin:])
        if len(now) > len(before) and not now.endswith("\ufffd".encode()):
            yield decoder.decode(now[len(before) :])
            begin, end = end, len(tokens)
    before, now = data.tokenizer.decode(tokens[begin:end]), data.tokenizer.decode(tokens[begin:])
    yield decoder.decode(now[len(before) :], final=True)
