"""Text files as tokens in a file that is mapped into memory."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock

FORMAT = 1
BLOCK = 1 << 22  # bytes of text that are read at once
FRESH = 2  # seconds; so young a file may be written again within the same tick of the file system's clock
SEPARATOR = b"\n\n"  # between two files


class Tokenizer(Protocol):
    """What turns text into numbers, and back."""

    size: int
    pad_id: int  # fills up shorter texts; it may be one more than `size` has

    def encode(self, text: bytes) -> np.ndarray:
        """Whole lines of UTF-8 to tokens `(T,)`, of an unsigned integer dtype."""

    def encode_all(self, texts: list[str], most: int) -> list[list[int]]:
        """The tokens of each text, with those that its model wants at the beginning and the end, `most` in all."""

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The text of some tokens."""

    def state(self) -> str:
        """All that `tokenizer_from` needs to give it back."""


class Bytes:
    """Each byte is a token: any text, any language, nothing to learn or to download."""

    size = 256
    pad_id = 256

    def encode(self, text: bytes) -> np.ndarray:
        return np.frombuffer(text, np.uint8)

    def encode_all(self, texts: list[str], most: int) -> list[list[int]]:
        return [list(text.encode(errors="replace")[:most]) for text in texts]

    def decode(self, tokens: Sequence[int]) -> bytes:
        return bytes(tokens)

    def state(self) -> str:
        return ""


class HuggingFace:
    """A tokenizer in the file format of Hugging Face (`tokenizer.json`).

    Args:
        state: The file's content.

    Raises:
        ValueError: It is none, or the package that reads it is not there.
    """

    def __init__(self, state: str) -> None:
        try:
            from tokenizers import Tokenizer as Loaded
        except ImportError as error:
            raise ValueError("needs the package tokenizers: pip install -e '.[text]'") from error
        self._state = state
        try:
            self._loaded = Loaded.from_str(state)
        except Exception as error:  # of which the package has one kind
            raise ValueError(f"is no tokenizer.json ({error})") from error
        padding = self._loaded.padding  # what the file says
        self._loaded.no_padding()
        self._loaded.no_truncation()
        self.size = self._loaded.get_vocab_size(with_added_tokens=True)
        usual = (self._loaded.token_to_id(name) for name in ("[PAD]", "<pad>", "<|pad|>"))
        known = padding["pad_id"] if padding else next((token for token in usual if token is not None), None)
        self.pad_id = self.size if known is None else known

    def encode(self, text: bytes) -> np.ndarray:
        found = self._loaded.encode(text.decode(errors="replace"), add_special_tokens=False)
        return np.array(found.ids, np.uint16 if self.size <= 1 << 16 else np.uint32)

    def encode_all(self, texts: list[str], most: int) -> list[list[int]]:
        self._loaded.enable_truncation(most)
        try:
            # what can't be told in UTF-8 can't be told to it either
            return [found.ids for found in self._loaded.encode_batch([_whole(text) for text in texts])]
        finally:
            self._loaded.no_truncation()

    def decode(self, tokens: Sequence[int]) -> bytes:
        return self._loaded.decode(list(tokens), skip_special_tokens=False).encode()

    def state(self) -> str:
        return self._state


def _whole(text: str) -> str:
    return text.encode(errors="replace").decode()


def configured_tokenizer(name: str) -> Tokenizer:
    """The tokenizer that a config names: `bytes`, or a file.

    Raises:
        ValueError: The file can't be read, or is no tokenizer.
    """
    if name == "bytes":
        return Bytes()
    try:
        state = Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise ValueError(f"data.tokenizer: can't read {name} ({reason}); or: bytes") from error
    try:
        return HuggingFace(state)
    except ValueError as error:
        raise ValueError(f"data.tokenizer: {name} {error}") from error


def tokenizer_from(state: str) -> Tokenizer:
    """The tokenizer of a state; of the empty one, bytes."""
    return HuggingFace(state) if state else Bytes()


def text_files(paths: Sequence[Path], pattern: str) -> list[Path]:
    """Files, and the files in and below folders that match a pattern, sorted; hidden ones are passed over.

    Raises:
        ValueError: A path is missing, or there is no file at all.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"data.path: no such file: {path}")
        if path.is_dir():
            inner = (p for p in sorted(path.rglob(pattern)) if p.is_file())
            found += [p for p in inner if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        else:
            found.append(path)
    if not found:
        raise ValueError(f"data.path: no file that matches {pattern!r} in {', '.join(map(str, paths))}")
    return found


def tokens_of(
    texts: Callable[[], Iterator[bytes]], tokenizer: Tokenizer, key: str, folder: Path
) -> tuple[np.ndarray, int]:
    """Tokens `(T,)` of texts, mapped from a file in `folder`, which is written where it is not there; and their bytes.

    Args:
        texts: Gives the texts, in parts that end where a line or a text does.
        tokenizer: Of the tokens.
        key: Tells these texts and this tokenizer from any others.
        folder: Where such files are.

    Raises:
        OSError: It can't be written.
    """
    name = hashlib.sha256(f"{FORMAT} {key}".encode()).hexdigest()[:16]
    file, about = folder / f"tokens-{name}.bin", folder / f"tokens-{name}.json"
    if (found := _read(file, about)) is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".tokens-{name}.lock"):
            if (found := _read(file, about)) is None:  # another process may have written it meanwhile
                _write(texts(), tokenizer, file, about)
                found = _read(file, about)
    except OSError as error:
        raise OSError(f"data.cache_dir: can't write to {folder} ({error.strerror or error})") from error
    assert found is not None
    return found


def _read(file: Path, about: Path) -> tuple[np.ndarray, int] | None:
    """Tokens and bytes, where both files are there and whole."""
    try:
        described = json.loads(about.read_text(encoding="utf-8"))
        dtype, count = np.dtype(described["dtype"]), described["tokens"]
        if file.stat().st_size != count * dtype.itemsize:
            return None
        # copied when written to, which nobody does: torch takes no array that forbids it; of nothing there is no map
        tokens = np.memmap(file, dtype, "c", shape=(count,)) if count else np.empty(0, dtype)
        return tokens, described["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(texts: Iterator[bytes], tokenizer: Tokenizer, file: Path, about: Path) -> None:
    part, count, size, dtype = file.with_name(f".{file.name}.{os.getpid()}"), 0, 0, "uint8"
    try:
        with part.open("wb") as output:
            for text in texts:
                tokens = tokenizer.encode(text)
                count, size, dtype = count + len(tokens), size + len(text), str(tokens.dtype)
                output.write(tokens.tobytes())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    described: dict[str, Any] = {"tokens": count, "bytes": size, "dtype": dtype}
    part.write_text(json.dumps(described), encoding="utf-8")
    part.replace(about)


def read_texts(paths: Sequence[Path]) -> Iterator[bytes]:
    """The content of files, part by part, each of them but a file's last one ending with a line where there are any."""
    for number, path in enumerate(paths):
        if number:
            yield SEPARATOR
        rest = b""
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                whole, line, rest = (rest + block).rpartition(b"\n")
                if not line and len(rest) > BLOCK:  # a line that does not end
                    whole, rest = rest, b""
                if whole or line:
                    yield whole + line
        if rest:
            yield rest


def files_key(paths: Sequence[Path]) -> str:
    """What tells the content of files: their places, sizes and times; of files that were just written, the content.

    Raises:
        ValueError: A file holds bytes that no text has.
        OSError: A file can't be read.
    """
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            if b"\0" in file.read(1 << 13):
                raise ValueError(f"data.path: {path} is no text; --data.pattern chooses files, '*.txt' say")
            about = os.stat(path)
            found.update(f"{path.resolve()} {about.st_size} {about.st_mtime_ns}\n".encode())
            if time.time() - about.st_mtime < FRESH:
                file.seek(0)
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()
