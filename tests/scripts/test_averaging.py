"""Averages of weights through the whole program: stopped anywhere, resumed with other keys, tested."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from runs import Run
from tests.conftest import SMALL, Command
from tests.same import differences

LOGS = Path("lightning_logs")
METHODS = {
    "ema": ["--averaging.method=ema", "--averaging.decay=0.9"],
    "swa": ["--averaging.method=swa"],
    "schedule-free": ["--optimizer=schedulefree.AdamWScheduleFree", "--lr_scheduler=null", "--optimizer.lr=0.01"],
}


class StopAt(Callback):
    """Sends a signal after a step, or in the validation after it, as the environment says."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._stop(trainer, "step")

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._stop(trainer, "validation")

    def _stop(self, trainer: Trainer, where: str) -> None:
        if f"{where} {trainer.global_step}" == os.environ.get("STOP_AT"):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_stopped_anywhere_goes_on_to_the_same_weights(
    command: Command, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 19 steps an epoch
    keys = [*SMALL, *METHODS[method], "--trainer.callbacks=[{class_path: tests.scripts.test_averaging.StopAt}]"]
    whole = command("fit", *keys, "--name=whole")
    assert (whole.status, whole.err) == (0, "")
    for where in ("step 25", "validation 38"):
        monkeypatch.setenv("STOP_AT", where)
        cut = command("fit", *keys, "--name=cut", *(["--resume"] if where != "step 25" else []))
        assert cut.status == 128 + signal.SIGTERM
    monkeypatch.delenv("STOP_AT")
    done = command("fit", "--resume", LOGS / "cut")
    assert (done.status, done.err) == (0, "")
    assert differences(LOGS / "cut/version_0", LOGS / "whole/version_0") == []
    # what the fit has printed is what the commands find
    for name in ("validate", "test"):
        line = next(line for line in whole.out.splitlines() if line.startswith(name[:3]))
        assert line.split(maxsplit=1)[1] == command(name, "whole").out.splitlines()[0].split(maxsplit=1)[1]


def best(name: str) -> dict[str, Any]:
    return torch.load(Run(LOGS / name).checkpoint(), weights_only=True)


def test_what_is_saved_is_the_average_in_files_of_weights_alone_too(command: Command) -> None:
    keys = [*SMALL, *METHODS["ema"]]
    for name, more in (("all", []), ("alone", ["--checkpoint.save_weights_only=true"])):
        assert command("fit", *keys, f"--name={name}", *more).status == 0
    whole, alone = best("all"), best("alone")
    assert not {"current_model_state", "averaging_state"} & alone.keys()
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, alone["state_dict"][name])
    name = "net.head.3.weight"
    assert not torch.allclose(whole["state_dict"][name], whole["current_model_state"][name])
    assert command("fit", *SMALL, "--name=next", "--weights=all", "--trainer.max_epochs=1").status == 0


def test_the_average_may_begin_and_end_within_a_run(command: Command) -> None:
    one, plain = ["--trainer.max_epochs=1"], [*SMALL, "--lr_scheduler=null"]
    assert command("fit", *plain, "--name=plain").status == 0
    # with an average for an epoch, and without it then: trained as if there had never been one
    assert command("fit", *plain, *one, *METHODS["ema"], "--name=left").status == 0
    assert command("fit", "--resume", LOGS / "left", "--averaging.method=none", "--trainer.max_epochs=2").status == 0
    # and the other way round
    assert command("fit", *plain, *one, "--name=late").status == 0
    done = command("fit", "--resume", LOGS / "late", "--averaging.method=ema", "--trainer.max_epochs=2")
    assert (done.status, done.err) == (0, "")
    last = {name: Run(LOGS / name).checkpoint("last") for name in ("plain", "left", "late")}
    states = {name: torch.load(path, weights_only=True) for name, path in last.items()}
    for name, value in states["plain"]["state_dict"].items():
        assert torch.equal(value, states["left"]["state_dict"][name])
        assert torch.equal(value, states["late"]["current_model_state"][name])
    assert not torch.equal(
        states["late"]["state_dict"]["net.head.3.weight"], states["plain"]["state_dict"]["net.head.3.weight"]
    )


def test_a_few_batches_and_a_bare_trainer(command: Command) -> None:
    for method in METHODS.values():
        for keys in (["--trainer.fast_dev_run=2"], ["--trainer.barebones=true", "--trainer.max_epochs=1"]):
            done = command("fit", *SMALL, *method, *keys)
            assert (done.status, done.err) == (0, "")


def test_the_doctor_examines_it_too(command: Command) -> None:
    assert command("doctor", *SMALL, *METHODS["schedule-free"]).err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--averaging.method=emma"], "averaging.method: 'emma' is not allowed; allowed: none, ema, swa; did you"),
        (["--averaging.decay=1"], "averaging.decay: 1.0 is outside [0, 1)"),
        (["--averaging.decy=1"], "averaging.decy: no such key; did you mean 'averaging.decay'?"),
        (
            ["--averaging.method=swa", "--trainer.max_epochs=null", "--trainer.max_steps=5", "--lr_scheduler=null"],
            "averaging.start_epoch: swa needs it",
        ),
        ([*METHODS["schedule-free"], "--averaging.method=ema"], "averaging.method: AdamWScheduleFree averages weights"),
    ],
)
def test_what_can_not_be_is_one_line(command: Command, options: list[str], message: str) -> None:
    result = command("fit", *SMALL, *options)
    assert result.status == 2
    assert result.err.startswith(f"error: {message}")
    assert result.err.count("\n") == 1
    assert not list(Path().rglob("config.yaml"))
