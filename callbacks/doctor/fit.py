"""What can be wrong with what is learnt: nothing, too little, too much; and with regularisation."""

import math
import statistics
from itertools import pairwise

from callbacks.doctor.diagnosis import BROKEN, STILL, Diagnosis, Evidence, Thresholds
from callbacks.doctor.history import Evaluation, History
from callbacks.doctor.remedies import Keys, nice


class NotLearning(Diagnosis):
    """No better than the best constant prediction, and none of the reasons that the doctor knows."""

    name = "not_learning"
    title = "the network learns nothing"
    needs = ("calls",)
    advice = "can one batch be learnt? python scripts/doctor.py --config {config}; if so, do labels and samples match?"
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
        parts = [values[i : i + third] for i in range(len(values) % third, len(values), third)]
        begin, middle, end = map(statistics.fmean, parts)
        falls = end < middle - 0.002 * chance
        surely = begin > middle > end and chance - end > 2.5 * statistics.stdev(parts[-1]) / math.sqrt(third)
        if ((best < 0.99 * chance and falls) or surely) and not history.after(0.5, 100):  # slowly, it does learn
            return None
        text = f"the loss was never below {best:.4g} in {history.step} steps, and the best constant prediction has "
        text += f"{chance:.4g}"
        numbers = {"best": best, "chance": chance}
        mean, std = history.targets
        if std and (abs(mean) > 3 * std or std > 10):
            text += f"; the targets have mean {mean:.3g} and standard deviation {std:.3g}"
            cure = "bring the targets to mean 0 and standard deviation 1, as the inputs"
            return Evidence(text, 1, {**numbers, "target_mean": mean, "target_std": std}, cure)
        rises = end > middle > begin and end > max(2 * chance, 1.5 * begin)
        return Evidence(text + "; it rises all the time" * rises, 1, numbers, "is the sign of the loss right?" * rises)

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        if "target_std" not in evidence.numbers:
            return []
        return keys.switch(r"^(normali[sz]e|standardi[sz]e|scale)_(targets?|labels?|y)$", True)


class Underfitting(Diagnosis):
    """Training and validation are equally poor, and stay so while the learning rate is still high."""

    name = "underfitting"
    title = "the network underfits"
    needs = ("classified", "evaluations")
    advice = "use a larger network, train longer, or regularise less"
    causes = (*STILL, "learning_rate_too_low", "not_learning", "train_eval_mismatch")
    excludes = ("overfitting",)

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
        if after < 0.85 * before:  # it is on its way
            return None
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
            {
                "train_accuracy": end.train_accuracy or 0.0,
                "val_accuracy": end.val_accuracy or 0.0,
                "fall": 1 - after / before,
            },
        )

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        choices = ("ReLU", "GELU", "tanh")
        none = keys.activation("linear|identity|none|null", choices, r"act|nonlin|function")
        bent = none if history.narrowest == 0 else []
        wider = keys.number(
            r"^(width|hidden\w*|channels|dim|d_model|embed_dim|n_embd|units|features)$",
            lambda v: max(int(v) * 4, 32),
            ("model",),
        )
        wider += keys.sizes(r"^(hidden_?)?(sizes|widths|dims|units|channels|layers)$", lambda n: max(4 * n, 64))
        deeper = keys.number(
            r"^(depth|num_layers|n_layers|layers|n_layer|num_blocks)$",
            lambda v: int(v) + 1 if v < 4 else None,
            ("model",),
        )
        drop = keys.number(r"drop", lambda v: 0.0 if v > 0.2 else None, ("model",))
        falls = evidence.numbers.get("fall", 0.0) > 0.03  # where it stands still, more of the same is of no use
        longer = keys.number(r"^max_epochs$", lambda v: int(v) * 3, ("trainer",)) if falls else []
        return bent + wider + drop + deeper + longer


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
    excludes = ("underfitting", "over_regularised")

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        found = [e for e in history.evaluations if e.val_loss is not None and math.isfinite(e.val_loss)]
        if len(found) < 6:
            return None
        if worse := _less_right(found):
            return worse
        best = min(range(len(found)), key=lambda i: found[i].val_loss or 0.0)
        planned = len(found) / history.part if 0 < history.part <= 1 else math.inf
        since = len(found) - 1 - best
        if since < 3 or (since < min(0.3 * planned, 5) and history.part < 0.95):  # it may come down again
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
        if not _rises([e.val_loss or 0.0 for e in found[best:]]):
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


def _rises(values: list[float]) -> bool:
    """Whether a series goes up more than up and down: of the way that its parts go, at least half is net."""
    size = max(1, len(values) // 6)
    parts = [statistics.median(values[i : i + size]) for i in range(len(values) % size, len(values), size)]
    way = sum(abs(b - a) for a, b in pairwise(parts))
    return parts[-1] - parts[0] >= 0.5 * way


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
    least = max(0.05, noise)
    lost = [means[best] - (right or 0.0) for right in rights[-3:]]
    # of two or three epochs, and not of one that was bad
    if len(means) - 1 - best < 3 or statistics.median(lost) < least or lost[-1] < least / 2:
        return None
    if now.train_loss > 0.85 * then.train_loss:
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
    excludes = ("overfitting",)

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        early = [sample.reach for sample in history.samples[:4]]
        if len(early) == 4 and all(reach is not None and reach < limits.vanishing for reach in early):
            return None  # decay is most of a step where no gradient arrives, from the start
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
        if last[-1].size >= history.samples[0].size:  # weights that steps have blown up, at too high a rate
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
        ratio = seen[-1].size / seen[0].size if seen[0].size > 0 else 1.0
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
            lambda v: 0.01 if v > 0.01 and keys.decoupled else 1e-4 if v > 1e-4 else None,
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
