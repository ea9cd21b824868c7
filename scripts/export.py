"""Write a trained network into one file that runs without this project: torch.export's, or ONNX.

usage: python scripts/export.py RUN [--out FILE.pt2|FILE.onnx] [--overwrite] [--ckpt best|last|FILE] [--key value …]

examples:
  python scripts/export.py cnn
  python scripts/export.py lightning_logs/cnn/version_3 --out cnn.onnx

what to export:
  RUN                      a run's folder, or a recipe's name for its latest run
  --ckpt                   best (the default), last, or a checkpoint file

what to write:
  --out FILE               .pt2, read by torch.export.load; .onnx, read by ONNX Runtime and others (extra export);
                           model.pt2 in the run's folder when left out
  --overwrite              replace FILE when it exists

more:
  --KEY VALUE              any key of the run's config
  --debug                  the traceback of an error

The file takes images as uint8 in the training's size, a table's rows as they are in a file, or tokens, any number of
samples, and gives what predict.py writes: probabilities, or numbers in the targets' units. It is read back, and its
outputs are compared with the module's, before it gets its name. How to use it: docs/export.md
"""

import sys
from pathlib import Path

if not __package__:  # started as a script: the rooms of this clone come first, wherever it is started from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from runs import Run
from runs.errors import UserError, told
from runs.export import check_suffix, write_export
from runs.predictions import check_out
from scripts.evaluate import RunParser, open_run
from scripts.main import main
from scripts.say import say

SINGLE = ("accelerator=cpu", "devices=1", "num_nodes=1", "strategy=auto", "precision=32")
ON_THE_CPU = [f"--trainer.{key}" for key in SINGLE]


def export(args: list[str]) -> None:
    """Export as the command line says."""
    parser = RunParser(__doc__ or "")
    parser.add_argument("--out")
    parser.add_argument("--overwrite", action="store_true")
    given, overrides = parser.parse_known_args(args)
    out = Path(given.out or Run(given.run).folder / "model.pt2")
    check_suffix(str(out))
    check_out(str(out), given.overwrite)
    cli, path = open_run(given.run, given.ckpt, [*overrides, *ON_THE_CPU])
    if cli.datamodule is None:
        raise UserError(f"{given.run}: its config has no data, and so nobody knows what the network takes")
    try:
        about = write_export(cli.model, cli.datamodule, out)
    except Exception as error:
        raise told(error) from error
    for name in ("inputs", "outputs"):
        say(f"{name:<9}{about[name]['dtype']} ({', '.join(map(str, about[name]['shape']))})")
    say(f"{'from':<9}{path}")
    difference = f"{about['largest_difference']:.1g}"
    say(f"{'written':<9}{out}, outputs differ from the module's by at most {difference} of the largest")


if __name__ == "__main__":
    sys.exit(main(export))
