"""Each diagnosis on histories made by hand: what it finds, and what does not fool it."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from callbacks.doctor import DIAGNOSES, Evidence, History, Thresholds
from callbacks.doctor.history import Evaluation, Sample
from callbacks.doctor.probe import InputFacts, LossCall

CHANCE = math.log(10)


def call(value: float, accuracy: float = 0.5, counts: list[float] | None = None, **more: object) -> LossCall:
    counts = counts or [4.0] * 10
    rights = [accuracy * count for count in counts]
    known = {"k": len(counts), "right": sum(rights), "classes": counts, "rights": rights, "counts": np.array(counts)}
    return LossCall("cross_entropy", value, int(sum(counts)), **known, **more)  # type: ignore[arg-type]


def run(
    loss: Callable[[int], float],
    steps: int = 200,
    total: float = 400,
    update: Callable[[int], float] = lambda step: 0.003,
    rate: Callable[[int], float] = lambda step: 0.01,
    grads: tuple[float, ...] = (1.0, 1.0, 1.0),
    norm: Callable[[int], float] = lambda step: 1.0,
    accuracy: Callable[[int], float] = lambda step: 0.5,
    val: Callable[[int], tuple[float, float]] | None = None,
) -> History:
    """A run of which every step is a look, with a validation every 20 steps."""
    history = History(total=total, epoch_steps=20)
    history.firsts = [InputFacts("net.0", mean=0.1, std=1.0, low=-2, high=2, column_std=1.2)]
    for step in range(1, steps + 1):
        history.add_loss(step, loss(step))
        history.add_call(step, call(loss(step), accuracy(step)))
        history.rates.append((step, rate(step)))
        history.norms.append((step, norm(step)))
        if step in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89) or step % 20 == 0:
            layers = {f"net.{i}": g for i, g in enumerate(grads)}
            history.samples.append(
                Sample(step, rate(step), layers, dict.fromkeys(layers, update(step)), dict.fromkeys(layers, 3.0))
            )
        if step % 20 == 0:
            val_loss, val_accuracy = val(step) if val else (loss(step), accuracy(step))
            found = Evaluation(step // 20 - 1, step, loss(step), val_loss, accuracy(step), val_accuracy, lr=rate(step))
            found.val_classes, found.val_rights = [10.0] * 10, [10.0 * val_accuracy] * 10
            found.same_train = found.same_eval = loss(step)
            found.same_train_accuracy = found.same_eval_accuracy = accuracy(step)
            history.evaluations.append(found)
    return history


def falling(step: int) -> float:
    return CHANCE * math.exp(-step / 40)


def learning(step: int) -> float:
    return 1 - math.exp(-step / 40)


def healthy(**changes: object) -> History:
    return run(**{"loss": falling, "accuracy": learning, **changes})  # type: ignore[arg-type]


def found(history: History, limits: Thresholds = Thresholds()) -> dict[str, Evidence]:  # noqa: B008
    history.begin()
    evidence = {diagnosis.name: diagnosis().examine(history, limits) for diagnosis in DIAGNOSES}
    return {name: known for name, known in evidence.items() if known is not None}


@pytest.mark.parametrize("steps", [1, 2, 5, 12, 25, 60, 120, 200, 400])
def test_a_run_that_learns_has_nothing(steps: int) -> None:
    assert found(healthy(steps=steps)) == {}


def test_an_empty_history_has_nothing() -> None:
    assert found(History()) == {}


# ---- data


@pytest.mark.parametrize(
    ("facts", "wrong"),
    [
        ({"mean": 80.0, "std": 75.0}, True),
        ({"std": 2.0, "column_std": 300.0}, True),
        ({"mean": 100.0, "std": 2.0}, True),
        ({"mean": 0.0, "std": 1e-4, "low": -3e-4, "high": 3e-4}, True),
        ({"mean": 0.45, "std": 0.3, "low": 0.0, "high": 1.0}, False),
        ({"mean": 0.9, "std": 0.1}, False),  # far from 0 in deviations, but not far
        ({"kind": "normalised", "std": 300.0}, False),
        ({"kind": "indices"}, False),
    ],
)
def test_inputs(facts: dict[str, float], wrong: bool) -> None:
    history = healthy(steps=5)
    history.firsts = [InputFacts("net.0", **{"low": -5.0, "high": 500.0, **facts})]  # type: ignore[arg-type]
    assert ("inputs_not_normalised" in found(history)) is wrong


def test_one_outlier_in_the_first_batch_is_not_all_inputs() -> None:
    history = healthy(steps=5)
    history.firsts = [InputFacts("net.0", std=std, low=-2, high=2) for std in (170.0, 1.0, 1.1)]
    assert found(history) == {}


def order(batches: list[list[float]]) -> History:
    history = healthy(steps=5)
    history.calls, history.classes = [], np.zeros(0)
    for step, counts in enumerate(batches, 1):
        history.add_call(step, call(1.0, counts=counts))
    return history


def test_labels_in_order() -> None:
    pure = [[32.0 if k == step // 3 else 0.0 for k in range(4)] for step in range(12)]
    mixed = [[8.0, 8.0, 8.0, 8.0]] * 12
    rare = [[31.0, 1.0, 0, 0] if step % 4 == 0 else [32.0, 0, 0, 0] for step in range(12)]
    small = [[2.0 * (k in (step % 4, (step + 1) % 4)) for k in range(4)] for step in range(12)]
    assert "data_in_label_order" in found(order(pure))
    assert all("data_in_label_order" not in found(order(batches)) for batches in (mixed, rare, small))


def test_rare_classes() -> None:
    def imbalanced(recall: float, counts: list[float], batch_size: int = 31) -> History:
        history = healthy(steps=300)
        history.classes = np.array(counts)
        for evaluation in history.evaluations:
            evaluation.val_classes, evaluation.val_rights = [100.0, 6.0], [98.0, 6 * recall]
        history.calls = [(step, call(0.1, 0.95, [30.0, 1.0])) for step, _ in history.calls]
        history.batch_size = batch_size
        return history

    assert "class_imbalance" in found(imbalanced(0.2, [3000.0, 100.0]))
    assert "class_imbalance" not in found(imbalanced(0.9, [3000.0, 100.0]))  # harmless
    assert "class_imbalance" not in found(imbalanced(0.2, [3000.0, 100.0], batch_size=4))  # tokens of a text
    assert "class_imbalance" not in found(imbalanced(0.2, [3000.0, 700.0]))  # mild


@pytest.mark.parametrize(
    ("wait", "step", "workers", "wrong"),
    [(0.03, 0.05, 0, True), (0.03, 0.2, 0, False), (0.0008, 0.002, 0, False), (0.03, 0.05, 2, True)],
)
def test_waiting_for_data(wait: float, step: float, workers: int, wrong: bool) -> None:
    history = healthy(steps=100)
    history.waits, history.workers, history.batch_size = [(wait, step)] * 40, workers, 32
    assert ("data_loading" in found(history)) is wrong


def test_a_machine_that_hiccups_is_not_waiting_for_data() -> None:
    history = healthy(steps=100)
    history.waits, history.batch_size = [(0.5, 0.51), (0.0003, 0.005), (0.0003, 0.005)] * 12, 32
    assert found(history) == {}


def test_a_loss_that_rises_all_the_time_is_not_learning() -> None:
    history = run(lambda step: CHANCE * (1 + 5e-5 * step**2))
    history.classes = np.arange(1.0, 11) * 100  # not all alike
    assert found(history)["not_learning"].text.endswith("it rises all the time")


# ---- the network


def test_probabilities() -> None:
    history = healthy(steps=5)
    history.calls = [(step, call(2.2, probabilities=True)) for step in range(1, 6)]
    assert set(found(history)) == {"softmax_before_cross_entropy"}


def test_a_first_loss_that_is_far_off() -> None:
    assert "bad_initialisation" in found(run(lambda step: 60 * math.exp(-step / 100), steps=12))
    head = run(lambda step: 8 * math.exp(-step / 2), steps=12)  # a new head that recovers
    assert found(head) == {}


def test_equal_units() -> None:
    history = run(lambda step: CHANCE, steps=12)
    history.equal = ["net.0"]
    assert set(found(history)) == {"bad_initialisation"}


def units(shares: list[float], kind: str, loss: Callable[[int], float]) -> History:
    history = run(loss, steps=60)
    for sample, share in zip(history.samples, shares, strict=False):
        if kind == "dead":
            sample.dead = {"net.1": (share, 64)}
        else:
            sample.saturated = {"net.1": share}
    history.samples = history.samples[: len(shares)]
    return history


def test_dead_and_saturated_units() -> None:
    def stuck(step: int) -> float:
        return CHANCE

    assert "dead_relus" in found(units([1.0] * 6, "dead", stuck))
    assert "saturation" in found(units([0.9] * 6, "saturated", stuck))
    # what a network that learns has come to
    assert found(units([0.0, 0.1, 0.2, 0.4, 0.6, 0.7, 0.7, 0.7], "dead", falling)) == {}
    assert found(units([0.0, 0.1, 0.2, 0.4, 0.6, 0.7, 0.7, 0.7], "saturated", falling)) == {}


def test_vanishing_gradients_only_without_progress() -> None:
    assert set(found(run(lambda step: CHANCE, steps=60, grads=(1e-6, 1e-3, 1.0)))) == {"vanishing_gradients"}
    assert found(healthy(steps=60, grads=(1e-6, 1e-3, 1.0))) == {}  # it has converged


def test_parameters_that_do_not_move() -> None:
    history = healthy(steps=30)
    history.still = [("net.0.weight", "no optimizer"), ("net.0.bias", "no optimizer")]
    assert "no optimizer" in found(history)["parameters_never_move"].text
    history.still = [("net.0.weight", "")]  # gradients too small to be seen
    assert found(history) == {}


def modes(train: float, test: float, accuracies: tuple[float, float]) -> History:
    history = healthy(steps=140)
    for evaluation in history.evaluations:
        evaluation.same_train, evaluation.same_eval = train, test
        evaluation.same_train_accuracy, evaluation.same_eval_accuracy = accuracies
    return history


def test_another_network_in_evaluation_mode() -> None:
    assert "train_eval_mismatch" in found(modes(0.2, 2.5, (0.95, 0.2)))
    assert found(modes(0.5, 0.1, (0.8, 0.98))) == {}  # dropout
    assert found(modes(0.02, 0.05, (1.0, 0.99))) == {}


def test_validation_data_of_another_kind() -> None:
    other = healthy(steps=200, val=lambda step: (4.0, 0.1))
    assert "train_val_mismatch" in found(other)
    assert "overfitting" not in found(healthy(steps=60, val=lambda step: (4.0, 0.1)))
    assert found(healthy(steps=200, val=lambda step: (falling(step) + 0.1, 0.9 * learning(step)))) == {}


# ---- the fit


def test_huge_gradients_and_spikes() -> None:
    assert "exploding_gradients" in found(run(lambda step: CHANCE, steps=20, norm=lambda step: 5e3))
    spiky = healthy(steps=100, norm=lambda step: 400.0 if step % 25 == 0 else 1.0)
    assert "exploding_gradients" in found(spiky)
    # a network that has converged, and now and then meets a hard sample
    assert found(healthy(steps=200, norm=lambda step: 0.5 if step % 25 == 0 else math.exp(-step / 20))) == {}
    # batches of one sample: most are known by heart, and the others have a loss to match their gradient
    rare = {"loss": lambda step: 3.0 if step % 9 == 0 else 1e-3, "norm": lambda step: 40.0 if step % 9 == 0 else 0.02}
    assert "exploding_gradients" not in found(run(steps=200, **rare))  # type: ignore[arg-type]
    # an optimizer that divides by the gradient's size
    assert found(healthy(steps=200, norm=lambda step: 5e3 * math.exp(-step / 20))) == {}


def test_learning_rates_that_are_too_high() -> None:
    above = run(lambda step: CHANCE * min(1 + step / 5, 4), steps=30, update=lambda step: 0.5)
    assert "learning_rate_too_high" in found(above)
    stuck = run(lambda step: CHANCE * (1 + 0.02 * (step % 2)), steps=60, update=lambda step: 0.3)
    assert "learning_rate_too_high" in found(stuck)
    # a first step as large, of a network that learns
    assert found(healthy(steps=60, update=lambda step: 0.3 if step < 5 else 0.02)) == {}
    # noise of tiny batches
    noisy = healthy(steps=200, loss=lambda step: falling(step) * (0.5 + (step * 7919 % 13) / 12))
    assert found(noisy) == {}


def test_learning_rates_that_are_too_low() -> None:
    slow = run(lambda step: CHANCE * (1 - step / 1e5), steps=80, update=lambda step: 1e-5)
    assert set(found(slow)) == {"learning_rate_too_low"}
    # a warm-up
    assert found(run(lambda step: CHANCE, steps=80, update=lambda step: 1e-5, rate=lambda step: 1e-6 * step)) == {}
    # the tail of a schedule
    tail = healthy(
        steps=390, update=lambda step: 1e-5 if step > 200 else 3e-3, rate=lambda step: 1e-6 if step > 200 else 0.01
    )
    assert found(tail) == {}


def test_nothing_learnt() -> None:
    chance = run(lambda step: CHANCE * (1 + 0.01 * (step % 3)), steps=120, accuracy=lambda step: 0.1)
    assert set(found(chance)) == {"not_learning"}
    # always the most frequent class: far below ln 10 (entropy 0.545), and nothing learnt
    imbalanced = run(lambda step: 0.55, steps=300, accuracy=lambda step: 0.1)
    imbalanced.classes = np.array([900.0] + [100 / 9] * 9)
    assert "not_learning" in found(imbalanced)
    small = run(lambda step: CHANCE * (1 + 0.01 * (step % 3)), steps=200, accuracy=lambda step: 0.1)
    small.narrowest = 1
    assert set(found(small)) == {"underfitting"}


def test_the_same_inputs_again_and_again() -> None:
    history = run(lambda step: CHANCE, steps=5)
    history.firsts, history.batch_size = [InputFacts("net.0", mean=0.0, std=0.0, constant=True)], 8
    assert set(found(history)) == {"not_learning"}


def test_underfitting() -> None:
    poor = run(lambda step: 1.7, steps=200, accuracy=lambda step: 0.35)
    assert set(found(poor)) == {"underfitting"}
    noise = run(lambda step: max(0.95, falling(step)), steps=200, accuracy=lambda step: min(0.8, learning(step)))
    assert found(noise) == {}  # a fifth of the labels is wrong


def test_overfitting() -> None:
    worse = healthy(steps=300, val=lambda step: (0.8 + step / 200, 0.55))
    assert "overfitting" in found(worse)
    # right nearly always, and surer of its few mistakes
    assert found(healthy(steps=300, val=lambda step: (0.05 + step / 5000, 0.97))) == {}
    noisy = healthy(steps=300, val=lambda step: (0.5 + 0.1 * (step // 20 % 2), 0.8))
    assert found(noisy) == {}
    # noise that is learnt by heart: fewer are right, epoch after epoch; but one bad epoch is none
    fewer = healthy(steps=400, val=lambda step: (0.6, 0.8 if step < 150 else 0.6))
    assert "overfitting" in found(fewer)
    assert found(healthy(steps=380, val=lambda step: (0.6, 0.4 if step == 360 else 0.8))) == {}


def test_regularisation_that_is_too_strong() -> None:
    decay = run(lambda step: CHANCE, steps=60, update=lambda step: 0.2)
    for sample in decay.samples:
        sample.decay = 0.98
        sample.weights = dict.fromkeys(sample.weights, 3.0 * 0.9**sample.step)
    assert set(found(decay)) == {"over_regularised"}
    for sample in decay.samples:  # so large a rate that decay has something to do, and far from enough
        sample.weights = dict.fromkeys(sample.weights, 3.0 * 1.1**sample.step)
    assert set(found(decay)) == {"learning_rate_too_high"}
    penalty = run(lambda step: CHANCE, steps=60)
    penalty.losses = [(step, 10.0 + step / 100) for step, _ in penalty.losses]
    assert "over_regularised" in found(penalty)
    scaled = run(falling, steps=60, accuracy=learning)
    scaled.losses = [(step, 100 * loss) for step, loss in scaled.losses]
    assert "over_regularised" not in found(scaled)
    dropped = run(lambda step: 2.2, steps=80)
    dropped.dropout = ("net.1", 0.9)
    assert "over_regularised" in found(dropped)


def test_not_a_number() -> None:
    history = healthy(steps=30)
    for step in (31, 32, 33):
        history.add_loss(step, math.nan)
    assert "nan_or_inf" in found(history)
    told = healthy(steps=7)
    told.bad = {"text": "nan in step 8", "step": 8, "inputs": True, "columns": [3]}
    assert "column 3" in found(told)["nan_or_inf"].text
    assert "samples" in found(told)["nan_or_inf"].advice, "and not the loss"
    assert "learning_rate_too_high" not in found(told)


def test_a_validation_that_is_not_finite() -> None:
    history = healthy(steps=80)
    for evaluation in history.evaluations[-2:]:
        evaluation.val_loss = math.nan
    evidence = found(history)["nan_or_inf"]
    assert evidence.text.startswith("the validation loss is nan in epoch 2 and epoch 3, and the training loss 0.")
    assert "validation data" in evidence.advice
    history.evaluations[-2].val_loss = 1.0
    assert found(history) == {}, "one of them may pass"
    history.ended = True
    assert "in epoch 3, and" in found(history)["nan_or_inf"].text


def test_targets_that_are_not_scaled_and_a_loss_that_rises() -> None:
    def numbers(loss: Callable[[int], float], mean: float, std: float) -> History:
        history = run(loss, steps=200)
        for _, known in history.calls:
            known.name, known.k, known.classes, known.rights = "mse_loss", 0, [], []
        history.classes = np.zeros(0)
        history.moments = (1000.0, 1000 * mean, 1000 * (std**2 + mean**2))
        return history

    raw = found(numbers(lambda step: 25000.0, 152, 77))["not_learning"]
    assert "the targets have mean 152 and standard deviation 77" in raw.text
    assert raw.advice.startswith("bring the targets to mean 0")
    rising = found(numbers(lambda step: 1.2 + step / 10, 0, 1))["not_learning"]
    assert rising.advice == "is the sign of the loss right?"
    plain = found(numbers(lambda step: 1.1, 0, 1))["not_learning"]
    assert plain.advice == ""


def test_the_lines_can_be_moved() -> None:
    history = healthy(steps=5)
    history.firsts = [InputFacts("net.0", std=12.0, low=-30, high=30)]
    assert "inputs_not_normalised" in found(history)
    assert found(history, Thresholds(input_std=20)) == {}


def test_a_history_that_is_kept_is_the_same() -> None:
    history = healthy(steps=120)
    history.dropout, history.still = ("a", 0.5), [("b", "no gradient")]
    history.labels = np.array([[3.0, 1.0], [2.0, 2.0]])
    again = History.from_state(history.state())
    again.total = history.total  # which the trainer says
    assert again.classes.tolist() == history.classes.tolist()
    assert again.labels.tolist() == history.labels.tolist()
    again.classes, again.labels = history.classes, history.labels  # arrays have no truth value
    assert again == history
    assert found(again) == found(history)


def test_a_long_run_keeps_its_ends() -> None:
    history = History()
    for step in range(1, 20_001):
        history.add_loss(step, float(step))
        history.norms.append((step, 1.0))
        history.trim()
    assert len(history.losses) < 5000
    assert history.losses[0] == (1, 1.0)
    assert history.losses[-1] == (20_000, 20_000.0)
    assert len(history.norms) <= 1200
