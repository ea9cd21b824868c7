"""The network of a training step once more, in evaluation mode and on the same samples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from callbacks.doctor.probe import LossCall, Probe

Way = Callable[[Any], Tensor]


@dataclass
class ForwardCall:
    """A call of a module, or of a part of it, in a training step."""

    module: nn.Module
    args: Any
    kwargs: dict[str, Any]
    output: Any


class Replay:
    """Notes how a training step calls its module, or the parts that the module is made of.

    Args:
        module: Of the run.

    Attributes:
        calls: In the order in which they ended.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.calls: list[ForwardCall] = []
        parts = (module, *module.children())
        self._hooks = [part.register_forward_hook(self._note, with_kwargs=True) for part in parts]

    def _note(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        self.calls.append(ForwardCall(module, args, kwargs, output))

    def leave(self) -> None:
        """Note no more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def in_evaluation_mode(self, given: Tensor, batch: Any) -> Tensor | None:
        """What the step's loss would have been given in evaluation mode, in place of what it was.

        The call whose output the loss was given, as it is or in another shape, is made again: of the module itself,
        or of its parts, each with what the parts before it give now. None where there is no such call, or where
        something comes between the parts.

        Args:
            given: A tensor of any shape and dtype.
            batch: The step's.
        """
        modes = [(part, part.training) for part in self.module.modules()]
        self.module.eval()
        try:
            with torch.no_grad(), isolate_rng():
                whole = [call for call in self.calls if call.module is self.module]
                for call in reversed(whole):  # under DDP there is one around the whole step, too
                    if (way := _way(call.output, given)) is not None:
                        return way(call.module(*call.args, **call.kwargs))
                return self._by_parts([call for call in self.calls if call.module is not self.module], given, batch)
        finally:
            for part, mode in modes:
                part.training = mode

    @staticmethod
    def _by_parts(calls: list[ForwardCall], given: Tensor, batch: Any) -> Tensor | None:
        known = {id(value) for value in tree_leaves((batch, [(c.args, c.kwargs) for c in calls[:1]]))}
        now: dict[int, Tensor] = {}

        def present(value: Any) -> Any:
            return now.get(id(value), value)

        for call in calls:
            values = [v for v in tree_leaves((call.args, call.kwargs)) if isinstance(v, Tensor)]
            if any(v.is_floating_point() and id(v) not in known and id(v) not in now for v in values):
                return None  # it does not come from a part or from the data: a function is in between
            output = call.module(*tree_map(present, call.args), **tree_map(present, call.kwargs))
            if (way := _way(call.output, given)) is not None:
                return way(output)
            old, new = tree_leaves(call.output), tree_leaves(output)
            if len(old) != len(new):
                return None
            now.update((id(a), b) for a, b in zip(old, new, strict=True) if isinstance(a, Tensor))
        return None


def compare(replay: Replay, again: tuple[Any, ...], call: LossCall, batch: Any) -> list[float | None] | None:
    """Loss and accuracy of the same samples in training and in evaluation mode: `[loss, loss, accuracy, accuracy]`.

    Args:
        replay: Of the step.
        again: `Probe.again` of the step.
        call: The loss call in it.
        batch: What the step was given.
    """
    function, given = again
    try:
        output = replay.in_evaluation_mode(given["input"], batch)
        if output is None:
            return None
        with torch.no_grad(), Probe(early=False) as probe:
            function(**{**given, "input": output})
    except Exception:  # a module that can't be called twice
        return None
    now = probe.calls[-1] if probe.calls else None
    return [call.value, now.value, call.accuracy, now.accuracy] if now is not None else None


def _way(output: Any, given: Tensor) -> Way | None:
    """How what a loss was given comes from an output; None where it does not."""
    shapes: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda value: value.reshape(given.shape),
        lambda value: value.movedim(-1, 1).reshape(given.shape),  # classes last, as in a language model
    )
    for place, value in enumerate(tree_leaves(output)):
        if not isinstance(value, Tensor) or value.numel() != given.numel():
            continue
        for shape in shapes[: 2 if value.ndim > 2 else 1]:
            if value is given or torch.equal(shape(value.detach()), given):
                return lambda new, at=place, shape=shape: shape(tree_leaves(new)[at])  # type: ignore[misc]
    return None
