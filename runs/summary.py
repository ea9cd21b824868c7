"""The short table at the end of a run, and its twin for programs, `summary.json`."""

import json
import math
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from runs.files import write_whole
from runs.numbers import number

FILE = "summary.json"
INDENT = 17  # of the values


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write `summary.json` into a run's folder; paths in it are relative to that folder."""
    # its presence says that the run is finished
    write_whole(folder / FILE, json.dumps(_finite(summary), indent=2) + "\n")


def _finite(value: Any) -> Any:
    """NaN and infinity as null: JSON has neither."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_summary(
    summary: dict[str, Any],
    folder: Path | None,
    predict: str = "",
    console: Console | None = None,
    report: Path | None = None,
) -> None:
    """Print what a fit came to and which commands come next.

    Args:
        summary: As in `summary.json`; what is missing or None is left out.
        folder: The run's folder; None when nothing was kept.
        predict: What `predict.py` could be given; empty where there is nothing.
        console: Where to print; the default is standard output.
        report: The run on one page.
    """
    console = console or Console(highlight=False)
    rows: list[tuple[str, str]] = []
    if summary.get("best_epoch") is not None:
        rows.append(("best epoch", f"{summary['best_epoch']} of 0 to {summary['last_epoch']}"))
    rows.append(("stopped", summary["stopped"]))
    for stage in ("val", "test"):
        if metrics := summary.get(stage):
            rows.append((stage, format_metrics(metrics, stage)))
    if skipped := summary.get("skipped_steps"):
        rows.append(("skipped", f"{skipped} step{'s' * (skipped > 1)} whose loss was not finite"))
        if folder:
            rows.append(
                ("", f"python {script('doctor.py')} --config {shlex.quote(str(folder / 'config.yaml'))} looks for why")
            )
    if said := _doctor(summary.get("doctor") or {}):
        rows.append(("doctor", f"\n{'':{INDENT}}".join(hanging(text, INDENT, console) for text in said)))
    speed = summary.get("samples_per_second")
    rows.append(("time", f"{summary['seconds']:.1f} s" + (f", {speed:,.0f} samples/s" if speed else "")))
    if folder:
        rows.append(("run folder", str(folder)))
        if summary.get("best_checkpoint"):
            which = "last" if summary.get("best_epoch") is None else "best"
            rows.append((f"{which} checkpoint", str(folder / summary["best_checkpoint"])))
        if report:
            rows.append(("report", str(report)))
        kept = bool(summary.get("best_checkpoint"))
        commands = next_commands(folder, can_test=kept and bool(summary.get("test")), predict=predict if kept else "")
        rows += [("next", ""), *(("", command) for command in commands)]
    console.print()
    for label, text in rows:
        # never folded: paths and commands are there to be copied
        line = Text.assemble((f"{label:<{INDENT}}", "bold") if label else "  ", text)
        console.print(line, soft_wrap=True)


def _doctor(found: dict[str, Any]) -> list[str]:
    """What the doctor has found, causes only, and what mends it."""
    if not found:
        return []
    findings, checked = found.get("findings") or [], found.get("checked") or []
    if not checked and not findings:
        return ["could see too little to say anything"]
    if not findings:
        return ["no problems found", looked_for(checked, found.get("unseen") or {})]
    lines = []
    for finding in findings:
        lines.append(f"{finding['title']}: {finding['evidence']}")
        lines += [f"try {remedy}" for remedy in finding["remedies"][:3]] or [finding["advice"]]
    return lines


def looked_for(checked: Sequence[str], unseen: Mapping[str, str]) -> str:
    """What the doctor could look for: the names, or where most could be, their number and the names of the others."""
    if len(unseen) > len(checked):
        return f"looked for {', '.join(checked)}".replace("_", " ")
    names = {why: [name.replace("_", " ") for name in unseen if unseen[name] == why] for why in unseen.values()}
    others = ", ".join(f"{', '.join(found)} ({why})" for why, found in names.items())
    text = f"looked for {len(checked)} of {len(checked) + len(unseen)} problems"
    return f"{text}, not for {others}" if others else text


def hanging(text: str, indent: int, console: Console) -> str:
    """A text in lines that fit the terminal, indented but for the first one; as it is where there is no terminal.

    What is there to be copied, an override, stays on its line.
    """
    if not console.is_terminal or text.startswith("try --"):
        return text
    lines = textwrap.wrap(text, max(20, console.width - indent), break_long_words=False, break_on_hyphens=False)
    return f"\n{'':{indent}}".join(lines)


def next_commands(folder: Path, can_test: bool, predict: str) -> list[str]:
    """Commands to paste, for a run's folder."""
    run = shlex.quote(str(folder))
    logs = folder.parent.parent if folder.name.startswith("version_") else folder  # of a run that was moved, its own
    commands = [f"tensorboard --logdir {shlex.quote(str(logs))}"]
    commands += [f"python {script('test.py')} {run}"] * can_test
    commands += [f"python {script('predict.py')} {run} {predict}"] * bool(predict)
    return commands


def script(name: str) -> str:
    """A script of this project as it is called from the present folder, quoted for a shell."""
    path = Path(sys.argv[0])
    called = path.with_name(name) if path.parent.name == "scripts" and path.suffix == ".py" else Path("scripts", name)
    return shlex.quote(str(called))


def format_metrics(metrics: dict[str, float], stage: str) -> str:
    """`loss 0.0312, acc 0.9917` from `{"val/loss": …, "val/acc": …}`, the loss first."""
    names = sorted(metrics, key=lambda name: (not name.endswith("loss"), name))
    return ", ".join(f"{name.removeprefix(f'{stage}/')} {number(float(metrics[name]))}" for name in names)
