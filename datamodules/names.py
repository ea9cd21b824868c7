"""Names of classes and columns: their order, and which one was meant."""

import difflib
from collections.abc import Iterable, Sequence


def in_order(names: Iterable[str]) -> list[str]:
    """Sorted, as numbers where all of them are."""
    try:
        return sorted(names, key=float)
    except ValueError:
        return sorted(names)


def nearest(name: str, choices: Sequence[str]) -> str:
    """The end of a message: the choice that resembles a name that is none of them, or the first dozen."""
    close = difflib.get_close_matches(name, choices, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(choices[:12])}{', …' * (len(choices) > 12)}"
