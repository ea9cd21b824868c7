"""Transformers of Hugging Face that read a text."""

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Pooling = Literal["mean", "first"]


class TextEncoder(nn.Module):
    """An encoder of the package `transformers`, and a linear layer on what it makes of a text.

    Its parameters are `backbone.*` and `head.*`. It begins with random weights: the config's `weights` names the file
    of the trained ones, which is read when a run begins and never again.

    Args:
        folder: A folder with the encoder's `config.json`, as models on Hugging Face have it.
        num_outputs: Outputs of the linear layer. Comes from the data.
        vocab_size: Number of tokens. Comes from the data.
        context: Most tokens of a text. Comes from the data.
        pad_id: The token that fills up shorter texts, to which nobody listens. Comes from the data.
        pooling: What becomes of the outputs of all tokens: their `mean` (as Reimers and Gurevych 2019,
            https://arxiv.org/abs/1908.10084), or the `first` one (as Devlin et al. 2018,
            https://arxiv.org/abs/1810.04805).
        dropout: Probability with which a feature is dropped before the linear layer, during training.

    Raises:
        ValueError: There is no such encoder, the package is missing, or the data have more tokens than it knows.
    """

    def __init__(
        self,
        folder: str,
        num_outputs: int,
        vocab_size: int,
        context: int,
        pad_id: int,
        pooling: Pooling = "mean",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"model.net.pooling: {pooling!r} is unknown; allowed are {', '.join(get_args(Pooling))}")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.net.dropout: {dropout} is outside [0, 1)")
        self.backbone = _encoder(folder)
        known, most = self.backbone.config.vocab_size, getattr(self.backbone.config, "max_position_embeddings", context)
        if vocab_size > known:
            raise ValueError(
                f"model.net.folder: the encoder knows {known:,} tokens, and the data have {vocab_size:,}; "
                "data.tokenizer has to be the encoder's own"
            )
        if context > most:
            raise ValueError(f"data.max_tokens: {context}, and the encoder in {folder} takes {most} at most")
        self.pad_id, self.pooling = pad_id, pooling
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.backbone.config.hidden_size, num_outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `(N, T)` int64, filled up with `pad_id`, to outputs `(N, num_outputs)`."""
        heard = tokens != self.pad_id
        outputs = self.backbone(input_ids=tokens, attention_mask=heard.long()).last_hidden_state
        if self.pooling == "first":
            return self.head(self.dropout(outputs[:, 0]))
        weights = heard.to(outputs.dtype).unsqueeze(2)
        means = (outputs * weights).sum(1) / weights.sum(1).clamp(min=1)
        return self.head(self.dropout(means))


def _encoder(folder: str) -> Any:
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"model.net.folder: there is no config.json in {folder}")
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise ValueError(
            "model.net: TextEncoder needs the package transformers: pip install -e '.[pretrained]'"
        ) from error
    try:
        encoder = AutoModel.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model.net.folder: no encoder can be made of {folder}/config.json ({error})") from error
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # nobody uses its output, and parameters without a gradient would stop several processes
    encoder.loss_type = "ForSequenceClassification"  # not used here, and it warns who looks at all of its attributes
    return encoder
