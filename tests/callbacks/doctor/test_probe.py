"""What a look inside a forward pass sees, and that it changes nothing."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.doctor.history import History
from callbacks.doctor.probe import InputFacts, LossCall, Probe, facts


def look(module: nn.Module, x: Tensor, loss: object = None, layers: bool = True) -> Probe:
    probe = Probe(layers)
    probe.watch(module)
    try:
        output = module(x)
        if loss is not None:
            loss(output)  # type: ignore[operator]
    finally:
        probe.leave()
    return probe


LABELS = torch.tensor([0, 1, 2, 2, 2, 1])
LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("as_module", [True, False])
def test_what_cross_entropy_was_given(as_module: bool) -> None:
    weight = torch.tensor([1.0, 2.0, 3.0])
    probe = Probe()
    with probe:
        if as_module:
            value = nn.CrossEntropyLoss(weight=weight, label_smoothing=0.1)(LOGITS, LABELS)
        else:
            value = F.cross_entropy(LOGITS, LABELS, weight, label_smoothing=0.1)
    (call,) = probe.calls
    assert call.name == "cross_entropy"
    assert call.value == pytest.approx(float(value))
    assert call.classes == [1, 2, 3]
    assert call.count == 6
    assert (call.weight, call.smoothing) == ([1.0, 2.0, 3.0], 0.1)
    assert call.accuracy == pytest.approx(float((LOGITS.argmax(1) == LABELS).float().mean()))
    assert sum(call.rights) == int((LOGITS.argmax(1) == LABELS).sum())
    assert not call.probabilities


def test_targets_that_are_left_out_and_sequences_and_soft_ones() -> None:
    probe = Probe()
    with probe:
        F.cross_entropy(LOGITS, torch.tensor([0, 1, -100, -100, 2, 1]))
        F.cross_entropy(LOGITS.T.view(1, 3, 6), LABELS.view(1, 6), reduction="sum")
        F.cross_entropy(LOGITS, F.one_hot(LABELS, 3).float())
        F.cross_entropy(LOGITS, LABELS, None, None, 2, None, "sum")
    left_out, sequence, soft, by_place = probe.calls
    assert left_out.classes == [1, 2, 1]
    assert left_out.count == 4
    assert sequence.classes == [1, 2, 3]
    assert sequence.value == pytest.approx(float(F.cross_entropy(LOGITS, LABELS)))
    assert soft.classes == [1, 2, 3]
    assert soft.accuracy == sequence.accuracy
    assert by_place.classes == [1, 2, 0]
    assert by_place.value == pytest.approx(float(F.cross_entropy(LOGITS, LABELS, ignore_index=2)))


def test_a_vocabulary_is_counted_as_a_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 50_000, 8, generator=generator, dtype=torch.bfloat16)
    labels = torch.randint(50_000, (2, 8), generator=generator)
    labels[0] = logits[0].argmax(0)
    labels[1, :2] = -100
    with Probe() as probe:
        F.cross_entropy(logits, labels)
    (call,) = probe.calls
    assert (call.k, call.count, call.right, call.accuracy) == (50_000, 14, 8, 8 / 14)
    assert (call.classes, call.rights) == ([], [])
    history = History()
    for step in range(100):
        history.add_call(step, LossCall(**vars(call)))
    assert history.classes.sum() == 1400
    assert len(history.state()["calls"]) < 100 * 300, "a checkpoint does not hold the classes of each step"
    assert History.from_state(history.state()).classes.tolist() == history.classes.tolist()


def test_probabilities_where_logits_belong() -> None:
    with Probe() as probe:
        F.cross_entropy(LOGITS.softmax(1), LABELS)
        F.cross_entropy(LOGITS.log_softmax(1), LABELS)  # which changes nothing
        F.cross_entropy(torch.full((6, 3), 1 / 3), LABELS)  # what an untrained network may give
        F.binary_cross_entropy_with_logits(LOGITS[:, 0].sigmoid(), torch.ones(6))
        F.binary_cross_entropy_with_logits(LOGITS[:, 0] * 3, torch.ones(6))
        F.nll_loss(LOGITS.softmax(1), LABELS)
    assert [call.probabilities for call in probe.calls] == [True, False, False, True, False, True]


def test_two_classes_by_one_logit_and_numbers() -> None:
    with Probe() as probe:
        F.binary_cross_entropy_with_logits(torch.tensor([2.0, -1.0, 3.0]), torch.tensor([1.0, 0.0, 0.0]))
        F.mse_loss(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]))
    two, numbers = probe.calls
    assert (two.classes, two.rights) == ([2, 1], [1, 1])
    assert (numbers.count, numbers.moments) == (3, (6.0, 14.0))
    assert numbers.accuracy is None


def test_several_labels_for_each_sample_are_measured_by_the_best_constant_of_each() -> None:
    y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])  # three of four, and one of four
    with Probe() as probe:
        F.binary_cross_entropy_with_logits(torch.zeros(4, 2), y)
    (call,) = probe.calls
    assert (call.k, call.count, call.labels.tolist()) == (2, 8, [[1, 3], [3, 1]])
    history = History()
    for step in range(200):  # so many that there is nothing to be corrected
        history.add_call(step, LossCall(**{**vars(call), "labels": call.labels.copy()}))
    history.begin()
    share = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert history.chance == pytest.approx(share, abs=1e-3)  # all labels together would have ln 2
    assert history.scale == pytest.approx(math.log(2))
    assert history.majority == pytest.approx(0.75)
    assert not history.exclusive


def test_labels_that_weigh_more_have_another_best_constant() -> None:
    y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    weight = torch.tensor([1 / 3, 30.0])
    with Probe() as probe:
        F.binary_cross_entropy_with_logits(torch.zeros(4, 2), y, pos_weight=weight)
    history = History()
    history.add_call(1, probe.calls[0])
    history.begin()
    # the best of all constant logits, by trying them
    logits = torch.linspace(-8, 8, 4001)[:, None].expand(-1, 2)
    losses = torch.stack(
        [F.binary_cross_entropy_with_logits(logits, row.expand_as(logits), pos_weight=weight, reduction="none")
         for row in y]
    ).mean(0)  # fmt: skip
    assert history.chance == pytest.approx(float(losses.amin(0).mean()), rel=1e-4)
    assert history.jumps


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        with torch.no_grad():
            self.first.bias[:6] = -100.0
            self.second.bias.fill_(50.0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return torch.sigmoid(self.last(torch.tanh(self.second(x))))


def test_units_of_functions_are_seen_as_those_of_modules() -> None:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    probe = look(Functional(), x)
    (dead,) = probe.dead.values()
    assert (dead[0] == 0).sum() == 6
    assert dead[1] == 32
    assert list(probe.saturated.values()) == [1.0]  # without the sigmoid that makes the output
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    assert list(look(net, x).dead) == ["1"]


def test_a_channel_is_a_unit() -> None:
    net = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 2))
    rates, inputs = look(net, torch.randn(7, 1, 8, 8)).dead["1"]
    assert (len(rates), inputs) == (5, 7 * 36)


@pytest.mark.parametrize(
    ("net", "x", "kind"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.full((3, 4), 7.0), "values"),
        (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), torch.randn(3, 4) * 100, "normalised"),
        (nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 2)), torch.tensor([[1, 2], [3, 4]]), "indices"),
    ],
)
def test_what_the_first_layer_gets(net: nn.Module, x: Tensor, kind: str) -> None:
    first = look(net, x).first
    assert first is not None
    assert first.kind == kind
    if kind == "values":
        assert (first.layer, first.mean, first.std, first.constant) == ("1", 7.0, 0.0, True)


def test_facts_of_inputs() -> None:
    x = torch.tensor([[0.0, 100.0], [2.0, 300.0]])
    assert facts("", x) == InputFacts(
        "", mean=100.5, std=pytest.approx(122.07, abs=0.01), low=0, high=300, column_std=100.0
    )
    x[1, 1] = math.nan
    assert facts("", x) == InputFacts("", mean=50.0, std=50.0, low=0, high=100, column_std=0.0, bad_columns=[1])
    assert facts("", torch.full((2,), math.nan)).std == 0.0
    assert facts("", torch.full((2, 3, 4, 4), math.inf)).bad_columns == [0, 1, 2]
    assert facts("", torch.empty(0, 3)).std == 1.0


def test_looking_changes_neither_values_nor_random_numbers() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3))
    x = torch.randn(6, 4)

    def step(look: bool) -> list[Tensor]:
        torch.manual_seed(1)
        probe = Probe(layers=True)
        if look:
            probe.watch(net)
        loss = F.cross_entropy(net(x), LABELS)
        if look:
            probe.leave()
        net.zero_grad()
        loss.backward()
        return [loss.detach(), torch.rand(1), *(p.grad.clone() for p in net.parameters() if p.grad is not None)]

    assert all(torch.equal(a, b) for a, b in zip(step(True), step(False), strict=True))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_what_is_dropped() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.25), nn.Dropout(0.75), nn.Linear(8, 3))
    assert look(net, torch.randn(6, 4)).dropout == ("2", 0.75)
    assert look(net.eval(), torch.randn(6, 4)).dropout == ("", 0.0)


@pytest.mark.parametrize(
    ("between", "linear"),
    [
        ([nn.Identity()], True),
        ([nn.BatchNorm1d(8), nn.Dropout(0.1)], True),
        ([nn.ReLU()], False),
        ([nn.PReLU()], False),
        ([nn.LayerNorm(8)], False),
        ([nn.Unflatten(1, (1, 8)), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4, 8)], False),
    ],
)
def test_a_network_without_activations_is_a_linear_one(between: list[nn.Module], linear: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 8), *between, nn.Linear(8, 3))
    assert look(net, torch.randn(6, 4), lambda output: F.cross_entropy(output, LABELS)).linear is linear
    assert not look(net, torch.randn(6, 4)).linear, "without a loss nothing is known of it"
