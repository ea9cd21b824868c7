"""What the pages of this project share: how they are made, told from others, and how they write numbers."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from runs.errors import UserError

MADE_BY = "lightning-project-template"  # in every page and picture of this project; others are not overwritten


def check_ours(path: Path, option: str = "--out") -> None:
    """Refuse to write over a file that another hand has made.

    Raises:
        UserError: There is one.
    """
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            ours = MADE_BY.encode() in file.read(2000)
            empty = file.tell() == 0
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror}") from error
    if not ours and not empty:
        raise UserError(f"{path}: not made by this project; move it away, or give another name with {option}")


def render(template: str, **values: Any) -> str:
    """A page from one of the templates next to this file."""
    place = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=place, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, seconds=seconds, value=shown)
    return environment.get_template(template).render(made_by=MADE_BY, **values)


def number(value: Any) -> str:
    """A number as it is read: 0.0233, 1,234, 3.2e-05; `-` for none."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return "-" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    value = float(value)
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.4g}"


def seconds(value: float) -> str:
    """A time as `0.2 s`, `6 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    if value < 60:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    minutes, hours, days = value // 60, value // 3600, value // 86400
    if days:
        return f"{days:.0f} d {hours % 24:.0f} h"
    return f"{hours:.0f} h {minutes % 60:.0f} min" if hours else f"{minutes:.0f} min {value % 60:.0f} s"


def shown(value: Any) -> str:
    """A config's value as on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
