"""What the commands print beside their results."""

import sys
import threading
import warnings
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only


@rank_zero_only
def say(text: str) -> None:
    """Print a line, once for all processes."""
    print(text, flush=True)


def show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: Any) -> None:
    """Print a warning: one of this project as a line for the user, any other with the place where it is from."""
    if category is UserWarning and "site-packages" not in filename:
        print(f"warning: {message}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno), end="", file=sys.stderr)


def show_thread_error(error: threading.ExceptHookArgs) -> None:
    """Leave out that TensorBoard's writing thread could not write: `RunLogger` says so, in a line."""
    if type(error.thread).__name__ != "_AsyncWriterThread" or not isinstance(error.exc_value, OSError):
        threading.__excepthook__(error)
