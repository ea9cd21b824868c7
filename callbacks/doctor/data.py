"""What can be wrong with the data."""

import functools
import math
import statistics

import numpy as np

from callbacks.doctor.diagnosis import Diagnosis, Evidence, Thresholds
from callbacks.doctor.history import Evaluation, History, entropy
from callbacks.doctor.remedies import Keys, spare_cores


class InputsNotNormalised(Diagnosis):
    """Inputs far from a standard deviation of 1 and a mean of 0 (LeCun et al. 1998, Efficient BackProp, section 4.3).

    What counts is what the first layer gets, so that a module that normalises its inputs itself is left alone, and one
    that begins with a normalisation layer, too.
    """

    name = "inputs_not_normalised"
    title = "the inputs are not normalised"
    needs = ("first",)
    advice = "normalise the inputs in the datamodule, or begin the network with a normalisation layer"

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        first = history.first
        if first is None or first.kind != "values" or history.step < 3:
            return None
        std, mean = max(first.std, first.column_std), first.mean
        numbers = {"mean": mean, "std": first.std, "column_std": first.column_std}
        where = f"at {first.layer} in step 1" if first.layer else "in step 1"
        shown = f"mean {mean:.3g}, standard deviation {first.std:.3g}, from {first.low:.3g} to {first.high:.3g} {where}"
        if std > limits.input_std:
            if first.std <= limits.input_std:
                shown += f"; a column has a standard deviation of {first.column_std:.3g}"
            return Evidence(shown, 1, numbers)
        if abs(mean) > limits.input_offset * first.std and abs(mean) > 1:
            return Evidence(shown, 1, numbers)
        if max(abs(first.low), abs(first.high)) < 0.01 and first.std > 0:
            return Evidence(shown, 1, numbers)
        return None

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        data = keys.switch(
            r"^(normali[sz]e|standardi[sz]e|whiten|rescale)d?(_(inputs?|images?|features?|data|x))?$", True
        )
        scale = keys.number(
            r"^(scale|multiplier|factor|gain|input_scale|std)$", lambda v: 1.0 if v > 5 or v < 0.1 else None, ("data",)
        )
        shift = keys.number(r"^(shift|offset|mean|input_offset)$", lambda v: 0.0 if abs(v) > 1 else None, ("data",))
        named = keys.choice(
            r"^(scale|scaling|scaler|normali[sz]e|normali[sz]ation|standardi[sz]e|preprocess\w*)$",
            r"^(none|null|no|raw|identity)$",
            ("standard", "standardize", "zscore", "z-score"),
            ("data",),
        )
        return data + scale + shift + named + keys.norms()


class LabelOrder(Diagnosis):
    """Batches hold far fewer classes than batches drawn at random would."""

    name = "data_in_label_order"
    title = "the training data come in the order of their labels"
    needs = ("classified", "exclusive")
    advice = "shuffle the training data: shuffle=True in the DataLoader of train_dataloader"

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        # the first batches say it; later ones are looked at only where these are too few
        seen = history.calls[:40]
        if len(history.calls) > 60:  # it has been said
            return None
        batches = [(step, call.classes) for step, call in seen if sum(call.classes) == call.count >= 4]
        if len(batches) < 5 or len({len(classes) for _, classes in batches}) > 1:
            return None
        totals = [sum(column) for column in zip(*(classes for _, classes in batches), strict=True)]
        if sum(n > 0 for n in totals) < 2:
            return None
        found = statistics.fmean(entropy(classes) for _, classes in batches)
        size = round(statistics.median(sum(classes) for _, classes in batches))
        expected = expected_entropy(tuple(totals), size)
        # one rare sample among batches of one class: too little to go by
        if expected < 0.1 or found >= limits.label_entropy * expected:
            return None
        mixed = entropy(totals)
        return Evidence(
            f"a batch of {size} has {math.exp(found):.1f} classes in effect (entropy {found:.2f}), and drawn at "
            f"random from these batches {math.exp(expected):.1f} ({expected:.2f}); "
            f"steps {batches[0][0]} to {batches[-1][0]}",
            batches[0][0],
            {"entropy": found, "expected": expected, "all": mixed},
        )

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        # names that mean the order of samples and nothing else: `shuffle_labels` would make the data useless
        on = keys.switch(r"^(re)?shuffle(d|_train|_training|_data|_samples)?$|^train(ing)?_shuffle$", True, ("data",))
        by = r"(_?by_(label|class|target))"
        return on + keys.switch(rf"^(sort|order)(ed)?{by}?$|^(grouped)?{by}$|^in_order$", False, ("data",))


@functools.lru_cache(maxsize=64)
def expected_entropy(counts: tuple[float, ...], size: int) -> float:
    """The mean entropy, in nats, of the labels of batches of a size that are drawn at random."""
    shares = np.asarray(counts, dtype=float) / sum(counts)
    drawn = np.random.default_rng(0).multinomial(min(size, 10_000), shares, size=64) / min(size, 10_000)
    return float(-(drawn * np.log(np.where(drawn > 0, drawn, 1))).sum(1).mean())


class ClassImbalance(Diagnosis):
    """Rare classes are not learnt, while the frequent ones are."""

    name = "class_imbalance"
    title = "rare classes are not recognised"
    needs = ("classified", "exclusive", "evaluations")
    advice = "weight the classes in the loss, or draw rare ones more often"
    causes = (
        "data_in_label_order",
        "train_val_mismatch",
        "train_eval_mismatch",
        "learning_rate_too_high",
        "learning_rate_too_low",
        "nan_or_inf",
        "bad_initialisation",
        "inputs_not_normalised",
        "softmax_before_cross_entropy",
        "over_regularised",
    )

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        counts = history.classes
        last = history.evaluations[-3:]
        if len(last) < 3 or not history.after(0.25, 60) or len(counts) < 2 or history.call is None:
            return None
        if history.call.count > history.batch_size > 0:  # tokens or pixels: that some of them are rare is their nature
            return None
        most, rare = max(counts), _rare(counts, limits)
        if not rare or any(len(found.val_classes) != len(counts) for found in last):
            return None
        frequent = [k for k in range(len(counts)) if k not in rare]
        known = sum(last[-1].val_classes[k] for k in rare)
        if known < 4:
            return None
        recalls = [_recall(found, rare) for found in last]
        others = [_recall(found, frequent) for found in last]
        earlier = history.evaluations[-6:]
        rising = recalls[-1] > _recall(earlier[0], rare) + 0.05
        if max(recalls) >= limits.rare_recall or min(others) < 0.7 or (rising and not history.after(0.9, 60)):
            return None
        # rare classes are learnt last
        nothing = len(earlier) >= 5 and not any(_recall(found, rare) for found in earlier) and min(others) > 0.9
        if not history.after(0.5, 80) and not (nothing and history.after(0.35, 60)):
            return None
        shown = ", ".join(map(str, rare[:5])) + (", …" if len(rare) > 5 else "")
        times = most / max(min(counts[k] for k in rare), 1)
        classes = f"class {shown} is" if len(rare) == 1 else f"classes {shown} are"
        return Evidence(
            f"{classes} recognised in {recalls[-1]:.0%} of validation samples, the others in {others[-1]:.0%}, at step "
            f"{last[-1].step}; the most frequent one has {times:.0f} times as many samples",
            1,
            {"recall": recalls[-1], "others": others[-1], "imbalance": times},
        )

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        on = keys.switch(r"balance|class_weight|weighted|oversample|resample", True)
        named = keys.choice(r"class_weight|sampl|balanc", r"^(none|null|no|uniform|random)$", ("balanced", "weighted"))
        counts = history.classes.tolist()
        return on + named + (keys.class_weights(counts) if min(counts, default=0) > 0 and len(counts) <= 50 else [])


def _rare(counts: np.ndarray, limits: Thresholds) -> list[int]:
    """The classes with far fewer samples than the most frequent one."""
    return [k for k, n in enumerate(counts) if n * limits.imbalance < counts.max()]


def _frequent_are_known(history: History, found: Evaluation, limits: Thresholds) -> bool:
    """Whether it is only the rare classes, of which validation may have more, that are not recognised."""
    rare = _rare(history.classes, limits)
    if not rare or len(found.val_classes) != len(history.classes):
        return False
    frequent = [k for k in range(len(history.classes)) if k not in rare]
    return _recall(found, frequent) > 0.6


def _recall(found: Evaluation, classes: list[int]) -> float:
    return sum(found.val_rights[k] for k in classes) / max(sum(found.val_classes[k] for k in classes), 1e-9)


class DataLoading(Diagnosis):
    """The training waits for its data."""

    name = "data_loading"
    title = "loading the data is the bottleneck"
    needs = ("losses",)
    advice = "load in other processes, keep decoded samples, or make a sample cheaper"

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        waits = history.waits[-60:]
        if len(waits) < 20:
            return None
        waited, whole = (sum(column) for column in zip(*waits, strict=True))
        if history.workers:  # the wait comes in lumps, and their mean counts; one hiccup of the machine does not
            each = (waited - max(wait for wait, _ in waits)) / (len(waits) - 1)
        else:  # every batch takes as long, and what is longer is the machine's doing
            each = statistics.median(wait for wait, _ in waits)
            whole = statistics.median(step for _, step in waits) * len(waits)
        share = each * len(waits) / whole
        per_sample = each / history.batch_size if history.batch_size else 0.0
        # what a DataLoader takes to put a batch together from memory is no bottleneck that a key could mend
        if share < limits.waiting or each < 0.003 or (per_sample < 3e-5 and each < 0.008):
            return None
        return Evidence(
            f"{share:.0%} of the time of the last {len(waits)} steps, {1000 * each:.1f} ms of "
            f"{1000 * whole / len(waits):.1f} ms a step",
            history.step - len(waits),
            {"share": share, "wait_ms": 1000 * each, "step_ms": 1000 * whole / len(waits)},
        )

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        workers = keys.number(r"^num_workers$|^workers$", lambda v: spare_cores() if v < spare_cores() else v + 2)
        return workers + keys.switch(r"persistent_workers|cache|in_memory|pin_memory", True)


class TrainValMismatch(Diagnosis):
    """The validation data are of another kind than the training data: other inputs, or other labels."""

    name = "train_val_mismatch"
    title = "training and validation data do not match"
    needs = ("classified", "evaluations")
    advice = (
        "compare a validation batch with a training batch: inputs, normalisation and labels; "
        "inputs/stored in TensorBoard shows them"
    )
    causes = ("train_eval_mismatch", "data_in_label_order")

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        last = history.evaluations[-3:]
        if len(last) < 3 or not history.after(0.1, 40):
            return None
        chance = history.chance
        for found in last:
            train, val = history.skill(found.train_accuracy), history.skill(found.val_accuracy)
            if train is None or val is None:
                return None
            if train < 0.6 or val > 0.2 or (found.val_loss or 0.0) < 0.9 * history.scale:
                return None
            if _frequent_are_known(history, found, limits):
                return None
            # while running statistics lag behind, the training data look as bad in evaluation mode
            same = history.skill(found.same_eval_accuracy)
            if same is not None and same < 0.5 * train:
                return None
        found = last[-1]
        return Evidence(
            f"accuracy {found.train_accuracy:.0%} in training and {found.val_accuracy:.0%} in validation at step "
            f"{found.step}, where always naming the most frequent class gives {history.majority:.0%}"
            + (f"; validation loss {found.val_loss:.3g}, chance {chance:.3g}" if chance and found.val_loss else ""),
            last[0].step,
            {"train_accuracy": found.train_accuracy or 0.0, "val_accuracy": found.val_accuracy or 0.0},
        )
