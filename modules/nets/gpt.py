"""A transformer that predicts the next token."""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Positions = Literal["rotary", "learned"]
Activation = Literal["gelu", "relu_squared"]
Cache = list[tuple[Tensor, Tensor]]  # keys and values of each layer, `(N, heads, T, width / heads)`


class GPT(nn.Module):
    """A decoder of pre-norm blocks (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").

    Attention is torch's `scaled_dot_product_attention`, which takes the fastest kernel there is (flash attention on
    GPUs). Norms have no bias and linear layers have none either. The last layer's weights are those of the embedding
    (Press and Wolf 2016, https://arxiv.org/abs/1608.05859). Weights start from a normal distribution, those that end a
    branch the smaller, the more branches there are.

    Args:
        vocab_size: Number of tokens. Comes from the data.
        context: Tokens that are looked at, at most. Comes from the data.
        depth: Number of blocks.
        heads: Of each attention.
        width: Numbers for each token, a multiple of `heads`.
        dropout: Probability with which an output of a branch, of the attention's weights or of the embedding is
            dropped during training.
        positions: `rotary` turns queries and keys by their position (Su et al. 2021,
            https://arxiv.org/abs/2104.09864); `learned` adds a vector for each.
        activation: `gelu`, or `relu_squared`, which is cheaper and learns at least as fast (So et al. 2021,
            https://arxiv.org/abs/2109.08668).
        checkpoint_activations: Compute a block's activations again in the backward pass in place of keeping them: a
            third more work, and memory for the blocks' inputs alone.

    Raises:
        ValueError: A number is out of its range, or a word unknown.
    """

    def __init__(
        self,
        vocab_size: int,
        context: int,
        depth: int = 4,
        heads: int = 4,
        width: int = 128,
        dropout: float = 0.0,
        positions: Positions = "rotary",
        activation: Activation = "relu_squared",
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("depth", depth), ("heads", heads), ("width", width)):
            if value < 1:
                raise ValueError(f"model.net.{name}: {value} is not a positive number")
        if width % (2 * heads):
            raise ValueError(f"model.net.width: {width} is no multiple of twice the {heads} heads")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.net.dropout: {dropout} is outside [0, 1)")
        for name, word, allowed in (
            ("positions", positions, get_args(Positions)),
            ("activation", activation, get_args(Activation)),
        ):
            if word not in allowed:
                raise ValueError(f"model.net.{name}: {word!r} is unknown; allowed are {', '.join(allowed)}")
        self.context, self.depth, self.checkpoint_activations = context, depth, checkpoint_activations
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(context, width) if positions == "learned" else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, activation) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                branch_ends = name.endswith(("project.weight", "narrow.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if branch_ends else 0.02)
        self.head.weight = self.embedding.weight
        turns = None
        if positions == "rotary":
            planes = width // heads // 2
            angles = torch.outer(torch.arange(context), 10000 ** -(torch.arange(planes) / planes))
            turns = torch.stack((angles.cos(), angles.sin()), 2)  # complex, but as numbers that any precision can have
        self.turns: Tensor | None
        self.register_buffer("turns", turns, persistent=False)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Tokens `(N, T)` of an integer dtype to the logits of each next one, `(N, T, vocab_size)`.

        Args:
            tokens: At most `context` of them, with those in the cache.
            cache: Empty, or of the tokens before these; it is extended by these.
        """
        start = cache[0][0].shape[2] if cache else 0
        end = start + tokens.shape[1]
        if end > self.context:
            raise ValueError(f"model.net: {end} tokens, and data.context is {self.context}")
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions.weight[start:end]
        x = self.dropout(x)
        turn = None if self.turns is None else self.turns[start:end, None]
        for number, block in enumerate(self.blocks):
            if self.checkpoint_activations and self.training and cache is None:
                x = checkpoint(block, x, turn, use_reentrant=False)
            else:
                x = block(x, turn, cache, number)
        return self.head(self.norm(x))


class Block(nn.Module):
    """Attention to the tokens before, and two layers for each token by itself, each beside a shortcut."""

    def __init__(self, width: int, heads: int, dropout: float, activation: Activation) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.attention = Attention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.widen = nn.Linear(width, 4 * width, bias=False)
        self.narrow = nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.activation = activation

    def forward(self, x: Tensor, turn: Tensor | None, cache: Cache | None = None, number: int = 0) -> Tensor:
        """`(N, T, width)` to the same."""
        x = x + self.attention(self.attention_norm(x), turn, cache, number)
        hidden = self.widen(self.mlp_norm(x))
        if self.activation == "gelu":
            hidden = F.gelu(hidden)
        elif torch.compiler.is_compiling():  # which makes one pass of these itself
            hidden = hidden.relu().square()
        else:
            _, hidden = ReLUSquared.apply(hidden)
        return x + self.dropout(self.narrow(hidden))


class Attention(nn.Module):
    """Causal self-attention of several heads."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, turn: Tensor | None, cache: Cache | None = None, number: int = 0) -> Tensor:
        """`(N, T, width)` to the same."""
        n, t, width = x.shape
        made = self.queries_keys_values(x)
        if turn is not None and made.dtype == torch.float32 and not torch.compiler.is_compiling():
            _, q, k, v = QueriesKeysTurned.apply(made, self.heads, turn)
        else:
            q, k, v = made.view(n, t, 3, self.heads, -1).unbind(2)
            if turn is not None:
                q, k = turned(q, turn), turned(k, turn)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        if cache is not None:
            if number < len(cache):
                k, v = torch.cat((cache[number][0], k), 2), torch.cat((cache[number][1], v), 2)
                cache[number] = (k, v)
            else:
                cache.append((k, v))
        # a single new token sees all that came before; of several, after others, each sees those up to itself
        mask = None
        if 1 < t < k.shape[2]:
            mask = torch.ones(t, k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - t)
        dropped = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, mask, dropped, is_causal=t > 1 and mask is None)
        return self.dropout(self.project(mixed.transpose(1, 2).reshape(n, t, width)))


class ReLUSquared(torch.autograd.Function):
    """max(x, 0) in place of x, and max(x, 0)^2, with a gradient of one pass over the numbers.

    By torch's own operations the gradient takes four, and there is one array more that goes through the caches.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x.relu_()
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.set_materialize_grads(False)
        return x, x * x

    @staticmethod
    def backward(ctx: Any, _: None, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (positive,) = ctx.saved_tensors
        return torch.addcmul(gradient.new_zeros(()), gradient, positive, value=2)


class QueriesKeysTurned(torch.autograd.Function):
    """Of what makes queries, keys and values, `(N, T, 3 * heads * D)` float32, the first two `turned` in place.

    Returns that, and the three of them, `(N, T, heads, D)`. By torch's own operations there is one array more that goes
    through the caches, and the gradients are copied twice more.
    """

    @staticmethod
    def forward(ctx: Any, made: Tensor, heads: int, turns: Tensor) -> tuple[Tensor, ...]:
        parts = made.view(*made.shape[:2], 3, heads, -1)
        turns = torch.view_as_complex(turns)[:, None]
        torch.view_as_complex(parts.unflatten(-1, (-1, 2)))[:, :, :2].mul_(turns)
        ctx.mark_dirty(made)
        ctx.save_for_backward(turns)
        ctx.set_materialize_grads(False)
        return made, *parts.unbind(2)

    @staticmethod
    def backward(ctx: Any, _: None, *gradients: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (turns,) = ctx.saved_tensors
        parts = torch.stack(gradients, 2)
        torch.view_as_complex(parts.unflatten(-1, (-1, 2)))[:, :, :2].mul_(turns.conj().resolve_conj())
        return parts.flatten(2), None, None


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Queries and keys `(..., D)`, turned by angles whose cosines and sines broadcast to `(..., D / 2, 2)`.

    Dimensions 2i and 2i + 1 are a plane.
    """
    planes, turns = x.float().unflatten(-1, (-1, 2)), turns.float()
    if torch.compiler.is_compiling():  # which has no kernels for complex numbers
        (a, b), (cosines, sines) = planes.unbind(-1), turns.unbind(-1)
        made = torch.stack((a * cosines - b * sines, a * sines + b * cosines), -1)
    else:  # in a third of the time
        made = torch.view_as_real(torch.view_as_complex(planes) * torch.view_as_complex(turns))
    return made.flatten(-2).type_as(x)
