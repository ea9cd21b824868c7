"""What state a run is in, and what its folder says of it, read so that nothing in it can be too broken."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from runs.errors import one_line
from runs.files import read_yaml
from runs.resume import RunLock

STAGE = re.compile(r"(train|training|val|valid|validation|test)[/_](?=.)")
LOWER_IS_BETTER = re.compile(r"loss|err|mse|mae|nll|perplexity|ppl|bpb|bits|brier|ece|fid|\b[cw]er\b|distance")


def status(folder: Path, config: Any, summary: dict[str, Any]) -> str:
    """What became of a run.

    `finished`, `ended by doctor`, `running`, `not finite` after a loss that was NaN or infinite, `interrupted`, or
    `broken` for a run without a config that can be read.
    """
    if not isinstance(config, dict) or not config:
        return "broken"
    if summary and not summary.get("unsaved"):
        return "ended by doctor" if str(summary.get("stopped")).startswith("by the doctor") else "finished"
    if RunLock(folder).held_elsewhere():
        return "running"
    return "not finite" if _not_finite(folder) else "interrupted"


def _not_finite(folder: Path) -> bool:
    """Whether the last start of a run ended with a loss that was not finite."""
    bad = [str(read_json(path).get("time", "")) for path in folder.glob("*nonfinite.json")]
    starts = read_json(folder / "environment.json").get("starts")
    last = starts[-1] if isinstance(starts, list) and starts else {}
    return bool(bad) and max(bad) >= str(last.get("time", "") if isinstance(last, dict) else "")


def read_json(path: Path) -> dict[str, Any]:
    """A mapping; empty where there is none, or what is there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_config(path: Path, blocks: dict[str, Any] | None = None) -> dict[str, Any]:
    """A config as plain dicts; empty where it can't be read.

    Args:
        path: The file.
        blocks: Top-level keys that were read before, by their text. Of many runs most keys are the same, and a YAML
            reader is slow: with this, each text is read once.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    try:
        found = _by_blocks(text, blocks) if blocks is not None else None
        found = read_yaml(text) if found is None else found
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def why_broken(path: Path) -> str:
    """What is wrong with a `config.yaml` that `read_config` gives nothing of."""
    try:
        found = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        return "there is no config.yaml" if not path.exists() else f"config.yaml: {error.strerror or error}"
    except UnicodeDecodeError:
        return "config.yaml is no text"
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return f"config.yaml is no YAML that can be read ({one_line(error)})"
    return "config.yaml is empty" if not found else f"config.yaml holds no keys, but {type(found).__name__}"


def _by_blocks(text: str, blocks: dict[str, Any]) -> dict[str, Any] | None:
    """A config from its top-level keys, each a text of its own; None where they depend on one another."""
    if "&" in text or "\n---" in text or text.startswith(("---", "%", "{")):  # anchors, documents, one in braces
        return None
    found: dict[str, Any] = {}
    for block in re.split(r"(?<=\n)(?=[\w'\"])", text):
        if block not in blocks:
            part = read_yaml(block)
            if not isinstance(part, dict) and part is not None:
                return None
            blocks[block] = part or {}
        found.update(blocks[block])
    return found


def better_mode(metric: str, config: dict[str, Any]) -> str:
    """`min` or `max`: as the config says of a metric that it monitors, or else from the metric's name."""
    for key in ("checkpoint", "early_stopping"):
        part = config.get(key)
        if isinstance(part, dict) and part.get("monitor") == metric and part.get("mode") in ("min", "max"):
            return part["mode"]
    return "min" if LOWER_IS_BETTER.search(metric.lower()) else "max"


def part(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    """The mapping under a key; empty where there is none."""
    found = mapping.get(key)
    return found if isinstance(found, dict) else {}
