"""Mistakes of a user, told in one line that names the key, the value, and what is allowed."""

import difflib
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException

KEYS = (
    r"(model|data|optimizer|lr_scheduler|parameters|averaging|early_stopping|checkpoint|monitor|doctor|trainer"
    r"|seed_everything|name|weights|weights_rename|weights_skip|on_nonfinite)"
    r"[\w.]*"
)


class UserError(Exception):
    """A mistake that one line explains; shown as `error: …` and without a traceback.

    Args:
        text: The line.
        status: The exit status of the command: 2 for a mistake of the user, 1 for what went wrong on its own.
    """

    def __init__(self, text: str, status: int = 2) -> None:
        super().__init__(text)
        self.status = status


def nearest(name: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the most similar of `choices`, or nothing when none is similar."""
    choices = list(choices)
    lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    return f"; did you mean '{lower[close[0]]}'?" if close else ""


def one_line(text: object) -> str:
    """The text with all white space folded into single spaces."""
    return " ".join(str(text).split())


def told(error: Exception, before_training: bool = False, making: bool = False) -> Exception:
    """The mistake of a user behind an exception, or the exception itself when it is a bug in some code.

    A mistake is what names a config key or an existing file at its beginning, and what Lightning calls a
    misconfiguration.

    Args:
        error: The exception.
        before_training: No step was taken yet: what Lightning itself raises is about the config.
        making: Objects were being made from the config: whatever is raised comes from the values in it.
    """
    while True:  # jsonargparse wraps what a constructor raises
        inner = error.__cause__ or error.__context__
        wrapped = re.match(r"Does not validate|Call to compute_fn|Problem with given|Parser key", str(error).strip())
        if isinstance(error, UserError) or not isinstance(inner, Exception) or not wrapped:
            break
        error = inner
    if isinstance(error, UserError):
        return error
    text = one_line(error).replace("`", "")
    if isinstance(error, ValueError | OSError) and _names_its_place(text):
        return UserError(text)
    if found := re.match(r"ModelCheckpoint\(monitor='(.*?)'\) could not find .* metrics: \[(.*?)\]", text):
        logged = found[2].replace("'", "")
        hint = nearest(found[1], logged.split(", "))
        return UserError(f"checkpoint.monitor: nobody logs '{found[1]}'; logged are {logged}{hint}")
    if isinstance(error, MisconfigurationException):
        return UserError(f"trainer: {text}")
    frames = traceback.extract_tb(error.__traceback__)
    if making and frames:
        place = f"{frames[-1].filename}, line {frames[-1].lineno}"
        return UserError(f"{type(error).__name__}: {text} ({place}; --debug shows more)")
    in_lightning = bool(frames) and "lightning" in Path(frames[-1].filename).parts
    if before_training and in_lightning and isinstance(error, ValueError | TypeError | RuntimeError):
        return UserError(f"trainer: {text}")
    return error


def _names_its_place(text: str) -> bool:
    place, colon, _ = text.partition(": ")
    return bool(colon) and (re.fullmatch(KEYS, place) is not None or Path(place.split(", line ")[0]).exists())
