"""A look inside one forward pass of any module: what the loss was given, what the layers get and give."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ACTIVE = 0.01  # a rectified unit that is on for fewer inputs is dead
BEYOND = {"tanh": math.tanh(5), "sigmoid": 1 / (1 + math.exp(-5))}  # inputs of 5 and more
RECTIFIERS = {"relu", "relu_", "relu6", "threshold", "threshold_"}
SQUASHERS = {"tanh": "tanh", "tanh_": "tanh", "sigmoid": "sigmoid", "sigmoid_": "sigmoid"}
WEIGHTING = {"linear", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "matmul", "mm"}
DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
# of which a network that has only these is a linear one
LINEAR = {
    *(
        "linear",
        "conv1d",
        "conv2d",
        "conv3d",
        "flatten",
        "view",
        "reshape",
        "permute",
        "transpose",
        "movedim",
        "squeeze",
    ),
    *("unsqueeze", "contiguous", "to", "float", "__get__", "__getitem__", "add", "__add__", "sub", "__sub__", "cat"),
    *("stack", "mean", "sum", "batch_norm", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"),
    *("dropout", "dropout1d", "dropout2d"),
}
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
MOST_CLASSES = 1000  # of which each is looked at by itself
ROWS = 1024  # of a prediction are enough to see whether they are probabilities
LOOKUPS = (nn.Embedding, nn.EmbeddingBag)


@dataclass
class LossCall:
    """What a loss function was given, and gave.

    Attributes:
        name: Of the function, as in `torch.nn.functional`.
        value: The mean over the targets.
        count: Number of targets.
        k: Number of classes; 2 for one logit, 0 for numbers.
        right: Number of targets that were predicted.
        classes: The number of targets of each class; empty for numbers, and for more than `MOST_CLASSES`.
        rights: Of each class the targets that were predicted; of the same length.
        moments: For numbers their sum and sum of squares.
        probabilities: Whether a function that takes logits (or log-probabilities) was given probabilities.
        weight: The class weights that the function was given, for no more classes than that; of several labels for
            each sample a pair for each.
        smoothing: Its label smoothing.
        shape: Of what it was given.
        counts: As `classes`, of any number of them; None for numbers, and once it has been added up.
        labels: Of several labels for each sample, targets without and with each of them, `(K, 2)`; None for others, and
            once it has been added up.
    """

    name: str
    value: float
    count: int
    k: int = 0
    right: float = 0.0
    classes: list[float] = field(default_factory=list)
    rights: list[float] = field(default_factory=list)
    moments: tuple[float, float] = (0.0, 0.0)
    probabilities: bool = False
    weight: list[Any] = field(default_factory=list)
    smoothing: float = 0.0
    shape: tuple[int, ...] = ()
    counts: Any = field(default=None, repr=False, compare=False)
    labels: Any = field(default=None, repr=False, compare=False)

    @property
    def accuracy(self) -> float | None:
        """Share of the targets that were predicted; None for numbers."""
        return self.right / self.count if self.k and self.count else None


@dataclass
class InputFacts:
    """The values that the first layer was given.

    Attributes:
        layer: Its name.
        kind: "values", or "normalised" and "indices" where the layer's first act is to normalise or to look up.
        mean, std, low, high: Of all values.
        column_std: The largest standard deviation of a column, for inputs `(N, F)`.
        bad_columns: Columns (or channels) with a value that is not finite, the first ten.
        constant: Whether all samples of the batch are equal.
    """

    layer: str
    kind: str = "values"
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 0.0
    column_std: float = 0.0
    bad_columns: list[int] = field(default_factory=list)
    constant: bool = False


class Probe(TorchFunctionMode):
    """While it is entered, looks at the calls of loss functions, and where `layers` is set at those of layers, too.

    It reads values and changes none, and takes no random number. What happens inside of compiled modules and of fused
    kernels (an LSTM's gates) it does not see.

    Args:
        layers: Whether to look at layers.
        early: Whether to see if the loss was given probabilities, which does not change as a network is trained.

    Attributes:
        calls: Of loss functions.
        first: What the first layer was given.
        dead: By name of a rectified layer, of each of its units the share of inputs for which it is on, and their
            number. A channel of a convolution is one unit.
        saturated: By name of a squashing layer, the share of its inputs beyond ±5. A network's last one is left out.
        activations: By name of a layer, mean and standard deviation of what it gave.
        again: Of the call with the most targets, the function and its arguments by name.
        entered: Whether it is there.
        dropout: The layer that drops the most, and how much.
        largest: The largest absolute value of the inputs of the first layer.
        linear: Whether nothing was called up to the loss that could make the network more than a linear one.
    """

    def __init__(self, layers: bool = False, early: bool = True) -> None:
        super().__init__()
        self.layers, self.early = layers, early
        self.calls: list[LossCall] = []
        self.first: InputFacts | None = None
        self.dead: dict[str, tuple[Tensor, int]] = {}
        self.saturated: dict[str, float] = {}
        self.activations: dict[str, tuple[float, float]] = {}
        self._names: list[str] = []
        self._last: str | None = None  # squashing layer since the last one with weights
        self._conv = False
        self._second = False
        self._hooks: list[Any] = []
        self.again: tuple[Any, dict[str, Any]] | None = None
        self.entered = False
        self.dropout: tuple[str, float] = ("", 0.0)
        self.largest: float | None = None
        self._functions: set[str] = set()

    @property
    def linear(self) -> bool:
        """Whether nothing was called up to the loss that could make the network more than a linear one."""
        return bool(self.calls) and bool(self._functions & WEIGHTING) and self._functions <= LINEAR

    # ---- being there

    def watch(self, module: nn.Module) -> None:
        """Enter, and hook into the layers of a module."""
        if self.layers:
            for name, part in module.named_modules():
                if name:
                    self._hooks.append(part.register_forward_pre_hook(self._enter(name)))
                    self._hooks.append(part.register_forward_hook(self._leave(name)))
        self.entered = True
        self.__enter__()

    def leave(self) -> None:
        """Be there no more."""
        if self._last is not None:  # nothing with weights came after it: it makes the network's output
            self.saturated.pop(self._last, None)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.entered = False
        self.__exit__(None, None, None)

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: Any) -> None:
            self._names.append(name)
            if layer._parameters and args and isinstance(args[0], Tensor):
                if self.first is None:
                    self._look_at_input(name, args[0], layer)
                elif not self._second:
                    self._second = True
                    if isinstance(layer, NORMS) and self.first.kind == "values":
                        self.first.kind = "normalised"  # right after the first layer, which does as well
                if any(p is not None and p.ndim > 1 for p in layer._parameters.values()):
                    self._last = None

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: Any, output: Any) -> None:
            if name in self._names:  # and with it those inside that an error has left open
                del self._names[self._names.index(name) :]
            if layer._parameters and not any(True for _ in layer.children()) and _is_float(output):
                with torch.no_grad():
                    values = output.detach().float()
                    self.activations[name] = (float(values.mean()), float(values.std(correction=0)))
                self._conv = isinstance(layer, nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm)

        return hook

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in LOSSES and isinstance(output, Tensor):
            given = _by_name(func, args, kwargs or {})
            with torch.no_grad():
                call = _loss_call(name, output, given, self.early)
            if call is not None:
                if all(call.count > other.count for other in self.calls):
                    self.again = (func, given)
                self.calls.append(call)
        elif self.largest is None and name in WEIGHTING and args and _is_float(args[0]):
            self.largest = float(args[0].detach().abs().max())
        if self.layers:
            if not self.calls and isinstance(output, Tensor) and output.requires_grad:
                self._functions.add(name)
            if name in RECTIFIERS and _is_float(output):
                with torch.no_grad():
                    self._look_at_units(self._name("relu", self.dead), output.detach())
            elif name in SQUASHERS and _is_float(output):
                kind = SQUASHERS[name]
                self._last = self._name(kind, self.saturated)
                with torch.no_grad():
                    values = output.detach().float()
                    beyond = (values >= BEYOND[kind]) | (
                        values <= (-BEYOND[kind] if kind == "tanh" else 1 - BEYOND[kind])
                    )
                    self.saturated[self._last] = float(beyond.float().mean())
            elif name in DROPOUTS:
                p = float((kwargs or {}).get("p", args[1] if len(args) > 1 else 0.5))
                training = (kwargs or {}).get("training", args[2] if len(args) > 2 else True)
                if training and p > self.dropout[1]:
                    self.dropout = (self._names[-1] if self._names else name, p)
            elif name in WEIGHTING and args and isinstance(args[0], Tensor):
                self._last = None
                if self.first is None and len(args) > 1 and isinstance(args[1], nn.Parameter):
                    self._look_at_input(self._names[-1] if self._names else name, args[0])
        return output

    # ---- looking

    def _name(self, kind: str, known: Mapping[str, Any]) -> str:
        base = self._names[-1] if self._names else kind
        name, number = base, 1
        while name in known:
            number += 1
            name = f"{base}#{number}"
        return name

    def _look_at_units(self, name: str, output: Tensor) -> None:
        if output.ndim < 2 or not output.numel():
            return
        channel = 1 if output.ndim in (4, 5) or (output.ndim == 3 and self._conv) else output.ndim - 1
        others = [dim for dim in range(output.ndim) if dim != channel]
        self.dead[name] = ((output > 0).float().mean(others), output.numel() // max(output.shape[channel], 1))

    def _look_at_input(self, name: str, values: Tensor, layer: nn.Module | None = None) -> None:
        if isinstance(layer, LOOKUPS) or not values.is_floating_point():
            self.first = InputFacts(name, "indices")
            return
        with torch.no_grad():
            self.first = facts(name, values, isinstance(layer, NORMS))


def facts(name: str, values: Tensor, normalised: bool = False) -> InputFacts:
    """What there is to say of a batch of inputs `(N, ...)`, of any float dtype."""
    values = values.detach().float()
    found = InputFacts(name, "normalised" if normalised else "values")
    if not values.numel():
        return found
    finite = values.isfinite()
    if not finite.all():
        if values.ndim > 1:
            columns = finite.movedim(1, -1).reshape(-1, values.shape[1]).all(0)
            found.bad_columns = (~columns).nonzero().flatten()[:10].tolist()
        rows = finite.flatten(1).all(1) if values.ndim > 1 else finite
        values = values[rows] if rows.any() else values[finite]
        if not values.numel():
            found.std = 0.0
            return found
    found.mean, found.std = float(values.mean()), float(values.std(correction=0))
    found.low, found.high = map(float, values.aminmax())
    found.constant = len(values) > 1 and bool((values == values[:1]).all())
    if values.ndim == 2 and len(values) > 1:
        found.column_std = float(values.std(0, correction=0).max())
    return found


def _is_float(output: Any) -> bool:
    return isinstance(output, Tensor) and output.is_floating_point() and output.numel() > 0


# ---- losses


_signature = functools.lru_cache(maxsize=64)(inspect.signature)


def _by_name(func: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a loss function, by their names."""
    try:
        return dict(_signature(func).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):  # a function of C++ has no signature
        return dict(zip(("input", "target"), args, strict=False)) | kwargs


def _loss_call(name: str, output: Tensor, kwargs: dict[str, Any], early: bool) -> LossCall | None:
    given, target = kwargs.get("input"), kwargs.get("target")
    if not isinstance(given, Tensor) or not isinstance(target, Tensor) or not given.numel() or not target.numel():
        return None
    call = LossCall(name, math.nan, 0, shape=tuple(given.shape))
    LOSSES[name](call, given.detach(), target.detach(), kwargs, early)
    if name in ("cross_entropy", "nll_loss"):
        weight = kwargs.get("weight")
        call.weight = weight.detach().float().tolist() if isinstance(weight, Tensor) and call.classes else []
    elif isinstance(weight := kwargs.get("pos_weight"), Tensor) and weight.numel() == 1:
        call.weight = [1.0, float(weight)]
    elif isinstance(weight, Tensor) and call.labels is not None and weight.numel() == len(call.labels):
        call.weight = [[1.0, each] for each in weight.flatten().tolist()]
    output = output.detach()
    if kwargs.get("reduction", "mean") == "sum":
        call.value = float(output.float().sum()) / max(call.count, 1)
    else:
        call.value = float(output) if output.ndim == 0 else float(output.float().mean())
    return call


def _take_counts(call: LossCall, known: np.ndarray, right: np.ndarray, counts: np.ndarray) -> None:
    call.k, call.count, call.right, call.counts = len(counts), len(known), float(right.sum()), counts
    if call.k <= MOST_CLASSES:
        call.classes = counts.tolist()
        call.rights = np.bincount(known[right], minlength=call.k).tolist()


def _classes(call: LossCall, given: Tensor, target: Tensor, kwargs: dict[str, Any], early: bool) -> None:
    dim = 1 if given.ndim > 1 else 0
    k = given.shape[dim]
    call.smoothing = float(kwargs.get("label_smoothing", 0.0))
    predicted = given.argmax(dim).reshape(-1)
    if soft := target.is_floating_point():  # a probability of each class
        labels = target.movedim(dim, -1).reshape(-1, k)
        sums, known = labels.sum(0).float().cpu().numpy(), labels.argmax(1)
    else:
        known = target.reshape(-1)
    # to the host at once, and the rest there: of a batch's labels that is far faster
    known, predicted = torch.stack((known.long(), predicted)).cpu().numpy()
    if not soft:
        valid = known != kwargs.get("ignore_index", -100)
        if not valid.all():
            known, predicted = known[valid], predicted[valid]
    _take_counts(call, known, known == predicted, sums if soft else np.bincount(known, minlength=k))
    if early and call.count and k > 1:
        logits = given.movedim(dim, -1).reshape(-1, k)[:ROWS].float()
        between = bool(((logits >= 0) & (logits <= 1)).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all())
        # outputs that are all equal are the start of many a network
        call.probabilities = between and bool(logits.std() > 1e-6)


def _two(call: LossCall, given: Tensor, target: Tensor, kwargs: dict[str, Any], early: bool) -> None:
    logits = given.reshape(-1)
    values = torch.stack((logits.float(), target.reshape(-1).float())).cpu().numpy()
    predicted = values[0] > (0.5 if call.name == "binary_cross_entropy" else 0.0)
    known = values[1] > 0.5
    _take_counts(call, known.astype(int), predicted == known, np.bincount(known, minlength=2))
    if given.ndim == 2 and given.shape[1] > 1:
        there = values[1].reshape(given.shape).sum(0, dtype=float)
        call.labels = np.stack((len(given) - there, there), 1)
    if call.name == "binary_cross_entropy_with_logits" and len(logits) > 1:
        call.probabilities = bool(((logits >= 0) & (logits <= 1)).all()) and bool(logits.float().std() > 1e-6)


def _numbers(call: LossCall, given: Tensor, target: Tensor, kwargs: dict[str, Any], early: bool) -> None:
    values = target.double()
    call.count = target.numel()
    call.moments = (float(values.sum()), float(values.square().sum()))


LOSSES: dict[str, Callable[[LossCall, Tensor, Tensor, dict[str, Any], bool], None]] = {
    "cross_entropy": _classes,
    "nll_loss": _classes,
    "binary_cross_entropy_with_logits": _two,
    "binary_cross_entropy": _two,
    "mse_loss": _numbers,
    "l1_loss": _numbers,
    "smooth_l1_loss": _numbers,
    "huber_loss": _numbers,
    "gaussian_nll_loss": _numbers,
}
