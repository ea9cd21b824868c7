"""Put runs side by side: what they came to, and the keys of their configs that are not the same in all.

usage: python scripts/compare.py [RUN …] [--sort COLUMN] [--html FILE]

examples:
  python scripts/compare.py
  python scripts/compare.py cnn lightning_logs/mlp/version_2 --sort val/acc
  python scripts/compare.py --html runs.html

which runs:
  RUN                      a run's folder, a recipe's name for all of its runs, or a folder with runs in it; all of
                           lightning_logs/ when left out

how:
  --sort COLUMN            a metric, the best run first; a key that differs; run, status, epochs or time
  --html FILE              write a page with the table, too, that can be sorted by any column

more:
  --debug                  the traceback of an error
"""

import sys
from pathlib import Path

if not __package__:  # started as a script: the rooms of this clone come first, wherever it is started from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console

from runs.compare import compare as compare_runs
from runs.compare import print_table, write_html
from runs.pages import check_ours
from runs.predictions import check_out
from scripts.arguments import PlainParser
from scripts.main import main


def compare(args: list[str]) -> None:
    """Compare as the command line says."""
    parser = PlainParser(__doc__ or "")
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--sort")
    parser.add_argument("--html")
    given = parser.parse_args(args)
    if given.html:
        check_out(given.html, overwrite=True, option="--html")
        check_ours(Path(given.html), "--html")
    found = compare_runs(given.runs, given.sort)
    print_table(found, Console(highlight=False))
    if given.html:
        write_html(found, Path(given.html))
        print(f"\n{given.html}")


if __name__ == "__main__":
    sys.exit(main(compare))
