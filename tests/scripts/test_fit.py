"""`python scripts/fit.py`: what a run prints and what it leaves."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from torch import Tensor

from runs import Run
from tests.conftest import CNN, ROOT, SMALL, Command
from tests.processes import running

VERSION_0 = Path("lightning_logs/cnn/version_0")
ONE_EPOCH = [*SMALL, "--trainer.max_epochs", "1"]
NOTHING_KEPT = ["--trainer.logger", "false", "--trainer.enable_checkpointing", "false"]


def weights(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def printed_losses(out: str) -> list[float]:
    """The validation loss of each epoch."""
    return [float(loss) for loss in re.findall(r"^epoch .* val loss (\S+)", out, re.MULTILINE)]


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def scalars(folder: Path, tag: str) -> list[float]:
    return [event.value for event in events(folder).Scalars(tag)]


# ---- what is printed


def test_a_run_prints_one_short_table_and_nothing_on_stderr(command: Command) -> None:
    result = command("fit", *SMALL)
    assert result.status == 0
    assert result.err == ""
    labels = [line.split("  ")[0] for line in result.out.splitlines() if line and not line.startswith((" ", "epoch"))]
    rows = ["best epoch", "stopped", "val", "test", "doctor", "time", "run folder", "best checkpoint", "report", "next"]
    assert labels[1:] == rows
    assert "trainer.max_epochs 2 reached" in result.out
    assert "\x1b" not in result.out, "escape codes where there is no terminal"


def test_each_epoch_has_a_line_and_the_headline_says_what_is_trained(command: Command) -> None:
    lines = command("fit", *SMALL, *NOTHING_KEPT).out.splitlines()
    # conv 1->8, 8->8, 8->8 of 3 x 3 without biases, three batch norms, a linear layer 8 -> 10
    parameters = 9 * 8 * (1 + 8 + 8) + 3 * 2 * 8 + 8 * 10 + 10
    assert f"CNN ({parameters:,} parameters) on Digits, cpu, 19 steps an epoch" in lines[0]
    assert [line[:9] for line in lines[1:3]] == ["epoch   0", "epoch   1"]


def test_without_a_progress_bar_only_the_table_is_printed(command: Command) -> None:
    out = command("fit", *ONE_EPOCH, *NOTHING_KEPT, "--trainer.enable_progress_bar", "false").out
    assert out.lstrip().startswith("stopped")


def test_small_data_brings_no_advice_about_logging(command: Command) -> None:
    result = command(
        "fit", *ONE_EPOCH, "--trainer.enable_checkpointing", "false", "--data.batch_size", "512"
    )  # 2 steps an epoch, logged every 10
    assert (result.status, result.err) == (0, "")


def test_the_commands_that_come_next_work_in_folders_with_spaces(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two words").mkdir()
    monkeypatch.chdir(tmp_path / "two words")
    shutil.copy(CNN, "my recipe.yaml")
    out = command("fit", "--config", "my recipe.yaml", *SMALL[2:]).out
    pasted = [shlex.split(line) for line in out.partition("\nnext")[2].splitlines() if line.strip()]
    assert [words[:2] for words in pasted] == [
        ["tensorboard", "--logdir"],
        ["python", "scripts/test.py"],
        ["python", "scripts/predict.py"],
    ]
    assert Path(pasted[0][2]).is_dir()
    assert command("test", *pasted[1][2:]).status == 0
    assert Path("lightning_logs/my recipe/version_0/summary.json").is_file()


def test_without_checkpoints_no_command_is_offered_that_needs_one(command: Command) -> None:
    result = command("fit", *ONE_EPOCH, "--trainer.enable_checkpointing", "false")
    assert result.status == 0
    assert not (VERSION_0 / "checkpoints").exists()
    assert "scripts/test.py" not in result.out


# ---- what is left


def test_a_run_leaves_its_config_its_events_and_its_checkpoints(trained: Run) -> None:
    run = trained.folder
    assert (run / "config.yaml").is_file()
    assert list(run.glob("events.out.tfevents.*"))
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["epoch001-step000038.ckpt", "last.ckpt"]


def test_the_summary_holds_what_was_printed(command: Command) -> None:
    out = command("fit", *SMALL).out
    summary = json.loads((VERSION_0 / "summary.json").read_text())
    losses = printed_losses(out)
    best = losses.index(min(losses))
    assert summary["best_epoch"] == best
    assert summary["last_epoch"] == 1
    assert summary["best_step"] == 19 * (best + 1)
    assert summary["stopped"] == "trainer.max_epochs 2 reached"
    assert summary["best_checkpoint"] == f"checkpoints/epoch00{best}-step0000{19 * (best + 1)}.ckpt"
    assert f"{summary['val']['val/loss']:.4f}" == f"{min(losses):.4f}"
    assert set(summary["test"]) == {f"test/{name}" for name in ("loss", "acc", "macro_recall", "macro_f1")}
    assert f"test             loss {summary['test']['test/loss']:.4f}, acc {summary['test']['test/acc']:.4f}" in out
    assert summary["seconds"] > 0
    assert summary["samples_per_second"] > 0


def test_the_config_of_a_run_holds_every_key_of_the_trainer(trained: Run) -> None:
    trainer = trained.config["trainer"]
    # a sample of what Trainer takes and the recipe does not mention
    assert {"accelerator", "devices", "precision", "gradient_clip_val", "deterministic", "val_check_interval"} <= set(
        trainer
    )
    assert trained.config["model"]["init_args"]["label_smoothing"] == 0.0
    assert trained.config["data"]["init_args"]["split_seed"] == 0
    assert trained.config["name"] == "cnn"


def test_running_a_runs_own_config_again_gives_the_same_weights(command: Command, trained: Run) -> None:
    shutil.copytree(trained.folder, VERSION_0)
    result = command("fit", "--config", VERSION_0 / "config.yaml")
    assert result.status == 0
    first, again = weights(VERSION_0), weights(VERSION_0.with_name("version_1"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_same_command_gives_the_same_numbers_and_another_folder(command: Command, trained: Run) -> None:
    shutil.copytree(trained.folder, VERSION_0)
    before = sorted((path, path.stat().st_mtime_ns) for path in VERSION_0.rglob("*"))
    command("fit", *SMALL)
    assert Run("cnn").folder == VERSION_0.with_name("version_1")
    assert Run("cnn").summary["test"] == trained.summary["test"]
    assert sorted((path, path.stat().st_mtime_ns) for path in VERSION_0.rglob("*")) == before


def test_another_seed_gives_other_weights(command: Command, trained: Run) -> None:
    command("fit", *SMALL, "--seed_everything", "43")
    first, other = weights(trained.folder), weights(VERSION_0)
    assert not torch.equal(first["net.head.3.weight"], other["net.head.3.weight"])


def test_the_last_checkpoint_is_the_last_even_when_an_earlier_epoch_was_best(early_best: Run) -> None:
    last = torch.load(early_best.checkpoint("last"), weights_only=True)
    best = torch.load(early_best.checkpoint("best"), weights_only=True)
    assert (best["epoch"], best["global_step"]) == (0, 19)
    assert (last["epoch"], last["global_step"]) == (1, 38)
    assert early_best.summary["best_epoch"] == 0
    assert early_best.summary["last_epoch"] == 1


def test_the_metrics_of_a_run_are_those_of_its_best_epoch(early_best: Run) -> None:
    losses = scalars(early_best.folder, "val/loss")
    assert losses[0] > losses[1]
    assert early_best.summary["val"]["val/loss"] == losses[0]


def test_the_best_k_checkpoints_are_kept(command: Command) -> None:
    options = ["--trainer.max_epochs", "3", "--checkpoint.save_top_k", "2", "--checkpoint.mode", "max"]
    losses = printed_losses(command("fit", *SMALL, *options).out)
    best = sorted(range(3), key=losses.__getitem__)[1:]
    kept = sorted(path.name for path in (VERSION_0 / "checkpoints").iterdir())
    assert kept == [*(f"epoch00{epoch}-step0000{19 * (epoch + 1)}.ckpt" for epoch in sorted(best)), "last.ckpt"]


def test_the_name_of_a_run_can_be_chosen(command: Command) -> None:
    assert command("fit", *ONE_EPOCH, "--name", "first try").status == 0
    assert [str(path) for path in Path("lightning_logs").iterdir()] == ["lightning_logs/first try"]


def test_runs_can_be_kept_under_another_folder(command: Command) -> None:
    command("fit", *ONE_EPOCH, "--trainer.default_root_dir", "elsewhere")
    assert Path("elsewhere/lightning_logs/cnn/version_0/summary.json").is_file()
    assert not Path("lightning_logs").exists()


# ---- when it stops


def test_early_stopping_stops_and_the_table_says_why(command: Command) -> None:
    # the loss falls, and is to rise
    options = ["--early_stopping.mode", "max", "--early_stopping.patience", "1", "--trainer.max_epochs", "5"]
    out = command("fit", *SMALL, *NOTHING_KEPT, *options).out
    assert len(printed_losses(out)) == 2
    assert re.search(r"stopped +val/loss has not risen for 1 evaluation", out)


def test_a_loss_that_is_no_number_stops_the_run_at_once(command: Command) -> None:
    options = ["--optimizer.lr", "1e30", "--lr_scheduler", "null"]
    result = command("fit", *SMALL, *NOTHING_KEPT, *options)
    assert result.status == 1
    assert re.match(r"error: loss: (nan|inf) in step [12] \(epoch 0, batch [12]\); first not finite: ", result.err)
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("steps", "epochs"),
    [
        pytest.param(3, 2),
        pytest.param(25, 2),
        (25, 5),
    ],
)
def test_a_run_ends_after_the_number_of_steps_that_is_asked_for(command: Command, steps: int, epochs: int) -> None:
    result = command("fit", *SMALL, "--trainer.max_steps", str(steps), "--trainer.max_epochs", str(epochs))
    assert result.status == 0
    assert torch.load(VERSION_0 / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == steps
    assert f"trainer.max_steps {steps} reached" in result.out


def test_without_validation_the_last_checkpoint_is_tested(command: Command) -> None:
    result = command("fit", *ONE_EPOCH, "--trainer.limit_val_batches", "0")
    assert (result.status, result.err) == (0, "")
    assert "best epoch" not in result.out
    assert Run("cnn").checkpoint("best").name == "last.ckpt"
    assert "val" not in Run("cnn").summary
    assert "test/acc" in Run("cnn").summary["test"]


# ---- keys


def test_a_second_config_changes_what_it_names_and_nothing_else(command: Command, trained: Run) -> None:
    Path("more.yaml").write_text("trainer:\n  max_epochs: 1\ndata:\n  init_args:\n    val_fraction: 0.3\n")
    assert command("fit", *SMALL, "--config", "more.yaml").status == 0
    config, expected = Run("cnn").config, trained.config
    expected["trainer"]["max_epochs"] = 1
    expected["data"]["init_args"]["val_fraction"] = 0.3
    assert config == expected


def test_keys_on_the_command_line_reach_the_objects(command: Command) -> None:
    options = ["--optimizer.lr", "3e-4", "--lr_scheduler", "null", "--model.net.dropout", "0.3"]
    assert command("fit", *ONE_EPOCH, *options, "--early_stopping.patience", "7").status == 0
    state = torch.load(VERSION_0 / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == 3e-4
    assert next(v for k, v in state["callbacks"].items() if k.startswith("EarlyStopping"))["patience"] == 7
    assert yaml.safe_load((VERSION_0 / "config.yaml").read_text())["model"]["init_args"]["net"]["init_args"][
        "dropout"
    ] == pytest.approx(0.3)


@pytest.mark.parametrize("optimizer", ["SGD", "torch.optim.RMSprop"])
def test_any_optimizer_of_torch_takes_the_place_of_the_recipes_one(command: Command, optimizer: str) -> None:
    result = command("fit", *ONE_EPOCH, "--optimizer", optimizer, "--optimizer.momentum", "0.5")
    assert (result.status, result.err) == (0, "")
    state = torch.load(VERSION_0 / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["momentum"] == 0.5


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        # lr 0.01 in the first epoch, a tenth in the second
        (["StepLR", "--lr_scheduler.step_size", "1", "--lr_scheduler.gamma", "0.1"], [0.01, 0.001]),
        # the loss falls and is to rise: halved after the second of three epochs
        (["ReduceLROnPlateau", "--lr_scheduler.mode", "max", "--lr_scheduler.patience", "0",
          "--lr_scheduler.factor", "0.5", "--trainer.max_epochs", "3"], [0.01, 0.01, 0.005]),
    ],
)  # fmt: skip
def test_schedules_that_tick_by_the_epoch_do(command: Command, options: list[str], rates: list[float]) -> None:
    result = command("fit", *SMALL, "--lr_scheduler", *options)
    assert (result.status, result.err) == (0, "")
    seen = scalars(VERSION_0, "lr")
    assert [value for i, value in enumerate(seen) if i == 0 or value != seen[i - 1]] == pytest.approx(
        list(dict.fromkeys(rates))
    )
    assert seen[-1] == pytest.approx(rates[-1])


def test_a_cosine_schedule_ends_with_the_run(command: Command) -> None:
    result = command("fit", *SMALL, "--lr_scheduler", "CosineAnnealingLR")
    assert (result.status, result.err) == (0, "")
    schedule = torch.load(VERSION_0 / "checkpoints" / "last.ckpt", weights_only=True)["lr_schedulers"][0]
    assert schedule["T_max"] == 2 * 19
    seen = scalars(VERSION_0, "lr")
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 0.2 * 0.01


def test_a_schedule_waits_for_a_validation_that_comes_every_second_epoch(command: Command) -> None:
    options = ["--trainer.check_val_every_n_epoch", "2", "--lr_scheduler", "ReduceLROnPlateau"]
    result = command("fit", *SMALL, *options)
    assert (result.status, result.err) == (0, "")


def test_the_schedule_of_a_recipe_is_switched_off_by_null_in_a_config(command: Command) -> None:
    Path("plain.yaml").write_text("lr_scheduler: null\n")
    result = command("fit", *ONE_EPOCH, "--config", "plain.yaml")
    assert (result.status, result.err) == (0, "")
    state = torch.load(VERSION_0 / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == 0.01


def test_a_data_set_is_swapped_on_the_command_line(command: Command) -> None:
    from tests.conftest import make_idx_set

    make_idx_set(Path("idx"), classes=(3, 5, 9), size=20)
    options = ["--data", "datamodules.MNIST", "--data.data_dir", "idx", "--data.batch_size", "16"]
    result = command("fit", *ONE_EPOCH, *options, "--trainer.log_every_n_steps", "1")
    assert result.status == 0
    # 60 images, 0.15 of them held out: 51 are 3 whole batches
    assert "on MNIST, cpu, 3 steps an epoch" in result.out
    assert weights(VERSION_0)["net.head.3.weight"].shape[0] == 3


# ---- nothing is left where nothing should be


def test_the_debug_fragment_leaves_nothing_behind(command: Command) -> None:
    result = command("fit", *SMALL, "--config", ROOT / "configs" / "trainer" / "debug.yaml")
    assert (result.status, result.err) == (0, "")
    assert "3 steps an epoch" in result.out
    assert list(Path().iterdir()) == []


def test_a_run_without_a_logger_trains_and_tests_all_the_same(command: Command, trained: Run) -> None:
    result = command("fit", *SMALL, "--trainer.logger", "false")
    assert (result.status, result.err) == (0, "")
    assert not Path("lightning_logs").exists()
    assert f"acc {trained.summary['test']['test/acc']:.4f}" in result.out


@pytest.mark.parametrize(
    "mistake",
    [
        ["--data.batch_size", "100000"],
        ["--model.net.width", "0"],
        ["--early_stopping.monitor", "val/los"],
        ["--checkpoint.monitor", "train/los"],
        ["--optimizer.lr", "-1"],
    ],
)
def test_a_run_that_never_began_leaves_no_folder(command: Command, mistake: list[str]) -> None:
    assert command("fit", *SMALL, *mistake).status == 2
    assert list(Path().glob("lightning_logs/*/*")) == []


def test_a_script_starts_from_any_folder_and_says_nothing_else(tmp_path: Path) -> None:
    script, debug = ROOT / "scripts" / "fit.py", ROOT / "configs" / "trainer" / "debug.yaml"
    line = [sys.executable, str(script), *SMALL, "--config", str(debug)]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "trainer.max_epochs 2 reached" in done.stdout


# ---- TensorBoard


def test_tensorboard_has_the_curves_of_loss_accuracy_and_learning_rate(trained: Run) -> None:
    found = events(trained.folder)
    for tag in ("train/loss", "train/acc", "val/loss", "val/acc", "epoch"):
        points = found.Scalars(tag)
        assert len(points) >= 2, tag
        assert points[-1].step > points[0].step, tag
    assert [point.step for point in found.Scalars("val/loss")] == [18, 37], "one for each epoch, at its last step"
    assert len(found.Scalars("lr")) >= 2
    assert len(found.Scalars("test/acc")) == 1
    assert found.Scalars("val/acc")[-1].value == pytest.approx(trained.summary["val"]["val/acc"])
    assert found.Scalars("test/acc")[0].value == pytest.approx(trained.summary["test"]["test/acc"])


def test_tensorboard_has_the_config_the_graph_and_the_pictures(trained: Run) -> None:
    found = events(trained.folder)
    text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    unindented = "\n".join(line[4:] for line in text.splitlines())
    assert yaml.safe_load(unindented) == trained.config
    assert found.Tags()["graph"]
    assert {"inputs/stored", "inputs/augmented", "confusion_matrix", "mistakes"} <= set(found.Tags()["images"])


@pytest.mark.parametrize("which", ["trained", "early_best"])
def test_hparams_lists_the_keys_of_a_run_with_its_best_metrics(which: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(which)
    best = events(run.folder / "best")
    contents = best.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    keys = plugin_data_pb2.HParamsPluginData.FromString(contents).session_start_info.hparams
    assert keys["optimizer"].string_value == "torch.optim.AdamW"
    assert keys["optimizer.lr"].number_value == pytest.approx(0.01)
    assert keys["lr_scheduler"].string_value == "torch.optim.lr_scheduler.OneCycleLR"
    assert keys["model.net.width"].number_value == 8
    assert keys["data"].string_value == "datamodules.Digits"
    assert keys["data.batch_size"].number_value == 64
    assert keys["seed_everything"].number_value == 42
    expected = run.summary["val"]
    assert {"val/loss", "val/acc"} <= set(expected)
    for name, value in expected.items():
        assert [point.value for point in best.Scalars(name)] == pytest.approx([value], rel=1e-6), name


def test_no_metric_is_called_hp_metric(trained: Run) -> None:
    for folder in {path.parent for path in trained.folder.rglob("events.out.tfevents.*")}:
        found = events(folder)
        assert not [
            tag for tags in found.Tags().values() if isinstance(tags, list) for tag in tags if "hp_metric" in tag
        ]


def test_ctrl_c_says_where_the_run_is_and_gives_its_signal_as_status(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "fit.py"
    with running(tmp_path, *SMALL, "--trainer.max_epochs", "10000", "--early_stopping.patience", "10000") as fit:
        fit.until(lambda: "epoch   2" in fit.out)
        fit.signal(signal.SIGINT)
        assert fit.end(60) == 128 + signal.SIGINT
    lines = fit.out.splitlines()
    assert lines[-1] == f"to go on: python {shlex.quote(str(script))} --resume lightning_logs/cnn/version_0"
    assert re.fullmatch(r"stopped in epoch \d+, step \d+: lightning_logs/cnn/version_0/.*last.ckpt", lines[-2])
    assert (VERSION_0 / "checkpoints" / "last.ckpt").is_file()
