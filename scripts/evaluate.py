"""What `validate.py`, `test.py` and `predict.py` share: a run, one of its checkpoints, and all objects again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from callbacks.record import as_floats
from runs import Run
from runs.checkpoints import load_state, read_checkpoint
from runs.errors import UserError, nearest, told
from runs.summary import format_metrics
from scripts.arguments import PlainParser
from scripts.cli import CLI, can_evaluate
from scripts.say import say


class RunParser(PlainParser):
    """A parser of `RUN --ckpt …`, and of keys of the run's config."""

    def __init__(self, help_text: str) -> None:
        super().__init__(help_text)
        self.add_argument("run")
        self.add_argument("--ckpt", default="best")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given, rest = super().parse_known_args(args, namespace)
        for arg in rest:  # what is not this script's is a key of the config, and has a dot in it
            name = arg.split("=")[0]
            if name.startswith("--") and "." not in name and (hint := nearest(name, self.options)):
                raise UserError(f"{arg}: no such option{hint}")
        return given, rest


def open_run(place: str, ckpt: str, overrides: Sequence[str]) -> tuple[CLI, Path]:
    """The objects of a run with the weights of a checkpoint, and the checkpoint's path.

    Raises:
        UserError: There is no such run or checkpoint, or it does not fit the config.
    """
    run = Run(place)
    path = run.checkpoint(ckpt)
    state = read_checkpoint(path)
    other_data = any(arg.split("=")[0] in ("--data", "--data.class_path") for arg in overrides)
    data_state = None if other_data else state.get(run.data_class)
    cli = CLI(["--config", str(run.config_file), *overrides], data_state=data_state)
    load_state(cli.model, cli.datamodule, state, path)
    return cli, path


def evaluate(stage: str, args: list[str], help_text: str) -> None:
    """Print the metrics of a run's checkpoint on its validation or test data; `stage` is `validate` or `test`."""
    given, overrides = RunParser(help_text).parse_known_args(args)
    cli, path = open_run(given.run, given.ckpt, overrides)
    if not can_evaluate(stage, cli.model, cli.datamodule):
        raise UserError(f"{given.run}: its model or its data has nothing for {stage}")
    try:
        getattr(cli.trainer, stage)(cli.model, datamodule=cli.datamodule, verbose=False)
    except Exception as error:
        raise told(error) from error
    prefix: Any = {"validate": "val", "test": "test"}[stage]
    say(f"{prefix}  {format_metrics(as_floats(cli.trainer.callback_metrics), prefix)}\n      {path}")
