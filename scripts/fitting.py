"""A fit: the objects of a run that is trained, and its way from the first step to the summary."""

import re
import shlex
import shutil
import signal as signals
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.model_helpers import is_overridden

from callbacks import (
    CheckMonitors,
    Environment,
    LastCheckpoint,
    LogConfig,
    OnNonFinite,
    Progress,
    Record,
    Residuals,
    Resume,
    TensorBoardViews,
)
from callbacks.doctor import Keys
from callbacks.loops import install
from callbacks.nonfinite import NonFiniteError
from callbacks.record import as_floats, why_stopped
from callbacks.stop import Stop, Stopped, is_child
from callbacks.tensorboard import log_best
from runs.checkpoints import check_fits, read_checkpoint
from runs.errors import UserError, one_line, told
from runs.files import write_config
from runs.keys import changed_keys
from runs.logger import RunLogger
from runs.resume import Point, RunLock, epochs_logged, resume_point, tidy
from runs.run import LOGS, Run
from runs.summary import print_summary, script, write_summary
from scripts.checks import slow_bf16, two_rates
from scripts.cli import CLI, MONITOR, can_evaluate
from scripts.resume import Continued, ends, flat, go_on, requeue
from scripts.say import say

# what a process is told of another one that is gone, by gloo and by NCCL
LOST_PEER = re.compile(r"by peer|broken pipe|remote process exited|(gloo|NCCL).*timed? ?out", re.IGNORECASE)


class FitCLI(CLI):
    """All objects of a run that is to be trained, and the training.

    Args:
        args: The command line after the script's name.
        help_text: What `--help` prints.
        resume: The run to go on with, "" for the latest unfinished one of the recipe; None starts a new one.
        repairs: The runs that were tried before this one, and what was changed since, as in `doctor.json`.

    Raises:
        UserError: Something in the config can't be.
    """

    def __init__(
        self,
        args: Sequence[str],
        help_text: str = "",
        resume: str | None = None,
        repairs: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.args, self.resume, self.repairs = list(args), resume, list(repairs)
        self.continued: Continued | None = None
        self.stop = Stop()
        super().__init__(args, help_text)

    def parsed(self, parser: Any, args: Any) -> Any:
        """The config that a command line asks for, of a run that goes on its own."""
        if self.resume is not None:
            self.continued = go_on(parser, args, self.resume, self.plain_config)
        return self.continued.config if self.continued else super().parsed(parser, args)

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        if not self.config_init.get("optimizer") and not is_overridden("configure_optimizers", self.model):
            name = type(self.model).__name__
            raise UserError(
                f"optimizer: missing, and {name} makes none itself; for example --optimizer torch.optim.AdamW"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        install(trainer, self.stop, self.config.seed_everything)
        self.stop.before_leaving = requeue
        self.stop.children = lambda: getattr(trainer.strategy.launcher, "procs", [])
        return trainer

    def callbacks(self, config: dict[str, Any]) -> list[Callback]:
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
        self.doctor = self.config_init.doctor
        self.doctor.keys = Keys(flat(self.config_dict), self._accepts)
        self.doctor.repairs = self.repairs
        self.last: LastCheckpoint | None = None
        self.log_config: LogConfig | None = None
        if config["barebones"]:
            config.update(dict.fromkeys(("logger", "profiler", "log_every_n_steps", "enable_model_summary")))
            return [*self.weight_callbacks(), self.record]
        callbacks: list[Callback] = [self.record, CheckMonitors(MONITOR), self.config_init.early_stopping]
        if self.config.on_nonfinite != "ignore":
            callbacks.append(self.nonfinite)
        if self.config.monitor.every_n_steps and config["logger"] and not config["fast_dev_run"]:
            callbacks.append(self.config_init.monitor)
        if self.doctor.enabled and not config["fast_dev_run"]:
            callbacks.append(self.doctor)
        if config["enable_progress_bar"] is not False:
            callbacks.append(Progress())
        if config["logger"] and not config["fast_dev_run"]:
            self.log_config = LogConfig(self.config_dict)
            callbacks += [LearningRateMonitor(), TensorBoardViews(), Residuals(), self.log_config]
            callbacks.append(Environment(lambda: changed_keys(self.config_dict, self.defaults)))
        if config["enable_checkpointing"] is not False:
            checkpoint = self.config_init.checkpoint
            if self.continued:
                checkpoint.dirpath = str(self.continued.run.checkpoints)
            self.last = LastCheckpoint(checkpoint, self.nonfinite.check)
            # the first of all, so that others find restored what it restores
            callbacks = [self.last, *callbacks, checkpoint, Resume(ends(self.config_dict))]
        return [*self.weight_callbacks(), *callbacks]

    def _accepts(self, override: str) -> bool:
        """Whether the config is valid with one more key on the command line."""
        parser: Any = self.parser
        given, files = parser.given, parser.files
        own = ["--config", str(self.continued.run.config_file)] if self.continued else []
        try:
            parser.parse_args([*own, *self.args, override.replace(" ", "=", 1)])
        except Exception:
            return False
        finally:
            parser.given, parser.files = given, files
        return True

    @property
    def folder(self) -> Path | None:
        """The run's folder; None where nothing is kept."""
        return self._folder()

    @property
    def repairing(self) -> bool:
        """Whether the doctor has ended the run in order to start it anew."""
        return self.doctor.action == "repair" and self.doctor.stopped is not None

    def best_metrics(self) -> dict[str, float]:
        """The validation metrics at the best value of the monitored one, so far."""
        monitor, mode = self.config.checkpoint.monitor, self.config.checkpoint.mode
        known = [found.metrics for found in self.record.evaluations if monitor in found.metrics]
        if not known:  # nothing is monitored: the last one
            last = [found.metrics for found in self.record.evaluations[-1:]]
            return {name: value for metrics in last for name, value in metrics.items() if name.startswith("val")}
        best = (max if mode == "max" else min)(known, key=lambda metrics: metrics[monitor])
        return {name: value for name, value in best.items() if name.startswith("val")}

    def fit(self) -> dict[str, Any]:
        """Train, test the best checkpoint, print the summary and write it into the run's folder."""
        self._say_notes()
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
            if not self.repairing:
                self._say_remedies()
                self.report()
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

    def _say_notes(self) -> None:
        if (rates := two_rates(self.config)) is not None:
            say(f"note: the schedule goes up to lr_scheduler.max_lr {rates[1]}; optimizer.lr {rates[0]} is not used")
        if slow_bf16(self.config.trainer):
            say("note: this CPU has no bf16 instructions and emulates them: trainer.precision 32-true is much faster")

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
        if is_child():
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
            self.load_weights()
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
            self.load_weights()
        return point

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
        if self.repairing and not lost:
            return  # there is another run to come
        report = self.report() if not lost else None
        print_summary(summary, folder, predict=self._example(), report=report)
        if lost:
            raise UserError(f"{lost}; the training is done, and its end is not on the disk", status=1)

    def _example(self) -> str:
        """What `predict.py` could be given."""
        if hasattr(self.model, "generate") and hasattr(self.datamodule, "tokenizer"):
            return '--prompt "The "'
        if hasattr(self.datamodule, "read_files"):
            return f"{getattr(self.datamodule, 'example_file', 'image.png')} --out predictions.csv"
        return ""

    def report(self) -> Path | None:
        """Make the run's page; without it a run is as good as with it."""
        folder = self._folder()
        if folder is None or not self.log_config or not self.trainer.is_global_zero:
            return None
        try:
            from runs.report import write_report

            return write_report(Run(folder))
        except Exception as error:
            reason = one_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"
            print(f"warning: no report: {reason}", file=sys.stderr)
            return None

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
        best, monitored = self.best_checkpoint()
        evaluations = record.evaluations[-1:]
        if best and monitored:
            state = read_checkpoint(Path(best))
            summary.update(best_epoch=state["epoch"], best_step=state["global_step"])
            evaluations = [found for found in record.evaluations if found.step == state["global_step"]]
        if evaluations:
            summary["val"] = {k: v for k, v in evaluations[-1].metrics.items() if k.startswith("val")}
        if self.doctor in trainer.callbacks:  # type: ignore[attr-defined]
            summary["doctor"] = self.doctor.summary()
        if not self.repairing and can_evaluate("test", self.model, self.datamodule):
            trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best or None, verbose=False)
            summary["test"] = as_floats(trainer.callback_metrics)
        folder = self._folder()
        if folder and best:
            path, home = Path(best).resolve(), folder.resolve()
            summary["best_checkpoint"] = str(path.relative_to(home) if path.is_relative_to(home) else path)
        return summary

    def best_checkpoint(self) -> tuple[str, bool]:
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


def _restoring(error: Exception) -> bool:
    """Whether an error comes from putting a checkpoint's content into the objects of a run."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = ("callbacks/checkpoint.py", "callbacks/last_checkpoint.py", "callbacks/resume.py")
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
