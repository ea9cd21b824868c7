"""Best checkpoints that are held in memory, so that saving does not take more than its share of the time."""

import errno
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from callbacks import LastCheckpoint, last_checkpoint
from runs import checkpoints
from tests.conftest import Command, Result
from tests.noisy import Noisy, NoisyData

EPOCHS = 6
LAST = "last.ckpt"


class Improving(Noisy):
    """Gets better with each epoch; `broken` is an epoch in whose training it fails."""

    def __init__(self, broken: int = 99) -> None:
        super().__init__()
        self.broken = broken

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if (self.current_epoch, batch_idx) == (self.broken, 1):
            raise RuntimeError("a bug")
        return super().training_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self.log("val/rank", float(-self.current_epoch))


def train(command: Command, *more: str) -> Result:
    args = ["--model", f"{__name__}.Improving", "--data", f"{NoisyData.__module__}.NoisyData", *more]
    args += ["--optimizer", "torch.optim.SGD", "--optimizer.lr", "0.01", "--trainer.enable_progress_bar", "false"]
    return command("fit", "--trainer.max_epochs", str(EPOCHS), *args, "--checkpoint.monitor", "val/rank")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the checkpoints in the order in which they are written."""
    names: list[str] = []
    write = checkpoints.write_checkpoint

    def noting(state: dict[str, Any], path: Path) -> None:
        names.append(path.name)
        write(state, path)

    monkeypatch.setattr(checkpoints, "write_checkpoint", noting)
    return names


def there() -> list[str]:
    return sorted(path.name for path in Path("lightning_logs/run/version_0/checkpoints").iterdir())


def name_of(epoch: int) -> str:
    return f"epoch{epoch:03d}-step{6 * epoch + 6:06d}.ckpt"


def test_where_time_allows_it_each_best_checkpoint_is_written(
    command: Command, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LastCheckpoint, "share", 1e9)
    assert train(command).status == 0
    assert written == [name for epoch in range(EPOCHS) for name in (name_of(epoch), LAST)]
    assert there() == [name_of(EPOCHS - 1), LAST]


def test_where_it_does_not_those_that_are_soon_surpassed_are_never_written(
    command: Command, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LastCheckpoint, "share", -1)
    assert train(command).status == 0
    # the first epoch's end is saved whatever it takes: there was nothing before it
    assert written == [name_of(0), LAST, name_of(EPOCHS - 1), LAST]
    assert there() == [name_of(EPOCHS - 1), LAST]


def test_several_best_ones_are_held_together(
    command: Command, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LastCheckpoint, "share", -1)
    assert train(command, "--checkpoint.save_top_k", "3").status == 0
    kept = [name_of(epoch) for epoch in range(EPOCHS - 3, EPOCHS)]
    assert written == [name_of(0), LAST, *kept, LAST]
    assert there() == [*kept, LAST]
    for epoch, name in enumerate(kept, EPOCHS - 3):
        state = torch.load(Path("lightning_logs/run/version_0/checkpoints", name), weights_only=True)
        assert (state["epoch"], state["global_step"]) == (epoch, 6 * epoch + 6), "and not what came later"


def test_what_is_held_is_of_its_own_step(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {}
    for share, name in ((1e9, "at_once"), (-1, "held")):
        monkeypatch.setattr(LastCheckpoint, "share", share)
        assert train(command, "--checkpoint.save_top_k", "-1", "--name", name).status == 0
        folder = Path("lightning_logs", name, "version_0", "checkpoints")
        contents[name] = {p.name: torch.load(p, weights_only=True) for p in folder.iterdir()}
    assert contents["held"].keys() == contents["at_once"].keys()
    for name, state in contents["held"].items():
        for weight, value in contents["at_once"][name]["state_dict"].items():
            assert torch.equal(value, state["state_dict"][weight]), (name, weight)


def test_a_checkpoint_that_is_large_is_not_held(
    command: Command, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LastCheckpoint, "share", -1)
    monkeypatch.setattr(last_checkpoint, "HOLD", 100)
    assert train(command).status == 0
    assert written == [name_of(0), LAST, *map(name_of, range(1, EPOCHS)), LAST]
    assert there() == [name_of(EPOCHS - 1), LAST]


def test_a_run_that_fails_leaves_the_best_checkpoint_that_was_held(
    command: Command, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LastCheckpoint, "share", -1)
    with pytest.raises(RuntimeError, match="a bug"):
        train(command, "--model.broken", "4")
    assert written == [name_of(0), LAST, name_of(3)]
    assert there() == [name_of(3), LAST]


@pytest.mark.filterwarnings("always::UserWarning")
def test_a_held_checkpoint_that_can_not_be_written_is_as_if_it_had_not_been_better(
    command: Command, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LastCheckpoint, "share", -1)
    write = checkpoints.write_checkpoint

    def full(state: dict[str, Any], path: Path) -> None:
        if path.name != LAST and written.count(LAST) == 1:
            written.append(path.name)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(state, path)

    monkeypatch.setattr(checkpoints, "write_checkpoint", full)
    done = train(command)
    assert done.status == 0
    assert done.err.startswith("warning: can't write")
    assert done.err.count("\n") == 1
    assert written == [name_of(0), LAST, name_of(EPOCHS - 1), LAST]
    assert there() == [name_of(0), LAST], "the one that is there is still the best"
    assert f"best checkpoint  lightning_logs/run/version_0/checkpoints/{name_of(0)}" in done.out
    state = torch.load("lightning_logs/run/version_0/checkpoints/last.ckpt", weights_only=True)
    (best,) = [found for found in state["callbacks"].values() if "best_k_models" in found]
    assert list(best["best_k_models"]) == [name_of(0)]


class Clock:
    """Time that passes by what is done, and not by how fast the machine is."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_where_even_holding_takes_too_long_a_kill_still_costs_little(
    command: Command, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, state = Clock(), LastCheckpoint._state

    def slow(self: LastCheckpoint, trainer: Trainer, *args: Any) -> dict[str, Any]:
        clock.now += 0.05  # each epoch takes 0.6 s, so the better checkpoint of each would take 8 % alone
        return state(self, trainer, *args)

    monkeypatch.setattr(last_checkpoint, "time", clock)
    monkeypatch.setattr(LastCheckpoint, "_state", slow)
    monkeypatch.setattr(Improving, "on_train_batch_start", lambda *args: setattr(clock, "now", clock.now + 0.1))
    assert train(command, "--trainer.max_epochs", "50", "--early_stopping.patience", "99").status == 0
    saved = [written[i - 1] for i, name in enumerate(written) if name == LAST]  # the best ones just before it
    epochs = [int(name[5:8]) for name in saved]
    assert epochs[0] == 0
    assert epochs[-1] == 49
    # two files of 0.05 s are worth 100 times as long, 10 s; an epoch takes 0.65 s with what is held
    assert max(after - before for before, after in pairwise(epochs)) <= 17
    assert len(epochs) <= 6


class Asks(LastCheckpoint):
    """Counts how often there is something to do."""

    calls = 0

    def on_safe_point(self, trainer: Trainer, *args: Any) -> None:
        type(self).calls += 1
        super().on_safe_point(trainer, *args)


def test_what_is_held_costs_nothing_in_the_steps_after_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.fitting.LastCheckpoint", Asks)
    monkeypatch.setattr(Asks, "share", -1)
    assert train(command, "--trainer.val_check_interval", "0.2", "--early_stopping.patience", "99").status == 0
    # after each validation that was better (the first one of an epoch), at the end of each epoch
    assert Asks.calls == 2 * EPOCHS
