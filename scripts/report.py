"""Put a run on one page: curves, findings, confusion matrix, config, environment, and how to make it again.

usage: python scripts/report.py RUN [--out FILE]

examples:
  python scripts/report.py cnn
  python scripts/report.py lightning_logs/cnn/version_3 --out /tmp/report.html

what to show:
  RUN                      a run's folder, or a recipe's name for its latest run: finished, interrupted, or one that
                           is being trained

what to write:
  --out FILE               the page, one file without anything from elsewhere, and the curves as FILE.png; when left
                           out, report.html and curves.png in the run's folder, which each fit makes at its end

more:
  --debug                  the traceback of an error
"""

import sys
from pathlib import Path

if not __package__:  # started as a script: the rooms of this clone come first, wherever it is started from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from runs import Run
from runs.errors import UserError
from runs.predictions import check_out
from runs.report import write_report
from scripts.arguments import PlainParser
from scripts.main import main


def report(args: list[str]) -> None:
    """Make the page as the command line says."""
    parser = PlainParser(__doc__ or "")
    parser.add_argument("run")
    parser.add_argument("--out")
    given = parser.parse_args(args)
    if given.out:
        check_out(given.out, overwrite=True)
        if Path(given.out).suffix.lower() not in (".html", ".htm"):
            raise UserError(f"--out: {given.out} is the name of a page; it should end in .html")
    print(write_report(Run(given.run), Path(given.out) if given.out else None))


if __name__ == "__main__":
    sys.exit(main(report))
