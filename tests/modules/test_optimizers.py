"""`modules.optimizers`: schedules as long as the run, each with its own tick."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from modules.optimizers import ParameterGroup, Parameters, configure_optimizers
from tests.conftest import Loader, quick_trainer

SCHEDULES = "torch.optim.lr_scheduler"
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0}}


class Rates(Callback):
    """The learning rate of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.values.append(optimizer.param_groups[0]["lr"])


class Still(LightningModule):
    """Logs a loss that never falls."""

    def __init__(self, monitor: str = "val/loss") -> None:
        super().__init__()
        self.weight, self.monitor = nn.Parameter(torch.zeros(1)), monitor

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.weight.sum() * 0

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log(self.monitor, 1.0)


def rates(scheduler: dict[str, Any] | None, steps: int = 4, module: Any = None, **options: Any) -> list[float]:
    """The learning rate of each step of a run of `steps` steps an epoch."""
    module = module or Still()
    module.configure_optimizers = partial(configure_optimizers, module, SGD, scheduler, "val/loss")
    seen = Rates()
    batches = Loader([torch.zeros(2, 1)] * steps)
    quick_trainer(callbacks=[seen], **options).fit(module, batches, Loader(batches.batches[:1]))
    return seen.values


def schedule(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": f"{SCHEDULES}.{name}", "init_args": init_args}


def one_cycle(steps: int) -> list[float]:
    """What torch's own schedule of so many steps gives."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = OneCycleLR(optimizer, max_lr=1.0, total_steps=steps)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 3}, 12),
        ({"max_epochs": -1, "max_steps": 6}, 6),
        ({"max_epochs": 3, "max_steps": 10}, 10),
        ({"max_epochs": 3, "limit_train_batches": 2}, 6),
        ({"max_epochs": 3, "accumulate_grad_batches": 2}, 6),
        ({"max_epochs": 2, "accumulate_grad_batches": 3}, 4),  # the last step of an epoch is made of one batch
    ],
)
def test_one_cycle_is_exactly_as_long_as_the_run(options: dict[str, Any], steps: int) -> None:
    seen = rates(schedule("OneCycleLR", max_lr=1.0, total_steps=None), **options)
    assert seen == pytest.approx(one_cycle(steps))


def test_one_cycle_takes_its_length_as_epochs_and_steps_too() -> None:
    init = {"max_lr": 1.0, "total_steps": None, "epochs": 4, "steps_per_epoch": 4}
    assert rates(schedule("OneCycleLR", **init), max_epochs=3) == pytest.approx(one_cycle(16)[:12])


def test_one_cycle_with_its_length_in_steps_ticks_once_a_step() -> None:
    assert rates(schedule("OneCycleLR", max_lr=1.0, total_steps=12), max_epochs=3) == pytest.approx(one_cycle(12))


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_a_schedule_without_a_top_goes_up_to_the_rate_of_the_optimizer(name: str) -> None:
    length = {"total_steps": None} if name == "OneCycleLR" else {"base_lr": 0.0, "step_size_up": 2}
    seen, stated = (
        rates(schedule(name, max_lr=top, cycle_momentum=False, **length), max_epochs=2) for top in (None, 1.0)
    )
    assert seen == pytest.approx(stated)
    assert 0.9 < max(seen) <= 1.0


def test_cosine_annealing_without_a_length_falls_to_zero_over_the_steps_of_the_run() -> None:
    seen = rates(schedule("CosineAnnealingLR", T_max=None), max_epochs=2)
    assert seen == pytest.approx([(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)])


def test_cosine_annealing_with_a_length_counts_epochs() -> None:
    seen = rates(schedule("CosineAnnealingLR", T_max=2), steps=2, max_epochs=3)
    assert seen == pytest.approx([1, 1, 0.5, 0.5, 0, 0])


def test_step_lr_ticks_once_an_epoch() -> None:
    seen = rates(schedule("StepLR", step_size=2, gamma=0.1), steps=3, max_epochs=4)
    assert seen == pytest.approx([1] * 6 + [0.1] * 6)


def test_cyclic_lr_ticks_once_a_step() -> None:
    seen = rates(schedule("CyclicLR", base_lr=0.0, max_lr=1.0, step_size_up=2, cycle_momentum=False), max_epochs=2)
    assert seen == pytest.approx([0, 0.5, 1, 0.5] * 2)


def test_without_a_schedule_the_rate_stays() -> None:
    assert rates(None, steps=2, max_epochs=2) == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("class_path", "init_args", "logged"),
    [
        ("torch.optim.lr_scheduler.ReduceLROnPlateau", {}, "val/loss"),
        ("lightning.pytorch.cli.ReduceLROnPlateau", {"monitor": None}, "val/loss"),
        ("lightning.pytorch.cli.ReduceLROnPlateau", {"monitor": "val/error"}, "val/error"),
    ],
)
def test_reduce_on_plateau_watches_its_monitor_or_else_that_of_the_project(
    class_path: str, init_args: dict[str, Any], logged: str
) -> None:
    scheduler = {"class_path": class_path, "init_args": {**init_args, "factor": 0.5, "patience": 0}}
    seen = rates(scheduler, steps=1, module=Still(logged), max_epochs=4)
    assert seen == pytest.approx([1, 1, 0.5, 0.25])  # the first value is the best there will be


def test_the_schedule_is_called_lr_in_the_log() -> None:
    module = Still()
    module.configure_optimizers = partial(  # type: ignore[method-assign]
        configure_optimizers, module, SGD, schedule("StepLR", step_size=1), "val/loss"
    )
    trainer, batches = quick_trainer(), Loader([torch.zeros(1, 1)])
    trainer.fit(module, batches, batches)
    assert [config.name for config in trainer.lr_scheduler_configs] == ["lr"]


def refusal(optimizer: dict[str, Any], scheduler: dict[str, Any] | None = None, **options: Any) -> str:
    module, batches = Still(), Loader([torch.zeros(1, 1)])
    module.configure_optimizers = partial(configure_optimizers, module, optimizer, scheduler, "val/loss")  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=": ") as caught:
        quick_trainer(**options).fit(module, batches, batches)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("init_args", "why"), [({"lr": -1.0}, "Invalid learning rate: -1.0"), ({"lr": 0.1, "speed": 3}, "speed")]
)
def test_an_optimizer_that_refuses_its_arguments_is_named(init_args: dict[str, Any], why: str) -> None:
    text = refusal({"class_path": "torch.optim.SGD", "init_args": init_args})
    assert text.startswith("optimizer: torch.optim.SGD refuses its arguments: ")
    assert why in text


@pytest.mark.parametrize(
    ("name", "init_args", "why"),
    [
        ("StepLR", {}, "step_size"),
        ("OneCycleLR", {"max_lr": 1.0, "total_steps": None, "pct_start": 2.0}, "pct_start"),
        ("OneCycleLR", {"max_lr": 1.0, "total_steps": -5}, "-5"),
        ("OneCycleLR", {"max_lr": 1.0, "total_steps": 5, "pct_start": 0.2}, "division by zero"),
    ],
)
def test_a_schedule_that_refuses_its_arguments_is_named(name: str, init_args: dict[str, Any], why: str) -> None:
    text = refusal(SGD, schedule(name, **init_args))
    assert text.startswith(f"lr_scheduler: {SCHEDULES}.{name} refuses its arguments: ")
    assert why in text


@pytest.mark.parametrize(("name", "length"), [("OneCycleLR", "total_steps"), ("CosineAnnealingLR", "T_max")])
def test_a_run_without_end_can_not_fill_in_a_length(name: str, length: str) -> None:
    init = {"max_lr": 1.0} if name == "OneCycleLR" else {}
    text = refusal(SGD, schedule(name, **init, **{length: None}), max_epochs=-1)
    assert text == f"lr_scheduler.{length}: the run has no end; set it, or trainer.max_epochs or max_steps"


def test_the_config_is_not_changed_by_a_run() -> None:
    scheduler = schedule("OneCycleLR", max_lr=1.0, total_steps=None)
    rates(scheduler, max_epochs=1)
    assert scheduler["init_args"] == {"max_lr": 1.0, "total_steps": None}


# ---- which parameters


class Layers(Still):
    """A layer with a norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        del self.weight
        self.net = nn.ModuleDict({"body": nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), "head": nn.Linear(4, 2)})


def groups(parameters: Parameters, scheduler: dict[str, Any] | None = None, **init_args: Any) -> list[dict[str, Any]]:
    """The optimizer's groups, with the names of their parameters."""
    module = Layers()
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1.0, "weight_decay": 0.5, **init_args}}
    made = configure_optimizers(module, optimizer, scheduler, "val/loss", parameters)["optimizer"]
    names = {id(p): name for name, p in module.named_parameters()}
    return [{**group, "params": [names[id(p)] for p in group["params"]]} for group in made.param_groups]


def test_without_a_word_all_parameters_are_one_group() -> None:
    (one,) = groups(Parameters())
    assert len(one["params"]) == 6
    assert (one["lr"], one["weight_decay"]) == (1.0, 0.5)


def test_decay_of_matrices_leaves_biases_and_norms_alone() -> None:
    decayed, rest = groups(Parameters(decay="matrices"))
    assert decayed["params"] == ["net.body.0.weight", "net.head.weight"]
    assert rest["params"] == ["net.body.0.bias", "net.body.1.weight", "net.body.1.bias", "net.head.bias"]
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.5, 0.0)


def test_groups_by_pattern_have_their_own_rate_and_decay() -> None:
    own = [ParameterGroup("net.body.*", lr_scale=0.1), ParameterGroup("*.bias", weight_decay=0.25)]
    head, body, bias = groups(Parameters(groups=own))
    assert head["params"] == ["net.head.weight"]
    assert body["params"] == ["net.body.0.weight", "net.body.0.bias", "net.body.1.weight", "net.body.1.bias"], (
        "the first"
    )
    assert bias["params"] == ["net.head.bias"]
    assert [group["lr"] for group in (head, body, bias)] == [1.0, 0.1, 1.0]
    assert [group["weight_decay"] for group in (head, body, bias)] == [0.5, 0.5, 0.25]
    both = groups(Parameters("matrices", [ParameterGroup("net.body.*", lr_scale=0.1)]))
    assert [(group["lr"], group["weight_decay"]) for group in both] == [(1.0, 0.5), (1.0, 0.0), (0.1, 0.5), (0.1, 0.0)]


@pytest.mark.parametrize("top", [None, 2.0])
def test_a_schedule_keeps_the_groups_apart(top: float | None) -> None:
    cycle = schedule("OneCycleLR", total_steps=10, max_lr=top)
    rest, body = groups(Parameters(groups=[ParameterGroup("net.body.*", lr_scale=0.1)]), cycle)
    assert rest["max_lr"] == (top or 1.0)
    assert body["max_lr"] == pytest.approx(0.1 * (top or 1.0))


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (
            [ParameterGroup("net.bdy.*")],
            r"parameters.groups: 'net.bdy.\*' matches no parameter that is left, as net.body",
        ),
        ([ParameterGroup("*"), ParameterGroup("net.*")], r"parameters.groups: 'net.\*' matches no parameter"),
        ([ParameterGroup("*", lr_scale=-1)], r"parameters.groups: lr_scale -1 of \* is negative"),
    ],
)
def test_a_group_that_can_not_be_is_told(own: list[ParameterGroup], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        groups(Parameters(groups=own))
