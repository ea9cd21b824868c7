"""A run on one page, `report.html`, and its curves as a picture, `curves.png`; made from the run's folder alone."""

import os
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from runs.charts import Line, floor_of, thinned
from runs.errors import UserError
from runs.facts import LR, Facts, value_at
from runs.files import whole_file, write_whole
from runs.keys import flat
from runs.numbers import number, seconds
from runs.pages import MADE_BY, check_ours, render
from runs.panels import (
    confusion,
    doctor,
    gradients,
    learning_charts,
    metric_charts,
    metric_lines,
    more_charts,
    residuals,
)
from runs.run import Run
from runs.status import part, read_json

REPORT, PICTURE = "report.html", "curves.png"


def write_report(run: Run, out: Path | None = None) -> Path:
    """Make `report.html` and `curves.png`.

    Args:
        run: Finished, interrupted, or one that is being trained.
        out: Where the page is written; the picture is next to it. The default is the run's folder.

    Returns:
        The path of the page.

    Raises:
        UserError: A file of that name is not one of ours, or it can't be written.
    """
    page = out or run.folder / REPORT
    picture = page.with_name(PICTURE) if out is None else page.with_suffix(".png")
    check_ours(page)
    check_ours(picture)
    facts = Facts(run)
    try:
        write_whole(page, render("report.html", **page_of(facts)))
        draw(facts, picture)
    except OSError as error:
        elsewhere = "" if out else "; --out FILE writes it elsewhere"
        raise UserError(f"can't write {page}: {error.strerror or error}{elsewhere}") from error
    return page


def page_of(facts: Facts) -> dict[str, Any]:
    """The values of the page's template."""
    folder, summary = facts.folder, facts.summary
    environment = read_json(folder / "environment.json").get("starts")
    starts = [start for start in environment if isinstance(start, dict)] if isinstance(environment, list) else []
    return {
        "title": _title(folder),
        "status": facts.status,
        "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "cards": cards(facts),
        "summary": summary,
        "nonfinite": nonfinite(read_json(folder / "nonfinite.json")),
        "doctor": doctor(read_json(folder / "doctor.json")),
        "charts": metric_charts(facts),
        "learning": learning_charts(facts),
        "gradients": gradients(facts.log, facts.mark),
        "more": more_charts(facts),
        "confusion": confusion(read_json(folder / "confusion_matrix.json")),
        "residuals": residuals(read_json(folder / "residuals.json")),
        "changed": changed(facts.config, starts),
        "config_text": _text(folder / "config.yaml"),
        "environment": environment_rows(starts),
        "commands": commands(facts, starts),
    }


def _title(folder: Path) -> str:
    folder = Path(os.path.abspath(folder))
    return f"{folder.parent.name} / {folder.name}" if folder.name.startswith("version_") else folder.name


def nonfinite(found: dict[str, Any]) -> str:
    """Where the loss was NaN or infinite, from what `OnNonFinite` has left; empty without that."""
    if "step" not in found or "loss" not in found:
        return ""
    where = ", ".join(f"{key} {found[key]}" for key in ("epoch", "batch") if key in found)
    first = f"; first not finite: {found['first']}" if found.get("first") else ""
    return f"The loss was {found['loss']} in step {found['step']} ({where}){first}."


def cards(facts: Facts) -> list[tuple[str, str, str]]:
    """The numbers at the top: label, value, and what belongs to it."""
    found: list[tuple[str, str, str]] = []
    summary, epochs = facts.summary, facts.log.epochs[0]
    for stage in ("val", "test"):
        metrics = part(summary, stage)
        best = facts.best_epoch is not None
        if not metrics and stage == "val":
            at = facts.best_step if best and facts.best_step is not None else sys.maxsize
            metrics = {m.tag: value_at(m.val, at) for m in facts.metrics if m.tag}
        for name in sorted(metrics, key=lambda name: (not name.endswith("loss"), name))[:4]:
            found.append(
                (
                    name,
                    number(metrics[name]),
                    ("best epoch" if best else "last epoch") if stage == "val" else "best checkpoint",
                )
            )
    last = summary.get("last_epoch", int(epochs.max()) if len(epochs) else None)
    if facts.best_epoch is not None and last is not None:
        found.insert(0, ("best epoch", str(facts.best_epoch), f"of 0 to {last}"))
    elif last is not None:
        found.insert(0, ("last epoch", str(last), ""))
    took = summary.get("seconds") or facts.log.seconds
    if took:
        speed = summary.get("samples_per_second")
        found.append(("time", seconds(took), f"{speed:,.0f} samples/s" if speed else ""))
    return found


def changed(config: dict[str, Any], starts: Sequence[dict[str, Any]]) -> list[tuple[str, Any, Any]]:
    """What is not at its default: key, value, default."""
    defaults: dict[str, Any] = next(
        (start["changed"] for start in reversed(starts) if isinstance(start.get("changed"), dict)), {}
    )
    values = flat(config)
    # of a class in place of another, `model` is the class, and its value in the config `model.class_path`
    return [(key, values[key], default) for key, default in defaults.items() if key in values and key != "name"]


def environment_rows(starts: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The environment of the last start, and when the others were."""
    if not starts:
        return []
    now = starts[-1]
    rows = [(name, str(now[name])) for name in ("python", "torch", "lightning", "torchmetrics") if now.get(name)]
    git = now.get("git")
    if isinstance(git, dict):
        dirty = f", and {git.get('changed_files', 0)} changed files" if git.get("dirty") else ", nothing changed"
        rows.append(("git commit", f"{git.get('commit')} ({git.get('branch')}){dirty}"))
    elif "git" in now:
        rows.append(("git commit", "none: no git repository, or no git"))
    count = now["processes"] if isinstance(now.get("processes"), int) else 1
    where = f"{now.get('device')}: {now.get('device_name')}"
    rows += [
        ("device", f"{count} x {where}" if count > 1 else where),
        ("processes", f"{count} on {now.get('nodes', 1)} node{'s' * (now.get('nodes') != 1)}"),
        ("CPUs", f"{now.get('cpus')} on {now.get('host')}, {now.get('threads')} threads in each process"),
        ("system", str(now.get("platform"))),
        ("started", str(now.get("time"))),
    ]
    if len(starts) > 1:
        others = [f"{start.get('time')} (step {start.get('step')})" for start in starts]
        rows.append(("all starts", ", ".join(others)))
    return rows


def commands(facts: Facts, starts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How the run is made again, and what to know of that."""
    place = shlex.quote(_from_project(facts.folder))
    config = shlex.quote(f"{_from_project(facts.folder)}/config.yaml")
    git = next((start["git"] for start in starts[:1] if part(start, "git").get("commit")), None)
    lines, notes = [], []
    if git:
        lines.append(f"git checkout {git['commit']}")
        if git.get("dirty"):
            files = [str(name) for name in git.get("changed") or []]
            count = git.get("changed_files")
            more = count - len(files) if isinstance(count, int) else 0
            notes.append(f"Not in that commit: {', '.join(files)}" + (f", and {more} more" if more > 0 else ""))
    lines.append(f"python scripts/fit.py --config {config}")
    if len(starts) > 1:
        commits = {part(start, "git").get("commit") for start in starts}
        if len(commits) > 1:
            notes.append("The run went on with another commit than it began with.")
    again = f"python scripts/fit.py --resume {place}" if facts.status in ("interrupted", "not finite") else ""
    return {"lines": lines, "notes": notes, "resume": again, "report": f"python scripts/report.py {place}"}


def _from_project(folder: Path) -> str:
    """A folder as it is called from where `lightning_logs` is."""
    parts = Path(os.path.abspath(folder)).parts
    if "lightning_logs" in parts:
        place = len(parts) - 1 - parts[::-1].index("lightning_logs")
        return Path(*parts[place:]).as_posix()
    return Path(os.path.abspath(folder)).as_posix()


def draw(facts: Facts, path: Path) -> None:
    """The curves as a PNG: metrics, learning rate, gradient norm, time per epoch.

    Raises:
        OSError: It can't be written.
    """
    from matplotlib.figure import Figure  # half a second
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    panels: list[tuple[str, list[Line], bool]] = [(m.name, metric_lines(m), False) for m in facts.metrics[:6]]
    rates = [Line(tag, c.steps, c.values, "train") for tag, c in facts.log.curves.items() if LR.match(tag)]
    panels.append(("learning rate", rates, False))
    norms = [(tag, c) for tag, c in facts.log.curves.items() if tag.startswith("grad_norm/")]
    lines = [Line(t, c.steps, c.values, "ink" if t.endswith("/all") else "faint") for t, c in norms[:200]]
    panels.append(("gradient norms", lines, True))
    panels = [panel for panel in panels if any(np.isfinite(line.y).any() for line in panel[1])]
    if not panels:
        return
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (4 * columns, 2.8 * rows)
    figure = Figure(figsize=size)
    # fixed margins, few ticks: matplotlib's own search for them takes twice as long as the drawing
    inches = {"left": 0.6, "right": size[0] - 0.15, "bottom": 0.35, "top": size[1] - 0.65}
    margins = {side: at / size[side in ("bottom", "top")] for side, at in inches.items()}
    figure.subplots_adjust(**margins, wspace=0.22, hspace=0.38)
    colours = {"train": "#3b6fd4", "val": "#e0701c", "faint": "#c5cbd3", "ink": "#222"}
    for place, (title, lines, log) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.set_title(title, fontsize=10)
        values = np.concatenate([line.y[np.isfinite(line.y)] for line in lines])
        if log or (values.min() > 0 and values.max() / 30 > values.min()):
            axes.set_yscale("log", nonpositive="mask")
            axes.yaxis.set_major_locator(LogLocator(numticks=5))
            axes.yaxis.set_minor_locator(NullLocator())
            if (values > 0).any():
                axes.set_ylim(bottom=floor_of(values[values > 0]))
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.tick_params(labelsize=8)
        for line in lines:
            x, y = thinned(line.x, np.where(np.abs(line.y) < 1e300, line.y, np.nan))
            axes.plot(x, y, color=colours[line.style], label=line.name, lw=1.2, marker="o" * (len(x) == 1))
        if facts.best_step is not None:
            axes.axvline(facts.best_step, color="#888", lw=0.8, ls=":")
        axes.grid(alpha=0.25)
        if title in {metric.name for metric in facts.metrics}:
            axes.legend(fontsize=8, loc="best")
    figure.suptitle(_title(facts.folder), fontsize=11)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=100, metadata={"Software": MADE_BY})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
