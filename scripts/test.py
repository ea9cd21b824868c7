"""Measure a trained network on its test data: the numbers that the fit printed.

usage: python scripts/test.py RUN [--ckpt best|last|FILE] [--key value …]

examples:
  python scripts/test.py cnn
  python scripts/test.py lightning_logs/cnn/version_3 --ckpt last

what to measure:
  RUN                      a run's folder, or a recipe's name for its latest run
  --ckpt                   best (the default), last, or a checkpoint file

more:
  --KEY VALUE              any key of the run's config, such as --trainer.accelerator cpu
  --debug                  the traceback of an error
"""

import sys
from pathlib import Path

if not __package__:  # started as a script: the rooms of this clone come first, wherever it is started from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.evaluate import evaluate
from scripts.main import main


def test(args: list[str]) -> None:
    """Measure as the command line says."""
    evaluate("test", args, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(test))
