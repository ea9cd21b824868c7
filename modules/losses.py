"""Losses that torch does not have."""

import torch
from torch import Tensor
from torch.nn import functional as F


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy in which a sample counts the less the surer it is recognised (Lin et al. 2017,
    https://arxiv.org/abs/1708.02002): -(1 - p)^gamma log p, the mean over the samples.

    With `gamma` 0 it is `torch.nn.functional.cross_entropy`, whose ways with weights and smoothing it follows.

    Args:
        logits: `(N, K)`.
        labels: `(N,)` int64, or `(N, K)` floats that sum to 1.
        gamma: 0 or more.
        weight: Of each class, `(K,)`.
        label_smoothing: Share of the target that is spread over all classes, in [0, 1).

    Returns:
        `()`.
    """
    log_p = F.log_softmax(logits, 1)
    classes = logits.shape[1]
    hard = labels.ndim == 1
    targets = F.one_hot(labels, classes).to(log_p.dtype) if hard else labels
    targets = targets * (1 - label_smoothing) + label_smoothing / classes
    weights = torch.ones_like(log_p[0]) if weight is None else weight
    # 1 - p from log p, exactly where p is nearly 1; its power has no slope at 0, which is no number at gamma < 1
    rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    losses = (-targets * rest.pow(gamma) * log_p * weights).sum(1)
    return losses.sum() / (weights[labels].sum() if hard else len(labels))


def binary_focal_loss(logits: Tensor, labels: Tensor, gamma: float = 2.0, pos_weight: Tensor | None = None) -> Tensor:
    """As `focal_loss`, for labels of which a sample may have several: the mean over samples and labels.

    With `gamma` 0 it is `torch.nn.functional.binary_cross_entropy_with_logits`.

    Args:
        logits: `(N, K)`.
        labels: `(N, K)` floats from 0 to 1.
        gamma: 0 or more.
        pos_weight: Of the samples that have a label, `(K,)`.

    Returns:
        `()`, float32.
    """
    logits = logits.float()
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)  # of the label, and of its absence
    there = -labels * (gamma * log_q).exp() * log_p
    absent = -(1 - labels) * (gamma * log_p).exp() * log_q
    return ((there if pos_weight is None else there * pos_weight) + absent).mean()


def weights_of(key: str, chosen: str | list[float], count: int) -> Tensor | None:
    """The weights of classes `(count,)`; None for `none`; ones where they are to come from the data.

    Raises:
        ValueError: There are more or fewer of them, one is negative, or all are 0.
    """
    if chosen == "none":
        return None
    if isinstance(chosen, str):
        return torch.ones(count)
    if len(chosen) != count:
        raise ValueError(f"model.{key}: {len(chosen)} weights for {count} classes")
    if min(chosen) < 0 or max(chosen) == 0:
        raise ValueError(f"model.{key}: {chosen} must be 0 or more, and not all 0")
    return torch.tensor(chosen, dtype=torch.float32)
