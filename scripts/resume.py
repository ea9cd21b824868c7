"""The command line's side of going on with a run: which one, with which config, and what is said about it."""

import os
import signal as signals
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modules.optimizers import LENGTH_ARGUMENTS
from runs import Run
from runs.errors import UserError
from runs.files import read_yaml
from runs.parser import Parser, config_files, split_configs
from runs.resume import RunLock, launch_id
from runs.run import LOGS, versions
from scripts.say import say

# processes that Lightning starts for more devices are told here what the first one has found
CHOICE = "FIT_RESUMES"
# when a run ends: changed, a finished run can go on
END_KEYS = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.min_", "early_stopping.")


@dataclass
class Continued:
    """A run that goes on.

    Attributes:
        run: The run.
        config: Its own config, with the keys of the command line.
    """

    run: Run
    config: Any


def take_resume(args: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take `--resume [RUN]` out of a command line: the run, "" for the latest unfinished one, None without it."""
    rest, resume = list(args), None
    for i, arg in enumerate(rest):
        if arg == "--resume":
            value = rest[i + 1 : i + 2]
            named = bool(value) and not value[0].startswith("-")
            resume = value[0] if named else ""
            del rest[i : i + 1 + named]
            break
        if arg.startswith("--resume="):
            resume = rest.pop(i).partition("=")[2]
            break
    if resume is None and int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0 and own_run(rest):
        resume = ""  # the same job again, after `requeue`
    if resume and "://" in resume:
        raise UserError(f"--resume: {resume} is an address; a run is a folder, or the name of a recipe")
    return resume, rest


def go_on(parser: Parser, args: list[str], place: str, plain: Callable[[Any], dict[str, Any]]) -> Continued | None:
    """The run to go on with, or None to start a new one.

    Its own config is used, not that of the recipe's file, which may be another one by now; keys on the command line
    win. What is different is printed.

    Raises:
        SystemExit: The run is finished: there is nothing to do.
        UserError: There is no such run, or another process is training it.
    """
    _, overrides = split_configs(args)
    if not place and not any(arg.startswith(("--config", "-c", "--name", "--model")) for arg in args):
        raise UserError("--resume: of which recipe? Add --config FILE, or name a run: --resume RUN")
    run = _choose(place, args)
    if run is None:
        return None
    try:
        saved = parser.parse_args(["--config", str(run.config_file)])
    except UserError as error:
        raise UserError(f"{run.config_file}: {error}") from error
    config = parser.parse_args(["--config", str(run.config_file), *overrides])
    was, now = plain(saved), plain(config)
    if (rest := without_known(overrides, was, now)) != overrides:
        config = parser.parse_args(["--config", str(run.config_file), *rest])
        now = plain(config)
    before, after = flat(was), flat(now)
    changed = {key: (before.get(key), after.get(key)) for key in [*before, *after] if before.get(key) != after.get(key)}
    if run.finished and not any(key.startswith(END_KEYS) for key in changed):
        say(f"{run.folder} is finished: {str(run.summary.get('stopped')).rstrip('.')}. Nothing to train.")
        say("To train on, raise --trainer.max_epochs; for a new run, leave --resume out.")
        raise SystemExit(0)
    if "weights" in changed:
        raise UserError(f"--weights: {run.folder} goes on with its own weights; for a new run, leave --resume out")
    swapped = [key for key in changed if key.endswith("class_path")]
    for key, (old, new) in changed.items():
        of_another = any(key != path and key.startswith(path.removesuffix("class_path")) for path in swapped)
        if of_another and (old is None or new is None):
            continue  # what only one of two classes takes
        say(f"changed: {key.removesuffix('.class_path')} {_shown(old)} → {_shown(new)}")
    arguments = (now.get("lr_scheduler") or {}).get("init_args") or {}
    by_length = any(name in arguments and arguments[name] is None for name in LENGTH_ARGUMENTS)
    if by_length and any(key.startswith("trainer.max_") for key in changed):
        say("note: the schedule is as long as the run: from here on it is that of the new length")
    if config_files(args):
        _compare_files(parser, args, after, plain)
    return Continued(run, config)


def _compare_files(
    parser: Parser, args: list[str], used: dict[str, Any], plain: Callable[[Any], dict[str, Any]]
) -> None:
    """Say what the files on the command line have otherwise than the run."""
    place = ", ".join(map(str, config_files(args)))
    try:
        asked = flat(plain(parser.parse_args(args)))
    except UserError as error:
        say(f"note: {place} can't be used any more ({error}); the run has its own config")
        return
    differing = [key for key in asked if asked[key] != used.get(key) and key != "name"]
    shown = [f"{key} {_shown(used.get(key))} (not {_shown(asked[key])})" for key in differing[:4]]
    shown += [f"{len(differing) - 4} more"] * (len(differing) > 4)
    if shown:
        say(f"note: not as in {place}, the run keeps its {', '.join(shown)}; a key on the command line changes it")


def _choose(place: str, args: list[str]) -> Run | None:
    if int(os.environ.get("LOCAL_RANK", "0")) > 0 and CHOICE in os.environ:
        return Run(os.environ[CHOICE]) if os.environ[CHOICE] else None
    if place:
        run: Run | None = Run(place, logs_of(args))
        if run and RunLock(run.folder).held_elsewhere():
            RunLock(run.folder).take()  # says by whom
    else:
        name = recipe_name(args)
        free = [f for f in reversed(versions(logs_of(args) / name)) if not RunLock(f).held_elsewhere()]
        runs = [Run(folder) for folder in free]
        unfinished = (run for run in runs if not run.finished or _reopened(run, args))
        run = own_run(args) or next(unfinished, None)
        busy = [folder for folder in versions(logs_of(args) / name) if folder not in free]
        if run is None and busy:
            RunLock(busy[-1]).take()  # says by whom
        run = run or next(iter(runs), None)
        if run is None and all(path.is_file() for path in config_files(args)):
            say(f"no run of {name} in {logs_of(args).resolve()}: starting one")
    os.environ[CHOICE] = str(run.folder) if run else ""
    return run


def _reopened(run: Run, args: Sequence[str]) -> bool:
    """Whether the command line lets a finished run end elsewhere than it did."""
    ends = {arg.split("=")[0] for arg in args if arg.lstrip("-").startswith(END_KEYS)}
    return any(_value(args, option) != str(_at(run.config, option.lstrip("-"))) for option in ends)


def own_run(args: Sequence[str]) -> Run | None:
    """The run that this SLURM job has trained before it was put back into the queue."""
    launch = launch_id()
    if not launch.startswith("slurm"):
        return None
    folders = versions(logs_of(args) / recipe_name(args))
    own = [folder for folder in folders if RunLock(folder).holder().get("launch") == launch]
    return Run(own[-1]) if own else None


def recipe_name(args: Sequence[str]) -> str:
    """Under which name a command line's runs are kept."""
    files = config_files(args)
    return _given(args, "name") or (files[0].stem if files else "run")


def logs_of(args: Sequence[str]) -> Path:
    """Where a command line's runs are kept."""
    root = _given(args, "trainer.default_root_dir")
    return Path(root, LOGS) if root else LOGS


def without_known(args: Sequence[str], saved: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """A command line without what adds to a list (`--trainer.callbacks+`) what is in the run's own config already."""
    known = []
    for option in {arg.split("=")[0] for arg in args if arg.split("=")[0].endswith("+")}:
        key = option.strip("-+")
        before, after = (_at(tree, key) or [] for tree in (saved, config))
        if all(item in before for item in after[len(before) :]):
            known.append(key)
    rest, skip = [], False
    for arg in args:
        if arg.startswith("--"):
            skip = any(arg.lstrip("-").startswith((f"{key}+", f"{key}.")) for key in known)
        if not skip:
            rest.append(arg)
    return rest


def _at(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = (tree or {}).get(name)
    return tree


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as `a.b.c`, the way they are put on a command line."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, dict) and value:
            found.update(flat(value, name))
        else:
            found[name] = value
    return found


def ends(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of a config that say when a run is to end."""
    return {key: value for key, value in flat(config).items() if key.startswith(END_KEYS)}


def requeue(signal: int) -> None:
    """Under SLURM, put the job back into the queue after SIGUSR1, which `sbatch --signal=USR1@90` sends in time.

    Not after SIGTERM: that is what `scancel` sends.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job or signal != getattr(signals, "SIGUSR1", None):
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=30)
        say(f"job {job} is in the queue again")
    except (OSError, subprocess.SubprocessError) as error:
        say(f"warning: job {job} could not be put back into the queue: {error}")


def _given(args: Sequence[str], key: str) -> str | None:
    """The value of a key on a command line or in the files that it names."""
    value = _value(args, f"--{key}")
    for path in reversed(config_files(args)):
        if value is None:
            try:
                value = _at(read_yaml(path.read_text(encoding="utf-8")), key)
            except (OSError, ValueError, AttributeError, yaml.YAMLError):
                continue  # the parser will say what is wrong with it
    return value


def _value(args: Sequence[str], option: str) -> str | None:
    for i, arg in enumerate(args):
        if arg == option and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(f"{option}="):
            return arg.partition("=")[2]
    return None


def _shown(value: Any) -> str:
    return "nothing" if value in (None, "") else str(value)
