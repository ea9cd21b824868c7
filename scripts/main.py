"""How a command begins and ends: what is let through of warnings, and mistakes as one line."""

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Sequence

import torch.distributed as dist
from lightning.fabric.utilities.rank_zero import rank_zero_only

from runs.errors import UserError, one_line
from scripts.say import show_thread_error, show_warning


def main(command: Callable[[list[str]], int | None], args: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake becomes one line on standard error and exit status 2.

    Args:
        command: Takes the arguments and gives an exit status, None for 0.
        args: The command line; the default is the process's own. `--debug` shows tracebacks.
    """
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    quiet()
    try:
        return command([arg for arg in args if arg != "--debug"]) or 0
    except UserError as error:
        if debug:
            raise
        if getattr(rank_zero_only, "rank", 0) == 0:  # with DDP all processes find the same mistake
            print(f"error: {one_line(error)}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:  # before there was a run
        return 130
    finally:
        leave_group()


def leave_group() -> None:
    """End the threads that talk to a run's other processes: those of gloo that live on end this one with an error."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def quiet() -> None:
    """Let through what is wrong, and not what Lightning and matplotlib say of themselves (devices, tips, fonts)."""
    for name in ("lightning.pytorch", "lightning.fabric", "matplotlib.font_manager"):
        logging.getLogger(name).setLevel(logging.ERROR if name.startswith("matplotlib") else logging.WARNING)
    # Lightning 2.6 builds torch's LeafSpec by its old name for every loader; nothing in a project can mend it
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    # TensorBoardViews sees to it that short epochs have a point in every curve, CheckMonitors to missing metrics
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message="Early stopping conditioned on metric.*")
    warnings.filterwarnings("ignore", message=".*could not find the monitored key.*")
    # a run that goes on does so in its own folder, and its loaders know where they were
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before.*")
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`.*")
    warnings.filterwarnings("ignore", message=".*self.log.*barebones=True.*")
    warnings.showwarning = show_warning  # type: ignore[assignment]
    threading.excepthook = show_thread_error
