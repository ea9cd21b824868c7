"""The doctor in a fit: what it says and where, what it does about it, and what it never does."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.doctor import cases
from benchmarks.doctor.run import arguments, run
from callbacks import Doctor
from callbacks.doctor import DIAGNOSES, Thresholds
from callbacks.doctor.steps import LearningRateTooHigh
from runs.compare import compare
from scripts.fitting import FitCLI
from tests.conftest import ROOT, SMALL, Command, Result
from tests.processes import DDP, running

LOGS = Path("lightning_logs/case")
TOO_HIGH = {"optimizer__lr": 3.0}
LINE = re.compile(r"^doctor: step (\d+): the learning rate is too high: .* try --optimizer\.lr (\S+)$", re.M)


def fit(command: Command, *args: str, epochs: int = 3, **keys: Any) -> Result:
    """A fit of a second: a small network on rows of pixels."""
    more = {"trainer.max_epochs": epochs, **{key.replace("__", "."): value for key, value in keys.items()}}
    return command("fit", *arguments({**cases.MLP, **more}, seed=0), *args)


def report(version: int = 0) -> dict[str, Any]:
    return json.loads((LOGS / f"version_{version}" / "doctor.json").read_text())


class Tell(Callback):
    """Writes what the doctor of each process knows at the end."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (doctor,) = (callback for callback in trainer.callbacks if isinstance(callback, Doctor))  # type: ignore[attr-defined]
        with open("told.txt", "a", encoding="utf-8") as file:
            names = [[finding.name, finding.step, finding.remedies] for finding in doctor.findings]
            file.write(json.dumps([trainer.global_rank, names]) + "\n")


# ---- what is said


def test_a_fault_is_said_once_in_every_place(command: Command) -> None:
    result = fit(command, **TOO_HIGH)
    assert (result.status, result.err) == (0, "")
    ((step, rate),) = LINE.findall(result.out)
    assert float(rate) < 0.1
    (finding,) = [found for found in report()["findings"] if found["follows_from"] is None]
    assert (finding["name"], finding["step"]) == ("learning_rate_too_high", int(step))
    assert finding["remedies"][0] == f"--optimizer.lr {rate}"
    assert finding["evidence"] in result.out
    log = EventAccumulator(str(LOGS / "version_0")).Reload()
    (text,) = log.Tensors("doctor/text_summary")
    assert text.step == int(step)
    assert finding["evidence"] in text.tensor_proto.string_val[0].decode()
    summary = json.loads((LOGS / "version_0/summary.json").read_text())["doctor"]
    assert [found["name"] for found in summary["findings"]] == ["learning_rate_too_high"], "causes only"
    assert re.search(rf"^doctor +the learning rate is too high: .*\n +try --optimizer.lr {rate}$", result.out, re.M)


def test_a_healthy_run_says_what_was_looked_for(command: Command) -> None:
    result = fit(command, epochs=5)
    assert not re.search("^doctor: ", result.out, re.M)
    checked = report()["checked"]
    assert {"nan_or_inf", "dead_relus", "overfitting", "inputs_not_normalised"} <= set(checked)
    assert "saturation" not in checked, "there is nothing that could be saturated"
    assert report()["unseen"]["saturation"] == "no tanh or sigmoid"
    found = re.search(r"^doctor +no problems found\n +looked for (\d+) of 20 problems, not for (.*)$", result.out, re.M)
    assert found
    assert int(found[1]) == len(checked)
    assert "saturation (no tanh or sigmoid)" in found[2]


def test_diagnoses_can_be_left_out_and_lines_moved(command: Command) -> None:
    assert LINE.search(fit(command, **TOO_HIGH, epochs=1).out)
    ignored = fit(command, '--doctor.ignore=["learning_rate_too_high"]', **TOO_HIGH, epochs=1)
    assert not LINE.search(ignored.out)
    assert "learning_rate_too_high" not in report(1)["checked"]
    # a standard deviation of 1 is none of raw values, for anybody else
    strict = fit(command, "--doctor.thresholds.input_std=0.5", epochs=1)
    assert "the inputs are not normalised" in strict.out


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ('--doctor.ignore=["overfiting"]', "doctor.ignore: 'overfiting' is unknown; did you mean 'overfitting'?"),
        ("--doctor.action=repiar", "doctor.action: .*did you mean 'repair'"),
        ("--doctor.max_repairs=-1", "doctor.max_repairs: -1 is negative"),
        (
            "--doctor.thresholds.deadunits=0.5",
            "doctor.thresholds.deadunits: .*did you mean 'doctor.thresholds.dead_units'",
        ),
    ],
)
def test_a_mistake_in_its_keys_is_one_line(command: Command, key: str, line: str) -> None:
    result = fit(command, key, epochs=1)
    assert result.status == 2
    assert re.fullmatch(f"error: .*{line}.*\n", result.err), result.err
    assert not LOGS.exists()


@pytest.mark.filterwarnings("default:the doctor can't look")
def test_a_diagnosis_that_fails_does_not_end_the_run(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr(LearningRateTooHigh, "examine", fail)
    result = fit(command, epochs=1)
    assert result.status == 0
    assert result.err == "warning: the doctor can't look for learning_rate_too_high: ZeroDivisionError: by chance\n"
    assert "learning_rate_too_high" not in report()["checked"]
    assert "nan_or_inf" in report()["checked"]


def test_the_weights_are_those_of_a_run_without_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(command, epochs=2, model__dropout=0.5)
    made = FitCLI.callbacks

    def without(self: FitCLI, config: dict[str, Any]) -> list[Callback]:
        return [callback for callback in made(self, config) if not isinstance(callback, Doctor)]

    monkeypatch.setattr(FitCLI, "callbacks", without)
    fit(command, epochs=2, model__dropout=0.5)
    assert not (LOGS / "version_1/doctor.json").exists()
    one, other = (
        torch.load(LOGS / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("version_0", "version_1")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("key", ["trainer.barebones", "trainer.fast_dev_run"])
def test_trainings_that_keep_nothing_have_no_doctor(command: Command, key: str) -> None:
    result = fit(command, f"--{key}=true", epochs=1)
    assert (result.status, result.err) == (0, "")
    assert "doctor" not in result.out


def test_what_was_said_is_not_said_again_after_a_resume(command: Command) -> None:
    first = fit(command, **TOO_HIGH, epochs=2)
    before = report()["findings"]
    assert LINE.search(first.out)
    again = command("fit", "--resume", LOGS / "version_0", "--trainer.max_epochs", "3")
    assert again.status == 0
    assert not LINE.search(again.out)
    assert report()["findings"][: len(before)] == before
    assert re.search("^doctor +the learning rate is too high", again.out, re.M), "in the summary it is"


def test_the_documentation_knows_every_diagnosis_and_line() -> None:
    table = [line for line in (ROOT / "docs/doctor.md").read_text().splitlines() if line.startswith("| `")]
    documented = [line.split("`")[1] for line in table if not line.startswith("| `doctor.")]
    assert documented == [diagnosis.name for diagnosis in DIAGNOSES]
    keys = {name: float(value) for line in table for name, value in re.findall(r"`(\w+)` ([\d.]+)", line)}
    assert {name: keys[name] for name in asdict(Thresholds())} == asdict(Thresholds())
    (stops,) = [line for line in (ROOT / "docs/doctor.md").read_text().splitlines() if line.startswith("| | `stop`")]
    hopeless = {diagnosis.name for diagnosis in DIAGNOSES if diagnosis.hopeless}
    assert set(re.findall(r"`(\w+_\w+)`", stops)) == hopeless


# ---- what is done


def test_stop_ends_a_hopeless_run(command: Command) -> None:
    result = fit(command, "--doctor.action=stop", **TOO_HIGH, epochs=50)
    assert result.status == 0
    assert re.search("^stopped +by the doctor: the learning rate is too high$", result.out, re.M)
    summary = json.loads((LOGS / "version_0/summary.json").read_text())
    assert summary["last_epoch"] == 0


def test_stop_ends_a_run_that_learns_nothing_whatever_the_cause(command: Command) -> None:
    # gradients that vanish may come back, and are no reason; a loss that stays at chance is one
    options = {"model__activation": "sigmoid", "model__depth": 8, "optimizer": "torch.optim.SGD", "epochs": 40}
    result = fit(command, "--doctor.action=stop", **options)
    assert result.status == 0
    symptoms = {found["name"]: found["follows_from"] for found in report()["findings"]}
    assert symptoms["vanishing_gradients"] is None
    assert symptoms["not_learning"] == "vanishing_gradients"
    assert re.search("^stopped +by the doctor: the gradients vanish", result.out, re.M)
    assert json.loads((LOGS / "version_0/summary.json").read_text())["last_epoch"] < 20


def test_a_run_that_is_killed_has_a_file_of_its_own(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for hook in ("on_train_end", "on_exception"):  # to which it does not come
        monkeypatch.setattr(Doctor, hook, lambda *args: None)
    fit(command, epochs=2)
    assert report()["findings"] == []
    assert "nan_or_inf" in report()["checked"]


def test_stop_lets_a_run_go_on_that_is_worth_it(command: Command) -> None:
    result = fit(command, "--doctor.action=stop", epochs=1, model__softmax=True)
    assert "the loss takes logits and is given probabilities" in result.out
    assert re.search("^stopped +trainer.max_epochs 1 reached$", result.out, re.M)


def test_repair_ends_with_a_good_run_and_keeps_the_others(command: Command) -> None:
    result = fit(command, "--doctor.action=repair", optimizer__lr=10.0, epochs=5)
    assert (result.status, result.err) == (0, "")
    versions = sorted(path.name for path in LOGS.iterdir())
    assert versions == [f"version_{i}" for i in range(len(versions))]
    assert 2 <= len(versions) <= 4
    last = len(versions) - 1
    summary = json.loads((LOGS / versions[last] / "summary.json").read_text())
    assert summary["val"]["val/acc"] > 0.9
    repairs = report(last)["repairs"]
    assert [Path(known["run"]).name for known in repairs] == versions[:-1]
    assert repairs[0]["remedy"][0].startswith("--optimizer.lr=")
    assert report(0)["repairs"] == []
    table = result.out.partition("\nrepairs\n")[2].splitlines()
    assert [line.split()[0] for line in table] == versions
    assert "as configured" in table[0]
    assert "(ended: learning_rate_too_high)" in table[0]
    assert f"acc {summary['val']['val/acc']:.4f} (to its end)" in table[last]
    assert result.out.count("run folder") == 1, "one summary, of the last"
    # each run that was ended names the next one, and is called what it is
    assert report(0)["repaired_in"] == str(LOGS / "version_1")
    assert str(LOGS / "version_1") in (LOGS / "version_0" / "report.html").read_text()
    assert "repaired_in" not in report(last)
    states = [row.status for row in compare(["case"], "run").rows]
    assert states == [*["ended by doctor"] * last, "finished"]
    # the config of the last run is what it was trained with
    config = (LOGS / versions[last] / "config.yaml").read_text()
    assert repairs[-1]["remedy"][0].partition("=")[2] in config


def test_the_last_try_goes_on_to_its_end(command: Command) -> None:
    # of two problems only the first one can be mended
    options = ("--doctor.action=repair", "--doctor.max_repairs=1")
    result = fit(command, *options, model__softmax=True, model__sqrt_bug=True)
    assert result.status == 1
    assert result.out.count("starting anew") == 1
    assert sorted(path.name for path in LOGS.iterdir()) == ["version_0", "version_1"]
    assert result.err.startswith("error: loss: nan in step 7")
    assert re.search(r"^  version_1 .*\(failed\)$", result.out, re.M), "the tries are told all the same"


def test_without_repairs_left_repair_advises(command: Command) -> None:
    result = fit(command, "--doctor.action=repair", "--doctor.max_repairs=0", **TOO_HIGH, epochs=2)
    assert result.status == 0
    assert re.search("^stopped +trainer.max_epochs 2 reached$", result.out, re.M)
    assert "repairs" not in result.out


@pytest.mark.filterwarnings("default:step .* skipped")
def test_nan_in_the_inputs_is_skipped_by_a_repair(command: Command) -> None:
    result = fit(command, "--doctor.action=repair", data__batch_nan=600, epochs=2)
    assert result.status == 0
    assert "column 3; try --on_nonfinite skip" in result.out
    assert "not finite" in (LOGS / "version_0" / "report.html").read_text()
    assert [row.status for row in compare(["case"], "run").rows] == ["not finite", "finished"]
    assert json.loads((LOGS / "version_1/summary.json").read_text())["skipped_steps"] > 0


def test_a_repaired_run_goes_on_as_itself(command: Command) -> None:
    fit(command, "--doctor.action=repair", "--doctor.max_repairs=1", **TOO_HIGH, epochs=2)
    before = report(1)["repairs"]
    assert len(before) == 1
    # a problem that a key would mend; but there was a repair, and no more than one is allowed
    ill = ["--doctor.thresholds.input_std=0.5", "--trainer.max_epochs=3"]
    result = command("fit", "--resume", LOGS / "version_1", *ill)
    assert result.status == 0
    assert re.search("^doctor: .* the inputs are not normalised: .*; try --", result.out, re.M)
    assert sorted(path.name for path in LOGS.iterdir()) == ["version_0", "version_1"]
    assert report(1)["repairs"] == before


# ---- several processes


def test_two_processes_agree_and_are_repaired_together(tmp_path: Path) -> None:
    keys = [*SMALL, *DDP, "--name", "case", "--trainer.max_epochs", "5", "--model.net.width", "16"]
    keys += ["--model.net.depth", "2", "--optimizer.lr", "10", "--doctor.action", "repair"]
    keys += ["--trainer.callbacks", '[{"class_path": "tests.scripts.test_doctor.Tell"}]']
    with running(tmp_path, *keys) as done:
        assert (done.end(200), done.err) == (0, ""), "and no process is left"
    assert len(LINE.findall(done.out)) == 1
    assert done.out.count("\nrepairs\n") == 1
    told = [json.loads(text) for text in (tmp_path / "told.txt").read_text().splitlines()]
    assert sorted(rank for rank, _ in told) == [0, 0, 1, 1]
    ill = [names for _, names in told if any("learning_rate_too_high" in name for name in names)]
    assert len(ill) == 2
    assert ill[0] == ill[1]
    runs = sorted(path.name for path in (tmp_path / LOGS).iterdir())
    assert runs == ["version_0", "version_1"]
    assert json.loads((tmp_path / LOGS / "version_1/summary.json").read_text())["val"]["val/acc"] > 0.5


# ---- a part of the benchmark


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("softmax_before_cross_entropy/mlp-digits-softmax_True", ["softmax_before_cross_entropy"]),
        ("data_in_label_order/mlp-digits-sort_True", ["data_in_label_order"]),
        ("parameters_never_move/mlp-digits-detach_True", ["parameters_never_move"]),
        ("tanh", []),
    ],
)
def test_cases_of_the_benchmark(name: str, found: list[str]) -> None:
    (case,) = [case for case in cases.FAULTY + cases.HEALTHY if case.name == name]
    assert run(case, 0, {"trainer.max_epochs": 4}).causes == found
