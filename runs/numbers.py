"""Numbers, times and values as they are read."""

import math
from typing import Any

import numpy as np


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
