"""The task of predicting the next token, with any network that turns tokens into logits."""

import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.metrics import Mean
from modules.task import Task


class LanguageModel(Task):
    """Next-token prediction with cross-entropy.

    Logs `loss`, in nats per token, and `bits_per_byte`, which does not depend on the tokenizer, of training, validation
    and test once an epoch, exact over the tokens; and `train/loss_step` every `trainer.log_every_n_steps` steps.

    Args:
        net: The network, tokens `(N, T)` int64 to the logits of each next one, `(N, T, vocab_size)`. To write text with
            keys and values kept, it takes an argument `cache`, a list that it fills.
        vocab_size: Number of tokens. Comes from the data.
        bytes_per_token: Length of the text over that of its tokens. Comes from the data.
        compile: Compile the network with `torch.compile`: the first steps take about half a minute, the others less.

    Raises:
        ValueError: The network gives outputs of another shape.
    """

    def __init__(self, net: nn.Module, vocab_size: int, bytes_per_token: float = 1.0, compile: bool = False) -> None:
        super().__init__(lambda stage: nn.ModuleDict({"loss": Mean(), "bits_per_byte": BitsPerByte(bytes_per_token)}))
        self.net = net
        self.vocab_size = vocab_size
        self.compile_net = compile

    def on_fit_start(self) -> None:
        if self.compile_net:
            self.net.compile()  # in place: the names of the weights stay as they are

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `(N, T)` int64 to logits `(N, T, vocab_size)`."""
        if not self.compile_net:
            return self.net(tokens)
        from torch._dynamo.exc import TorchDynamoException  # who compiles nothing does not wait for it

        try:
            return self.net(tokens)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"model.compile: torch.compile fails here ({reason}); set it to false") from error

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch `(tokens, next tokens)`, both `(N, T)` int64."""
        loss = self._loss("train", batch)
        self.log_step(loss)
        return loss

    def evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """The loss `()` of a batch."""
        return {"loss": self._loss(stage, batch)}

    def _loss(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        tokens, targets = batch
        logits = self(tokens)
        if logits.shape != (*tokens.shape, self.vocab_size):
            name, shape = type(self.net).__name__, tuple(logits.shape)
            raise ValueError(f"model.net: {name} gives {shape} for {tuple(tokens.shape)} of {self.vocab_size} tokens")
        count = targets.numel()
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten()) if count else logits.sum() * 0
        for metric in getattr(self, f"{stage}_metrics").values():
            metric.add(loss.detach() * count, count)
        return loss

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        tokens: int,
        temperature: float = 1.0,
        top_k: int = 0,
        generator: torch.Generator | None = None,
    ) -> Iterator[int]:
        """Tokens that go on with a prompt, one after the other.

        Keys and values are kept; when the network's `context` is full, it goes on from its second half.

        Args:
            prompt: `(T,)` int64, one token at least.
            tokens: How many.
            temperature: The logits are divided by it; 0 takes the most probable token.
            top_k: Only so many of the most probable tokens are drawn from; 0 is all.
            generator: On the CPU, for the same text on each device.
        """
        context = getattr(self.net, "context", None) or len(prompt) + tokens
        caching = "cache" in inspect.signature(self.net.forward).parameters
        past = new = prompt[-context:].tolist()
        cache: list[Any] = []
        for _ in range(tokens):
            if len(past) > context:
                past = new = past[-max(1, context // 2) :]
                cache = []
            inputs = torch.tensor([new if caching else past], device=self.device)
            logits = (self.net(inputs, cache=cache) if caching else self.net(inputs))[0, -1].float().cpu()
            if temperature == 0:
                token = int(logits.argmax())
            else:
                if 0 < top_k < len(logits):
                    logits[logits < logits.topk(top_k).values[-1]] = -math.inf
                token = int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator))
            yield token
            past.append(token)
            new = [token]


class BitsPerByte(Mean):
    """The loss in bits, for each byte of the text.

    Args:
        bytes_per_token: Length of the text over that of its tokens.
    """

    def __init__(self, bytes_per_token: float) -> None:
        super().__init__()
        self.scale = 1 / (math.log(2) * bytes_per_token)

    def compute(self) -> Tensor:
        """`()`, float32; NaN before there are tokens."""
        return super().compute() * self.scale
