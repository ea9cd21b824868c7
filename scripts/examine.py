"""A config, examined before it is trained: the data, one batch, whether that can be learnt, how fast batches come."""

import copy
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import CombinedLoader
from rich.console import Console
from rich.text import Text
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from callbacks.doctor import Doctor, Evidence, History, Keys, Thresholds
from callbacks.doctor.data import LabelOrder, expected_entropy
from callbacks.doctor.history import constant_loss, entropy
from callbacks.doctor.probe import LossCall, facts
from callbacks.doctor.watch import Watch
from callbacks.nonfinite import indices_of
from runs.errors import UserError, told
from runs.summary import hanging
from scripts.cli import CLI, can_evaluate
from scripts.resume import flat
from scripts.say import say

LEARNING = 8.0  # seconds for learning one batch
LOOKING = 2.0  # seconds for going through the training data, and for the validation data
TIMING = 1.0  # seconds for each number of workers
STEPS = 150  # on one batch
FEW = 40  # steps after which a batch that is not learnt says nothing yet
EARLY = 12  # steps that the doctor's own rules look at: one batch again and again is no training
INDENT = 18  # of what is said of a check
# rules over a run's data or over many steps, which one batch says nothing of
NOT_HERE = ("data_in_label_order", "data_loading")
PLACES = {
    "inputs_not_normalised": "inputs",
    "bad_initialisation": "first loss",
    "softmax_before_cross_entropy": "first loss",
    "exploding_gradients": "gradients",
    "vanishing_gradients": "gradients",
}


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


class Repeated:
    """One batch, again and again; what a step does to it is not there in the next one."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Any]:
        return (copy.deepcopy(self.batch) for _ in range(STEPS))

    def __len__(self) -> int:
        return STEPS


class Examination(CLI):
    """The objects of a config, with a trainer that learns one batch by heart, and writes nothing.

    Args:
        args: The command line after the script's name.
        help_text: What `--help` prints.
        watchers: What looks.
    """

    def __init__(self, args: Sequence[str], help_text: str, watchers: Sequence[Callback]) -> None:
        self.watchers = list(watchers)
        super().__init__(args, help_text)

    def parsed(self, parser: Any, args: Any) -> Any:
        """The config, on one device that is there."""
        config = super().parsed(parser, args)
        trainer = config.trainer
        gpus = torch.cuda.is_available() or torch.backends.mps.is_available()
        if trainer.accelerator in ("gpu", "cuda", "mps", "tpu") and not gpus:
            say(f"note: trainer.accelerator {trainer.accelerator} is not here: examined on the CPU")
            trainer.accelerator, trainer.precision = "cpu", "32-true"
        trainer.devices, trainer.num_nodes, trainer.strategy = 1, 1, "auto"
        return config

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        self.owner = self.datamodule if self.datamodule is not None else self.model
        self.make_train = self.owner.train_dataloader
        # without shuffling again, workers or the end of a stream: whatever the loader is, it gives a batch
        self.owner.train_dataloader = self._repeat_first
        self.model.configure_callbacks = list  # type: ignore[method-assign, assignment]  # they may write

    def _repeat_first(self) -> Repeated:
        for batch, *_ in CombinedLoader(self.make_train()):
            return Repeated(batch)
        raise UserError(f"data: the train_dataloader of {type(self.owner).__name__} gives no batch")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        # those of the config may write, too
        return super().instantiate_trainer(callbacks=None, profiler=None, **kwargs)

    def callbacks(self, config: dict[str, Any]) -> list[Callback]:
        super().callbacks(config)
        config.update(
            logger=DummyLogger(),  # modules may write into it
            max_epochs=1, max_steps=-1, max_time=None, min_epochs=None, min_steps=None, fast_dev_run=False,
            barebones=False, overfit_batches=0.0, limit_train_batches=1.0, limit_val_batches=0, num_sanity_val_steps=0,
            accumulate_grad_batches=1, reload_dataloaders_every_n_epochs=0, val_check_interval=1.0,
            check_val_every_n_epoch=1,
        )  # fmt: skip
        return self.watchers


class Learn(Callback):
    """Sees to it that one batch is learnt at the rate of the config, and ends that when it is known or takes too long.

    Attributes:
        step: Seconds of a step, the median; NaN where there were too few.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.step = math.nan

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        every = trainer.strategy.lr_scheduler_configs
        kept = [config for config in every if config.interval == "step" and not config.reduce_on_plateau]
        if len(kept) < len(every):  # there are no epochs here, and no validation: the rate that they start from
            trainer.strategy.lr_scheduler_configs = kept
            for group in (group for optimizer in trainer.optimizers for group in optimizer.param_groups):
                group["lr"] = group["lr"] if kept else group.get("initial_lr", group["lr"])
        self._times = [time.perf_counter()]

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._times.append(time.perf_counter())
        self.history.begin()
        over = self._times[-1] - self._times[0] > LEARNING
        trainer.should_stop = trainer.should_stop or over or (len(self._times) > FEW and _is_learnt(self.history, 0.05))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(self._times) > 4:
            self.step = statistics.median(b - a for a, b in zip(self._times[1:], self._times[2:], strict=False))


class Look(Callback):
    """Goes through the data after that, while module, data and trainer know each other still.

    Attributes:
        train, val: What was seen.
        milliseconds: Of a batch, by the number of workers; None for a loader that has no such thing.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.milliseconds: dict[int | None, float] = {}

    def attach(self, cli: Examination) -> None:
        self.cli = cli

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader = self.cli.make_train()
        self.workers = getattr(loader, "num_workers", None)
        self.train, self.val = look(loader, self.history.call), Seen()
        if can_evaluate("validate", self.cli.model, self.cli.datamodule):
            loaders = self.cli.owner.val_dataloader()
            self.val = look(loaders[0] if isinstance(loaders, list | tuple) else loaders, self.history.call)
        if type(loader) is DataLoader:
            self.milliseconds = {count: pace(with_workers(loader, count)) for count in (0, 1, 2)}
        else:
            self.milliseconds = {None: pace(loader)}


def examine_config(args: Sequence[str], help_text: str) -> bool:
    """Examine the config of a command line and print what was found; whether something is wrong.

    Raises:
        UserError: Something in the config can't be.
    """
    watch = Watch()
    history = watch.history
    learn, seen = Learn(history), Look(history)
    cli = Examination(args, help_text, [watch, learn, seen])
    seen.attach(cli)
    keys = Keys(flat(cli.config_dict))
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    except Exception as error:
        raise told(error, before_training=cli.trainer.global_step == 0) from error
    doctor: Doctor = cli.config_init.doctor
    limits = doctor.thresholds
    checks = first_steps(history, keys, doctor)
    known = any(check.wrong for check in checks)
    checks += [one_batch(history, keys, known), *parts(seen.train, seen.val, limits, keys)]
    checks += loading(seen.milliseconds, seen.workers, learn.step, keys, limits)
    _show(checks)
    return any(check.wrong for check in checks)


# ---- one batch


def first_steps(history: History, keys: Keys, doctor: Doctor) -> list[Check]:
    """Inputs, loss and gradients of the first steps, by the rules of the config's doctor."""
    first, call = history.first, history.calls[0][1] if history.calls else None
    checks = []
    if first is not None:
        shown = f"{first.low:.3g} to {first.high:.3g}, mean {first.mean:.3g}, standard deviation {first.std:.3g}"
        kinds = {"indices": "whole numbers, for an embedding", "normalised": f"{first.layer} normalises them"}
        checks.append(Check("inputs", kinds.get(first.kind, shown)))
    if call is not None and call.k:
        k = call.k
        expected = f"ln {k} is {math.log(k):.3f}" if k > 1 else "of one class"
        checks.append(Check("first loss", f"{call.value:.3f}, {expected}"))
    elif history.losses:
        checks.append(Check("first loss", f"{history.losses[0][1]:.4g}"))
    if history.norms:
        checks.append(Check("gradients", f"norm {history.norms[0][1]:.3g} in the first step"))
    early = _cut(history, EARLY)
    found: set[str] = set()
    for diagnosis in (known for known in doctor.diagnoses if known.name not in NOT_HERE):
        evidence = None if found & set(diagnosis.causes) else diagnosis.examine(early, doctor.thresholds)
        if evidence is None:
            continue
        found.add(diagnosis.name)
        check = next((c for c in checks if c.name == PLACES.get(diagnosis.name) and not c.wrong), None)
        if check is None:
            checks.append(check := Check("first steps", ""))
        check.text, check.wrong = f"{diagnosis.title}: {evidence.text}", True
        check.remedies = (diagnosis.remedies(evidence, early, keys) or [diagnosis.advice])[:2]
    return checks


def _cut(history: History, steps: int) -> History:
    """The first steps of a history, as of a run without an end."""
    early = History.from_state(history.state())
    early.step, early.total = min(steps, history.step), math.inf
    for name in ("losses", "norms", "rates", "calls", "largest"):
        setattr(early, name, [point for point in getattr(early, name) if point[0] <= steps])
    early.samples = [sample for sample in early.samples if sample.step <= steps]
    early.begin()
    return early


def one_batch(history: History, keys: Keys, known: bool = False) -> Check:
    """Whether one batch is learnt by heart: a network that can't do that will learn nothing else.

    Args:
        history: Of learning it.
        keys: Of the config.
        known: Whether its first steps have shown what is wrong, which is what comes first then.
    """
    if not history.losses:
        return Check("one batch", "the module returns no loss that could be looked at")
    call, steps, start, end = history.call, history.step, history.losses[0][1], history.recent(5)
    text = f"loss {start:.3g} to {end:.3g} in {steps} steps"
    if call is not None and call.accuracy is not None:
        text += f", accuracy {call.accuracy:.0%}"
    if _is_learnt(history, 0.5):
        return Check("one batch", text)
    if steps < FEW and math.isfinite(end):
        return Check("one batch", f"{text}: too few in {LEARNING:.0f} s to say whether it can be learnt", open=True)
    if known:
        return Check("one batch", f"{text}: not learnt, as was to be expected of what is wrong above", True)
    update, remedies, rate = history.update(first=5), [], keys.rate()
    sample = next((s for s in history.samples if s.lr > 0 and s.update), None)
    if rate and sample and sample.update and update is not None and not 1e-3 <= update <= 0.1:
        remedies = keys.set_rate(keys.usual_rate(sample.update / sample.lr), lower=update > 0.1)
    advice = "look at the loss, the labels, and at what is frozen or detached"
    return Check("one batch", f"{text}: it can't be learnt", True, remedies or [advice])


def _is_learnt(history: History, share: float) -> bool:
    """Whether the loss has come down from its start to a share of it, or is as low as that by itself."""
    call, start, end = history.call, history.losses[0][1] if history.losses else math.nan, history.recent(5)
    if not math.isfinite(end) or not math.isfinite(start):
        return False
    if call is not None and call.k:
        floor = _floor(call)
        return end - floor < share * max(start - floor, 0.4) or (share > 0.3 and (call.accuracy or 0.0) > 0.95)
    if call is not None and start > 0:  # where all targets are equal there is no chance to compare with
        return end < share * max(start, history.chance or 0.0)
    return start - end > 0.1 * (1 - share) * abs(start)  # a loss of another kind, which may go below 0


def _floor(call: LossCall) -> float:
    """The lowest loss there is, with smoothed labels: the entropy of a target."""
    one = [1.0] + [0.0] * (call.k - 1)
    plain = LossCall(call.name, 0.0, 1, smoothing=call.smoothing)
    return constant_loss(plain, one) if call.smoothing else 0.0


# ---- all the data


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
        cure = keys.switch(r"clean|impute|drop_na|fill_na|dropna", True, ("data",))
        return Check("finite", "; ".join(found), True, [*cure, "mend these samples, or leave them out"][:2])
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


# ---- telling


def _show(checks: Sequence[Check]) -> None:
    console = Console(highlight=False)
    for check in checks:
        mark = ("no  ", "red") if check.wrong else ("?   ", "yellow") if check.open else ("ok  ", "green")
        text = hanging(check.text, INDENT, console)
        console.print(Text.assemble(mark, (f"{check.name:<{INDENT - 4}}", "bold"), text), soft_wrap=True)
        for cure in check.remedies:  # an override is there to be copied, and never folded
            shown = f"try {cure}" if cure.startswith("--") else hanging(cure, INDENT, console)
            console.print(Text(f"{'':{INDENT}}{shown}"), soft_wrap=True)
    wrong = sum(check.wrong for check in checks)
    undecided = sum(check.open for check in checks)
    done = len(checks) - undecided
    end = f"{wrong} of {done} checks found something" if wrong else f"no problems found in {done} checks"
    end += f"; {undecided} could not be decided" if undecided else ""
    console.print(f"\n{end}")
