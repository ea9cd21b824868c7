"""What can be wrong with the network and the way from its output to the loss."""

import statistics

from callbacks.doctor.diagnosis import Diagnosis, Evidence, Thresholds
from callbacks.doctor.history import History
from callbacks.doctor.remedies import Keys
from callbacks.doctor.steps import lower_rate

DEEP = 7  # layers with weights
SQUASHING = "tanh|sigmoid|hardtanh|softsign|hardsigmoid"


class SoftmaxBeforeLoss(Diagnosis):
    """A loss that takes logits is given probabilities, so that its gradients are squashed twice."""

    name = "softmax_before_cross_entropy"
    title = "the loss takes logits and is given probabilities"
    needs = ("calls",)
    advice = "leave the last softmax (or sigmoid) out of the network: the loss has one inside"

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        early = [(step, call) for step, call in history.calls[:5]]
        if len(early) < 3 or not all(call.probabilities for _, call in early):
            return None
        call = early[0][1]
        what = "rows in [0, 1] that sum to 1" if not call.name.startswith("binary") else "values in [0, 1]"
        takes = "log-probabilities" if call.name == "nll_loss" else "logits"
        return Evidence(f"{call.name} takes {takes} and was given {what} in steps {early[0][0]} to {early[-1][0]}", 1)

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        off = keys.switch(r"softmax|sigmoid|probabilit|normali[sz]e_out|activate_out", False, ("model",))
        return off + keys.choice(
            r"(out\w*|final|last|head)_?(act\w*|nonlin\w*)|softmax",
            r"softmax|sigmoid",
            ("none", "identity", "linear", "Identity"),
            ("model",),
        )


class BadInitialisation(Diagnosis):
    """Weights that make the first outputs far worse than a constant prediction, or units that stay equal.

    The loss of an untrained classifier is about that of the best constant prediction, ln K for K equal classes.
    """

    name = "bad_initialisation"
    title = "the weights start from bad values"
    needs = ("classified",)
    advice = "leave torch's initialisation as it is, or normalise between the layers"
    causes = ("inputs_not_normalised", "softmax_before_cross_entropy")

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        if history.constant and history.step >= 3:
            shown = ", ".join(history.constant[:3]) + (", …" if len(history.constant) > 3 else "")
            return Evidence(f"all weights of {shown} are one number at the start, so that its units learn the same", 1)
        if history.equal and history.step >= 10 and sum(rate > 0 for _, rate in history.rates) > 5:
            shown = ", ".join(history.equal[:3]) + (", …" if len(history.equal) > 3 else "")
            return Evidence(f"all units of {shown} have equal weights, after {history.step} steps still", 1)
        chance = history.chance
        if chance is None or chance <= 0 or not history.calls or not history.call or not history.call.k:
            return self._collapse(history)
        chance = history.scale  # also where some classes are rare
        first, now = history.calls[0][1].value, history.task
        if _outlier_first(history):
            return self._collapse(history)
        times = first / chance
        # a new head that recovers is none
        if times > limits.first_loss and history.step >= 10 and (now > 1.2 * chance or times > 10):
            return Evidence(
                f"loss {first:.3g} at step {history.calls[0][0]}, {times:.0f} times that of the best "
                "constant prediction "
                f"({chance:.3g}); {now:.3g} at step {history.step}",
                1,
                {"first": first, "chance": chance},
            )
        return self._collapse(history)

    @staticmethod
    def _collapse(history: History) -> Evidence | None:
        """Signals that die out on their way through the layers, and stay dead."""
        if not history.samples or history.step < 25 or not history.stuck:
            return None
        names, stds = list(history.samples[0].activations), list(history.samples[0].activations.values())
        if len(stds) < 3 or max(stds[0], stds[1]) <= 0:
            return None
        ratios = [std / max(stds[0], stds[1]) for std in stds]
        # a branch beside a shortcut may start at 0 and be meant so: what comes after it is alive
        dead = next((i for i in range(1, len(stds)) if max(ratios[i:]) < 1e-4), None)
        if dead is None:
            return None
        ratio = min(ratios[dead:])
        layer = names[ratios.index(ratio, dead)]
        return Evidence(
            f"the outputs of {layer} vary {ratio:.0e} times as much as those of the first layer in step 1",
            1,
            {"ratio": ratio},
        )

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        start = keys.start_values(history.fan_in) + keys.set("parameters.init", "he")
        norm = keys.norms()
        return start + norm + keys.clip()


class DeadUnits(Diagnosis):
    """Rectified units that are off for all inputs, and get no gradient that could bring them back.

    Lu et al. 2019, Dying ReLU and Initialization, https://arxiv.org/abs/1903.06733.
    """

    name = "dead_relus"
    title = "rectified units are dead"
    needs = ("rectified",)
    advice = "lower the learning rate, or use LeakyReLU or GELU"
    hopeless = True
    causes = (
        "inputs_not_normalised",
        "learning_rate_too_high",
        "over_regularised",
        "nan_or_inf",
        "bad_initialisation",
        "exploding_gradients",
        "data_in_label_order",
        "not_learning",
    )

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        seen = [sample for sample in history.samples if sample.dead]
        if len(seen) < 2 or history.step < 8:
            return None
        last = seen[-3:]
        layers = {
            layer: found
            for layer, found in last[-1].dead.items()
            if found[1] >= 4 and all(sample.dead.get(layer, (0.0, 0))[0] > limits.dead_units for sample in last)
        }
        if not layers:
            return None
        layer, (share, units) = max(layers.items(), key=lambda item: item[1][0])
        if len(last) < 3 and share < 0.8:
            return None
        # a trained network can do with few units
        if not self._early(seen, layer, limits) and not (share > 0.9 and history.stuck):
            return None
        # and one that learns well with those that are left is not ill
        if share < 0.9 and not (history.after(0.2, 40) and (history.level or 1.0) > 0.5):
            return None
        since = next(sample.step for sample in seen if sample.dead.get(layer, (0.0, 0))[0] > limits.dead_units)
        return Evidence(
            f"{share:.0%} of the {units} units of {layer} are off for all inputs, from step {since} on",
            since,
            {"share": share, "since": since},
        )

    @staticmethod
    def _early(seen, layer: str, limits: Thresholds) -> bool:  # type: ignore[no-untyped-def]
        return any(sample.dead.get(layer, (0.0, 0))[0] > limits.dead_units for sample in seen[:3])

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        start = keys.start_values(history.fan_in)
        other = keys.activation("relu6?", ("GELU", "leaky_relu", "LeakyReLU", "SiLU", "tanh"))
        norm = keys.norms()
        return start + other + norm + lower_rate(history, keys)


class Saturation(Diagnosis):
    """Units of tanh or sigmoid at the flat ends, where gradients are next to zero (Glorot and Bengio 2010)."""

    name = "saturation"
    title = "tanh or sigmoid units are saturated"
    needs = ("squashed",)
    advice = "use smaller weights at the start, normalise between the layers, or use ReLU"
    causes = (
        "inputs_not_normalised",
        "learning_rate_too_high",
        "bad_initialisation",
        "exploding_gradients",
        "nan_or_inf",
    )

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        seen = [sample for sample in history.samples if sample.saturated]
        last = seen[-3:]
        if len(last) < 3:
            return None
        layers = {
            layer: share
            for layer, share in last[-1].saturated.items()
            if all(sample.saturated.get(layer, 0.0) > limits.saturated for sample in last)
        }
        if not layers:
            return None
        layer, share = max(layers.items(), key=lambda item: item[1])
        early = any(sample.saturated.get(layer, 0.0) > limits.saturated for sample in seen[:3])
        if not early and not history.stuck:  # what a network has come to as it learnt
            return None
        since = next(sample.step for sample in seen if sample.saturated.get(layer, 0.0) > limits.saturated)
        return Evidence(
            f"{share:.0%} of the inputs of {layer} are beyond ±5, from step {since} on", since, {"share": share}
        )

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        start = keys.start_values(history.fan_in)
        norm = keys.norms()
        other = keys.activation(SQUASHING, ("ReLU", "GELU"))
        return start + norm + other


class VanishingGradients(Diagnosis):
    """Gradients that hardly reach the first layers (Hochreiter 1991; Glorot and Bengio 2010)."""

    name = "vanishing_gradients"
    title = "the gradients vanish on their way to the first layers"
    needs = ("samples",)
    advice = "use ReLU in place of sigmoid and tanh, normalise between the layers, add shortcuts, or use fewer layers"
    causes = (
        "inputs_not_normalised",
        "softmax_before_cross_entropy",
        "dead_relus",
        "saturation",
        "bad_initialisation",
        "learning_rate_too_high",
        "over_regularised",
        "nan_or_inf",
        "parameters_never_move",
    )

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        last = [sample for sample in history.samples if len(sample.grads) >= 3][-4:]
        if len(last) < 4 or not history.after(0.08, 20) or history.warming or not history.stuck:
            return None
        ratios = [sample.reach for sample in last]
        if any(ratio is None or ratio >= limits.vanishing for ratio in ratios):  # no gradient at all is something else
            return None
        layer = next(iter(last[-1].grads))
        return Evidence(
            f"the gradient of {layer} is {ratios[-1] or 0.0:.1e} times the largest one of a layer at step "
            f"{last[-1].step}, and the "
            f"loss is {history.recent():.3g} (first {history.start:.3g})",
            last[0].step,
            {"ratio": ratios[-1] or 0.0},
        )

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        other = keys.activation(SQUASHING, ("ReLU", "GELU"))
        norm = keys.norms()
        shortcuts = keys.switch(r"residual|skip|shortcut", True, ("model",))
        fewer = keys.number(
            r"^(depth|num_layers|n_layers|layers|n_layer|num_blocks)$", lambda v: max(2, int(v) // 3) if v > 3 else None
        )
        # many layers need both
        both = [f"{norm[0]} {other[0]}"] if norm and other and len(history.samples[-1].grads) >= DEEP else []
        return both + other + norm + shortcuts + keys.start_values(history.fan_in) + fewer


class NeverMove(Diagnosis):
    """Parameters that are meant to be trained, and stay exactly as they were."""

    name = "parameters_never_move"
    title = "parameters that should be trained never change"
    needs = ("samples",)
    advice = (
        "give the optimizer all parameters, and look for a detach() or no_grad() on their way to the "
        "loss; what is to stay frozen says so with frozen_epochs in parameters.groups, or requires_grad_(False)"
    )
    causes = ("nan_or_inf", "dead_relus", "learning_rate_too_low", "bad_initialisation")

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        names = [name for name, why in history.still if why]
        if not names or history.step < 10 or sum(rate > 0 for _, rate in history.rates) <= 5:
            return None
        with_gradient = [name for name, why in history.still if why == "no optimizer"]
        shown = ", ".join(names[:3]) + (f", … ({len(names)})" if len(names) > 3 else "")
        if with_gradient:
            text = f"{shown} are as at the start after {history.step} steps: no optimizer has them"
        else:
            text = f"{shown} get no gradient in {history.step} steps: no part of the loss depends on them"
        return Evidence(text, 1, {"parameters": len(names), "with_gradient": len(with_gradient)})

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        return keys.switch(r"freeze|frozen|detach|stop_grad|no_grad|head_only", False, ("model", "optimizer"))


class TrainEvalMismatch(Diagnosis):
    """A network that is another one in evaluation mode: running statistics that are off, or layers that switch."""

    name = "train_eval_mismatch"
    title = "the network is far worse in evaluation mode"
    needs = ("compared",)
    advice = (
        "look at what the network does differently in evaluation mode: running statistics that move "
        "too slowly, branches on self.training"
    )
    causes = (
        *("data_in_label_order", "learning_rate_too_high", "nan_or_inf"),
        *("exploding_gradients", "bad_initialisation", "saturation", "over_regularised"),
    )

    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        last = history.evaluations[-3:]
        if len(last) < 3 or last[0].epoch < 1 or not history.after(0.1, 60):
            return None
        if (history.update(last=3) or 0.0) > 0.03:  # running statistics can't keep up with such weights
            return None
        train = [found.same_train for found in last if found.same_train is not None]
        test = [found.same_eval for found in last if found.same_eval is not None]
        if len(train) < 3 or len(test) < 3:
            return None
        if statistics.fmean(test) - statistics.fmean(train) < 0.5 * limits.mode_gap * history.scale:
            return None
        pairs = list(zip(train, test, strict=True))
        if any(b < 2 * a or b - a < 0.05 * history.scale for a, b in pairs):
            return None
        rights = [found.same_train_accuracy for found in last if found.same_train_accuracy is not None]
        others = [found.same_eval_accuracy for found in last if found.same_eval_accuracy is not None]
        if rights and others and statistics.fmean(others) > 0.93 * statistics.fmean(rights):
            return None
        # at the top of a schedule running statistics lag behind, by some part of the samples
        if history.peaking and rights and others and statistics.fmean(others) > 0.5 * statistics.fmean(rights):
            return None
        found = last[-1]
        shown = (
            f"the last training batch of three epochs has a loss of {found.same_train:.3g} in training "
            f"mode and of {found.same_eval:.3g} in evaluation mode"
        )
        if found.same_train_accuracy is not None and found.same_eval_accuracy is not None:
            shown += f" (accuracy {found.same_train_accuracy:.0%} and {found.same_eval_accuracy:.0%})"
        return Evidence(
            f"{shown}, at step {found.step}",
            last[0].step,
            {"train": found.same_train or 0.0, "eval": found.same_eval or 0.0},
        )

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        momentum = keys.number(r"momentum", lambda v: 0.1 if v < 0.05 or v > 0.9 else None, ("model",))
        stats = keys.switch(r"track_running|update_stats|running_stats", True, ("model",))
        return momentum + stats + keys.choice(r"norm", r"batch", ("group", "layer"), ("model",))


def _outlier_first(history: History) -> bool:
    """Whether the first batch has inputs far larger than others, so that its loss says nothing of the weights."""
    values = [largest for _, largest in history.largest]
    return len(values) > 3 and values[0] > 10 * statistics.median(values[1:])
