"""A config, examined before it is trained: the data, one batch, whether that can be learnt, how fast batches come."""

import copy
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import CombinedLoader
from rich.console import Console
from rich.text import Text
from torch.utils.data import DataLoader

from callbacks.doctor import Doctor, History, Keys
from callbacks.doctor.history import constant_loss
from callbacks.doctor.probe import LossCall
from callbacks.doctor.watch import Watch
from runs.errors import UserError, told
from runs.summary import hanging
from scripts.cli import CLI, can_evaluate
from scripts.examine_data import Check, Seen, loading, look, pace, parts, with_workers
from scripts.resume import flat
from scripts.say import say

LEARNING = 8.0  # seconds for learning one batch
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
        return [*self.weight_callbacks(), *self.watchers]


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
        cli.load_weights()
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
        if history.call is not None and history.call.weight and call.name.startswith("binary"):
            expected += " without pos_weight"
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
