"""What the doctor knows of a run: plain numbers, from which every diagnosis follows."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from callbacks.doctor.probe import InputFacts, LossCall

FIRST, LAST = 400, 2000  # of the losses of a long run the first and the last ones are kept
POINTS = 400  # of other numbers
BY_CLASS = 64  # calls of which the classes are kept one by one
LOOKS = 50  # of what holds numbers of every layer
SERIES = ("losses", "norms", "rates", "largest")


@dataclass
class Sample:
    """One step that was looked at closely.

    Attributes:
        step: Its number, from 1.
        lr: The largest learning rate of a parameter group.
        grads: By layer with a weight matrix, in the order of the module, the norm of the matrix's gradient.
        updates: By the same layers, the norm of the step's change of the matrix over its own norm.
        weights: By the same layers, the norm of the matrix.
        dead: By rectified layer, the share of its units that are on for less than 1 % of the inputs, over as many
            samples as make it sure; and the number of units.
        saturated: By squashing layer, the share of inputs beyond ±5.
        activations: By layer, the standard deviation of what it gives.
        decay: The median over the layers of the share of a step's change that is nothing but shrinking; 1 where weight
            decay is all that happens.
    """

    step: int
    lr: float
    grads: dict[str, float] = field(default_factory=dict)
    updates: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    dead: dict[str, tuple[float, int]] = field(default_factory=dict)
    saturated: dict[str, float] = field(default_factory=dict)
    activations: dict[str, float] = field(default_factory=dict)
    decay: float = 0.0

    @property
    def update(self) -> float | None:
        """The median over the layers of the update-to-weight ratio."""
        return statistics.median(self.updates.values()) if self.updates else None

    @property
    def size(self) -> float:
        """The norm of all matrices."""
        return math.sqrt(sum(norm * norm for norm in self.weights.values()))

    @property
    def reach(self) -> float | None:
        """The gradient of the first layer over the largest one of a layer; None for few layers, and where one is 0."""
        norms = list(self.grads.values())
        return norms[0] / max(norms) if len(norms) >= 3 and norms[0] > 0 else None


@dataclass
class Evaluation:
    """One validation, and the training up to it.

    Attributes:
        epoch: Its number, from 0.
        step: The number of steps done.
        train_loss: Mean loss of the training steps since the last one.
        val_loss: The mean over the samples, of the loss function's own value where it could be seen.
        train_accuracy, val_accuracy: Shares; None for other tasks.
        val_classes, val_rights: Validation samples of each class, and those that were recognised.
        same_train, same_eval: The loss of the same training samples in training mode and, a moment later, in
            evaluation mode; None where they could not be had.
        same_train_accuracy, same_eval_accuracy: Their accuracies.
        lr: The largest learning rate at that time.
    """

    epoch: int
    step: int
    train_loss: float
    val_loss: float | None = None
    train_accuracy: float | None = None
    val_accuracy: float | None = None
    val_classes: list[float] = field(default_factory=list)
    val_rights: list[float] = field(default_factory=list)
    same_train: float | None = None
    same_eval: float | None = None
    same_train_accuracy: float | None = None
    same_eval_accuracy: float | None = None
    lr: float = 0.0


@dataclass
class History:
    """A run so far.

    Attributes:
        total: Steps that the config plans; infinite without an end.
        epoch_steps: Steps of an epoch.
        step: Steps done.
        losses: Of each step, its number and the training loss; of a long run the first and the last ones.
        norms: Steps and the norm of all gradients.
        calls: Steps and what the loss function was given in them; added by `add_call`.
        classes: Targets of each class, over all calls.
        labels: Where a sample has several labels, targets without and with each of them, over all calls, `(K, 2)`.
        moments: Of targets that are numbers, over all calls: how many, their sum, their sum of squares.
        rates: Steps and the largest learning rate.
        samples: Steps that were looked at closely.
        evaluations: The validations.
        waits: Of the last steps, but for the first ones of an epoch: seconds of waiting for data, and of the whole.
        batch_size: Samples of a step.
        workers: Of the training loader; None where it has no such thing.
        firsts: What the first layer was given in the first three steps.
        largest: Steps and the largest absolute value of the first layer's inputs.
        dropout: The layer that drops the most, and how much.
        still: Parameters that should have moved and did not, and why: "no optimizer", "no gradient", or "".
        narrowest: Units of the narrowest hidden layer; 0 for a network without one, or that is linear all the same.
        trained: Weight matrices that are trained in this epoch.
        constant: Layers all of whose weights were one number, and not 0, at the start.
        equal: Layers all of whose units are equal, after some steps.
        bad: What is said of a loss that was not finite: the step, the report, and columns of the inputs.
        ended: No further step will come.
        fan_in: Inputs of a unit, the median over the layers with weights; 0 without one.
        clipped: The norm to which gradients are clipped; 0 where they are not.
    """

    total: float = math.inf
    epoch_steps: int = 0
    step: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    norms: list[tuple[int, float]] = field(default_factory=list)
    calls: list[tuple[int, LossCall]] = field(default_factory=list)
    classes: np.ndarray = field(default_factory=lambda: np.zeros(0))
    labels: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    moments: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rates: list[tuple[int, float]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
    batch_size: int = 0
    workers: int | None = None
    firsts: list[InputFacts] = field(default_factory=list)
    largest: list[tuple[int, float]] = field(default_factory=list)
    dropout: tuple[str, float] = ("", 0.0)
    still: list[tuple[str, str]] = field(default_factory=list)
    narrowest: int | None = None
    trained: int = 0
    constant: list[str] = field(default_factory=list)
    equal: list[str] = field(default_factory=list)
    bad: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    fan_in: float = 0.0
    clipped: float = 0.0

    def __post_init__(self) -> None:
        self._chance: float | None = None

    # ---- adding

    def add_loss(self, step: int, loss: float) -> None:
        """Note the loss of a step."""
        self.step = step
        self.losses.append((step, loss))
        if len(self.losses) > FIRST + 2 * LAST:
            del self.losses[FIRST:-LAST]

    def add_call(self, step: int, call: LossCall) -> None:
        """Note what the loss function was given in a step."""
        if self.calls:
            last = self.calls[-1][1]
            if last.weight:  # those of the newest do
                last.weight = []
                vars(last).pop("_text", None)
        self.calls.append((step, call))
        if call.counts is not None:
            known = self.classes if len(self.classes) == call.k else np.zeros(call.k)
            self.classes, call.counts = known + call.counts, None
        if call.labels is not None:
            known = self.labels if len(self.labels) == len(call.labels) else np.zeros_like(call.labels)
            self.labels, call.labels = known + call.labels, None
        if len(self.calls) > BY_CLASS:
            call.classes, call.rights = [], []
        count, total, squares = self.moments
        self.moments = (count + call.count, total + call.moments[0], squares + call.moments[1])

    def begin(self) -> None:
        """Compute anew what follows from all of it; called before each examination."""
        self._chance = self._constant()

    def trim(self) -> None:
        """Forget the middle of what has become long."""
        for series, most in (
            (self.norms, POINTS),
            (self.calls, POINTS),
            (self.rates, POINTS),
            (self.largest, POINTS),
            (self.samples, LOOKS),
        ):
            if len(series) > 3 * most:
                del series[most:-most]  # type: ignore[attr-defined]
        del self.waits[:-POINTS]

    @property
    def first(self) -> InputFacts | None:
        """What the first layer was given: of the first steps the middle one, so that no outlier stands for all."""
        return sorted(self.firsts, key=lambda found: found.std)[(len(self.firsts) - 1) // 2] if self.firsts else None

    # ---- losses

    @property
    def part(self) -> float:
        """The share of the planned steps that is done; 0 for a run without an end."""
        return self.step / self.total if self.total else 1.0

    def after(self, share: float, least: int = 20, most: int = 2000) -> bool:
        """Whether a share of the planned run is done, though no fewer and no more steps than given."""
        if math.isinf(self.total):
            return self.step >= most
        # of a run of a few steps a share may be fewer
        return self.step >= min(max(share * self.total, min(least, 0.7 * self.total)), most)

    @property
    def start(self) -> float:
        """The loss at the start: the median of the first steps, as far as the first of them lets it rise."""
        if not self.losses:
            return math.nan
        first = self.losses[0][1]
        return min(statistics.median(loss for _, loss in self.losses[:3]), 1.5 * first if first > 0 else math.inf)

    def recent(self, count: int = 0) -> float:
        """The median of the last losses: of `count`, or of a tenth of the run so far."""
        count = count or max(5, min(self.step // 10, self.epoch_steps or 50, 200))
        values = [loss for _, loss in self.losses[-count:]]
        return statistics.median(values) if values else math.nan

    def lowest(self, count: int = 10) -> float:
        """The lowest mean of consecutive losses."""
        values = [loss for _, loss in self.losses]
        if len(values) < count:
            return min(values, default=math.nan)
        best = total = sum(values[:count])
        for new, old in zip(values[count:], values, strict=False):
            total += new - old
            best = min(best, total)
        return best / count

    # ---- how good it could be, and is

    @property
    def call(self) -> LossCall | None:
        """The last look at the loss function."""
        return self.calls[-1][1] if self.calls else None

    @property
    def chance(self) -> float | None:
        """The loss of the best constant prediction, for the targets seen so far; None where that is unknown."""
        return self._chance

    @property
    def scale(self) -> float:
        """The loss of a classifier that knows nothing, all classes alike; or else of the first steps."""
        call = self.call
        if call is not None and call.k:
            alike = np.ones(self.labels.shape if len(self.labels) else call.k)
            return max(self.chance or 0.0, constant_loss(call, alike))
        return self.chance or self.start

    @property
    def _counts(self) -> np.ndarray:
        """What a constant prediction would be made of: of each class the targets, or of each label by itself."""
        return self.labels if len(self.labels) else self.classes

    def _constant(self) -> float | None:
        call = self.call
        if call is None:
            return None
        if call.k:
            total = float(self.classes.sum())
            if not total:
                return None
            counts = self._counts
            found = constant_loss(call, counts)
            if call.weight:
                return found
            # few samples look less mixed than what they are drawn from (Miller 1955): with batches of one it counts
            kinds = int(np.count_nonzero(counts)) - max(1, len(self.labels))
            mixed = found + kinds / (2 * float(counts.sum()))
            return max(found, min(mixed, constant_loss(call, np.ones_like(counts))))
        count, total, squares = self.moments
        return squares / count - (total / count) ** 2 if call.name == "mse_loss" and count else None

    @property
    def targets(self) -> tuple[float, float]:
        """Mean and standard deviation of targets that are numbers; zeros for others."""
        count, total, squares = self.moments
        if not count:
            return 0.0, 0.0
        return total / count, math.sqrt(max(0.0, squares / count - (total / count) ** 2))

    @property
    def task(self) -> float:
        """The recent value of the loss function, without whatever the module adds to it."""
        last = [call.value for _, call in self.calls[-5:]]
        return statistics.median(last) if last else math.nan

    @property
    def level(self) -> float | None:
        """The recent loss over that of the best constant prediction: 1 is chance; None where that is unknown."""
        chance = self.chance
        if chance is None or chance <= 0:
            return None
        return self.task / chance

    @property
    def majority(self) -> float:
        """The accuracy of always naming the most frequent class; of several labels, for each what is more frequent."""
        total = self._counts.sum()
        return float(self._counts.max(-1).sum() / total) if total else 0.0

    def skill(self, accuracy: float | None) -> float | None:
        """An accuracy on a scale from 0 (always the most frequent class) to 1."""
        if accuracy is None:
            return None
        most = self.majority
        return (accuracy - most) / (1 - most) if most < 1 else None

    @property
    def small(self) -> bool:
        """Whether the network has next to no capacity: it is linear, or a hidden layer has three units or fewer."""
        return self.narrowest is not None and self.narrowest <= 3

    @property
    def jumps(self) -> bool:
        """Whether a label weighs more than ten times its absence, so that a batch's loss depends on who has it."""
        call = self.call
        return call is not None and call.name.startswith("binary") and float(np.max(call.weight, initial=0.0)) > 10

    @property
    def lopsided(self) -> bool:
        """Whether one class has more than ten times as many samples as another one."""
        return len(self.classes) > 1 and bool(self.classes.max() > 10 * self.classes.min())

    @property
    def stuck(self) -> bool:
        """Whether the loss has made next to no progress: it is above 0.9 of chance, or of its start."""
        level = self.level
        if level is not None:
            return level > 0.9
        return self.recent() > 0.9 * self.start

    # ---- whether there was anything to see

    @property
    def classified(self) -> bool:
        """Whether the targets are classes."""
        return len(self.classes) > 0

    @property
    def exclusive(self) -> bool:
        """Whether a sample has one class, and not several labels."""
        return not len(self.labels)

    @property
    def rectified(self) -> bool:
        """Whether there are rectified units."""
        return any(sample.dead for sample in self.samples)

    @property
    def squashed(self) -> bool:
        """Whether there are units of tanh or sigmoid."""
        return any(sample.saturated for sample in self.samples)

    @property
    def compared(self) -> bool:
        """Whether the network was seen on the same samples in training and in evaluation mode."""
        return any(found.same_eval is not None for found in self.evaluations)

    # ---- learning rates

    @property
    def rate(self) -> float | None:
        """The present learning rate."""
        return self.rates[-1][1] if self.rates else None

    @property
    def warming(self) -> bool:
        """Whether the learning rate still rises, or has been near its top for too short a time to judge by."""
        if len(self.rates) < 2:
            return False
        top = max(rate for _, rate in self.rates)
        first = next(step for step, rate in self.rates if rate >= 0.5 * top)
        if top <= 0:
            return True
        rises = self.rates[-1][1] > 1.001 * self.rates[max(0, len(self.rates) - 4)][1]
        return first > 1 and ((rises and self.rates[-1][1] >= top) or self.step - first < 0.1 * first + 10)

    @property
    def peaking(self) -> bool:
        """Whether a schedule that has risen to its top is still near it, or on its way down, with more to come."""
        if len(self.rates) < 4:
            return False
        top, now = max(rate for _, rate in self.rates), self.rates[-1][1]
        falls = now < 0.99 * self.rates[-4][1]
        return top > 3 * self.rates[0][1] and now > 0.1 * top and (falls or self.part < 0.75)

    @property
    def cooling(self) -> bool:
        """Whether the learning rate is so far below its top that no progress is to be expected."""
        top = max((rate for _, rate in self.rates), default=0.0)
        return top > 0 and self.rates[-1][1] < 0.1 * top

    def update(self, first: int = 0, last: int = 0) -> float | None:
        """The median update-to-weight ratio of the first or of the last samples."""
        chosen = self.samples[:first] if first else self.samples[-last:]
        found = [ratio for sample in chosen if (ratio := sample.update) is not None]
        return statistics.median(found) if found else None

    # ---- to keep

    def state(self) -> dict[str, Any]:
        """All of it but times, for a checkpoint: numbers in tensors, float64, and the rest as text."""
        # what is made once and never changed is turned into text once: a checkpoint is written after each epoch
        texts = {
            "calls": [f"[{step},{_text(call)}]" for step, call in self.calls],
            "samples": [_text(sample) for sample in self.samples],
            "evaluations": [_text(found) for found in self.evaluations],
        }
        left_out = (*SERIES, *texts, "waits", "total")  # seconds are not those of another start, and the end may move
        rest = {name: value for name, value in vars(self).items() if name not in left_out and name[0] != "_"}
        rest["classes"], rest["labels"] = self.classes.tolist(), self.labels.tolist()
        rest["firsts"] = [asdict(first) for first in self.firsts]
        return {
            **{name: torch.tensor(getattr(self, name), dtype=torch.float64).view(-1, 2) for name in SERIES},
            **{name: f"[{','.join(found)}]" for name, found in texts.items()},
            "rest": json.dumps(rest),
        }

    @classmethod
    def from_state(cls, kept: Mapping[str, Any]) -> "History":
        """What `state` gave."""
        history = cls(**json.loads(kept["rest"]))
        history.classes = np.asarray(history.classes, dtype=float)
        history.labels = np.asarray(history.labels, dtype=float).reshape(-1, 2)
        for name in SERIES:
            setattr(history, name, [(int(step), value) for step, value in kept[name].tolist()])
        history.calls = [(step, LossCall(**_tuples(call))) for step, call in json.loads(kept["calls"])]
        history.samples = [Sample(**sample) for sample in json.loads(kept["samples"])]
        for sample in history.samples:
            sample.dead = {name: (share, units) for name, (share, units) in sample.dead.items()}
        history.evaluations = [Evaluation(**found) for found in json.loads(kept["evaluations"])]
        history.firsts = [InputFacts(**first) for first in history.firsts]  # type: ignore[arg-type]
        history.moments, history.dropout = tuple(history.moments), tuple(history.dropout)  # type: ignore[assignment]
        history.still = [(name, why) for name, why in history.still]
        return history


def _text(kept: Any) -> str:
    if (text := kept.__dict__.get("_text")) is None:
        text = kept.__dict__["_text"] = json.dumps({k: v for k, v in vars(kept).items() if k != "_text"})
    return text


def _tuples(call: dict[str, Any]) -> dict[str, Any]:
    return {**call, "moments": tuple(call["moments"]), "shape": tuple(call["shape"])}


def entropy(counts: Sequence[float]) -> float:
    """In nats, of the classes that a sample of these counts shows."""
    total = sum(counts)
    return -sum(n / total * math.log(n / total) for n in counts if n > 0) if total else 0.0


def constant_loss(call: LossCall, counts: Sequence[float] | np.ndarray) -> float:
    """What a loss function gives for the best prediction that is the same for every sample.

    Args:
        call: Of the function.
        counts: Targets of each class `(k,)`; or without and with each label `(K, 2)`, over which the mean is taken.
    """
    counts = np.asarray(counts, dtype=float)
    weighted = counts * call.weight if np.shape(call.weight) == counts.shape else counts
    total = weighted.sum(-1, keepdims=True)
    if not total.all():
        return 0.0
    shares = (1 - call.smoothing) * weighted / total + call.smoothing / counts.shape[-1]
    values = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(-1)
    return float((values * total[..., 0] / counts.sum(-1)).mean() if call.name.startswith("binary") else values.mean())
