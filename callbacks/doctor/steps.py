"""What can be wrong with the size of the steps: gradients and learning rates."""

import math
import statistics

from callbacks.doctor.diagnosis import BROKEN, STILL, Diagnosis, Evidence, Thresholds
from callbacks.doctor.history import History
from callbacks.doctor.remedies import Keys


class NotFinite(Diagnosis):
    """A loss that is NaN or infinite."""

    name = "nan_or_inf"
    title = "the loss is not finite"
    advice = "look for log(0), sqrt(0) and divisions in the loss"
    hopeless = True
    causes = ("inputs_not_normalised", "learning_rate_too_high", "exploding_gradients", "bad_initialisation")

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        bad = history.bad
        if bad:
            inputs = bool(bad.get("inputs"))
            columns = bad.get("columns") or []
            where = f", column{'s' * (len(columns) > 1)} {', '.join(map(str, columns))}" if columns else ""
            cure = "mend these samples, or leave them out of the data" if inputs else ""
            return Evidence(f"{bad['text']}{where}", bad["step"], {"inputs": float(inputs)}, cure)
        validated = [e for e in history.evaluations[-2:] if e.val_loss is not None and not math.isfinite(e.val_loss)]
        if len(validated) >= (1 if history.ended else 2) and math.isfinite(history.recent(3)):
            epochs = " and ".join(f"epoch {evaluation.epoch}" for evaluation in validated)
            return Evidence(
                f"the validation loss is {validated[0].val_loss} in {epochs}, and the training loss "
                f"{history.recent(3):.3g}",
                validated[0].step,
                {"inputs": 1.0, "validation": 1.0},
                "look for values that are not finite in the validation data; "
                "python scripts/doctor.py --config {config} names the first sample",
            )
        last = history.losses[-3:]
        if len(last) == 3 and not any(math.isfinite(loss) for _, loss in last):
            return Evidence(f"loss {last[0][1]} in steps {last[0][0]} to {last[-1][0]}", last[0][0], {"inputs": 0.0})
        return None

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        if evidence.numbers.get("inputs"):
            return keys.cleaning() + (
                keys.set("on_nonfinite", "skip") if not evidence.numbers.get("validation") else []
            )
        half = ["--trainer.precision bf16-mixed"] if str(keys.config.get("trainer.precision")).startswith("16") else []
        rate, last = keys.rate(), [loss for _, loss in history.losses[-3:] if math.isfinite(loss)]
        if last and max(last) < 2 * history.start and (history.update(last=3) or 0.0) < 0.1:
            return half  # all was well until then: it is the loss itself, and no rate helps
        lower = keys.set_rate(_usual(history, keys, rate[1] / 10), lower=True) if rate else []
        return half + lower + keys.clip()


class ExplodingGradients(Diagnosis):
    """Gradients that are huge from the start, or again and again (Pascanu et al. 2013, arXiv 1211.5063)."""

    name = "exploding_gradients"
    title = "the gradients explode"
    needs = ("norms",)
    advice = "clip the gradients, and look at what is special in those steps"
    hopeless = True
    causes = BROKEN

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        norms = [(step, norm) for step, norm in history.norms if math.isfinite(norm)]
        if len(norms) < (2 if history.bad else 8):
            return None
        if history.clipped and not history.bad and not (history.stuck and history.after(0.1, 60)):
            return None  # these are the norms before it
        if found := self._outliers(history, norms) or self._broke(history, norms, limits):
            return found
        first = norms[0][1]
        chance = history.chance if history.call and history.call.k else None
        if chance and first > limits.first_gradient and (history.step >= 10 or history.bad):
            now = statistics.median(norm for _, norm in norms[-5:])
            # optimizers that divide by the gradient's size do not mind
            if now > limits.first_gradient or history.stuck or history.bad:
                return Evidence(
                    f"norm {first:.3g} in the first step, {now:.3g} at step {norms[-1][0]} (usual: about 1)",
                    1,
                    {"first": first, "median": now},
                )
        usual = statistics.median(norm for _, norm in norms)
        early = statistics.median(norm for _, norm in norms[:20])
        spikes = [(s, n) for s, n in norms if s > 10 and n > limits.exploding * usual and n > 5 * early and n > 1]
        # where batches are tiny the loss of most is next to 0, and a gradient that is large is so with its loss
        losses = dict(history.losses)
        shares = [norm / loss for step, norm in norms if (loss := losses.get(step, 0.0)) > 0]
        steep = 10 * statistics.median(shares) if len(shares) >= 8 else 0.0
        spikes = [(step, norm) for step, norm in spikes if norm > steep * losses.get(step, 0.0)]
        if len(spikes) >= 3 and spikes[-1][0] - spikes[0][0] >= 3:
            step, most = max(spikes, key=lambda found: found[1])
            return Evidence(
                f"norm {most:.3g} at step {step}, median {usual:.3g}; {len(spikes)} such steps from step "
                f"{spikes[0][0]} on",
                spikes[0][0],
                {"norm": most, "median": usual, "spikes": len(spikes)},
            )
        return None

    @staticmethod
    def _broke(history: History, norms: list[tuple[int, float]], limits: Thresholds) -> Evidence | None:
        """One step with huge gradients, from which what was learnt before has not come back."""
        if not history.stuck or len(norms) < 15:
            return None
        step, worst = max(norms[8:-5], key=lambda found: found[1], default=(0, 0.0))
        usual = statistics.median([norm for other, norm in norms if other < step][-20:] or [math.inf])
        losses = [loss for other, loss in history.losses if other < step][-8:]
        if worst <= limits.exploding * usual or not losses:
            return None
        updates = [sample.update for sample in history.samples if sample.step < step and sample.update is not None]
        if updates and statistics.median(updates) > limits.update_high:  # it was the rate that led there
            return None
        before, now = statistics.median(losses), history.recent(8)
        if before > 0.7 * now:
            return None
        return Evidence(
            f"norm {worst:.3g} at step {step}, {usual:.3g} before; the loss was {before:.3g} and is {now:.3g} now",
            step,
            {"norm": worst, "median": usual, "spikes": 1.0},
        )

    @staticmethod
    def _outliers(history: History, norms: list[tuple[int, float]]) -> Evidence | None:
        """Batches with inputs far larger than those of others, and gradients to match."""
        if len(history.largest) < 5:
            return None
        usual = statistics.median(largest for _, largest in history.largest)
        at = dict(norms)
        for step, largest in history.largest:
            if largest <= 30 * usual:
                continue
            before = [norm for other, norm in norms if other < step][-20:] or [norm for _, norm in norms]
            typical = statistics.median(before)
            if at.get(step, 0.0) > 10 * typical:
                return Evidence(
                    f"norm {at[step]:.3g} at step {step}, {typical:.3g} before; its inputs go up to "
                    f"{largest:.3g}, those of "
                    f"other steps to {usual:.3g}",
                    step,
                    {"norm": at[step], "median": typical, "spikes": 1.0},
                )
        return None

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        median = evidence.numbers.get("median", 1.0) if "spikes" in evidence.numbers else 1.0
        scale = keys.number(r"loss_(scale|weight|factor)|^loss_mult", lambda v: 1.0 if v > 10 else None, ("model",))
        return scale + keys.start_values(history.fan_in) + keys.clip(max(2 * median, 0.1)) + lower_rate(history, keys)


class LearningRateTooHigh(Diagnosis):
    """Steps that are too large to go downhill."""

    name = "learning_rate_too_high"
    title = "the learning rate is too high"
    needs = ("samples",)
    advice = "lower the learning rate"
    beside_keys = False
    hopeless = True
    causes = (*BROKEN, "exploding_gradients", "over_regularised")

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        if not history.samples:
            return None
        if history.bad and not history.bad.get("inputs"):
            return self._ended(history, limits)
        steps = 40 if history.jumps else 12
        start, now = history.start, history.recent(40 if history.jumps else 8)
        level = history.level
        # where weights shrink by nothing but weight decay, it is not the rate that is too high
        size = history.samples[0].size
        updates = [None if s.decay >= 0.5 and s.size <= size else s.update for s in history.samples]
        early = [ratio for ratio in updates[:6] if ratio is not None]
        late = [ratio for ratio in updates[-3:] if ratio is not None]
        high = max(statistics.median(early[:3]) if early else 0.0, statistics.median(late) if late else 0.0)
        numbers = {"update": high, "rate": history.rate or 0.0, "loss": now, "start": start}
        shown = f"a step changes the weights by {high:.2g} times their size (usual: 0.001 to 0.03)"
        large = max(early + late, default=0.0) > 2 * limits.update_high and history.stuck
        if large and (layer := _broken_on_the_way(history, limits)):
            return Evidence(f"units of {layer} that were well at the start are dead or saturated; {shown}", 1, numbers)
        if history.step < steps or len(history.losses) < steps:
            return None
        # over its start, and still there
        usual = max(start, history.chance or 0.0) if history.jumps else start
        if now > 1.2 * usual and high > limits.update_high / 10:
            worst = _highest(history)
            if worst[1] > 1.5 * usual:
                return Evidence(
                    f"loss {now:.3g} at step {history.step}, {start:.3g} at the start; {shown}", worst[0], numbers
                )
        poor = now > 0.85 * start or history.stuck or (history.step > 60 and level is not None and level > 0.6)
        if high > limits.update_high and history.after(0.04, 25) and level is not None and poor:
            return Evidence(
                f"loss {now:.3g} at step {history.step}, {level:.0%} of that of the best constant prediction; {shown}",
                history.samples[0].step,
                numbers,
            )
        # so large for so long that nothing can settle
        if len(late) == 3 and min(late) > 2 * limits.update_high and history.after(0.06, 30) and (level or 1) > 0.3:
            return Evidence(f"{shown}; loss {now:.3g} at step {history.step}", history.samples[-3].step, numbers)
        if late and self._jagged(history, limits, statistics.median(late)):
            return Evidence(
                f"loss {now:.3g} at step {history.step} without progress; {shown}", history.samples[-3].step, numbers
            )
        return None

    @staticmethod
    def _ended(history: History, limits: Thresholds) -> Evidence | None:
        """A loss that became infinite or NaN, after steps that were too large."""
        losses = [loss for _, loss in history.losses if math.isfinite(loss)]
        updates = [sample.update for sample in history.samples if sample.update and math.isfinite(sample.update)]
        if not losses or not updates:
            return None
        if max(updates) < limits.update_high or (len(losses) > 3 and max(losses[-3:]) < history.start):
            return None
        return Evidence(
            f"loss {losses[0]:.3g} at the start and {losses[-1]:.3g} before it was "
            f"{history.bad['text'].split()[0]} in step "
            f"{history.bad['step']}; a step changes the weights by up to {max(updates):.2g} times their "
            "size (usual: 0.001 to 0.03)",
            1,
            {"update": max(updates), "rate": history.rate or 0.0},
        )

    @staticmethod
    def _jagged(history: History, limits: Thresholds, update: float) -> bool:
        """Large steps, and a poor loss that goes up and down instead of down."""
        losses = [loss for _, loss in history.losses]
        level = history.level
        if history.peaking:  # a schedule's top is meant to be as high as goes, and for as long as it lasts
            return False
        if level is None or level < 0.25 or not history.after(0.2, 60) or len(losses) < 60 or update < 0.02:
            return False
        if update > limits.update_high and level > 0.35:
            return True
        third = len(losses) // 3
        before, after = statistics.fmean(losses[third : 2 * third]), statistics.fmean(losses[-third:])
        return update > 0.04 and after > 0.9 * before

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        return lower_rate(history, keys) or keys.clip()


def _broken_on_the_way(history: History, limits: Thresholds) -> str | None:
    """A layer whose units were on at the start, and are off or saturated now."""
    first, last = history.samples[0], history.samples[-2:]
    if len(history.samples) < 4:
        return None
    dead = [{name: share for name, (share, _) in sample.dead.items()} for sample in (first, *last)]
    flat = [sample.saturated for sample in (first, *last)]
    for limit, (start, *now) in ((limits.dead_units, dead), (limits.saturated, flat)):
        for layer in now[-1]:
            if start.get(layer, 0.0) < 0.5 * limit and all(shares.get(layer, 0.0) > limit for shares in now):
                return layer
    return None


def _highest(history: History) -> tuple[int, float]:
    """The highest median of five consecutive losses after the first ones, and its step."""
    losses = history.losses[-300:] if history.step > 300 else history.losses[3:]
    best = (0, -math.inf)
    for i in range(0, len(losses) - 4, 2):
        value = sorted(loss for _, loss in losses[i : i + 5])[2]
        if value > best[1]:
            best = (losses[i + 2][0], value)
    return best


class LearningRateTooLow(Diagnosis):
    """Steps so small that nothing happens."""

    name = "learning_rate_too_low"
    title = "the learning rate is too low"
    needs = ("samples",)
    advice = "raise the learning rate"
    beside_keys = False
    causes = STILL
    excludes = ("learning_rate_too_high", "exploding_gradients")

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        if not history.after(0.12, 30) or history.warming or history.cooling or len(history.samples) < 4:
            return None
        update = history.update(last=4)
        if update is None or update > limits.update_low:
            return None
        if history.norms and statistics.median(norm for _, norm in history.norms[-10:]) < 1e-7:
            return None  # without gradients no rate helps
        if (history.update(first=5) or 0.0) > 10 * limits.update_low:  # it was not when there was something to learn
            return None
        start, now = history.start, history.recent()
        floor = 0.0
        progress = (start - now) / (start - floor) if start > floor else 1.0
        done = history.part if math.isfinite(history.total) else 1.0
        # at this pace, the loss at the end
        ahead = progress / max(done, 0.05)
        if not history.stuck and (progress > 0.3 or ahead > 0.6):
            return None
        if history.stuck and progress > 0.5:  # the first loss was far off
            return None
        if now <= 0:
            return None
        rate = f"{history.rate:.1e}, " if history.rate is not None else ""
        return Evidence(
            f"{rate}a step changes the weights by {update:.1e} times their size (usual: 0.001 to 0.03), "
            "and the loss has gone "
            f"from {start:.4g} to {now:.4g} in {history.step} steps",
            1,
            {"update": update, "rate": history.rate or 0.0},
        )

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        rate = keys.rate()
        return keys.set_rate(_usual(history, keys, rate[1] * 30), lower=False) if rate else []


def _usual(history: History, keys: Keys, otherwise: float) -> float:
    """The learning rate with the usual size of a step, from the first steps, before anything went wrong."""
    found = next(((s.lr, s.update) for s in history.samples if s.lr > 0 and s.update), None)
    usual = keys.usual_rate(found[1] / found[0]) if found else math.nan
    return usual if math.isfinite(usual) and usual > 0 else otherwise


def lower_rate(history: History, keys: Keys) -> list[str]:
    """A learning rate whose first step has the usual size, at most a third of what it is."""
    rate = keys.rate()
    return keys.set_rate(_usual(history, keys, rate[1] / 10), lower=True) if rate else []
