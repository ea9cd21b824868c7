"""A loss that has gone bad: found at its step, told with what was to blame, and kept out of every checkpoint."""

import copy
import json
import math
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from callbacks import OnNonFinite
from runs import Run
from scripts import fit
from scripts.main import main
from tests.conftest import Command, Result
from tests.same import differences, unequal

RUN = Path("lightning_logs/bad/version_0")
SKIPS = pytest.mark.filterwarnings("default:step .* skipped")


class Samples(Dataset[tuple[Tensor, Tensor, int]]):
    """Points, labels, and which ones they are; some of the points are bad."""

    def __init__(self, count: int, bad: list[int], value: float) -> None:
        self.points = torch.randn(count, 8, generator=torch.Generator().manual_seed(count))
        self.labels = (self.points[:, 0] > 0).long()
        self.points[bad] = value

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, int]:
        return self.points[i], self.labels[i], i


class Data(LightningDataModule):
    """Six shuffled batches an epoch."""

    def __init__(
        self, bad: list[int] | None = None, value: float = math.nan, bad_val: list[int] | None = None, workers: int = 0
    ) -> None:
        super().__init__()
        self.bad, self.value, self.bad_val, self.workers = bad or [], value, bad_val or [], workers

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Samples(24, self.bad, self.value), 4, shuffle=True, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Samples(6, self.bad_val, self.value), 3)


class Root(nn.Module):
    """Not finite for large negative numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 1000).sqrt() - 1000**0.5


class Net(LightningModule):
    """Notes which samples each step got; the loss is bad in given steps."""

    steps: ClassVar[list[tuple[int, list[int]]]] = []

    def __init__(
        self, bad_steps: list[int] | None = None, value: float = math.inf, bad_gradient: int = -1, bad_weights: int = -1
    ) -> None:
        super().__init__()
        self.bad_steps, self.value = bad_steps or [], value
        self.bad_gradient, self.bad_weights = bad_gradient, bad_weights
        self.first = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.root = Root()
        self.last = nn.Linear(16, 2)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, y, indices = batch
        Net.steps.append((self.global_step, indices.tolist()))
        loss = F.cross_entropy(self.last(self.root(self.norm(self.first(x)))), y)
        if self.global_step in self.bad_steps:
            loss = loss + self.value
        if self.global_step == self.bad_gradient:  # which is infinite times 0; the value is 0
            loss = loss + (self.first.weight * 0).sum().abs().sqrt()
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Any:
        return self.loss(batch)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.global_step == self.bad_weights:
            with torch.no_grad():
                self.last.weight[1, 2] = math.inf

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        x, y, _ = batch
        self.log("val/loss", F.cross_entropy(self.last(self.norm(self.first(x))), y))


class GivesDict(Net):
    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Any:
        return {"loss": self.loss(batch), "more": torch.tensor(math.nan)}


class GivesNone(Net):
    """Leaves out bad batches itself."""

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        return loss if loss.isfinite() else None


class Manual(Net):
    """Makes its steps itself."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


class TwoOptimizers(Net):
    """One loss, and two optimizers that share the weights."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        parts = [self.first, self.norm], [self.last]
        return [torch.optim.SGD([p for part in found for p in part.parameters()], lr=0.01) for found in parts]

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Any:
        both: Any = self.optimizers()
        for optimizer in both:
            optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        for optimizer in both:
            optimizer.step()


class Snapshots(Callback):
    """Keeps the weights, running statistics and optimizer as they are before and after each batch, while it is told
    to."""

    taken: ClassVar[list[tuple[int, Any, Any]] | None] = None
    _before: Any = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._before = state_of(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if Snapshots.taken is not None:
            Snapshots.taken.append((trainer.current_epoch * 6 + batch_idx, self._before, state_of(trainer, pl_module)))


def state_of(trainer: Trainer, module: LightningModule) -> Any:
    optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
    for optimizer in optimizers:  # the schedule's affair
        optimizer["param_groups"] = [{k: v for k, v in g.items() if k != "lr"} for g in optimizer["param_groups"]]
    return copy.deepcopy({"weights": module.state_dict(), "optimizers": optimizers})


def args_of(net: str = "Net", *more: str) -> list[str]:
    return [
        *("--model", f"tests.callbacks.test_nonfinite.{net}", "--data", "tests.callbacks.test_nonfinite.Data"),
        *("--optimizer", "torch.optim.AdamW", "--optimizer.lr", "0.01", "--trainer.max_epochs", "3", "--name", "bad"),
        *("--checkpoint.every_n_train_steps", "2", "--checkpoint.save_top_k", "-1"),
        *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1"),
        *more,
    ]


@pytest.fixture(autouse=True)
def _nothing_noted() -> Iterator[None]:
    Net.steps.clear()
    Snapshots.taken = None
    yield
    Snapshots.taken = None


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """The samples of each batch when all goes well; they follow from the seed."""
    folder = tmp_path_factory.mktemp("order")
    Net.steps.clear()
    assert main(fit.fit, args_of("Net", "--trainer.default_root_dir", str(folder))) == 0
    batches = [indices for _, indices in Net.steps]
    assert len(batches) == 18
    assert batches[:6] != batches[6:12]
    return batches


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def last(run: Path = RUN) -> Any:
    return load(run / "checkpoints" / "last.ckpt")


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors(item)]
    return [value] if isinstance(value, Tensor) else []


def finite(state: Any) -> bool:
    return all(
        bool(tensor.isfinite().all()) for part in ("state_dict", "optimizer_states") for tensor in tensors(state[part])
    )


def checkpoints(run: Path = RUN) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "checkpoints").glob("*"))}


@contextmanager
def watched() -> Iterator[list[dict[str, bytes]]]:
    """The checkpoints that are there whenever a step begins."""
    found: list[dict[str, bytes]] = []
    loss: Any = Net.loss

    def noting(self: Net, batch: Any) -> Any:
        found.append(checkpoints())
        return loss(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Net, "loss", noting)
        yield found


def assert_stopped(result: Result, *parts: str) -> dict[str, Any]:
    """One error line with all `parts`, exit status 1, and finite checkpoints; gives what nonfinite.json holds."""
    assert result.status == 1, result.out + result.err
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1, result.err
    for part in parts:
        assert part in result.err
    assert not Run(RUN).finished
    for path in (RUN / "checkpoints").glob("*"):
        assert finite(load(path)), path
    path = RUN / "nonfinite.json"
    return json.loads(path.read_text()) if path.is_file() else {}


# ---- stop


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_told_by_its_number(workers: int, order: list[list[int]], command: Command) -> None:
    bad = order[4][1]
    with watched() as before:
        done = command("fit", *args_of("Net", "--data.bad", f"[{bad}]", "--data.workers", str(workers)))
    facts = assert_stopped(
        done,
        "loss: nan in step 4 (epoch 0, batch 4)",
        "first not finite: the batch itself",
        "lr 0.01",
        f"sample {bad};",
        f"last good checkpoint: {RUN}/checkpoints/last.ckpt",
    )
    assert Net.steps[-1] == (4, order[4])  # what the dataset has handed out
    assert datetime.fromisoformat(facts.pop("time")) <= datetime.now().astimezone()
    assert facts == {
        "loss": "nan",
        "step": 4,
        "epoch": 0,
        "batch": 4,
        "first": "the batch itself",
        "lr": [0.01],
        "indices": order[4],
        "bad_indices": [bad],
    }
    assert checkpoints() == before[-1]
    assert last()["global_step"] == 4


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_a_loss_that_is_bad_itself(value: str, order: list[list[int]], command: Command) -> None:
    with watched() as before:
        done = command(
            "fit", *args_of("Net", "--model.bad_steps", "[9]", f"--model.value=.{value}".replace(".-", "-."))
        )
    facts = assert_stopped(done, f"loss: {value} in step 9 (epoch 1, batch 3)", "first not finite: the loss;")
    assert (facts["loss"], facts["first"], facts["indices"]) == (value, "the loss", order[9])
    assert checkpoints() == before[-1]
    assert {name for name in checkpoints() if name != "last.ckpt"} == {"epoch000-step000006.ckpt"}
    assert last()["global_step"] == 8


def test_the_layer_in_which_it_came_up_is_named(order: list[list[int]], command: Command) -> None:
    with watched() as before:  # large numbers, which nothing but the root makes bad
        options = ["--data.bad", f"[{order[3][0]}]", "--data.value", "1e30", "--data.bad_val", "[]"]
        done = command("fit", *args_of("NoNorm", *options))
    facts = assert_stopped(done, "in step 3 (epoch 0, batch 3)", "first not finite: the output of root (Root)")
    assert facts["first"] == "the output of root (Root)"
    assert checkpoints() == before[-1]


class NoNorm(Net):
    """Without normalisation, which would make large numbers small."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Identity()  # type: ignore[assignment]
        nn.init.constant_(self.first.weight, -1)


def test_weights_that_explode_are_found_before_they_are_saved(command: Command) -> None:
    options = ["--optimizer", "torch.optim.SGD", "--optimizer.lr", "1e30", "--checkpoint.every_n_train_steps", "1"]
    with watched() as before:
        done = command("fit", *args_of("NoNorm", *options))
    facts = assert_stopped(done, "loss: ", "lr 1e+30", "first not finite: ", "last good checkpoint: ")
    assert facts["lr"] == [1e30]
    assert 1 <= facts["step"] < 6
    assert checkpoints() == before[-1]
    assert last()["global_step"] <= facts["step"]


def test_after_a_bad_gradient_the_weights_are_to_blame(command: Command) -> None:
    done = command("fit", *args_of("Net", "--model.bad_gradient", "8", "--checkpoint.every_n_train_steps", "100"))
    facts = assert_stopped(done, "in step 9 (epoch 1, batch 3)", "the weights first.weight, from an earlier step")
    assert facts["first"] == "the weights first.weight, from an earlier step"
    assert last()["global_step"] == 6


def test_bad_weights_are_found_when_they_would_be_saved(command: Command) -> None:
    with watched() as before:
        done = command("fit", *args_of("Net", "--model.bad_gradient", "7"))  # saved after step 8
    assert_stopped(done, "weights: first.weight is not finite after step 8", "last good checkpoint: ")
    assert checkpoints() == before[-1]
    assert last()["global_step"] == 6


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_bad_weights_at_the_end_of_an_epoch_are_in_no_checkpoint(action: str, command: Command) -> None:
    options = ["--model.bad_weights", "12", "--checkpoint.every_n_train_steps", "100", "--on_nonfinite", action]
    with watched() as before:
        done = command("fit", *args_of("Net", *options))
    assert_stopped(done, "weights: last.weight is not finite after step 12", "last good checkpoint: ")
    assert checkpoints() == before[-1]
    assert set(checkpoints()) == {"last.ckpt", "epoch000-step000006.ckpt"}


def test_in_the_first_step_there_is_no_checkpoint_yet(order: list[list[int]], command: Command) -> None:
    args = args_of("Net", "--data.bad", f"[{order[0][0]}]")
    facts = assert_stopped(command("fit", *args), "in step 0 (epoch 0, batch 0)", "there is no checkpoint yet")
    assert facts["indices"] == order[0]
    assert checkpoints() == {}


def test_a_bad_batch_within_an_accumulation_is_the_one_that_is_named(order: list[list[int]], command: Command) -> None:
    args = args_of("Net", "--trainer.accumulate_grad_batches", "3", "--data.bad", f"[{order[4][2]}]")
    facts = assert_stopped(command("fit", *args), "in step 1 (epoch 0, batch 4)")
    assert facts["indices"] == order[4]


@pytest.mark.parametrize("net", ["GivesDict", "Manual"])
def test_other_ways_to_make_a_step_are_looked_at(net: str, order: list[list[int]], command: Command) -> None:
    with watched() as before:
        done = command("fit", *args_of(net, "--data.bad", f"[{order[8][3]}]", "--model.bad_steps", "[]"))
    batch = next(number for number, indices in enumerate(order) if order[8][3] in indices)
    facts = assert_stopped(done, f"loss: nan in step {batch} (epoch 0, batch {batch})", "the batch itself")
    assert facts["indices"] == order[batch]
    assert checkpoints() == before[-1]


@pytest.mark.parametrize("net", ["Net", "GivesDict", "Manual"])
def test_to_find_the_layer_a_step_is_repeated_once(net: str, command: Command) -> None:
    done = command("fit", *args_of(net, "--model.bad_steps", "[9]"))
    assert_stopped(done, "loss: inf in step 9", "first not finite: the loss;")
    assert len([step for step, _ in Net.steps if step == 9]) <= 2


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
def test_a_module_that_leaves_out_bad_batches_itself_is_left_alone(command: Command) -> None:
    done = command("fit", *args_of("GivesNone", "--model.bad_steps", "[9]"))
    assert (done.status, done.err) == (0, "")
    assert last()["global_step"] == 18
    assert finite(last())


def test_a_run_that_was_stopped_goes_on_with_a_smaller_rate(command: Command) -> None:
    args = args_of("NoNorm", "--optimizer", "torch.optim.SGD", "--checkpoint.every_n_train_steps", "1")
    with explodes_at(4):
        assert_stopped(command("fit", *args, "--optimizer.lr", "0.01"))
    done = command("fit", *args, "--resume", "--optimizer.lr", "0.001")
    assert (done.status, done.err) == (0, "")
    assert "changed: optimizer.lr 0.01 → 0.001" in done.out
    assert last()["global_step"] == 18
    assert finite(last())


@contextmanager
def explodes_at(step: int) -> Iterator[None]:
    """A loss that is too large for a number from a step on."""
    loss: Any = Net.loss

    def large(self: Net, batch: Any) -> Any:
        return loss(self, batch) * (1e300 if self.global_step >= step else 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Net, "loss", large)
        yield


@SKIPS
def test_a_run_that_goes_on_stops_at_the_same_bad_sample_or_skips_it(order: list[list[int]], command: Command) -> None:
    args = args_of("Net", "--data.bad", f"[{order[3][0]}]")
    first = command("fit", *args)
    facts = assert_stopped(first)
    again = command("fit", *args, "--resume")
    assert {**assert_stopped(again), "time": facts["time"]} == facts
    assert again.err == first.err
    done = command("fit", *args, "--resume", "--on_nonfinite", "skip")
    assert done.status == 0
    assert "warning: step 3 skipped" in done.err
    assert "changed: on_nonfinite stop → skip" in done.out
    assert last()["global_step"] == 18
    assert finite(last())


# ---- skip

SNAPSHOTS = (
    "--trainer.callbacks",
    "[{class_path: tests.callbacks.test_nonfinite.Snapshots}]",
    "--on_nonfinite",
    "skip",
)
OPTIMIZERS = {
    "AdamW": [],
    "fused": ["--optimizer.fused", "true"],
    "clipped": ["--trainer.gradient_clip_val", "0.5"],
    "SGD": [*("--optimizer", "torch.optim.SGD", "--optimizer.momentum", "0.9", "--optimizer.weight_decay", "0.1")],
    "RMSprop": [*("--optimizer", "torch.optim.RMSprop", "--optimizer.centered", "true")],
}


@SKIPS
@pytest.mark.parametrize(
    ("net", "optimizer"), [*(("Net", name) for name in OPTIMIZERS), ("GivesDict", "AdamW"), ("Manual", "SGD")]
)
def test_a_skipped_step_changes_nothing(optimizer: str, net: str, order: list[list[int]], command: Command) -> None:
    bad = order[2][0]
    Snapshots.taken = []
    done = command("fit", *args_of(net, *OPTIMIZERS[optimizer], *SNAPSHOTS, "--data.bad", f"[{bad}]"))
    assert done.status == 0, done.err
    assert len(Snapshots.taken) == 18
    for number, before, after in Snapshots.taken:
        found = unequal(before, after)
        assert (found == []) == (bad in order[number]), (number, found)
    assert last()["callbacks"]["OnNonFinite"]["skipped"] == 3
    assert last()["global_step"] == 18
    assert finite(last())


@SKIPS
def test_a_skipped_step_is_left_out_by_all_optimizers(order: list[list[int]], command: Command) -> None:
    args = args_of("TwoOptimizers", *SNAPSHOTS, "--data.bad", f"[{order[2][0]}]", "--trainer.max_epochs", "1")
    at = args.index("--optimizer")
    Snapshots.taken = []
    done = command("fit", *args[:at], *args[at + 4 :])
    assert done.status == 0, done.err
    _, before, after = Snapshots.taken[2]
    assert unequal(before, after) == []
    assert finite(last())


@SKIPS
@pytest.mark.parametrize("position", [0, 2, 3, 5])
def test_of_an_accumulation_all_of_the_step_is_left_out(
    position: int, order: list[list[int]], command: Command
) -> None:
    Snapshots.taken = []
    options = ["--trainer.accumulate_grad_batches", "4", "--trainer.max_epochs", "1", "--data.bad"]
    done = command("fit", *args_of("Net", *SNAPSHOTS, *options, f"[{order[position][0]}]"))
    assert done.status == 0, done.err
    taken = Snapshots.taken
    for first, end in ((0, 3), (4, 5)):  # the two steps of an epoch
        changed = unequal(taken[first][1], taken[end][2]) != []
        assert changed == (not first <= position <= end)
    assert last()["callbacks"]["OnNonFinite"]["skipped"] == 1
    assert finite(last())


@SKIPS
def test_what_is_trained_without_the_bad_step_is_all_that_is_left(order: list[list[int]], command: Command) -> None:
    """The steps after a skipped one are those of a run in which nothing was bad, from the same state on."""
    Snapshots.taken = []
    bad = order[5][0]  # the last batch of the first epoch
    options = ["--trainer.max_epochs", "1", *SNAPSHOTS]
    assert command("fit", *args_of("Net", *options, "--data.bad", f"[{bad}]")).status == 0
    skipped, Snapshots.taken = Snapshots.taken, []
    assert command("fit", *args_of("Net", *options)).status == 0
    assert unequal(skipped[4][2], Snapshots.taken[4][2]) == []
    assert unequal(skipped[5][2], Snapshots.taken[4][2]) == []
    assert unequal(Snapshots.taken[5][2], Snapshots.taken[4][2]) != []


@SKIPS
def test_three_skipped_steps_are_told_and_the_others_counted(command: Command) -> None:
    done = command("fit", *args_of("Net", "--on_nonfinite", "skip", "--model.bad_steps", "[2, 3, 7, 8, 11, 14]"))
    assert done.status == 0
    told = [line for line in done.err.splitlines() if "skipped" in line]
    assert len(told) == 3
    for step, line in zip((2, 3, 7), told, strict=True):
        assert line.startswith(f"warning: step {step} skipped")
    assert "further ones are only counted" in told[2]
    assert last()["callbacks"]["OnNonFinite"]["skipped"] == 6
    assert finite(last())


@SKIPS
def test_the_count_goes_on_with_the_run(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    args = args_of("Net", "--on_nonfinite", "skip", "--model.bad_steps", "[2, 3, 7, 13, 14]")
    assert command("fit", *args, "--name", "whole").status == 0

    class Crash(Exception):
        pass

    def crash(self: Net, batch: Any, batch_idx: int) -> None:
        if self.global_step == 9:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Net, "on_train_batch_start", crash)
        with pytest.raises(Crash):
            command("fit", *args)
    assert last()["callbacks"]["OnNonFinite"]["skipped"] == 3
    done = command("fit", *args, "--resume")
    assert (done.status, done.err) == (0, "")  # three were told before
    assert last()["callbacks"]["OnNonFinite"]["skipped"] == 5
    assert differences(RUN, Path("lightning_logs/whole/version_0")) == []


@SKIPS
def test_weights_that_were_bad_already_are_not_skipped_for_ever(command: Command) -> None:
    done = command("fit", *args_of("Net", "--on_nonfinite", "skip", "--model.bad_gradient", "8"))
    assert done.status == 1
    (error,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert "weights: first.weight is not finite after step 10" in error
    assert all(finite(load(path)) for path in (RUN / "checkpoints").iterdir())


# ---- ignore


def test_ignored_is_ignored(order: list[list[int]], command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(*args: Any) -> None:
        raise AssertionError("the loss was looked at")

    for name in ("on_before_backward", "on_safe_point"):
        monkeypatch.setattr(OnNonFinite, name, looked)
    options = ["--on_nonfinite", "ignore", "--early_stopping.check_finite", "false"]
    done = command("fit", *args_of("Net", *options, "--data.bad", f"[{order[3][0]}]"))
    assert (done.status, done.err) == (0, "")
    assert last()["global_step"] == 18
    assert not finite(last())
    assert not (RUN / "nonfinite.json").exists()
    assert "OnNonFinite" not in last()["callbacks"]


# ---- validation


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_a_bad_validation_alone_is_no_bad_step(action: str, command: Command) -> None:
    args = args_of("Net", "--data.bad_val", "[2]", "--on_nonfinite", action)
    done = command("fit", *args, "--early_stopping.check_finite", "false")
    assert (done.status, done.err) == (0, "")
    assert Run(RUN).summary["stopped"] == "trainer.max_epochs 3 reached"
    assert last()["global_step"] == 18
    assert finite(last())


def test_a_bad_validation_ends_the_run_by_early_stopping(command: Command) -> None:
    done = command("fit", *args_of("Net", "--data.bad_val", "[2]"))
    assert (done.status, done.err) == (0, "")
    assert "val/loss" in Run(RUN).summary["stopped"]
    assert Run(RUN).summary["stopped"] == "val/loss is nan"
    assert last()["global_step"] == 6


# ---- what comes next


@SKIPS
@pytest.mark.parametrize("way", ["with a smaller learning rate", "without such steps"])
def test_the_commands_that_go_on_can_be_pasted(way: str, command: Command) -> None:
    done = command("fit", *args_of("Net", "--model.bad_steps", "[9]"))
    assert_stopped(done, "loss: inf in step 9")
    (line,) = [line for line in done.out.splitlines() if line.startswith(way)]
    words = shlex.split(line.partition(": ")[2])
    assert words[:2] == ["python", "scripts/fit.py"]
    again = command("fit", *words[2:], "--on_nonfinite", "skip")
    assert again.status == 0, again.err
    assert "going on with" in again.out


@SKIPS
def test_when_all_steps_would_be_left_out_the_run_ends(command: Command) -> None:
    bad = ", ".join(map(str, range(3, 40)))
    done = command("fit", *args_of("Net", "--model.bad_steps", f"[{bad}]", "--on_nonfinite", "skip"))
    assert done.status == 1
    assert "error: loss: not finite in 10 steps in a row" in done.err
    assert not Run(RUN).finished
