"""Mistakes of a user, told in one line that names the key, the value, and what is allowed."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that one line explains; shown as `error: …`, with exit status 2 and without a traceback."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the most similar of `choices`, or nothing when none is similar."""
    choices = list(choices)
    lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    return f"; did you mean '{lower[close[0]]}'?" if close else ""


def one_line(text: object) -> str:
    """The text with all white space folded into single spaces."""
    return " ".join(str(text).split())
