"""What can be wrong with how the network is fitted: step sizes, capacity, regularisation."""

import math
import statistics

from callbacks.doctor.diagnosis import Diagnosis, Evidence, Thresholds
from callbacks.doctor.history import Evaluation, History
from callbacks.doctor.remedies import Keys, nice

BROKEN = ("inputs_not_normalised", "softmax_before_cross_entropy", "data_in_label_order", "bad_initialisation")
# after any of these a network may stand still
STILL = (
    *BROKEN,
    "nan_or_inf",
    "exploding_gradients",
    "learning_rate_too_high",
    "dead_relus",
    "saturation",
    "vanishing_gradients",
    "parameters_never_move",
    "over_regularised",
)


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
            columns = bad.get("columns") or []
            where = f"; inputs that are not finite, in columns {', '.join(map(str, columns))}" if columns else ""
            return Evidence(f"{bad['text']}{where}", bad["step"], {"inputs": float(bool(bad.get("inputs")))})
        last = history.losses[-3:]
        if len(last) == 3 and not any(math.isfinite(loss) for _, loss in last):
            return Evidence(f"loss {last[0][1]} in steps {last[0][0]} to {last[-1][0]}", last[0][0], {"inputs": 0.0})
        return None

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        if evidence.numbers.get("inputs"):
            return keys.switch(r"clean|impute|drop_na|fill_na|dropna", True, ("data",)) + keys.set(
                "on_nonfinite", "skip"
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
        if found := self._outliers(history, norms):
            return found
        first = norms[0][1]
        chance = history.chance if history.call and history.call.classes else None
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
        return scale + keys.start_values() + keys.clip(max(2 * median, 0.1)) + _lower(history, keys)


class LearningRateTooHigh(Diagnosis):
    """Steps that are too large to go downhill."""

    name = "learning_rate_too_high"
    title = "the learning rate is too high"
    needs = ("samples",)
    advice = "lower the learning rate"
    hopeless = True
    causes = (*BROKEN, "exploding_gradients", "over_regularised")

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        if not history.samples:
            return None
        if history.bad and not history.bad.get("inputs"):
            return self._ended(history, limits)
        start, now = history.start, history.recent(8)
        level = history.level
        # where weight decay is all that moves the weights, it is not the rate that is too high
        updates = [s.update if s.update is not None and s.decay < 0.5 else None for s in history.samples]
        early = [ratio for ratio in updates[:6] if ratio is not None]
        late = [ratio for ratio in updates[-3:] if ratio is not None]
        high = max(statistics.median(early[:3]) if early else 0.0, statistics.median(late) if late else 0.0)
        numbers = {"update": high, "rate": history.rate or 0.0, "loss": now, "start": start}
        shown = f"a step changes the weights by {high:.2g} times their size (usual: 0.001 to 0.03)"
        large = max(early + late, default=0.0) > 2 * limits.update_high and history.stuck
        if large and (layer := _broken_on_the_way(history, limits)):
            return Evidence(f"units of {layer} that were well at the start are dead or saturated; {shown}", 1, numbers)
        if history.step < 12 or len(history.losses) < 12:
            return None
        # over its start, and still there
        if now > 1.2 * start and high > limits.update_high / 10:
            worst = _highest(history)
            if worst[1] > 1.5 * start:
                return Evidence(
                    f"loss {now:.3g} at step {history.step}, {start:.3g} at the start; {shown}", worst[0], numbers
                )
        poor = now > 0.85 * start or (history.step > 60 and level is not None and level > 0.6)
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
        if level is None or level < 0.25 or not history.after(0.2, 60) or len(losses) < 60 or update < 0.02:
            return False
        if update > limits.update_high and level > 0.35:
            return True
        third = len(losses) // 3
        before, after = statistics.fmean(losses[third : 2 * third]), statistics.fmean(losses[-third:])
        return update > 0.04 and after > 0.9 * before

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        return _lower(history, keys) + keys.clip()


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
    hopeless = False
    causes = STILL

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        if not history.after(0.12, 30) or history.warming or history.cooling or len(history.samples) < 4:
            return None
        update = history.update(last=4)
        if update is None or update > limits.update_low:
            return None
        if history.norms and statistics.median(norm for _, norm in history.norms[-10:]) < 1e-7:
            return None  # without gradients no rate helps
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


class NotLearning(Diagnosis):
    """No better than the best constant prediction, and none of the reasons that the doctor knows."""

    name = "not_learning"
    title = "the network learns nothing"
    needs = ("calls",)
    advice = (
        "see whether inputs and labels belong together, and whether a single batch can be learnt: "
        "python scripts/doctor.py --config FILE"
    )
    hopeless = True
    causes = (*STILL, "learning_rate_too_low", "class_imbalance", "underfitting")

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        first = history.first
        if first is not None and first.constant and history.batch_size >= 4 and history.step >= 5:
            return Evidence(
                f"the {history.batch_size} samples of a batch are equal, {first.low:.3g} to "
                f"{first.high:.3g} at {first.layer}",
                1,
            )
        # a small network has no way to learn; where nearly all is of one class, to say so is what comes first
        share = 0.6 if history.lopsided else 0.22
        if history.small:
            return None
        chance = history.chance
        if chance is None or chance <= 0 or not history.after(share, 60) or history.warming or len(history.calls) < 15:
            return None
        values = [call.value for _, call in history.calls if math.isfinite(call.value)]
        if len(values) < 15:
            return None
        width = max(8, min(len(values) // 4, 40))
        best = min(statistics.fmean(values[i : i + width]) for i in range(0, len(values) - width + 1, 4))
        if best <= limits.chance * chance:
            return None
        third = len(values) // 3
        falls = statistics.fmean(values[-third:]) < statistics.fmean(values[-2 * third : -third]) - 0.002 * chance
        if best < 0.99 * chance and falls and not history.after(0.5, 100):  # slowly, it does learn
            return None
        return Evidence(
            f"the loss was never below {best:.4g} in {history.step} steps, and the best constant "
            f"prediction has {chance:.4g}",
            1,
            {"best": best, "chance": chance},
        )


class Underfitting(Diagnosis):
    """Training and validation are equally poor, and stay so while the learning rate is still high."""

    name = "underfitting"
    title = "the network underfits"
    needs = ("classes", "evaluations")
    advice = "use a larger network, train longer, or regularise less"
    causes = (*STILL, "learning_rate_too_low", "not_learning", "train_eval_mismatch")

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        found = history.evaluations
        if len(found) < 6 or not history.after(0.35, 80) or history.warming:
            return None
        if found[-1].lr < 0.2 * max(evaluation.lr for evaluation in found):
            return None
        last = found[-3:]
        skills = [history.skill(evaluation.train_accuracy) for evaluation in last]
        val = [history.skill(evaluation.val_accuracy) for evaluation in last]
        if any(skill is None or skill > limits.skill for skill in skills):
            return None
        if any(s is None or s > limits.skill + 0.1 for s in val):  # dropout makes training look poor
            return None
        third = max(2, len(found) // 3)
        before = statistics.fmean(e.train_loss for e in found[-2 * third : -third])
        after = statistics.fmean(e.train_loss for e in found[-third:])
        # at this pace, the loss at the end
        left = max(0.0, history.total - history.step) / max(history.step / len(found), 1)
        ahead = after - (before - after) / third * min(left, 3.0 * len(found))
        if after < 0.55 * history.scale or ahead < 0.5 * history.scale:
            return None
        end = found[-1]
        return Evidence(
            f"training loss {end.train_loss:.3g} (accuracy {end.train_accuracy:.0%}), validation loss "
            f"{_shown(end.val_loss)} ({end.val_accuracy:.0%}) at step {end.step}, and the training loss "
            "has gone down by only "
            f"{max(0.0, 1 - after / before):.0%} over {third} epochs",
            found[-2 * third].step,
            {"train_accuracy": end.train_accuracy or 0.0, "val_accuracy": end.val_accuracy or 0.0},
        )

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        wider = keys.number(
            r"^(width|hidden\w*|channels|dim|d_model|embed_dim|n_embd|units|features)$",
            lambda v: max(int(v) * 4, 32),
            ("model",),
        )
        deeper = keys.number(
            r"^(depth|num_layers|n_layers|layers|n_layer|num_blocks)$",
            lambda v: int(v) + 1 if v < 4 else None,
            ("model",),
        )
        drop = keys.number(r"drop", lambda v: 0.0 if v > 0.2 else None, ("model",))
        return wider + drop + deeper + keys.number(r"^max_epochs$", lambda v: int(v) * 3, ("trainer",))


class Overfitting(Diagnosis):
    """The validation loss rises while the training loss falls."""

    name = "overfitting"
    title = "the network overfits"
    needs = ("evaluations",)
    advice = "take more data or augment them, a smaller network, or stop at the best epoch, whose checkpoint is kept"
    causes = (
        "train_val_mismatch",
        "train_eval_mismatch",
        "data_in_label_order",
        "learning_rate_too_high",
        "class_imbalance",
        "nan_or_inf",
    )

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        found = [e for e in history.evaluations if e.val_loss is not None and math.isfinite(e.val_loss)]
        if len(found) < 6:
            return None
        if worse := _less_right(found):
            return worse
        best = min(range(len(found)), key=lambda i: found[i].val_loss or 0.0)
        if len(found) - 1 - best < 3:
            return None
        low = found[best]
        lately = [e.val_loss or 0.0 for e in found[-3:]]
        now = statistics.median(lately)
        # of a loss next to zero a tenth is noise
        if (
            min(lately) < limits.overfitting * (low.val_loss or 0.0)
            or now - (low.val_loss or 0.0) < 0.1 * history.scale
        ):
            return None
        # one that is right nearly always, and only ever surer of its few mistakes, is well
        skill = history.skill(statistics.median([e.val_accuracy or 0.0 for e in found[-3:]]))
        well = skill is not None and (skill > 0.75 or (found[-1].val_accuracy or 0.0) > 0.95)
        if found[-1].val_accuracy is not None and well:
            best_accuracy = max(e.val_accuracy or 0.0 for e in found)
            if best_accuracy - (found[-1].val_accuracy or 0.0) < 0.05:
                return None
        same = [e.same_eval for e in found[-3:] if e.same_eval is not None]
        if same and statistics.fmean(same) > 0.6 * now:  # the training samples look as bad: statistics, or the rate
            return None
        train = statistics.fmean(e.train_loss for e in found[-3:])
        if train > 0.85 * low.train_loss or train > 0.6 * now:
            return None
        end = found[-1]
        return Evidence(
            f"validation loss {end.val_loss:.3g} at step {end.step}, {low.val_loss:.3g} at its best in "
            f"epoch {low.epoch}; "
            f"training loss {low.train_loss:.3g} then, {end.train_loss:.3g} now",
            low.step,
            {"best": low.val_loss or 0.0, "now": now, "best_epoch": low.epoch},
        )

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        drop = keys.number(r"drop", lambda v: 0.3 if v < 0.3 else min(v + 0.2, 0.6), ("model",))
        decay = keys.number(
            r"^weight_decay$", lambda v: nice(v * 10) if v else (0.1 if keys.adaptive else 1e-3), ("optimizer",)
        )
        smooth = keys.number(r"label_smoothing", lambda v: 0.1 if v < 0.1 else None, ("model",))
        augment: list[str] = []
        for key, value in (("shift", 0.0625), ("rotate", 10), ("scale", 0.1)):
            if keys.config.get(f"data.augment.{key}") == 0:
                augment += keys.set(f"data.augment.{key}", value)
        narrow = keys.number(
            r"^(width|hidden\w*|dim|d_model|n_embd)$", lambda v: max(8, int(v) // 4) if v > 32 else None, ("model",)
        )
        return drop + augment + decay + smooth + narrow


def _less_right(found: list[Evaluation]) -> Evidence | None:
    """Fewer and fewer validation samples are right, while the training loss falls: noise is learnt by heart."""
    rights = [e.val_accuracy for e in found]
    if any(right is None for right in rights):
        return None
    means = [statistics.fmean(r or 0.0 for r in rights[i : i + 3]) for i in range(len(rights) - 2)]
    best = max(range(len(means)), key=lambda i: means[i])
    count = sum(found[-1].val_classes) or 1000.0
    noise = 3 * math.sqrt(means[best] * (1 - means[best]) / count)
    now, then = found[-1], found[best]
    if (
        len(means) - 1 - best < 3
        or means[best] - means[-1] < max(0.05, noise)
        or now.train_loss > 0.85 * then.train_loss
    ):
        return None
    return Evidence(
        f"validation accuracy {now.val_accuracy:.0%} at step {now.step}, {means[best]:.0%} at its best in epoch "
        f"{found[best + 1].epoch}; training loss {then.train_loss:.3g} then, {now.train_loss:.3g} now",
        then.step,
        {"best": means[best], "now": means[-1], "best_epoch": found[best + 1].epoch},
    )


class OverRegularised(Diagnosis):
    """Weight decay, dropout or a penalty that leaves the loss no say."""

    name = "over_regularised"
    title = "the regularisation is too strong"
    needs = ("calls", "samples")
    advice = "weaken the penalty, the weight decay or the dropout"
    causes = (*BROKEN, "nan_or_inf", "learning_rate_too_high", "exploding_gradients")

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        if found := self._decays(history, limits):
            return found
        if not history.after(0.1, 30) or history.warming:
            return None
        return self._shrinks(history, limits) or self._penalty(history) or self._dropout(history, limits)

    @staticmethod
    def _decays(history: History, limits: Thresholds) -> Evidence | None:
        """Steps that do nothing but shrink the weights."""
        last = history.samples[-3:]
        level, ratio = history.level, history.update(last=3)
        if len(last) < 3 or level is None or ratio is None or history.step < 12:
            return None
        if min(sample.decay for sample in last) < 0.5 or ratio < 0.005 or level < 0.8:
            return None
        return Evidence(
            f"weight decay shrinks the weights by {ratio:.1%} in each step, up to step {last[-1].step}, "
            "and that is most of what "
            f"a step does; the loss is {level:.0%} of that of the best constant prediction",
            last[0].step,
            {"shrunk": ratio, "kind": 0.0},
        )

    @staticmethod
    def _shrinks(history: History, limits: Thresholds) -> Evidence | None:
        seen = [sample for sample in history.samples if sample.weights]
        level = history.level
        if len(seen) < 4 or level is None:
            return None
        first, last = (math.sqrt(sum(norm**2 for norm in sample.weights.values())) for sample in (seen[0], seen[-1]))
        ratio = last / first if first > 0 else 1.0
        # normalised layers work as well with small weights
        if ratio > limits.shrunk or level < (0.9 if ratio > 0.1 else 0.6):
            return None
        return Evidence(
            f"the weights have shrunk to {ratio:.2g} of their norm by step {seen[-1].step}, and the loss is "
            f"{level:.0%} of that of the best constant prediction",
            seen[0].step,
            {"shrunk": ratio, "kind": 0.0},
        )

    @staticmethod
    def _penalty(history: History) -> Evidence | None:
        level = history.level
        totals = dict(history.losses[-100:])
        pairs = [(step, totals[step], call.value) for step, call in history.calls[-5:] if step in totals]
        if len(pairs) < 3 or level is None or level < 0.6 or not history.call or history.call.name == "mse_loss":
            return None
        # a loss that is multiplied by something is no penalty: then what is left over is in proportion
        rest = [total - value for _, total, value in pairs]
        if min(rest) < max(value for *_, value in pairs) or _in_proportion(pairs):
            return None
        step, total, value = pairs[-1]
        return Evidence(
            f"of a training loss of {total:.3g} at step {step} {history.call.name} is only {value:.3g}, "
            f"{level:.0%} of that of the best constant prediction: the rest is a penalty",
            1,
            {"penalty": total - value, "kind": 1.0},
        )

    @staticmethod
    def _dropout(history: History, limits: Thresholds) -> Evidence | None:
        last = history.evaluations[-2:]
        chance, level = history.chance, history.level
        if level is not None and level > 0.8 and history.dropout[1] >= 0.7 and history.after(0.15, 40):
            return Evidence(
                f"{history.dropout[0]} drops {history.dropout[1]:.0%}, and the training loss is "
                f"{level:.0%} of that of the best "
                f"constant prediction at step {history.step}",
                1,
                {"dropout": history.dropout[1], "kind": 2.0},
            )
        if len(last) < 2 or not chance:
            return None
        for found in last:
            if found.same_train is None or found.same_eval is None or found.train_loss < 0.5 * chance:
                return None
            if found.same_train - found.same_eval < limits.mode_gap * chance:
                return None
        found = last[-1]
        return Evidence(
            f"the last training batch has a loss of {found.same_train:.3g} in training mode and of "
            f"{found.same_eval:.3g} in "
            f"evaluation mode, at step {found.step}",
            last[0].step,
            {"train": found.same_train or 0.0, "eval": found.same_eval or 0.0, "kind": 2.0},
        )

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        kind = evidence.numbers.get("kind")
        decay = keys.number(
            r"^weight_decay$",
            lambda v: 0.01 if v > 0.01 and keys.adaptive else 1e-4 if v > 1e-4 else None,
            ("optimizer", "model"),
        )
        penalty = keys.number(r"penalty|(^|_)l[12](_|$)|lambda|reg", lambda v: 0.0 if v > 0 else None, ("model",))
        drop = keys.number(r"drop", lambda v: 0.1 if v > 0.3 else None, ("model",))
        found = [decay + penalty, penalty + decay, drop + decay + penalty]
        return found[int(kind)] if kind is not None else decay + penalty + drop


def _in_proportion(pairs: list[tuple[int, float, float]]) -> bool:
    ratios = [total / value for _, total, value in pairs if value > 0]
    return bool(ratios) and max(ratios) < 1.001 * min(ratios)


def _shown(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"


def _usual(history: History, keys: Keys, otherwise: float) -> float:
    """The learning rate with the usual size of a step, from the first steps, before anything went wrong."""
    found = next(((s.lr, s.update) for s in history.samples if s.lr > 0 and s.update), None)
    usual = keys.usual_rate(found[1] / found[0]) if found else math.nan
    return usual if math.isfinite(usual) and usual > 0 else otherwise


def _lower(history: History, keys: Keys) -> list[str]:
    rate = keys.rate()
    return keys.set_rate(_usual(history, keys, rate[1] / 10), lower=True) if rate else []
