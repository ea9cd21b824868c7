"""Each tool by its key: what a fit does with it, step by step, next to the formula."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from runs import Run
from scripts.fitting import FitCLI
from tests.conftest import CNN, ROOT, Command

CLASSES, NUMBERS = str(ROOT / "configs" / "mlp_classes.yaml"), str(ROOT / "configs" / "mlp.yaml")
LR, STEPS = 0.05, 4
# a linear model, four batches of real data, and nothing around it
QUICK = [
    *("--trainer.logger", "false", "--trainer.enable_progress_bar", "false", "--trainer.num_sanity_val_steps", "0"),
    *("--doctor.enabled", "false", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", str(STEPS)),
]
LINEAR = [*QUICK, "--model.net.depth", "0", "--data.test_fraction", "0"]

OWN = """
import torch


class SignSGD(torch.optim.Optimizer):
    def __init__(self, params, lr: float = 0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad.sign()
        return loss


class Harmonic(torch.optim.lr_scheduler.LRScheduler):
    def __init__(self, optimizer, half: int = 1):
        self.half = half
        super().__init__(optimizer)

    def get_lr(self):
        return [rate / (1 + self.last_epoch / self.half) for rate in self.base_lrs]


class Fourth(torch.nn.Module):
    def forward(self, outputs, targets):
        return (outputs - targets).pow(4).mean()


class Margin(torch.nn.Module):
    def __init__(self, margin: float = 1.0):
        super().__init__()
        self.margin = margin

    def forward(self, logits, labels):
        return torch.nn.functional.multi_margin_loss(logits, labels, margin=self.margin)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a Python module with tools of one's own."""
    folder = tmp_path.parent / f"{tmp_path.name}_own"
    folder.mkdir()
    (folder / "own_tools.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    return "own_tools"


class Steps(Callback):
    """What a fit did: batches, losses, learning rates, gradients as the optimizer got them, weights."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.before: list[Tensor] = []
        self.grads: list[Tensor] = []
        self.modes: list[bool] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = weights(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append((batch[0].clone(), batch[1].clone()))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.before.append(gradients(pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self.grads.append(gradients(pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.end = weights(pl_module)


def weights(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def gradients(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).clone()


def fit(*args: str) -> Steps:
    """What a command line does."""
    cli, seen = FitCLI(list(args)), Steps()
    cli.trainer.callbacks.append(seen)  # type: ignore[attr-defined]
    cli.fit()
    return seen


# ---- optimizers

Rule = Callable[[Tensor, Tensor, dict[str, Any], int], Tensor]  # a weight, its gradient, what is kept of it, the step


def sgd(momentum: float = 0.0, nesterov: bool = False, decay: float = 0.0) -> Rule:
    def rule(w: Tensor, g: Tensor, kept: dict[str, Any], step: int) -> Tensor:
        g = g + decay * w  # the gradient of decay / 2 |w|^2
        kept["v"] = momentum * kept.get("v", 0.0) + g
        return w - LR * (g + momentum * kept["v"] if nesterov else kept["v"])

    return rule


def adam(decay: float = 0.0, matrices: bool = False) -> Rule:
    """Kingma and Ba 2014, algorithm 1; the decay as Loshchilov and Hutter 2017, algorithm 2."""

    def rule(w: Tensor, g: Tensor, kept: dict[str, Any], step: int) -> Tensor:
        kept["m"] = 0.9 * kept.get("m", 0.0) + 0.1 * g
        kept["v"] = 0.999 * kept.get("v", 0.0) + 0.001 * g * g
        m, v = kept["m"] / (1 - 0.9**step), kept["v"] / (1 - 0.999**step)
        shrunk = w if matrices and w.ndim < 2 else w * (1 - LR * decay)
        return shrunk - LR * m / (v.sqrt() + 1e-8)

    return rule


def rmsprop(w: Tensor, g: Tensor, kept: dict[str, Any], step: int) -> Tensor:
    kept["v"] = 0.5 * kept.get("v", 0.0) + 0.5 * g * g
    return w - LR * g / (kept["v"].sqrt() + 1e-8)


def by_hand(seen: Steps, rule: Rule) -> list[Tensor]:
    """The weights of a linear classifier after a fit's batches, in double precision."""
    now, kept = [w.double() for w in seen.start], [{} for _ in seen.start]  # type: ignore[var-annotated]
    for step, (x, y) in enumerate(seen.batches, 1):
        w, b = (value.requires_grad_() for value in now)
        grads = torch.autograd.grad(F.cross_entropy(x.double() @ w.T + b, y), (w, b))
        triples = zip((w.detach(), b.detach()), grads, kept, strict=True)
        now = [rule(value, grad, memory, step) for value, grad, memory in triples]
    return now


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        (["SGD", "--optimizer.weight_decay", "0"], sgd()),
        (["SGD", "--optimizer.weight_decay", "0.5"], sgd(decay=0.5)),
        (["SGD", "--optimizer.momentum", "0.9", "--optimizer.weight_decay", "0"], sgd(0.9)),
        (["SGD", "--optimizer.momentum", "0.9", "--optimizer.nesterov", "true", "--optimizer.weight_decay", "0.5"],
         sgd(0.9, nesterov=True, decay=0.5)),
        (["Adam", "--optimizer.weight_decay", "0"], adam()),
        (["AdamW", "--optimizer.weight_decay", "0.5"], adam(0.5)),
        (["AdamW", "--optimizer.weight_decay", "0.5", "--optimizer.fused", "true"], adam(0.5)),
        (["AdamW", "--optimizer.weight_decay", "0.5", "--parameters.decay", "matrices"], adam(0.5, matrices=True)),
        (["torch.optim.RMSprop", "--optimizer.alpha", "0.5", "--optimizer.weight_decay", "0"], rmsprop),
        (["own_tools.SignSGD"], lambda w, g, kept, step: w - LR * g.sign()),
    ],
    ids=lambda value: " ".join(value[:1] + value[1::2]) if isinstance(value, list) else "",
)  # fmt: skip
def test_an_optimizer_takes_the_steps_of_its_rule(own: str, keys: list[str], rule: Rule) -> None:
    seen = fit("--config", CLASSES, *LINEAR, "--optimizer", keys[0], "--optimizer.lr", str(LR), *keys[1:])
    assert len(seen.losses) == STEPS
    assert_close(seen.end, by_hand(seen, rule))


def test_fused_is_what_the_optimizer_is_told() -> None:
    cli = FitCLI(["--config", CLASSES, *LINEAR, "--optimizer.fused", "true"])
    cli.fit()
    assert cli.trainer.optimizers[0].param_groups[0]["fused"] is True


def test_plain_gradient_descent_takes_the_whole_training_part_in_each_step() -> None:
    whole = ["--data.batch_size", "0", "--trainer.max_epochs", "3"]
    cli, seen = FitCLI(["--config", CLASSES, *LINEAR, *whole, "--optimizer", "SGD", "--optimizer.lr", str(LR),
                        "--optimizer.weight_decay", "0"]), Steps()  # fmt: skip
    cli.trainer.callbacks.append(seen)  # type: ignore[attr-defined]
    cli.fit()
    x, y, rows = cli.datamodule.part("train")
    assert len(seen.losses) == 3
    assert len(rows) == 569 - round(0.15 * 569)
    w, b = seen.start
    for _ in range(3):  # softmax regression, its gradient written out
        errors = (x[rows] @ w.T + b).softmax(1) - F.one_hot(y[rows], 2)
        w, b = w - LR * errors.T @ x[rows] / len(rows), b - LR * errors.mean(0)
    assert_close(seen.end, [w, b])


# ---- schedules


def one_cycle(step: int, total: int) -> float:
    """Cosines from 1/25 up to 1 after 0.3 of all steps, and down to 1/250,000 (Smith and Topin 2017)."""
    top = 0.3 * total - 1

    def between(low: float, high: float, share: float) -> float:
        return high + (low - high) / 2 * (1 + math.cos(math.pi * share))

    return between(0.04, 1, step / top) if step <= top else between(1, 4e-6, (step - top) / (total - 1 - top))


def warm_cosine(step: int, total: int) -> float:
    warm = total // 4
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.1 + 0.9 * (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2


@pytest.mark.parametrize(
    ("keys", "rate"),
    [
        (["StepLR", "step_size=2", "gamma=0.1"], lambda step, epoch, total: 0.1 ** (epoch // 2)),
        (["MultiStepLR", "milestones=[1, 3]", "gamma=0.1"], lambda step, epoch, total: [1, 0.1, 0.1, 0.01][epoch]),
        (["CosineAnnealingLR"], lambda step, epoch, total: (1 + math.cos(math.pi * step / total)) / 2),
        (["modules.CosineWithWarmup", "warmup=0.25", "final_scale=0.1"],
         lambda step, epoch, total: warm_cosine(step, total)),
        (["OneCycleLR", "cycle_momentum=false"], lambda step, epoch, total: one_cycle(step, total)),
        # the loss falls, and is to rise: from the second epoch on it has no success
        (["ReduceLROnPlateau", "mode=max", "patience=0", "factor=0.5"],
         lambda step, epoch, total: 0.5 ** max(0, epoch - 1)),
        (["ExponentialLR", "gamma=0.5"], lambda step, epoch, total: 0.5**epoch),
        (["own_tools.Harmonic", "half=2"], lambda step, epoch, total: 1 / (1 + epoch / 2)),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_the_rates_of_a_fit_are_those_of_the_schedule(
    own: str, keys: list[str], rate: Callable[[int, int, int], float]
) -> None:
    options = [f"--lr_scheduler.{option}" for option in keys[1:]]
    optimizer = ["--optimizer", "SGD", "--optimizer.lr", str(LR), "--trainer.max_epochs", "4"]
    seen = fit("--config", CLASSES, *LINEAR, *optimizer, "--lr_scheduler", keys[0], *options)
    total = 4 * STEPS
    assert seen.rates == pytest.approx([LR * rate(step, step // STEPS, total) for step in range(total)])


# ---- regularisation

SGD = ["--optimizer", "SGD", "--optimizer.lr", str(LR), "--optimizer.weight_decay", "0"]


@pytest.mark.parametrize("kind", ["norm", "value"])
def test_gradients_are_clipped_before_the_optimizer_gets_them(kind: str) -> None:
    most = 0.01
    clip = ["--trainer.gradient_clip_val", str(most), "--trainer.gradient_clip_algorithm", kind]
    seen = fit("--config", CLASSES, *LINEAR, *SGD, *clip)
    for whole, clipped in zip(seen.before, seen.grads, strict=True):
        assert float(whole.norm()) > 10 * most
        expected = whole * most / whole.norm() if kind == "norm" else whole.clamp(-most, most)
        assert torch.allclose(clipped, expected, rtol=1e-4)
    steps = LR * torch.stack(seen.grads).sum(0)
    moved = torch.cat([(a - b).flatten() for a, b in zip(seen.start, seen.end, strict=True)])
    assert torch.allclose(moved, steps, atol=1e-6)


def test_accumulated_batches_are_one_of_their_size() -> None:
    once = fit("--config", CLASSES, *LINEAR, *SGD, "--data.batch_size", "96")
    halves = ["--data.batch_size", "32", "--trainer.accumulate_grad_batches", "3", "--trainer.limit_train_batches"]
    thrice = fit("--config", CLASSES, *LINEAR, *SGD, *halves, str(3 * STEPS))
    assert (len(once.rates), len(thrice.rates), len(thrice.losses)) == (STEPS, STEPS, 3 * STEPS)
    assert_close(once.end, thrice.end)
    assert not torch.allclose(once.start[0], once.end[0], atol=1e-2)


def test_dropout_leaves_out_units_in_training_alone() -> None:
    cli = FitCLI(["--config", CLASSES, *QUICK, "--model.net.dropout", "0.25", "--data.test_fraction", "0"])
    seen: dict[bool, list[tuple[Tensor, Tensor]]] = {True: [], False: []}
    (first, *_) = [layer for layer in cli.model.modules() if isinstance(layer, nn.Dropout)]
    first.register_forward_hook(lambda layer, given, made: seen[layer.training].append((given[0], made)))
    cli.fit()
    assert seen[False]
    assert all(torch.equal(given, made) for given, made in seen[False])
    given, made = (torch.cat(column) for column in zip(*seen[True], strict=True))
    on = given > 0
    assert float((made[on] == 0).float().mean()) == pytest.approx(0.25, abs=0.03)  # of 4,000 units or more
    kept = on & (made != 0)
    assert torch.allclose(made[kept], given[kept] / 0.75)


def test_augmentation_changes_training_images_and_no_labels() -> None:
    keys = ["--model.net.width", "8", "--data.augment.shift", "0", "--data.augment.rotate", "0",
            "--data.augment.scale", "0", "--data.augment.flip"]  # fmt: skip
    few = [f"--trainer.limit_{part}_batches=1" for part in ("train", "val", "test")]
    plain, flipped = (fit("--config", CNN, *QUICK, *few, *keys, flip) for flip in ("none", "horizontal"))
    (images, labels), (others, same) = plain.batches[0], flipped.batches[0]
    assert torch.equal(labels, same)
    stay, turn = ((other - images).abs().flatten(1).amax(1) < 1e-4 for other in (others, others.flip(3)))
    assert (stay | turn).all()
    assert float(turn.float().mean()) == pytest.approx(0.5, abs=0.25)


# ---- losses


def first_loss(config: str, *keys: str) -> tuple[Tensor, Tensor, float]:
    """Outputs of the start's linear model and targets of the first batch, and the loss that they gave."""
    seen = fit("--config", config, *LINEAR, "--trainer.limit_train_batches", "1", *keys)
    (x, y), (w, b) = seen.batches[0], seen.start
    return x @ w.T + b, y, seen.losses[0]


@pytest.mark.parametrize(
    ("keys", "by_sample"),
    [
        # log p of both classes, the label and the other one, to the loss of a sample and its weight
        ([], lambda right, wrong, y: (-right, torch.ones_like(right))),
        (["--model.class_weights", "[1, 3]"], lambda right, wrong, y: (-right, 1.0 + 2 * y)),
        (["--model.label_smoothing", "0.2"],
         lambda right, wrong, y: (-0.9 * right - 0.1 * wrong, torch.ones_like(right))),
        (["--model.loss", "focal", "--model.focal_gamma", "3"],
         lambda right, wrong, y: (-((1 - right.exp()) ** 3) * right, torch.ones_like(right))),
        (["--model.loss", "own_tools.Margin", "--model.loss.margin", "0.5"], None),
    ],
    ids=lambda value: " ".join(value) or "cross_entropy" if isinstance(value, list) else "",
)  # fmt: skip
def test_a_classifiers_loss_is_that_of_its_key(own: str, keys: list[str], by_sample: Any) -> None:
    logits, y, found = first_loss(CLASSES, *keys)
    if by_sample is None:  # each of two classes has a share of 1 / 2
        right, wrong = logits.gather(1, y[:, None])[:, 0], logits.gather(1, 1 - y[:, None])[:, 0]
        expected = ((0.5 - right + wrong).clamp(min=0) / 2).mean()
    else:
        log_p = logits - logits.exp().sum(1, keepdim=True).log()
        losses, share = by_sample(log_p.gather(1, y[:, None])[:, 0], log_p.gather(1, 1 - y[:, None])[:, 0], y)
        expected = (losses * share).sum() / share.sum()
    assert found == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("keys", "loss"),
    [
        (["mse"], lambda error, spread: error**2),
        (["mae"], lambda error, spread: error.abs()),
        (["huber", "--model.huber_delta", "0.5"],
         lambda error, spread: torch.where(error.abs() < 0.5, error**2 / 2, 0.5 * (error.abs() - 0.25))),
        (["gaussian_nll"], lambda error, spread: (spread + error**2 / spread.exp() + math.log(2 * math.pi)) / 2),
        (["own_tools.Fourth"], lambda error, spread: error**4),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_regressors_loss_is_that_of_its_key(own: str, keys: list[str], loss: Any) -> None:
    facts = ["--model.target_mean", "[150]", "--model.target_std", "[80]"]
    outputs, y, found = first_loss(NUMBERS, "--model.loss", *keys, *facts)
    error = outputs[:, :1] - (y - 150) / 80
    assert found == pytest.approx(float(loss(error, outputs[:, -1:]).mean()), rel=1e-4)


# ---- start values


def test_start_values_are_those_of_the_key_and_weights_that_are_given_come_after_them() -> None:
    keys = ["--config", CLASSES, *QUICK, "--model.net.width", "128", "--parameters.init", "he"]
    seen = fit(*keys)
    first, bias, second, _, last, _ = seen.start
    assert [len(w) for w in (first, second, last)] == [128, 128, 2]
    for weight, gain in ((first, 2), (second, 2), (last, 1)):
        assert float(weight.var()) == pytest.approx(gain / weight.shape[1], rel=0.25)
    assert not bias.any()
    torch.save({"net.layers.1.weight": torch.full_like(first, 0.25)}, "given.pt")
    given = fit(*keys, "--weights", "given.pt")
    assert (given.start[0] == 0.25).all()
    assert torch.equal(given.start[2], second)


def test_the_doctor_has_nothing_against_them(command: Command) -> None:
    keys = ["--config", CLASSES, "--model.net.depth", "6", "--trainer.max_epochs", "8", "--parameters.init", "he"]
    result = command("fit", *keys)
    assert (result.status, result.err) == (0, "")
    assert Run("mlp_classes").summary["doctor"]["findings"] == []


def test_a_wrong_key_of_the_parameters_is_one_line(command: Command) -> None:
    wrong = command("fit", "--config", CLASSES, "--parameters.init", "hee")
    assert (wrong.status, wrong.err.count("\n")) == (2, 1)
    assert "parameters.init: 'hee'" in wrong.err
    assert "did you mean 'he'?" in wrong.err
    wrong = command("fit", "--config", CLASSES, "--parameters.groups", '[{"match": "nothing"}]')
    assert wrong.status == 2
    assert wrong.err.startswith("error: parameters.groups: 'nothing' matches no parameter")
    assert wrong.err.count("\n") == 1
