"""Gathers what the doctor knows of a run, at a small part of the cost of its steps."""

import json
import math
import statistics
import time
from collections import defaultdict
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from callbacks.doctor.history import Sample
from callbacks.doctor.modes import Replay, compare
from callbacks.doctor.probe import ACTIVE, LossCall, Probe
from callbacks.doctor.validations import WatchValidations
from callbacks.monitor import MOST_WEIGHTS, _compiled, _local, _step, _to_host, _values

EARLY = 12  # steps whose loss call is looked at
DENSE, EVERY, LATER = 100, 5, 20  # then of the first hundred every fifth one is, and later every twentieth
NORMS = 10  # after the first hundred, of every so many steps the norm of the gradients
CLOSE = frozenset({1, 2, 3, 5, 8, 13, 21, 34, 55, 89})  # steps that are looked at closely, beside every 100th
SMALL = 0.3  # of the norm that torch's layers start with, which is the root of a third of their units
SURE = 64  # inputs after which a unit that never was on is dead
MOVED_AFTER = (10, 25, 75)  # steps after which parameters are looked at again


class Watch(WatchValidations):
    """Keeps a run's `History` up to date.

    Of every step it notes the loss and the time; of the first hundred and then of every tenth the norm of the
    gradients; of the first twelve, then of every fifth and after a hundred of every twentieth, and at least once before
    a validation, what the loss function was given; of ten of the first hundred, then of ten more of the run, or of
    every hundredth, updates, units, saturation.

    Attributes:
        history: What is known.
    """

    def __init__(self) -> None:
        super().__init__()
        self._units: dict[str, list[tuple[Tensor, int]]] = defaultdict(list)
        self._sample: Sample | None = None
        self._before: dict[str, Tensor] = {}
        self._at_start: dict[str, tuple[float, float]] = {}
        self._graded: set[str] = set()
        self._matrices: dict[str, nn.Parameter] = {}

    # ---- a run

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        history = self.history
        accumulate = max(1, trainer.accumulate_grad_batches)
        batches = trainer.num_training_batches
        history.epoch_steps = int(batches / accumulate) if math.isfinite(batches) else 0
        steps = float(trainer.estimated_stepping_batches)
        history.total = steps if steps > 0 else math.inf
        history.ended = False
        loader: Any = trainer.train_dataloader
        history.workers = getattr(loader, "num_workers", None)
        self._every = int(min(100, max(20, history.total // 10))) if math.isfinite(history.total) else 100
        layers = [part for part in pl_module.modules() if isinstance(part, nn.Linear | nn.modules.conv._ConvNd)]
        history.fan_in = statistics.median([part.weight[0].numel() for part in layers]) if layers else 0.0
        history.clipped = float(trainer.gradient_clip_val or 0.0)
        recurrent = [part.hidden_size for part in pl_module.modules() if isinstance(part, nn.RNNBase)]
        others = any(isinstance(part, nn.MultiheadAttention) for part in pl_module.modules())
        units = [len(part.weight) for part in layers[:-1]] + recurrent
        self._narrowest = min(units, default=0) if layers and not others else None
        self.on_train_epoch_start(trainer, pl_module)  # of a run that goes on within an epoch
        self._parameters = list(pl_module.named_parameters())
        # one device, one dtype, nothing in parts: then there is a short way
        kinds = {(p.device, p.dtype, type(p)) for _, p in self._parameters}
        self._plain = (
            len(kinds) == 1 and next(iter(kinds))[1:] == (torch.float32, nn.Parameter) and not _sparse(pl_module)
        )
        self._decays = {
            id(p): (float(group["weight_decay"]), _decoupled(optimizer, group))
            for optimizer in trainer.optimizers
            for group in optimizer.param_groups
            if group.get("weight_decay")
            for p in group["params"]
        }
        self._visible = not _compiled(pl_module)
        # where weights are in parts, a process can't call the module by itself
        self._whole = trainer.world_size == 1 or type(trainer.strategy) is DDPStrategy
        self._clock = None
        self._arm(trainer, trainer.fit_loop.epoch_loop.batch_progress.current.ready)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._matrices = {
            name.rpartition(".")[0] or name: p
            for name, p in pl_module.named_parameters()
            if p.requires_grad and p.ndim > 1  # what is frozen may not be so in another epoch
        }
        if self.history.trained != len(self._matrices):
            self.history.trained, self.history.narrowest = len(self._matrices), self._narrowest

    def _close(self, step: int) -> bool:
        return step in CLOSE or step % self._every == 0

    def _called(self, step: int) -> bool:
        return self._visible and (step <= EARLY or self._regular(step) or self._close(step))

    @staticmethod
    def _regular(step: int) -> bool:
        return step % (EVERY if step <= DENSE else LATER) == 0

    def _arm(self, trainer: Trainer, batch: int) -> None:
        """Make ready for the next batch: a hook that has nothing to do is not called at all."""
        step = _step(trainer)
        check = trainer.val_check_batch or math.inf
        self._last = batch + 1 >= trainer.num_training_batches or bool(
            math.isfinite(check) and (batch + 1) % int(check) == 0
        )
        seen = self.history.calls[-1][0] if self.history.calls else 0
        before = self.history.evaluations[-1].step if self.history.evaluations else 0
        compares = self._last and self._visible and (seen <= before or self._differed())
        self._hear("on_train_batch_start", self._called(step) or compares)
        self._hear("on_before_backward", False)
        self._hear("on_before_optimizer_step", step <= DENSE or step % NORMS == 0 or self._close(step))

    # ---- a step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._leave()
        step = _step(trainer)
        self._probe = Probe(self._close(step), early=step <= EARLY)
        self._probe.watch(pl_module)
        self._replay = Replay(pl_module) if self._last and self._whole and self._differed() else None
        self._hear("on_before_backward", True)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._leave()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        step = _step(trainer)
        if self.history.norms and self.history.norms[-1][0] == step:  # another of the step's optimizers
            return
        named = [(name, p) for name, p in self._parameters if p.grad is not None]
        if not named:
            return
        grads = [p.grad if self._plain else _values(p.grad) for _, p in named if p.grad is not None]
        norms = (
            torch.stack(torch._foreach_norm(grads)).tolist()
            if self._plain
            else _to_host([torch._foreach_norm(grads)])[0]
        )
        self.history.norms.append((step, math.sqrt(sum(norm * norm for norm in norms))))
        if self._close(step):
            self._look_closely(trainer, pl_module, step, dict(zip((name for name, _ in named), norms, strict=True)))
        if len(named) > len(self._graded):
            self._graded |= {name for name, _ in named}

    def _look_closely(self, trainer: Trainer, pl_module: LightningModule, step: int, norms: dict[str, float]) -> None:
        names = {id(p): name for name, p in self._parameters}
        self._sample = Sample(step, max(_rates(trainer), default=0.0))
        self._sample.grads = {
            layer: norms[names[id(p)]] for layer, p in self._matrices.items() if names.get(id(p)) in norms
        }
        weights = {layer: _local(p.detach()) for layer, p in self._matrices.items()}
        if weights and sum(weight.numel() for weight in weights.values()) <= MOST_WEIGHTS:
            self._before = {layer: weight.clone() for layer, weight in weights.items()}
        if not self._at_start:
            self._at_start = _sums(pl_module)
            layers = _weights(pl_module)
            self.history.constant = [name for name, rows in layers if _constant(rows)]
            if len(layers) > 1 and not any(bool(rows.any()) for _, rows in layers):
                self.history.constant = [name for name, _ in layers]  # one of several may start at zero, not all

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._leave()
        history, step = self.history, _step(trainer, done=True)
        call = self._take_probe(step, batch)
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self._note_loss(step, float(loss) * max(1, trainer.accumulate_grad_batches))
        elif call is not None:
            self._note_loss(step, call.value)
        if self._sample is not None and self._sample.step == step:
            self._finish_sample()
        if step in MOVED_AFTER and self._at_start:
            self._look_at_parameters(trainer, pl_module)
        if not history.rates or step <= EARLY or self._regular(step):
            history.rates.append((step, max(_rates(trainer), default=0.0)))
        self._take_time(trainer, batch, batch_idx)
        self._arm(trainer, batch_idx + 1)

    def _take_probe(self, step: int, batch: Any) -> LossCall | None:
        history, probe, replay = self.history, self._probe, self._replay
        self._probe = self._replay = None
        if probe is None:
            return None
        call = max(probe.calls, key=lambda found: found.count, default=None)
        if call is not None:
            if replay is not None and probe.again is not None:
                self._same = compare(replay, probe.again, call, batch)
            history.add_call(step, call)
        if probe.linear:
            history.narrowest = 0
        if probe.first is not None and len(history.firsts) < 3:
            history.firsts.append(probe.first)
        if probe.largest is not None:
            history.largest.append((step, probe.largest))
        if probe.dropout[1] > history.dropout[1]:
            history.dropout = probe.dropout
        if self._sample is not None and probe.layers:
            self._take_layers(probe)
        return call

    def _note_loss(self, step: int, loss: float) -> None:
        if self.history.losses and self.history.losses[-1][0] == step:  # gradients are accumulated
            return
        self.history.add_loss(step, loss)
        self._since[0] += loss
        self._since[1] += 1

    def _take_layers(self, probe: Probe) -> None:
        sample = self._sample
        assert sample is not None
        sample.saturated = dict(probe.saturated)
        sample.activations = {name: std for name, (_, std) in probe.activations.items()}
        for name, found in probe.dead.items():
            seen = self._units[name]
            if seen and seen[0][0].shape != found[0].shape:
                seen.clear()
            seen.append(found)
            rate, inputs = torch.zeros_like(found[0]), 0
            for older, (on, count) in enumerate(reversed(seen), 1):
                rate, inputs = rate + on.to(rate) * count, inputs + count
                if inputs >= SURE:
                    dead = (rate / inputs < ACTIVE).float().mean()
                    sample.dead[name] = (float(dead), len(rate))
                    del seen[:-older]
                    break

    def _finish_sample(self) -> None:
        sample, self._sample = self._sample, None
        assert sample is not None
        if self._before:
            layers = list(self._before)
            before = list(self._before.values())
            after = [_local(self._matrices[layer].detach()) for layer in layers]
            changes = torch._foreach_sub(after, before)
            rows = _to_host([torch._foreach_norm(found) for found in (changes, before)])
            decays = []
            for layer, change, weight in zip(layers, *rows, strict=True):
                sample.weights[layer] = weight
                # weights that start next to zero are not changed too fast because they are small
                size = max(weight, SMALL * math.sqrt(len(self._matrices[layer]) / 3))
                sample.updates[layer] = change / size
                decays.append(self._decay(layer, change, weight, sample) if change > 0 else 0.0)
            sample.decay = statistics.median(decays)
            self._before = {}
        self.history.samples.append(sample)
        self.history.trim()

    def _decay(self, layer: str, change: float, weight: float, sample: Sample) -> float:
        """The share of a step's change that is weight decay."""
        decay, decoupled = self._decays.get(id(self._matrices[layer]), (0.0, False))
        if decoupled:
            return min(1.0, sample.lr * decay * weight / change)
        pull = decay * weight
        return pull / (pull + sample.grads.get(layer, 0.0)) if pull > 0 else 0.0

    def _look_at_parameters(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = _sums(pl_module)
        had = {id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
        ids = {name: id(p) for name, p in pl_module.named_parameters()}
        self.history.still = [
            (name, "no optimizer" if ids[name] not in had else "" if name in self._graded else "no gradient")
            for name, sums in self._at_start.items()
            if now.get(name) == sums
        ]
        self.history.equal = [
            name
            for name, rows in _weights(pl_module)
            if float((rows - rows[:1]).abs().max()) <= 0.01 * float(rows.abs().max())
        ]

    def _take_time(self, trainer: Trainer, batch: Any, batch_idx: int) -> None:
        loop: Any = trainer.fit_loop.epoch_loop
        now = (time.perf_counter(), getattr(loop, "waited", 0.0))
        if self._clock is not None and batch_idx >= 3:  # the first ones come with the start of workers
            self.history.waits.append((now[1] - self._clock[1], now[0] - self._clock[0]))
        self._clock = now
        if not self.history.batch_size:
            first = batch[0] if isinstance(batch, tuple | list) and batch else batch
            self.history.batch_size = len(first) if isinstance(first, Tensor) and first.ndim else 0

    # ---- to go on

    def watch_state(self) -> dict[str, Any]:
        """What is known beside the history, so that a run that goes on sees the same."""
        early = self.history.step < max(MOVED_AFTER)
        units = [(name, found) for name, found in self._units.items() if found]
        rest = {
            "since": self._since,
            "same": self._same,
            "at_start": self._at_start if early else {"": (0.0, 0.0)} if self._at_start else {},
            "graded": sorted(self._graded) if early else [],
            "units": [(name, [(len(rates), count) for rates, count in found]) for name, found in units],
        }
        rates = [rates for _, found in units for rates, _ in found]
        return {"rest": json.dumps(rest), "units": torch.cat(rates).float().cpu() if rates else torch.empty(0)}

    def load_watch_state(self, kept: dict[str, Any]) -> None:
        """Take what `watch_state` gave."""
        rest = json.loads(kept["rest"])
        self._since, self._same, self._graded = rest["since"], rest["same"], set(rest["graded"])
        self._at_start = {name: (norm, total) for name, (norm, total) in rest["at_start"].items()}
        rates = iter(kept["units"].split([length for _, found in rest["units"] for length, _ in found]))
        self._units.clear()
        for name, found in rest["units"]:
            self._units[name] = [(next(rates), count) for _, count in found]


def _rates(trainer: Trainer) -> list[float]:
    return [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]


def _sums(pl_module: LightningModule) -> dict[str, tuple[float, float]]:
    """What changes when a parameter does, of those that are to be trained."""
    named = [(name, _values(p.detach())) for name, p in pl_module.named_parameters() if p.requires_grad and p.numel()]
    if not named:
        return {}
    values = [value for _, value in named]
    rows = _to_host([torch._foreach_norm(values), [value.sum() for value in values]])
    return {name: (norm, total) for (name, _), norm, total in zip(named, *rows, strict=True)}


def _decoupled(optimizer: Any, group: dict[str, Any]) -> bool:
    """Whether weight decay acts on the weights themselves, and not by way of the gradient."""
    return bool(group.get("decoupled_weight_decay", "AdamW" in type(optimizer).__name__))


def _sparse(pl_module: LightningModule) -> bool:
    return any(getattr(part, "sparse", False) for part in pl_module.modules())


def _weights(pl_module: LightningModule) -> list[tuple[str, Tensor]]:
    """Of each layer with several units a matrix of their weights, one row for each."""
    return [
        (name, _local(part.weight.detach()).flatten(1))
        for name, part in pl_module.named_modules()
        if isinstance(part, nn.Linear | nn.modules.conv._ConvNd) and part.weight.requires_grad and len(part.weight) > 1
    ]


def _constant(rows: Tensor) -> bool:
    """Whether all weights are one number; zeros are how many a good network starts."""
    low, high = map(float, rows.aminmax())
    return high - low <= 1e-6 * abs(high) and high != 0 and rows.numel() > 4
