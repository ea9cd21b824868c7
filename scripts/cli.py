"""The command line of all scripts: LightningCLI with this project's keys, callbacks and error lines."""

import json
import os
from collections.abc import Sequence
from functools import cached_property, partial, wraps
from typing import Any, Literal

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.model_helpers import is_overridden

from callbacks import Averaging, Checkpoint, Doctor, Freeze, Monitor, ScheduleFree
from callbacks.hooks import NoProfiler, skip_empty_hooks
from callbacks.means import use_exact_means
from datamodules.loaders import make_exact
from modules.initialisation import initialise
from modules.optimizers import LENGTH_ARGUMENTS, Parameters, configure_optimizers
from runs.checkpoints import CheckpointFiles, plain
from runs.errors import UserError, one_line, told
from runs.files import read_yaml
from runs.parser import Parser, add_model_and_data, fact_keys
from runs.places import PREFIX, real_path
from runs.run import Run
from runs.weights import IN_FOLDERS, load_weights
from scripts.checks import check_config, check_trainer
from scripts.say import say

MONITOR = "val/loss"
DEFAULTS = {
    "early_stopping.monitor": MONITOR,
    "early_stopping.mode": "min",
    "early_stopping.patience": 10,
    "early_stopping.strict": False,  # CheckMonitors is strict, and earlier
    "checkpoint.monitor": MONITOR,
    "checkpoint.mode": "min",
    "checkpoint.save_top_k": 1,
    "checkpoint.filename": "epoch{epoch:03d}-step{step:06d}",
    "checkpoint.auto_insert_metric_name": False,
    "trainer.enable_model_summary": False,
    "trainer.log_every_n_steps": 10,
}


class CLI(LightningCLI):
    """All objects of a run, made from a config and a command line; for evaluation, so without log and checkpoints.

    Args:
        args: The command line after the script's name.
        help_text: What `--help` prints.
        data_state: What a checkpoint holds of the datamodule, so that the training data need not be there.

    Raises:
        UserError: Something in the config can't be.
    """

    def __init__(self, args: Sequence[str], help_text: str = "", data_state: dict[str, Any] | None = None) -> None:
        super().__init__(
            args=list(args),
            run=False,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={"help_text": help_text, "data_state": data_state},
            save_config_callback=None,  # FitCLI does that
            auto_configure_optimizers=False,  # modules.optimizers does that
            load_from_checkpoint_support=False,  # runs load from their config.yaml, never from class paths in files
        )

    # ---- keys

    def add_core_arguments_to_parser(self, parser: Parser) -> None:  # type: ignore[override]
        parser.add_argument(
            "--name", type=str | None, help="Name of the run's folder. Default: that of the config file."
        )
        parser.add_argument("--weights", type=str | None, help="A file whose weights a new run starts from, or a run.")
        parser.add_argument(
            "--weights_rename",
            type=dict[str, str] | None,
            help="What names in that file begin with, and what is to stand there instead.",
        )
        parser.add_argument(
            "--weights_skip", type=list[str] | None, help="Names in the model that keep their first values."
        )
        parser.add_argument(
            "--on_nonfinite",
            type=Literal["stop", "skip", "ignore"],
            default="stop",
            help="What happens at a loss that is NaN or infinite.",
        )
        add_model_and_data(parser)
        parser.add_lightning_class_args(Trainer, "trainer")

    def add_arguments_to_parser(self, parser: Parser) -> None:  # type: ignore[override]
        parser.add_optimizer_args()
        parser.add_lr_scheduler_args()
        parser.add_class_arguments(Parameters, "parameters")
        parser.add_lightning_class_args(Averaging, "averaging")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(Checkpoint, "checkpoint")
        parser.add_lightning_class_args(Monitor, "monitor")
        parser.add_lightning_class_args(Doctor, "doctor")
        parser.set_defaults(DEFAULTS)
        # arguments that a schedule requires, and that are filled in when they are left out
        action: Any = next(action for action in parser._actions if action.dest == "lr_scheduler")
        action.sub_add_kwargs.setdefault("linked_targets", set()).update({*LENGTH_ARGUMENTS, "max_lr", "monitor"})

    def parse_arguments(self, parser: Any, args: Any) -> None:
        if "--print_config" in args:  # of all keys given, whether they come before or after it
            args = [*(arg for arg in args if arg != "--print_config"), "--print_config=comments"]
        self.config = self.parsed(parser, args)
        if self.config.name is None:
            self.config.name = parser.files[0].stem if parser.files else "run"
        if isinstance(self.config.seed_everything, bool):  # true and false ask for any seed; config.yaml says which
            drawn = int.from_bytes(os.urandom(4), "big")
            self.config.seed_everything = int(os.environ.get("PL_GLOBAL_SEED", drawn))
        check_trainer(self.config.trainer)
        check_config(self.config)

    def parsed(self, parser: Any, args: Any) -> Any:
        """The config that a command line asks for."""
        return parser.parse_args(args)

    @cached_property
    def config_dict(self) -> dict[str, Any]:
        """The complete config, in plain types, without what the datamodule fills in."""
        return self.plain_config(self.config)

    @property
    def defaults(self) -> dict[str, Any]:
        """What the keys are when nobody says otherwise; those in a class that is chosen by `class_path` left out."""
        return self.parser.get_defaults(skip_validation=True).as_dict()

    def plain_config(self, config: Any) -> dict[str, Any]:
        dumped = read_yaml(self.parser.dump(config, skip_link_targets=False, skip_unset=False))
        for key in fact_keys():  # those that the config states stay in it, those that the data fill in do not
            *path, name = key.split(".")
            stated = key in config and config[key] is not None
            node: Any = dumped
            for part in path:
                if stated and not node.get(part):
                    node[part] = {}
                node = node.get(part) or {}
                if not isinstance(node, dict):  # a foreign class has a key of this name, and it is a value
                    break
            else:
                node.pop(name, None)
                if stated:
                    node[name] = json.loads(json.dumps(plain(config[key])))  # tuples as lists
        dumped.pop("config", None)
        return dumped

    # ---- objects

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except Exception as error:
            raise told(error, making=True) from error
        config = self.config_init
        if config.get("optimizer"):
            self.model.configure_optimizers = partial(  # type: ignore[method-assign]
                configure_optimizers,
                self.model,
                config.optimizer,
                config.lr_scheduler,
                config.early_stopping.monitor,
                config.parameters,
            )
        for owner in filter(None, (self.datamodule, self.model)):
            for stage in ("train", "val", "test"):
                self._make_exact(owner, f"{stage}_dataloader")

    def load_weights(self) -> None:
        """Give the new model the start values and the weights that the config names, and say what became of these.

        Raises:
            UserError: They can't be had, or nothing of them fits.
        """
        config = self.config
        initialise(self.model, self.config_init.parameters.init, config.seed_everything)
        if not config.weights:
            for key in ("weights_rename", "weights_skip"):
                if config[key]:
                    raise UserError(f"--{key}: there are no weights; --weights names their file")
            return
        try:
            place = real_path(config.weights)
            in_run = not any((place / name).is_file() for name in IN_FOLDERS)
            if in_run and (place.is_dir() or (not place.exists() and not place.suffix)):
                place = Run(place).checkpoint()
        except UserError as error:
            raise UserError(f"--weights: {error}") from error
        source = config.weights if config.weights.startswith(PREFIX) else str(place)
        say(str(load_weights(self.model, place, config.weights_rename, config.weights_skip or (), source)))

    def weight_callbacks(self) -> list[Callback]:
        """Those that decide which weights are trained, and which are evaluated; to come before others."""
        averaging, parameters = self.config_init.averaging, self.config_init.parameters
        callbacks: list[Callback] = [averaging] if averaging.method != "none" else []
        callbacks.append(ScheduleFree())
        if any(group.frozen_epochs for group in parameters.groups):
            callbacks.append(Freeze(parameters.frozen))
        return callbacks

    def _make_exact(self, owner: Any, hook: str) -> None:
        """Let the orders and the shares of a module's loaders follow from the seed alone."""
        if not is_overridden(hook, owner):
            return
        made = getattr(owner, hook)

        @wraps(made)
        def exact() -> Any:
            share = self.config.trainer.use_distributed_sampler
            rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if share else (0, 1)
            if self.trainer.overfit_batches:  # type: ignore[attr-defined]
                return made()  # Lightning takes out the shuffling, and has to see the sampler for that
            return make_exact(made(), self.config.seed_everything, hook == "train_dataloader", rank, world_size)

        setattr(owner, hook, exact)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = {**self.config_init.trainer.as_dict(), **kwargs}
        given = config["callbacks"] or []
        callbacks = list(given) if isinstance(given, list) else [given]
        config["profiler"] = config["profiler"] or NoProfiler()
        if not config["overfit_batches"]:  # Lightning's way repeats samples; `make_exact` shares the batches
            config["use_distributed_sampler"] = False
        plugins = config["plugins"] or []
        self.files = CheckpointFiles()
        own = list(plugins) if isinstance(plugins, list) else [plugins]
        config["plugins"] = own if any(isinstance(plugin, CheckpointIO) for plugin in own) else [*own, self.files]
        use_exact_means()
        callbacks += self.callbacks(config)
        try:
            trainer = Trainer(**{**config, "callbacks": callbacks})
        except (MisconfigurationException, TypeError, ValueError, ImportError) as error:
            raise UserError(f"trainer: {one_line(error).replace('`', '')}") from error
        skip_empty_hooks(trainer.callbacks)  # type: ignore[attr-defined]
        return trainer

    def callbacks(self, config: dict[str, Any]) -> list[Callback]:
        """The project's own callbacks; the trainer's arguments may be changed."""
        config.update(logger=False, enable_checkpointing=False, enable_progress_bar=False)
        return []


def can_evaluate(stage: str, model: LightningModule, datamodule: Any) -> bool:
    """Whether there are a step and data for `validate` or `test`."""
    name = {"validate": "val", "test": "test"}[stage]
    step = {"validate": "validation_step", "test": "test_step"}[stage]
    owner = datamodule if datamodule is not None else model
    has_data = is_overridden(f"{name}_dataloader", owner) and getattr(owner, f"has_{name}_data", True)
    return is_overridden(step, model) and has_data
