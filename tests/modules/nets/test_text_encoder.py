"""`modules.nets.TextEncoder`: a small encoder, made of a `config.json`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.nets import TextEncoder

TINY = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 12,
}


@pytest.fixture
def folder() -> str:
    Path("my encoder").mkdir()
    Path("my encoder/config.json").write_text(json.dumps(TINY))
    return "my encoder"


def encoder(folder: str, **options: Any) -> TextEncoder:
    torch.manual_seed(0)
    given = {"num_outputs": 3, "vocab_size": 50, "context": 12, "pad_id": 0, **options}
    return TextEncoder(folder, **given).eval()


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_what_fills_up_a_text_changes_nothing(folder: str, pooling: str) -> None:
    net = encoder(folder, pooling=pooling)
    short = torch.tensor([[2, 7, 9, 3]])
    filled = torch.tensor([[2, 7, 9, 3, 0, 0, 0], [2, 8, 8, 8, 8, 8, 3]])
    assert net(filled).shape == (2, 3)
    assert torch.allclose(net(short), net(filled)[:1], atol=1e-5)
    assert not torch.allclose(net(short), net(torch.tensor([[2, 7, 3, 9]])), atol=1e-5)


def test_each_parameter_has_a_gradient(folder: str) -> None:
    net = encoder(folder)
    net(torch.tensor([[2, 7, 9, 3]])).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_no_tokens_at_all_are_no_accident(folder: str) -> None:
    assert encoder(folder)(torch.zeros(2, 1, dtype=torch.int64)).isfinite().all()


def test_what_does_not_fit_is_one_line(folder: str) -> None:
    cases = [
        ({"vocab_size": 257}, "model.net.folder: the encoder knows 50 tokens, and the data have 257"),
        ({"context": 13}, "data.max_tokens: 13, and the encoder in my encoder takes 12 at most"),
        ({"pooling": "max"}, "model.net.pooling: 'max' is unknown; allowed are mean, first"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            encoder(folder, **options)
    with pytest.raises(ValueError, match=r"^model.net.folder: there is no config.json in elsewhere$"):
        encoder("elsewhere")
    Path("my encoder/config.json").write_text('{"model_type": "nobody knows"}')
    with pytest.raises(ValueError, match=r"^model.net.folder: no encoder can be made of my encoder/config.json"):
        encoder(folder)
