"""The command line of all scripts: LightningCLI with this project's keys, callbacks and error lines."""

import os

# Threads that wait for work sleep and do not spin: as fast on a quiet machine, and on a busy one training does not
# crawl. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import logging
import re
import shlex
import shutil
import signal as signals
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.model_helpers import is_overridden

from callbacks import (
    CheckMonitors,
    Checkpoint,
    LastCheckpoint,
    LogConfig,
    Monitor,
    OnNonFinite,
    Progress,
    Record,
    Resume,
    TensorBoardViews,
)
from callbacks.hooks import NoProfiler, skip_empty_hooks
from callbacks.loops import install
from callbacks.nonfinite import NonFiniteError
from callbacks.record import as_floats, why_stopped
from callbacks.stop import IS_CHILD, Stop, Stopped
from callbacks.tensorboard import log_best
from datamodules.loaders import make_exact
from modules.optimizers import LENGTH_ARGUMENTS, configure_optimizers
from runs.checkpoints import CheckpointFiles, check_fits, load_weights, plain, read_checkpoint
from runs.errors import UserError, one_line, told
from runs.files import write_config
from runs.logger import RunLogger
from runs.parser import Parser, add_model_and_data, fact_keys
from runs.resume import Point, RunLock, epochs_logged, resume_point, tidy
from runs.run import LOGS, Run
from runs.summary import print_summary, script, write_summary
from scripts.checks import check_config, check_trainer, slow_bf16, two_rates
from scripts.resume import Continued, ends, go_on, requeue
from scripts.say import say, show_thread_error, show_warning

MONITOR = "val/loss"
# what a process is told of another one that is gone, by gloo and by NCCL
LOST_PEER = re.compile(r"by peer|broken pipe|remote process exited|(gloo|NCCL).*timed? ?out", re.IGNORECASE)
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
    """All objects of a run, made from a config and a command line.

    Args:
        args: The command line after the script's name.
        help_text: What `--help` prints.
        fitting: Whether there is to be training; otherwise there are no logger and no checkpoints.
        resume: The run to go on with, "" for the latest unfinished one of the recipe; None starts a new one.
        data_state: What a checkpoint holds of the datamodule, so that the training data need not be there.

    Raises:
        UserError: Something in the config can't be.
    """

    def __init__(
        self,
        args: Sequence[str],
        help_text: str = "",
        fitting: bool = True,
        data_state: dict[str, Any] | None = None,
        resume: str | None = None,
    ) -> None:
        self.fitting = fitting
        self.resume = resume
        self.continued: Continued | None = None
        self.stop = Stop()
        super().__init__(
            args=list(args),
            run=False,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={"help_text": help_text, "data_state": data_state},
            save_config_callback=None,  # `_begin` does that
            auto_configure_optimizers=False,  # modules.optimizers does that
            load_from_checkpoint_support=False,  # runs load from their config.yaml, never from class paths in files
        )

    # ---- keys

    def add_core_arguments_to_parser(self, parser: Parser) -> None:  # type: ignore[override]
        parser.add_argument(
            "--name", type=str | None, help="Name of the run's folder. Default: that of the config file."
        )
        parser.add_argument("--weights", type=str | None, help="A checkpoint whose weights a new run starts from.")
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
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(Checkpoint, "checkpoint")
        parser.add_lightning_class_args(Monitor, "monitor")
        parser.set_defaults(DEFAULTS)
        # arguments that a schedule requires, and that are filled in when they are left out
        action: Any = next(action for action in parser._actions if action.dest == "lr_scheduler")
        action.sub_add_kwargs.setdefault("linked_targets", set()).update({*LENGTH_ARGUMENTS, "max_lr", "monitor"})

    def parse_arguments(self, parser: Any, args: Any) -> None:
        if "--print_config" in args:  # of all keys given, whether they come before or after it
            args = [*(arg for arg in args if arg != "--print_config"), "--print_config=comments"]
        if self.resume is not None:
            self.continued = go_on(parser, args, self.resume, self._plain)
        self.config = self.continued.config if self.continued else parser.parse_args(args)
        if self.config.name is None:
            self.config.name = parser.files[0].stem if parser.files else "run"
        if isinstance(self.config.seed_everything, bool):  # true and false ask for any seed; config.yaml says which
            drawn = int.from_bytes(os.urandom(4), "big")
            self.config.seed_everything = int(os.environ.get("PL_GLOBAL_SEED", drawn))
        check_trainer(self.config.trainer)
        check_config(self.config)

    @property
    def config_dict(self) -> dict[str, Any]:
        """The complete config, in plain types, without what the datamodule fills in."""
        return self._plain(self.config)

    def _plain(self, config: Any) -> dict[str, Any]:
        dumped = yaml.safe_load(self.parser.dump(config, skip_link_targets=False, skip_unset=False))
        for key in fact_keys():  # those that the config states stay in it, those that the data fill in do not
            *path, name = key.split(".")
            stated = key in config and config[key] is not None
            node = dumped
            for part in path:
                if stated and not node.get(part):
                    node[part] = {}
                node = node.get(part) or {}
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
            )
        elif self.fitting and not is_overridden("configure_optimizers", self.model):
            name = type(self.model).__name__
            raise UserError(
                f"optimizer: missing, and {name} makes none itself; for example --optimizer torch.optim.AdamW"
            )
        for owner in filter(None, (self.datamodule, self.model)):
            for stage in ("train", "val", "test"):
                self._make_exact(owner, f"{stage}_dataloader")

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
        if self.fitting:
            callbacks += self._fit_callbacks(config)
        else:
            config.update(logger=False, enable_checkpointing=False, enable_progress_bar=False)
        try:
            trainer = Trainer(**{**config, "callbacks": callbacks})
        except (MisconfigurationException, TypeError, ValueError, ImportError) as error:
            raise UserError(f"trainer: {one_line(error).replace('`', '')}") from error
        skip_empty_hooks(trainer.callbacks)  # type: ignore[attr-defined]
        if self.fitting:
            install(trainer, self.stop, self.config.seed_everything)
            self.stop.before_leaving = requeue
            self.stop.children = lambda: getattr(trainer.strategy.launcher, "procs", [])
        return trainer

    def _fit_callbacks(self, config: dict[str, Any]) -> list[Callback]:
        if config["logger"] in (None, True) and not config["fast_dev_run"] and not config["barebones"]:
            root, name, version = config["default_root_dir"], self.config.name, None
            place = Path(root, LOGS) if root else LOGS
            if self.continued:
                folder = self.continued.run.folder
                place, name, version = folder.parent.parent, folder.parent.name, folder.name
            config["logger"] = RunLogger(place, name, version, default_hp_metric=False)
        if config["logger"] is False and not self.config.checkpoint.dirpath:
            config["enable_checkpointing"] = False  # no folder to keep them in
        self.record, self.nonfinite = Record(), OnNonFinite(self.config.on_nonfinite)
        self.last: LastCheckpoint | None = None
        self.log_config: LogConfig | None = None
        if config["barebones"]:
            config.update(dict.fromkeys(("logger", "profiler", "log_every_n_steps", "enable_model_summary")))
            return [self.record]
        callbacks: list[Callback] = [self.record, CheckMonitors(MONITOR), self.config_init.early_stopping]
        if self.config.on_nonfinite != "ignore":
            callbacks.append(self.nonfinite)
        if self.config.monitor.every_n_steps and config["logger"] and not config["fast_dev_run"]:
            callbacks.append(self.config_init.monitor)
        if config["enable_progress_bar"] is not False:
            callbacks.append(Progress())
        if config["logger"] and not config["fast_dev_run"]:
            self.log_config = LogConfig(self.config_dict)
            callbacks += [LearningRateMonitor(), TensorBoardViews(), self.log_config]
        if config["enable_checkpointing"] is not False:
            checkpoint = self.config_init.checkpoint
            if self.continued:
                checkpoint.dirpath = str(self.continued.run.checkpoints)
            self.last = LastCheckpoint(checkpoint, self.nonfinite.check)
            # the first of all, so that others find restored what it restores
            callbacks = [self.last, *callbacks, checkpoint, Resume(ends(self.config_dict))]
        return callbacks

    # ---- the fit

    def fit(self) -> dict[str, Any]:
        """Train, test the best checkpoint, print the summary and write it into the run's folder."""
        if (rates := two_rates(self.config)) is not None:
            say(f"note: the schedule goes up to lr_scheduler.max_lr {rates[1]}; optimizer.lr {rates[0]} is not used")
        if slow_bf16(self.config.trainer):
            say("note: this CPU has no bf16 instructions and emulates them: trainer.precision 32-true is much faster")
        self.lock: RunLock | None = None
        try:
            point = self._begin()
            with self.stop.listening():
                self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=point.path)
                self.stop.at_once = True  # nothing is left that could be lost
                if self.stop.signal:
                    self._leave_together()
                summary = self._summary()
        except Stopped as stopped:
            raise SystemExit(self._stopped(stopped.signal)) from stopped
        except NonFiniteError as error:
            self._say_remedies()
            raise UserError(str(error), status=1) from error
        except Exception as error:
            if self.trainer.world_size > 1 and isinstance(error, RuntimeError) and LOST_PEER.search(str(error)):
                raise UserError(self._lost_process(error), status=1) from error
            if self.continued and _restoring(error):
                reason = one_line(error).replace("`", "")
                raise UserError(f"{point.path}: a run can't go on from it: {type(error).__name__}: {reason}") from error
            mistake = told(error, before_training=self.trainer.global_step == 0)
            if self.trainer.global_step <= 1 and not self.continued:
                self._remove_empty_run()
            raise mistake from (None if mistake is error else error)
        finally:
            if self.lock:
                self.lock.release()
        if self.trainer.is_global_zero:
            self._end(summary)
        return summary

    def _lost_process(self, error: RuntimeError) -> str:
        """Why the processes of a run can't talk to each other any more; what another one says of itself comes first."""
        for rank, process in enumerate(self.stop.children(), 1):
            try:
                status = process.wait(3)
            except subprocess.TimeoutExpired:
                continue
            if status < 0:
                name = signals.Signals(-status).name
                memory = ", which is what the system sends when memory runs out" if name == "SIGKILL" else ""
                return f"the process of rank {rank} was ended by {name}{memory}"
            if status > 0:
                return f"the process of rank {rank} has failed with status {status}; its own error is above"
        return f"another process of this run has ended: {one_line(error)}"

    def _leave_together(self) -> None:
        """A signal has come after the last safe point, where the processes of a run no longer ask each other."""
        if IS_CHILD:
            self.stop.leave(self.stop.signal)
            time.sleep(60)  # until the first process ends this one
        raise Stopped(self.stop.signal)

    def _begin(self) -> Point:
        """Take hold of the run's folder, before anything heavy starts, and see from where it goes on."""
        try:
            folder = self._folder()
            first = self.trainer.is_global_zero
            if folder and folder.is_dir() and first:
                self.lock = RunLock(folder)
                self.lock.take()
            point = self._point()
            if folder and first and self.log_config:
                self.log_config.changed = write_config(folder, self.log_config.text, self.log_config.since)
        except OSError as error:
            place = error.filename or folder
            raise UserError(f"trainer.default_root_dir: can't write {place}: {error.strerror}") from error
        if folder and self.last:
            self.stop.hint = f"to go on from what was saved last: {resume_command(folder)}"
        if first and self.continued:
            tidy(self.continued.run, point)
        return point

    def _point(self) -> Point:
        """Where the run goes on, or begins."""
        if not self.continued:
            self._load_weights()
            given = self.config.checkpoint.dirpath
            if self.last and given and self.trainer.is_global_zero and Path(given, "last.ckpt").exists():
                self._remove_empty_run()
                raise UserError(
                    f"checkpoint.dirpath: {given} has another run's last.ckpt; give each run its own folder"
                )
            return Point()
        point = resume_point(self.continued.run)
        most, begun = self.config.trainer.max_epochs, point.epochs_begun
        if most not in (None, -1) and most < begun:
            folder = self.continued.run.folder
            raise UserError(f"trainer.max_epochs: {most} is less than the {begun} epochs that {folder} has begun")
        for reason in point.damaged:
            say(f"warning: {reason}")
        if point.damaged:
            last = epochs_logged(self.continued.run.folder)
            say(f"note: the run has come to epoch {last}; what is after the checkpoint is trained again")
        if point.path:
            try:
                check_fits(self.model, point.state, point.path)
            except UserError as error:
                raise UserError(f"{error}; --weights {point.path} starts a new run from what fits") from error
            self.files.known = (point.path, point.state)
            self.trainer.num_sanity_val_steps = 0
            step, epoch = point.state["global_step"], point.state["epoch"]
            place = f"{'after' if point.epochs > epoch else 'in'} epoch {epoch}, step {step}"
            say(f"going on with {self.continued.run.folder} from {point.path.name}: {place}")
            if self.log_config:
                self.log_config.since = step
        else:
            say(f"{self.continued.run.folder} has no checkpoint yet: it begins anew")
            self._load_weights()
        return point

    def _load_weights(self) -> None:
        if self.config.weights:
            given = Path(self.config.weights)
            say(load_weights(self.model, Run(given).checkpoint() if given.is_dir() else given))

    def _say_remedies(self) -> None:
        """After a loss that was not finite: the commands that go on from the last good checkpoint."""
        folder, optimizer = self._folder(), self.config.get("optimizer")
        if not folder or not self.last:
            return
        rate = ((optimizer or {}).get("init_args") or {}).get("lr")
        if isinstance(rate, float):
            say(f"with a smaller learning rate: {resume_command(folder)} --optimizer.lr {rate / 10:.3g}")
        if self.config.on_nonfinite == "stop":
            say(f"without such steps:           {resume_command(folder)} --on_nonfinite skip")

    def _saved(self) -> bool:
        return self.last is not None and self.last.path.is_file() and not self.last.failed

    def _stopped(self, signal: int) -> int:
        """Say where the run is and how it goes on; the exit status."""
        folder = self._folder()
        epoch = self.trainer.current_epoch
        begun = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready > 0
        place = f"in epoch {epoch}" if begun or not epoch else f"after epoch {epoch - 1}"
        if folder and self.last and self._saved():
            say(f"stopped {place}, step {self.trainer.global_step}: {self.last.path}")
        elif folder:
            failed = self.last.failed if self.last else None
            reason = f"and could not save ({failed})" if failed else "before there was anything to save"
            say(f"stopped {place}, {reason}: {folder}")
        if folder and self.last:
            say(f"to go on: {resume_command(folder)}")
        self.stop.wait(1 if self.stop.at_once else 10)
        if self.trainer.is_global_zero:
            requeue(signal)
        child = self.trainer.local_rank != 0 and hasattr(self.trainer.strategy.launcher, "procs")
        # Lightning kills the main process, in whatever it is, when one that it has started fails
        return 0 if child else 128 + signal

    def _end(self, summary: dict[str, Any]) -> None:
        folder, lost = self._folder(), self.last.failed if self.last else None
        if lost:
            summary["unsaved"] = lost
        if folder:
            metrics = {**summary.get("val", {}), **summary.get("test", {})}
            if isinstance(self.trainer.logger, TensorBoardLogger):
                with suppress(OSError):  # a disk that is full: RunLogger has said so
                    log_best(folder, metrics, summary["best_step"])
            try:
                write_summary(folder, summary)  # the last of all: it says that the run is finished
            except OSError as error:
                lost = lost or f"{folder}: {error.strerror or error}"
        print_summary(summary, folder, can_predict=hasattr(self.datamodule, "read_files"))
        if lost:
            raise UserError(f"{lost}; the training is done, and its end is not on the disk", status=1)

    def _summary(self) -> dict[str, Any]:
        record, trainer = self.record, self.trainer
        summary: dict[str, Any] = {
            "best_epoch": None,
            "best_step": trainer.global_step,
            "last_epoch": max(0, trainer.current_epoch - 1),
            "stopped": why_stopped(trainer),
            "skipped_steps": self.nonfinite.skipped,
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
        if found and Path(found[0].best_model_path).is_file():
            return found[0].best_model_path, found[0].monitor is not None
        return (str(self.last.path), False) if self.last and self.last.path.is_file() else ("", False)

    def _folder(self) -> Path | None:
        logger = self.trainer.logger
        return Path(logger.log_dir) if logger is not None and logger.log_dir else None

    def _remove_empty_run(self) -> None:
        """A run that never trained leaves no folder behind."""
        logger = self.trainer.logger
        if not isinstance(logger, RunLogger) or not self.trainer.is_global_zero:
            return
        try:
            folder = Path(logger.log_dir)
        except OSError:  # there can't be one
            return
        if not list(folder.glob("checkpoints/*")):
            if logger._experiment is not None:
                with suppress(OSError):
                    logger._experiment.close()
            shutil.rmtree(folder, ignore_errors=True)


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
        if getattr(rank_zero_only, "rank", 0) == 0:  # with DDP all processes find the same mistake
            print(f"error: {one_line(error)}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:  # before there was a run
        return 130


def quiet() -> None:
    """Let through what is wrong, and not what Lightning and matplotlib say of themselves (devices, tips, fonts)."""
    for name in ("lightning.pytorch", "lightning.fabric", "matplotlib.font_manager"):
        logging.getLogger(name).setLevel(logging.ERROR if name.startswith("matplotlib") else logging.WARNING)
    # Lightning 2.6 builds torch's LeafSpec by its old name for every loader; nothing in a project can mend it
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    # TensorBoardViews sees to it that short epochs have a point in every curve, CheckMonitors to missing metrics
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message="Early stopping conditioned on metric.*")
    warnings.filterwarnings("ignore", message=".*could not find the monitored key.*")
    # a run that goes on does so in its own folder, and its loaders know where they were
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before.*")
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`.*")
    warnings.filterwarnings("ignore", message=".*self.log.*barebones=True.*")
    warnings.showwarning = show_warning  # type: ignore[assignment]
    threading.excepthook = show_thread_error


def _restoring(error: Exception) -> bool:
    """Whether an error comes from putting a checkpoint's content into the objects of a run."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = ("callbacks/checkpoint.py", "callbacks/resume.py")
    return any(
        (
            Path(frame.filename).name == "checkpoint_connector.py"
            and frame.name.startswith(("restore", "_restore", "resume"))
        )
        or (frame.name == "on_train_start" and Path(frame.filename).as_posix().endswith(ours))
        for frame in frames
    )


def resume_command(folder: Path) -> str:
    """The command that goes on with a run."""
    return f"python {script('fit.py')} --resume {shlex.quote(str(folder))}"


def can_evaluate(stage: str, model: LightningModule, datamodule: Any) -> bool:
    """Whether there are a step and data for `validate` or `test`."""
    name = {"validate": "val", "test": "test"}[stage]
    step = {"validate": "validation_step", "test": "test_step"}[stage]
    owner = datamodule if datamodule is not None else model
    has_data = is_overridden(f"{name}_dataloader", owner) and getattr(owner, f"has_{name}_data", True)
    return is_overridden(step, model) and has_data
