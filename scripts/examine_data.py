"""The data of a config, gone through before it is trained: what they hold, and how fast they come."""

import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from callbacks.doctor import Evidence, History, Keys, Thresholds
from callbacks.doctor.data import LabelOrder, expected_entropy
from callbacks.doctor.history import entropy
from callbacks.doctor.probe import LossCall, facts
from callbacks.nonfinite import indices_of

LOOKING = 2.0  # seconds for going through the training data, and for the validation data
TIMING = 1.0  # seconds for each number of workers


@dataclass
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        text: What was found.
        wrong: Whether it is a problem.
        remedies: What mends it, the best one first.
        open: Whether it could not be decided.
    """

    name: str
    text: str
    wrong: bool = False
    remedies: list[str] = field(default_factory=list)
    open: bool = False


# ---- what they hold


@dataclass
class Seen:
    """What some batches hold.

    Attributes:
        counts: Samples of each class.
        batches: Of each batch, its size and the entropy of its labels, in nats.
        moments: Of the finite inputs, as stored: how many, their sum, and their sum of squares.
        samples: How many there were.
        bad: How many of them have an input that is not finite.
        first_bad: Where the first of them is.
        whole: Whether these were all the batches.
    """

    counts: list[float] = field(default_factory=list)
    batches: list[tuple[int, float]] = field(default_factory=list)
    moments: tuple[float, float, float] = (0.0, 0.0, 0.0)
    samples: int = 0
    bad: int = 0
    first_bad: str = ""
    whole: bool = False

    @property
    def mean(self) -> float:
        """Of the inputs."""
        return self.moments[1] / self.moments[0] if self.moments[0] else math.nan

    @property
    def std(self) -> float:
        """Of the inputs."""
        count, _, squares = self.moments
        return math.sqrt(max(0.0, squares / count - self.mean**2)) if count else math.nan


def look(loader: Any, call: LossCall | None) -> Seen:
    """Go through a loader for some seconds.

    Args:
        loader: Any iterable.
        call: What the loss function was given, which says how many classes there are; None where that is not known.
    """
    if type(loader) is DataLoader:
        loader = with_workers(loader, 0)
    seen, classes = Seen(), call.k if call is not None else 0
    end = time.perf_counter() + LOOKING
    for number, batch in enumerate(loader):
        inputs, labels = inputs_and_labels(batch, classes)
        if inputs is not None:
            _look_at_inputs(seen, inputs, loader, number)
        if labels is not None and len(labels):
            found = torch.bincount(labels, minlength=classes).tolist()
            seen.counts = [a + b for a, b in zip(seen.counts or [0.0] * classes, found, strict=True)]
            seen.batches.append((len(labels), entropy(found)))
        if time.perf_counter() > end:
            return seen
    seen.whole = True
    return seen


def _look_at_inputs(seen: Seen, inputs: Tensor, loader: Any, number: int) -> None:
    """Add the inputs `(N, …)`, float or uint8, of a loader's batch of a number."""
    values = inputs.detach().float().reshape(len(inputs), -1)
    finite = values.isfinite()
    if not finite.all():
        rows = (~finite.all(1)).nonzero().flatten().tolist()
        if not seen.bad:
            row, indices = rows[0], indices_of(loader, number)
            where = f"sample {indices[row]}" if len(indices) == len(inputs) else f"row {row} of batch {number}"
            columns = facts("", inputs[row : row + 1]).bad_columns if inputs.ndim == 2 else []
            seen.first_bad = where + (f", column {', '.join(map(str, columns))}" if columns else "")
        seen.bad += len(rows)
        values = values[finite]
    count, total, squares = seen.moments
    sums = [float(each.sum(dtype=torch.float64)) for each in (values, values.square())]
    seen.moments = (count + values.numel(), total + sums[0], squares + sums[1])
    seen.samples += len(inputs)


def inputs_and_labels(batch: Any, classes: int) -> tuple[Tensor | None, Tensor | None]:
    """The inputs of a batch that are values (float, or bytes of an image), and one class label a sample `(N,)`.

    Labels that a loss leaves out, as -100, are left out. Where a sample has several, as in a language model, or where
    there are no classes, there are none.
    """
    if isinstance(batch, dict):  # names of labels come last, whatever their order is
        values = [batch[name] for name in sorted(batch, key=lambda name: "label" in str(name) or "target" in str(name))]
    else:
        values = list(batch) if isinstance(batch, tuple | list) else [batch]
    tensors = [value for value in values if isinstance(value, Tensor) and value.ndim]
    if not tensors:
        return None, None
    values = [t for t in tensors if t.is_floating_point() or t.dtype is torch.uint8]
    size = len(tensors[0])
    for found in reversed(tensors[1:]):
        if classes < 2 or found.numel() != size:
            continue
        labels = found.detach().reshape(-1).cpu()
        if labels.is_floating_point() and not ((labels == 0) | (labels == 1)).all():
            continue
        labels = labels[labels >= 0].long()
        if not len(labels) or int(labels.max()) < classes:
            return next((t for t in values if t is not found), None), labels
    return next(iter(values), None), None


def parts(train: Seen, val: Seen, limits: Thresholds, keys: Keys) -> list[Check]:
    """Labels and inputs of the training data, next to those of the validation data."""
    checks, in_order = [], True
    if train.samples or val.samples:
        checks.append(_finite(train, val, keys))
    if sum(train.counts):
        checks.append(_balance(train, val, limits))
    if len(train.batches) >= 4:
        checks.append(order := _order(train, limits, keys))
        in_order = not order.wrong
    # of data in an order, a part looks like itself
    if train.samples > 7 and val.samples > 7 and (in_order or train.whole):
        a, b = train, val
        apart = abs(a.mean - b.mean) > 0.5 * max(a.std, 1e-8) or not 0.5 < (b.std + 1e-8) / (a.std + 1e-8) < 2
        text = (
            f"stored with mean {a.mean:.3g}, standard deviation {a.std:.3g}; for validation {b.mean:.3g}, {b.std:.3g}"
        )
        cure = ["the two parts are treated differently: see the datamodule"]
        checks.append(Check("same inputs", text, apart, cure if apart else []))
    return checks


def _finite(train: Seen, val: Seen, keys: Keys) -> Check:
    """Whether all inputs are finite, as far as they were looked at."""
    found = []
    for name, part in (("training", train), ("validation", val)):
        if part.bad:
            count = f"{part.bad} of {part.samples:,} {name} samples have"
            found.append(f"{count} a NaN or infinite input, the first is {part.first_bad}")
    if found:
        return Check("finite", "; ".join(found), True, [*keys.cleaning(), "mend these samples, or leave them out"][:2])
    many = [
        f"{'all' if p.whole else 'the first'} {p.samples:,} {n}"
        for n, p in (("training", train), ("validation", val))
        if p.samples
    ]
    return Check("finite", f"the inputs of {' and '.join(many)} samples")


def _balance(train: Seen, val: Seen, limits: Thresholds) -> Check:
    counts = train.counts
    most, least = max(counts), min(counts)
    rarest, commonest = counts.index(least), counts.index(most)
    text = f"{len(counts)} classes; {least:.0f} samples of class {rarest} to {most:.0f} of class {commonest}"
    if least == most:
        text = f"{len(counts)} classes with {most:.0f} samples each"
    absent = [k for k, n in enumerate(counts) if not n]
    missing = [k for k in absent if val.counts and val.counts[k]]
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        wrong = f"{text}; no training samples of {shown}, of which validation has some"
        return Check("labels", wrong, True, ["see how the data are split"])
    if absent and train.whole:  # more outputs than classes, as of a vocabulary that is rounded up
        least = min(n for n in counts if n)
        there = len(counts) - len(absent)
        text = f"{there} classes for {len(counts)} outputs; {least:.0f} to {most:.0f} samples of each that is there"
    if train.whole and most > limits.imbalance * least:
        cure = "weight the classes in the loss, or draw rare ones more often"
        return Check("labels", f"{text}, {most / least:.0f} times as many", True, [cure])
    return Check("labels", text)


def _order(train: Seen, limits: Thresholds, keys: Keys) -> Check:
    size = round(statistics.median(size for size, _ in train.batches))
    expected = expected_entropy(tuple(train.counts), size)
    found = statistics.fmean(each for _, each in train.batches)
    text = f"a batch of {size} has {math.exp(found):.1f} classes in effect, drawn at random {math.exp(expected):.1f}"
    wrong = expected > 0.1 and found < limits.label_entropy * expected
    cure = LabelOrder().remedies(Evidence("", 1), History(), keys) or [LabelOrder.advice]
    return Check("order", text, wrong, cure[:2] if wrong else [])


# ---- how fast


def with_workers(loader: DataLoader, count: int) -> DataLoader:
    """The same loader with another number of worker processes, which end with a pass."""
    same: dict[str, Any] = {
        "collate_fn": loader.collate_fn,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context if count else None,
    }
    if isinstance(loader.dataset, IterableDataset):
        return DataLoader(loader.dataset, loader.batch_size, num_workers=count, drop_last=loader.drop_last, **same)
    if loader.batch_sampler is None:
        return DataLoader(loader.dataset, None, sampler=loader.sampler, num_workers=count, **same)
    return DataLoader(loader.dataset, batch_sampler=loader.batch_sampler, num_workers=count, **same)


def pace(loader: Any) -> float:
    """Milliseconds a batch where nothing is done with it, without the start of the workers; NaN for fewer than two."""
    iterator = iter(loader)
    next(iterator, None)
    started, count = time.perf_counter(), 0
    for _ in iterator:
        count += 1
        if time.perf_counter() - started > TIMING:
            break
    return 1000 * (time.perf_counter() - started) / count if count else math.nan


def loading(
    found: dict[int | None, float], workers: int | None, step: float, keys: Keys, limits: Thresholds
) -> list[Check]:
    """Whether the training would wait for its data, and how many workers are enough.

    Args:
        found: Milliseconds of a batch by number of workers.
        workers: Those of the config's loader.
        step: Seconds of a step on data that are there.
        keys: The config's keys.
        limits: From which share on waiting is too long.
    """
    found = {count: taken for count, taken in found.items() if math.isfinite(taken)}
    if not found:
        return []
    if None in found:
        text = f"a batch takes {found[None]:.2g} ms"
    else:
        text = f"a batch takes {', '.join(f'{taken:.2g}' for taken in found.values())} ms with {_listed(found)} workers"
    text += f"; a step {1000 * step:.2g} ms" * math.isfinite(step)
    now = found.get(workers, min(found.values()))
    # with workers, a batch is made while the step before it runs; without, one waits for the other
    wait = max(0.0, now - 1000 * step) if workers else now
    if not math.isfinite(step) or wait < max(3.0, limits.waiting * (wait + 1000 * step)):
        return [Check("loading", text)]
    best = min(found, key=lambda count: found[count])
    if best in (None, workers) or found[best] > 0.8 * now:
        return [Check("loading", text, True, ["make a sample cheaper, or keep decoded ones in memory"])]
    key = next((key for key, value in keys.find(r"^(num_)?workers$") if isinstance(value, int)), None)
    cure = keys.set(key, best) if key else []
    return [Check("loading", text, True, cure or [f"no key sets the workers: give the DataLoader num_workers={best}"])]


def _listed(counts: Iterable[int | None]) -> str:
    return ", ".join(map(str, counts))
