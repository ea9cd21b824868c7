"""`datamodules.Text`: each window holds the text, and each part only its own."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import PythonDocs, Text
from datamodules.text import Windows
from datamodules.token_files import BLOCK, read_texts


def text(count: int = 2000) -> bytes:
    return "".join(f"line {i}, naïve\n" for i in range(count)).encode()


def ready(**options: Any) -> Text:
    found = Text(**({"path": "my text.txt", "context": 10, "batch_size": 4} | options))
    found.setup("fit")
    return found


@pytest.fixture(autouse=True)
def _file() -> None:
    Path("my text.txt").write_bytes(text())


def test_parts_follow_one_another_and_are_the_text() -> None:
    found = ready(val_fraction=0.2, test_fraction=0.1)
    assert [round(len(found.parts[name]) / len(text()), 2) for name in ("train", "val", "test")] == [0.7, 0.2, 0.1]
    assert b"".join(bytes(found.parts[name]) for name in ("train", "val", "test")) == text()
    assert found.has_test_data
    assert not ready().has_test_data
    assert (found.vocab_size, found.context, found.bytes_per_token) == (256, 10, 1.0)


def test_evaluation_goes_through_the_text_once_in_order() -> None:
    found = ready()
    batches = list(found.val_dataloader())
    inputs, targets = (torch.cat(column) for column in zip(*batches, strict=True))
    assert inputs.dtype == torch.int64
    held = bytes(found.parts["val"])
    assert bytes(inputs.flatten().tolist()) == held[: inputs.numel()]
    assert bytes(targets.flatten().tolist()) == held[1 : 1 + inputs.numel()]
    assert len(held) - inputs.numel() <= 10


def test_an_epoch_of_training_has_each_window_once_from_an_offset_that_changes() -> None:
    tokens = np.arange(1007, dtype=np.uint16)
    windows, offsets = Windows(tokens, 10, 4, shuffle_seed=0), set()
    for epoch in range(8):
        windows.set_epoch(epoch)
        inputs, targets = (torch.cat(column) for column in zip(*windows, strict=True))
        assert torch.equal(inputs + 1, targets)
        starts = inputs[:, 0].sort().values
        assert (inputs - inputs[:, :1] == torch.arange(10)).all()
        assert len(starts.unique()) == len(starts) == 4 * (99 // 4)
        offsets.add(int(starts[0]) % 10)
        assert len({int(start) % 10 for start in starts}) == 1
        assert not torch.equal(inputs[:, 0], starts)
    assert len(offsets) > 3
    again = Windows(tokens, 10, 4, shuffle_seed=0)
    again.set_epoch(7)
    assert torch.equal(next(iter(again))[0], inputs[:4])


def test_two_processes_share_a_batch() -> None:
    tokens = np.arange(500, dtype=np.uint16)
    whole = [x for x, _ in Windows(tokens, 10, 4, 0)]
    shares = [[x for x, _ in Windows(tokens, 10, 4, 0, rank, 2)] for rank in (0, 1)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [len(part) for part in parts] == [2, 2]
        assert sorted(batch[:, 0].tolist()) == sorted(torch.cat(parts)[:, 0].tolist())


def test_files_of_a_folder_are_joined_and_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("all of it")
    for name, content in (("b/2.txt", "two"), ("a.txt", "one\nend"), ("c.log", "three"), (".x/d.txt", "no")):
        folder.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        folder.joinpath(name).write_text(content)
    found = Text(str(folder), pattern="*.txt", context=1, batch_size=1)
    assert b"".join(found.texts()) == b"one\nend\n\ntwo"
    monkeypatch.setattr("datamodules.token_files.BLOCK", 100)
    parts = list(read_texts([Path("my text.txt")]))
    assert b"".join(parts) == text()
    assert all(part.endswith(b"\n") for part in parts)
    Path("one line.txt").write_bytes(b"x" * 1000)
    assert b"".join(read_texts([Path("one line.txt")])) == b"x" * 1000
    assert BLOCK > 1 << 20


def test_tokens_are_made_once_and_again_when_the_text_changes() -> None:
    ready()
    (file,) = Path("data/cache").glob("tokens-*.bin")
    made = file.stat().st_mtime_ns
    ready()
    assert file.stat().st_mtime_ns == made
    Path("my text.txt").write_bytes(text().upper())
    assert bytes(ready().parts["train"][:6]) == b"LINE 0"


def tokenizer_file() -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([text().decode()], trainer)
    made.save("tokenizer.json")
    return Path("tokenizer.json")


def test_a_tokenizer_of_hugging_face_is_kept_with_the_run() -> None:
    found = ready(tokenizer=str(tokenizer_file()))
    assert found.vocab_size == 300
    assert found.parts["train"].dtype == np.uint16
    assert 1.5 < found.bytes_per_token < 20
    assert (
        found.tokenizer.decode(found.parts["train"][:200].tolist())
        == text()[: len(b"".join(found.tokenizer.decode([t]) for t in found.parts["train"][:200].tolist()))]
    )
    state = found.state_dict()
    Path("tokenizer.json").unlink()
    other = Text("my text.txt", context=99)
    other.load_state_dict(state)
    assert (other.vocab_size, other.context) == (300, 10)
    assert other.tokenizer.encode(b"line 7, ").tolist() == found.tokenizer.encode(b"line 7, ").tolist()


def test_the_default_is_the_help_of_python() -> None:
    found = PythonDocs()
    found.setup("fit")
    assert len(found.parts["train"]) > 300_000
    assert b'"for" statement' in bytes(found.parts["train"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "none.txt"}, "data.path: no such file: none.txt"),
        ({"path": ".", "pattern": "*.md"}, "data.path: no file that matches '*.md' in ."),
        ({"path": "picture"}, "data.path: picture is no text; --data.pattern chooses files, '*.txt' say"),
        ({"path": "empty"}, "data.path: the texts are empty"),
        ({"context": 0}, "data.context: 0 is not a positive number"),
        ({"context": 4000}, "data.context: 4000 tokens, and the val part has 3,"),
        ({"batch_size": 99999}, "data.batch_size: 99999 is larger than the training part; allowed are 1 to "),
        ({"val_fraction": 1.0}, "data.val_fraction: 1.0 is outside (0, 1)"),
        ({"tokenizer": "my.json"}, "data.tokenizer: can't read my.json (No such file or directory); or: bytes"),
    ],
)
def test_what_can_not_be_is_told(options: dict[str, Any], message: str) -> None:
    Path("picture").write_bytes(b"\x89PNG\0\0")
    Path("empty").touch()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ready(**options)


def test_a_file_that_is_no_tokenizer_is_told() -> None:
    pytest.importorskip("tokenizers")
    Path("my.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^data.tokenizer: my.json is no tokenizer.json \("):
        ready(tokenizer="my.json")


def test_tokens_that_were_cut_off_are_made_again() -> None:
    ready()
    (file,) = Path("data/cache").glob("tokens-*.bin")
    file.write_bytes(file.read_bytes()[:100])
    assert bytes(ready().parts["train"][:6]) == text()[:6]
    (about,) = Path("data/cache").glob("tokens-*.json")
    about.write_text("{")
    assert len(ready().parts["train"]) > 1000
