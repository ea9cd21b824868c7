"""The command line that all scripts share: LightningCLI with this project's keys, callbacks and error lines."""

import os

# Threads that wait for work sleep and do not spin: as fast on a quiet machine, and on a busy one training does not
# crawl. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import logging
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.model_helpers import is_overridden

from callbacks import CheckMonitors, Progress, Record, TensorBoardViews
from callbacks.record import as_floats, why_stopped
from callbacks.tensorboard import log_best, log_hparams
from modules.optimizers import LENGTH_ARGUMENTS, configure_optimizers
from runs.errors import UserError, one_line
from runs.logger import RunLogger
from runs.parser import Parser, add_model_and_data, fact_keys
from runs.run import LOGS, read_checkpoint
from runs.summary import print_summary, write_summary
from scripts.checks import check_modes, check_trainer, slow_bf16

MONITOR = "val/loss"
DEFAULTS = {
    "early_stopping.monitor": MONITOR,
    "early_stopping.mode": "min",
    "early_stopping.patience": 10,
    "checkpoint.monitor": MONITOR,
    "checkpoint.mode": "min",
    "checkpoint.save_top_k": 1,
    "checkpoint.filename": "epoch{epoch:03d}-step{step:06d}",
    "checkpoint.auto_insert_metric_name": False,
    "trainer.enable_model_summary": False,
    "trainer.log_every_n_steps": 10,
}


BATCH_HOOKS = (
    *("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad"),
    *(f"on_{stage}_batch_{when}" for stage in ("train", "validation", "test", "predict") for when in ("start", "end")),
)


class NoProfiler(PassThroughProfiler):
    """Lightning's, without making a new context manager some fifty times a step."""

    nothing: ClassVar = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.nothing


class LastCheckpoint(ModelCheckpoint):
    """`last.ckpt`, written after every epoch. (`save_last` of the other one writes only when that saves a best.)"""

    def __init__(self, dirpath: str | Path | None = None) -> None:
        super().__init__(dirpath, filename="last", save_top_k=1, enable_version_counter=False)


class SaveConfig(Callback):
    """Writes `config.yaml` into the run's folder, and the same text and the hyper-parameters into TensorBoard."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        self.hparams = flat_hparams(config)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero or not trainer.loggers:
            return
        logger = trainer.loggers[0]
        if logger.log_dir:
            Path(logger.log_dir).mkdir(parents=True, exist_ok=True)
            Path(logger.log_dir, "config.yaml").write_text(self.text, encoding="utf-8")
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("config", "".join(f"    {line}\n" for line in self.text.splitlines()))
            log_hparams(logger.log_dir, self.hparams)


class CLI(LightningCLI):
    """All objects of a run, made from a config and a command line.

    Args:
        args: The command line after the script's name.
        help_text: What `--help` prints.
        fitting: Whether a new run is to be made; otherwise there are no logger and no checkpoints.

    Raises:
        UserError: Something in the config can't be.
    """

    def __init__(self, args: Sequence[str], help_text: str = "", fitting: bool = True) -> None:
        self.fitting = fitting
        super().__init__(
            args=list(args),
            run=False,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={"help_text": help_text},
            save_config_callback=None,  # SaveConfig does that
            auto_configure_optimizers=False,  # modules.optimizers does that
            load_from_checkpoint_support=False,  # runs load from their config.yaml, never from class paths in files
        )

    # ---- keys

    def add_core_arguments_to_parser(self, parser: Parser) -> None:  # type: ignore[override]
        parser.add_argument(
            "--name", type=str | None, help="Name of the run's folder. Default: that of the config file."
        )
        add_model_and_data(parser)
        parser.add_lightning_class_args(Trainer, "trainer")

    def add_arguments_to_parser(self, parser: Parser) -> None:  # type: ignore[override]
        parser.add_optimizer_args()
        parser.add_lr_scheduler_args()
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(DEFAULTS)
        # arguments that a schedule requires, and that are filled in when they are left out
        action: Any = next(action for action in parser._actions if action.dest == "lr_scheduler")
        action.sub_add_kwargs.setdefault("linked_targets", set()).update({*LENGTH_ARGUMENTS, "monitor"})

    def parse_arguments(self, parser: Any, args: Any) -> None:
        args = ["--print_config=comments" if arg == "--print_config" else arg for arg in args]
        self.config = parser.parse_args(args)
        if self.config.name is None:
            self.config.name = parser.files[0].stem if parser.files else "run"
        check_trainer(self.config.trainer)
        check_modes(self.config)

    @property
    def config_dict(self) -> dict[str, Any]:
        """The complete config, in plain types, without what the datamodule fills in."""
        dumped = yaml.safe_load(self.parser.dump(self.config, skip_link_targets=False, skip_unset=False))
        for key in fact_keys():
            *path, name = key.split(".")
            node = dumped
            for part in path:
                node = node.get(part) or {}
            if node.get(name, 0) is None:
                del node[name]
        dumped.pop("config", None)
        return dumped

    # ---- objects

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except Exception as error:
            raise told(error, always=True) from error
        config = self.config_init
        if config.get("optimizer"):
            self.model.configure_optimizers = partial(  # type: ignore[method-assign]
                configure_optimizers,
                self.model,
                config.optimizer,
                config.lr_scheduler,
                config.early_stopping.monitor,
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = {**self.config_init.trainer.as_dict(), **kwargs}
        given = config["callbacks"] or []
        callbacks = list(given) if isinstance(given, list) else [given]
        config["profiler"] = config["profiler"] or NoProfiler()
        if self.fitting:
            callbacks += self._fit_callbacks(config)
        else:
            config.update(logger=False, enable_checkpointing=False, enable_progress_bar=False)
        try:
            trainer = Trainer(**{**config, "callbacks": callbacks})
        except (MisconfigurationException, TypeError, ValueError, ImportError) as error:
            raise UserError(f"trainer: {one_line(error).replace('`', '')}") from error
        skip_empty_hooks(trainer.callbacks)  # type: ignore[attr-defined]
        return trainer

    def _fit_callbacks(self, config: dict[str, Any]) -> list[Callback]:
        if config["logger"] in (None, True) and not config["fast_dev_run"]:
            root = config["default_root_dir"]
            config["logger"] = RunLogger(Path(root, LOGS) if root else LOGS, self.config.name, default_hp_metric=False)
        self.record = Record()
        callbacks: list[Callback] = [self.record, CheckMonitors(MONITOR), self.config_init.early_stopping]
        if config["enable_progress_bar"] is not False:
            callbacks.append(Progress())
        if config["logger"] and not config["fast_dev_run"]:
            callbacks += [LearningRateMonitor(), TensorBoardViews(), SaveConfig(self.config_dict)]
        if config["enable_checkpointing"] is not False:
            checkpoint = self.config_init.checkpoint
            callbacks += [checkpoint, LastCheckpoint(checkpoint.dirpath)]
        return callbacks

    # ---- the fit

    def fit(self) -> dict[str, Any]:
        """Train, test the best checkpoint, print the summary and write it into the run's folder."""
        if slow_bf16(self.config.trainer):
            say("note: this CPU has no bf16 instructions and emulates them: trainer.precision 32-true is much faster")
        try:
            self.trainer.fit(self.model, datamodule=self.datamodule)
        except Exception as error:
            mistake = told(error)
            if self.trainer.global_step <= 1:
                self._remove_empty_run()
            raise mistake from (None if mistake is error else error)
        summary = self._summary()
        if self.trainer.is_global_zero:
            folder = self._folder()
            if folder:
                write_summary(folder, summary)
                metrics = {**summary.get("val", {}), **summary.get("test", {})}
                log_best(folder, metrics, summary["best_step"])
            print_summary(summary, folder, can_predict=hasattr(self.datamodule, "read_files"))
        return summary

    def _summary(self) -> dict[str, Any]:
        record, trainer = self.record, self.trainer
        summary: dict[str, Any] = {
            "best_epoch": None,
            "best_step": trainer.global_step,
            "last_epoch": max(0, trainer.current_epoch - 1),
            "stopped": why_stopped(trainer),
            "seconds": record.seconds,
            "samples_per_second": record.samples_per_second,
        }
        best, monitored = self._best_checkpoint()
        evaluations = record.evaluations[-1:]
        if best and monitored:
            state = read_checkpoint(Path(best))
            summary.update(best_epoch=state["epoch"], best_step=state["global_step"])
            evaluations = [found for found in record.evaluations if found.step == state["global_step"]]
        if evaluations:
            summary["val"] = {k: v for k, v in evaluations[-1].metrics.items() if k.startswith("val")}
        if can_evaluate("test", self.model, self.datamodule):
            trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best or None, verbose=False)
            summary["test"] = as_floats(trainer.callback_metrics)
        folder = self._folder()
        if folder and best:
            path, home = Path(best).resolve(), folder.resolve()
            summary["best_checkpoint"] = str(path.relative_to(home) if path.is_relative_to(home) else path)
        return summary

    def _best_checkpoint(self) -> tuple[str, bool]:
        """The best checkpoint and True, or the last one and False where nothing is monitored."""
        found = [c for c in self.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.best_model_path]
        found.sort(key=lambda callback: isinstance(callback, LastCheckpoint))
        return (found[0].best_model_path, found[0].monitor is not None) if found else ("", False)

    def _folder(self) -> Path | None:
        logger = self.trainer.logger
        return Path(logger.log_dir) if isinstance(logger, RunLogger) else None

    def _remove_empty_run(self) -> None:
        """A run that never trained leaves no folder behind."""
        folder = self._folder()
        if folder and self.trainer.is_global_zero and not list(folder.glob("checkpoints/*")):
            self.trainer.logger.experiment.close()  # type: ignore[union-attr]
            shutil.rmtree(folder, ignore_errors=True)


def skip_empty_hooks(callbacks: Sequence[Callback]) -> None:
    """Spare Lightning the hooks of every batch that a callback does not have.

    It calls each of them, empty ones too, and each call looks up a name, sets an attribute and starts a timer: with
    ten callbacks that is half a millisecond a step. What is not callable it passes over.
    """
    for callback in callbacks:
        for hook in BATCH_HOOKS:
            if getattr(type(callback), hook) is getattr(Callback, hook):
                setattr(callback, hook, None)
        if (
            isinstance(callback, ModelCheckpoint)
            and callback._every_n_train_steps == 0
            and not callback._train_time_interval
        ):
            # it saves by epochs only, and has nothing to do after a batch
            callback.on_train_batch_end = None  # type: ignore[method-assign, assignment]


def flat_hparams(config: dict[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of a config as `{"optimizer": "torch.optim.AdamW", "optimizer.lr": 0.003, …}`."""
    flat: dict[str, Any] = {"seed_everything": config["seed_everything"]}

    def visit(node: Any, key: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                visit(value, key if name in ("class_path", "init_args") else f"{key}.{name}")
        elif node is not None:
            flat[key] = node

    for key in ("model", "data", "optimizer", "lr_scheduler"):
        visit(config.get(key), key)
    for key in ("precision", "max_epochs", "accumulate_grad_batches", "gradient_clip_val"):
        visit(config["trainer"][key], f"trainer.{key}")
    return flat


def main(command: Callable[[list[str]], int | None], args: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake becomes one line on standard error and exit status 2.

    Args:
        command: Takes the arguments and gives an exit status, None for 0.
        args: The command line; the default is the process's own. `--debug` shows tracebacks.
    """
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    quiet()
    try:
        return command([arg for arg in args if arg != "--debug"]) or 0
    except UserError as error:
        if debug:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2


def quiet() -> None:
    """Let only warnings through of what Lightning says of itself (devices, seeds, tips)."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning 2.6 builds torch's LeafSpec by its old name for every loader; nothing in a project can mend it
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)


@rank_zero_only
def say(text: str) -> None:
    """Print a line, once for all processes."""
    print(text, flush=True)


def can_evaluate(stage: str, model: LightningModule, datamodule: Any) -> bool:
    """Whether there are a step and data for `validate` or `test`."""
    name = {"validate": "val", "test": "test"}[stage]
    step = {"validate": "validation_step", "test": "test_step"}[stage]
    owner = datamodule if datamodule is not None else model
    return is_overridden(step, model) and is_overridden(f"{name}_dataloader", owner)


def told(error: Exception, always: bool = False) -> Exception:
    """The mistake of a user behind an exception, or the exception itself.

    An exception whose message begins with a config key or a file is a user's mistake. While objects are made
    (`always`), so is every other: it comes from the values in the config, and the place in the code is named.
    """
    while True:  # jsonargparse wraps what a constructor raises
        inner = error.__cause__ or error.__context__
        wrapped = re.match(r"Does not validate|Call to compute_fn|Problem with given|Parser key", str(error).strip())
        if isinstance(error, UserError) or not isinstance(inner, Exception) or not wrapped:
            break
        error = inner
    if isinstance(error, UserError):
        return error
    text = one_line(error)
    if isinstance(error, ValueError | OSError) and re.match(r"[\w./~\\ -]+: ", text):
        return UserError(text)
    if isinstance(error, MisconfigurationException):
        return UserError(text.replace("`", ""))
    if always:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return UserError(f"{type(error).__name__}: {text} ({frame.filename}, line {frame.lineno}; --debug shows more)")
    return error
