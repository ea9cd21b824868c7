"""`--doctor.action repair`: end a run that is ill, apply the doctor's first remedy, and start anew."""

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.console import Console

from callbacks.doctor import DIAGNOSES, Finding
from callbacks.doctor.doctor import FILE
from callbacks.stop import is_child
from runs.errors import UserError
from runs.files import write_whole
from runs.parser import split_configs
from runs.run import Run
from runs.summary import format_metrics, hanging
from scripts.fitting import FitCLI
from scripts.main import leave_group
from scripts.say import say

TRIES = "FIT_REPAIRS"  # what was tried, for the process that takes this one's place
GOOD = 0.7  # of the loss of a network that knows nothing; weights below it are worth keeping
OF_STEPS = re.compile(
    r"--(trainer\.gradient_clip_val|(optimizer|lr_scheduler|model)\.([\w.]*\.)?(max_)?(lr|learning_rate))="
)
LATE = 0.25  # of a run; earlier ones have no such weights


@dataclass
class Try:
    """One run of several, and why there is another one.

    Attributes:
        run: Its folder.
        finding: What the doctor found; None where it found nothing that it could mend.
        remedy: What was changed then.
        result: The best validation metrics that the run came to.
        failed: Whether it ended in an error.
    """

    run: str
    finding: str | None = None
    remedy: list[str] = field(default_factory=list)
    result: dict[str, float] = field(default_factory=dict)
    failed: bool = False


def fit_and_repair(args: Sequence[str], help_text: str, resume: str | None = None) -> None:
    """Train as a command line says; with `--doctor.action repair` again and again, until it is well.

    Each try is a run of its own, which knows those before it (`repairs` in its `doctor.json`). The last one that
    `doctor.max_repairs` allows goes on to its end.
    """
    tries = [Try(**known) for known in json.loads(os.environ.pop(TRIES, "[]"))]
    environment = dict(os.environ)  # before the strategies write into it
    args = list(args)
    while True:
        cli = FitCLI(args, help_text, resume, [asdict(known) for known in tries])
        doctor = cli.doctor
        if cli.continued:  # it may be a repair itself
            tries = _known(cli.continued.run.folder)
            doctor.repairs = [asdict(known) for known in tries]
        if doctor.action == "repair" and len(tries) >= doctor.max_repairs:
            doctor.action = "advise"
        if not cli.continued and tries:
            _link(Path(tries[-1].run), cli)
        try:
            cli.fit()
        except UserError:
            if not cli.repairing:
                if tries:
                    _tell([*tries, Try(str(cli.folder), result=cli.best_metrics(), failed=True)])
                raise
        finding = doctor.stopped if cli.repairing else None
        change = _change(cli, finding) if finding else []
        if finding:
            args = _without_symptoms(args, tries, finding.name)
        tries.append(Try(str(cli.folder), finding.name if finding else None, change, cli.best_metrics()))
        if finding is None:
            break
        say(f"repair {len(tries)} of {doctor.max_repairs}: starting anew with {' '.join(map(shlex.quote, change))}")
        if cli.continued:  # whose config is in its folder
            args = [
                "--config",
                str(cli.continued.run.config_file),
                "--name",
                str(cli.config.name),
                *split_configs(args)[1],
            ]
            resume = None
        args += change
        if cli.trainer.world_size > 1:
            _start_again(cli, args, tries, environment)
    if len(tries) > 1:
        _tell(tries)


def _link(ended: Path, cli: FitCLI) -> None:
    """Write into the folder of a run that was ended which one comes after it, and make its page."""
    if not cli.trainer.is_global_zero or cli.folder is None:
        return
    path = ended / FILE
    with suppress(OSError, ValueError, TypeError):  # a disk that is full, or a folder that is gone
        found = json.loads(path.read_text(encoding="utf-8"))
        write_whole(path, json.dumps({**found, "repaired_in": str(cli.folder)}, indent=2) + "\n")

        from runs.report import write_report

        write_report(Run(ended))


def _known(folder: Path) -> list[Try]:
    """The runs that were tried before one, as far as its `doctor.json` can be read."""
    try:
        found = json.loads((folder / "doctor.json").read_text(encoding="utf-8"))
        return [Try(**known) for known in found["repairs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _change(cli: FitCLI, finding: Finding) -> list[str]:
    """The first remedy; late in a run, with weights that were good before the trouble, from there."""
    change = [override.replace(" ", "=", 1) for override in re.split(" (?=--)", finding.remedies[0])]
    sudden = finding.name in ("nan_or_inf", "exploding_gradients", "learning_rate_too_high")
    late = finding.since > LATE * cli.doctor.history.total
    losses = [found.val_loss for found in cli.doctor.history.evaluations if found.val_loss is not None]
    best, _ = cli.best_checkpoint()
    if sudden and late and best and losses and min(losses) < GOOD * cli.doctor.history.scale:
        change.append(f"--weights={best}")
    return change


def _without_symptoms(args: list[str], tries: list[Try], cause: str) -> list[str]:
    """The command line without the steps' sizes that were changed for problems that a newly found one explains.

    What was changed of the network and the data has mended what it was changed for, or would not be in the way.
    """
    explained = {diagnosis.name for diagnosis in DIAGNOSES if cause in diagnosis.causes}
    changes = {change for known in tries if known.finding in explained for change in known.remedy}
    undone = {change for change in changes if OF_STEPS.match(change)}
    return [arg for arg in args if arg not in undone]


def _start_again(cli: FitCLI, args: list[str], tries: list[Try], environment: dict[str, str]) -> None:
    """Let another process take this one's place, with children of its own."""
    if is_child():
        raise SystemExit(0)
    if cli.trainer.strategy.launcher is None or not hasattr(cli.trainer.strategy.launcher, "procs"):
        say("the processes of this run were started from elsewhere, and so have to be those of the next one:")
        say(f"  python {shlex.join([sys.argv[0], *args])}")
        raise SystemExit(1)
    cli.stop.wait()
    leave_group()
    sys.stdout.flush()
    sys.stderr.flush()
    environment[TRIES] = json.dumps([asdict(known) for known in tries])
    os.execve(sys.executable, [sys.executable, sys.argv[0], *args], environment)


@rank_zero_only
def _tell(tries: list[Try]) -> None:
    """What each try has brought."""
    console = Console(highlight=False)
    console.print("\nrepairs", style="bold")
    changed = "as configured"
    for known in tries:
        result = format_metrics(known.result, "val") if known.result else "nothing to measure"
        end = f"ended: {known.finding}" if known.finding else "failed" if known.failed else "to its end"
        text = hanging(f"{changed}: {result} ({end})", 14, console)
        console.print(f"  {Path(known.run).name:<12}{text}", soft_wrap=True, markup=False)
        changed = " ".join(known.remedy)
