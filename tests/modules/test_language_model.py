"""`modules.LanguageModel`: its loss to the last digit, and the text it writes."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules import LanguageModel
from modules.nets import GPT
from modules.optimizers import configure_optimizers
from tests.conftest import Loader, quick_trainer

VOCAB, CONTEXT = 11, 8


def batches(*sizes: int) -> Loader:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(VOCAB, (n, CONTEXT + 1), generator=generator) for n in sizes]
    return Loader([(row[:, :-1], row[:, 1:]) for row in rows])


def gpt() -> GPT:
    torch.manual_seed(0)
    made = GPT(VOCAB, CONTEXT, depth=2, heads=2, width=8)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


def still(net: nn.Module, **options: Any) -> LanguageModel:
    module = LanguageModel(net, VOCAB, **options)
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}
    module.configure_optimizers = partial(configure_optimizers, module, sgd, None, "val/loss")  # type: ignore[method-assign]
    return module


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("options", [{}, {"compile": True}])
def test_the_loss_is_the_mean_over_all_tokens_and_bits_are_per_byte(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_quickly(net: Any) -> None:  # traced as ever, and not made into C++, which takes half a minute
        net._compiled_call_impl = torch.compile(net._call_impl, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", compile_quickly)
    net, loader, trainer = gpt(), batches(3, 5, 1), quick_trainer()
    names = list(net.state_dict())
    trainer.fit(still(net, bytes_per_token=2.5, **options), loader, loader)
    with torch.no_grad():
        x, y = (torch.cat(column) for column in zip(*loader.batches, strict=True))
        expected = float(F.cross_entropy(net.eval()(x).flatten(0, 1), y.flatten()))
    for stage in ("train", "val"):
        assert float(trainer.callback_metrics[f"{stage}/loss"]) == pytest.approx(expected, rel=1e-5)
        bits = float(trainer.callback_metrics[f"{stage}/bits_per_byte"])
        assert bits == pytest.approx(expected / math.log(2) / 2.5, rel=1e-5)
    assert list(net.state_dict()) == names


class Counting(nn.Module):
    """After each token comes the next number; it sees five tokens, and knows of no cache."""

    context = 5

    def forward(self, tokens: Tensor) -> Tensor:
        assert tokens.shape[1] <= 5
        return F.one_hot((tokens + 1) % VOCAB, VOCAB) * 50.0


def test_text_goes_on_over_the_end_of_the_context() -> None:
    found = list(LanguageModel(Counting(), VOCAB).generate(torch.tensor([1, 2, 3]), 30))
    assert found == [(4 + i) % VOCAB for i in range(30)]
    found = list(LanguageModel(gpt(), VOCAB).eval().generate(torch.tensor([1] * 20), 40, temperature=0))
    assert len(found) == 40


def greedy(net: GPT, prompt: list[int], count: int) -> list[int]:
    """By the whole network at each token."""
    found = list(prompt)
    for _ in range(count):
        found.append(int(net(torch.tensor([found]))[0, -1].argmax()))
    return found[len(prompt) :]


def test_with_the_cache_the_text_is_that_of_the_whole() -> None:
    net, prompt = gpt().eval(), [3, 1]
    found = LanguageModel(net, VOCAB).generate(torch.tensor(prompt), CONTEXT - 2, temperature=0)
    assert list(found) == greedy(net, prompt, CONTEXT - 2)


def drawn(count: int = 4000, **options: Any) -> Tensor:
    """How often each token comes after the same one."""

    class Always(nn.Module):
        context = 1

        def forward(self, tokens: Tensor) -> Tensor:
            return torch.arange(VOCAB).div(3).expand(1, tokens.shape[1], VOCAB)

    made = LanguageModel(Always(), VOCAB).generate(
        torch.tensor([0]), count, generator=torch.Generator().manual_seed(0), **options
    )
    return torch.bincount(torch.tensor(list(made)), minlength=VOCAB) / count


def test_tokens_are_drawn_by_their_probabilities() -> None:
    logits = torch.arange(VOCAB) / 3
    assert torch.allclose(drawn(), logits.softmax(0), atol=0.02)
    assert torch.allclose(drawn(temperature=0.5), (logits / 0.5).softmax(0), atol=0.02)
    best = drawn(top_k=3)
    assert (best[:-3] == 0).all()
    assert torch.allclose(best[-3:], logits[-3:].softmax(0), atol=0.02)
    assert drawn(10, temperature=0)[-1] == 1


def test_a_network_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"^model.net: Embedding gives \(3, 8, 4\) for \(3, 8\) of 11 tokens$"):
        quick_trainer().fit(still(nn.Embedding(VOCAB, 4)), batches(3), batches(3))


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("no such compiler\nand more")

    def compile_in_vain(net: Any) -> None:
        net._compiled_call_impl = torch.compile(net._call_impl, backend=fail)

    monkeypatch.setattr(nn.Module, "compile", compile_in_vain)
    with pytest.raises(ValueError, match=r"^model\.compile: torch\.compile fails here \(.*\); set it to false$"):
        quick_trainer().fit(still(gpt(), compile=True), batches(3), batches(3))


def test_a_second_argument_that_is_no_cache_is_left_alone() -> None:
    class Masked(Counting):
        def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
            assert mask is None
            return super().forward(tokens)

    assert list(LanguageModel(Masked(), VOCAB).generate(torch.tensor([1]), 7)) == [2, 3, 4, 5, 6, 7, 8]
