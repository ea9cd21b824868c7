"""Help texts, `--print_config`, and the files in `configs/`."""

import inspect
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Trainer

from runs import Run
from scripts.fitting import FitCLI
from tests.conftest import CNN, ROOT, SMALL, Command

RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
FRAGMENTS = sorted((ROOT / "configs").glob("*/*.yaml"))
SCRIPTS = ["fit", "validate", "test", "predict"]


def by_name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_help_of_a_script_fits_on_a_screen_and_has_an_example(command: Command, script: str) -> None:
    result = command(script, "--help")
    lines = result.out.splitlines()
    assert (result.status, result.err) == (0, "")
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 120
    assert "examples:" in lines
    assert f"  python scripts/{script}.py" in result.out


def test_the_help_names_only_keys_that_there_are(command: Command, trained: Run) -> None:
    words = command("fit", "--help").out.split()
    keys = [w[2:].split(".")[0] for w in words if w.startswith("--")]
    known = {*trained.config, "config", "debug", "print_config", "resume"}
    assert set(keys) <= known


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (["--model.help", "modules.Classifier"], "--model.label_smoothing"),
        (["--model.net.help", "modules.nets.CNN"], "net.dropout"),
        (["--data.help", "datamodules.Digits"], "--data.val_fraction"),
        (["--optimizer.help", "AdamW"], "--optimizer.weight_decay"),
        (["--lr_scheduler.help", "StepLR"], "--lr_scheduler.step_size"),
    ],
)
def test_the_keys_of_a_class_are_listed_on_demand(command: Command, options: list[str], key: str) -> None:
    result = command("fit", "--config", CNN, *options)
    assert result.status == 0
    assert key in result.out


def test_the_printed_config_is_commented_and_gives_the_same_config_again(command: Command) -> None:
    printed = command("fit", "--config", CNN, "--optimizer.lr", "0.02", "--print_config")
    assert (printed.status, printed.err) == (0, "")
    assert len([line for line in printed.out.splitlines() if line.lstrip().startswith("#")]) > 20
    assert "# Training images per step, over all devices together; 0 takes the whole training part." in printed.out
    assert yaml.safe_load(printed.out)["optimizer"]["init_args"]["lr"] == 0.02
    Path("cnn.yaml").write_text(printed.out)
    again = command("fit", "--config", "cnn.yaml", "--print_config")
    assert (again.status, again.err) == (0, "")
    assert yaml.safe_load(again.out) == yaml.safe_load(printed.out)


def test_the_printed_config_holds_the_keys_that_stand_after_it_too(command: Command) -> None:
    first = command("fit", "--print_config", "--config", CNN, "--optimizer.lr", "0.02")
    assert yaml.safe_load(first.out) == yaml.safe_load(
        command("fit", "--config", CNN, "--optimizer.lr", "0.02", "--print_config").out
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=by_name)
def test_a_recipe_is_complete(command: Command, recipe: Path) -> None:
    result = command("fit", "--config", recipe, "--print_config")
    assert (result.status, result.err) == (0, "")
    config = yaml.safe_load(result.out)
    assert config["model"]["class_path"]
    assert config["data"]["class_path"]
    assert (config["trainer"]["max_epochs"] or config["trainer"]["max_steps"]) > 0


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=by_name)
@pytest.mark.parametrize("recipe", RECIPES, ids=by_name)
def test_a_fragment_adds_to_every_recipe(command: Command, recipe: Path, fragment: Path) -> None:
    alone = yaml.safe_load(command("fit", "--config", recipe, "--print_config").out)
    result = command("fit", "--config", recipe, "--config", fragment, "--print_config")
    assert (result.status, result.err) == (0, "")
    both, added = yaml.safe_load(result.out), yaml.safe_load(fragment.read_text())
    assert both["trainer"] == {**alone["trainer"], **added.pop("trainer", {})}
    assert added == {}, "a fragment that changes other keys needs a test of its own"
    assert {k: v for k, v in both.items() if k != "trainer"} == {k: v for k, v in alone.items() if k != "trainer"}


def test_a_recipe_states_only_what_differs_from_the_defaults() -> None:
    trainer = inspect.signature(Trainer).parameters
    for path in RECIPES:
        for key, value in (yaml.safe_load(path.read_text()).get("trainer") or {}).items():
            assert value != trainer[key].default, f"{path.name}: trainer.{key}"


def test_the_config_of_a_run_has_every_key_of_the_trainer(trained: Run) -> None:
    assert set(trained.config["trainer"]) == set(inspect.signature(Trainer).parameters)


def test_the_config_of_a_run_leaves_out_what_the_data_say(trained: Run) -> None:
    text = trained.config_file.read_text()
    assert "num_classes" not in text
    assert "in_channels" not in text


def test_a_later_config_and_then_the_command_line_win() -> None:
    Path("one.yaml").write_text("trainer:\n  max_epochs: 11\n  max_steps: 11\n  accumulate_grad_batches: 11\n")
    Path("two.yaml").write_text("trainer:\n  max_steps: 22\n  accumulate_grad_batches: 22\n")
    options = ["--config", "one.yaml", "--config", "two.yaml", "--trainer.accumulate_grad_batches", "33"]
    trainer = FitCLI([*SMALL, *options]).config.trainer
    assert (trainer.max_epochs, trainer.max_steps, trainer.accumulate_grad_batches) == (11, 22, 33)


def test_the_name_is_that_of_the_recipe_and_not_of_a_fragment() -> None:
    fragment = ROOT / "configs" / "trainer" / "debug.yaml"
    assert FitCLI(["--config", CNN, "--config", str(fragment)]).config.name == "cnn"
    assert FitCLI([f"--config={CNN}"]).config.name == "cnn"
