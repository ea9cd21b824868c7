"""Say what is wrong with a training: with one that is over, from its folder, or with one to come, from its config.

usage: python scripts/doctor.py RUN
       python scripts/doctor.py --config FILE [--config FILE …] [--key value …]

examples:
  python scripts/doctor.py cnn
  python scripts/doctor.py lightning_logs/cnn/version_3
  python scripts/doctor.py --config configs/cnn.yaml --optimizer.lr 0.1

what to examine:
  RUN                      a run's folder, or a recipe's name for its latest run: what the doctor said while it was
                           trained; of a run without doctor.json, what its TensorBoard log says
  --config FILE            a config before it is trained: inputs, labels, one batch forward and backward, whether one
                           batch can be learnt, how fast batches come; nothing is written

The exit status is 0 when nothing is wrong, and 1 when something is.

more:
  --debug                  the traceback of an error
"""

import sys
from pathlib import Path

if not __package__:  # started as a script: the rooms of this clone come first, wherever it is started from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import scripts  # noqa: F401 (before torch: how its threads wait)
from runs.errors import UserError
from scripts.arguments import PlainParser
from scripts.examine import examine_config
from scripts.explain import explain_run
from scripts.main import main


def doctor(args: list[str]) -> int:
    """Examine as the command line says."""
    if args and args[0].startswith("-") and args[0] not in ("--help", "-h"):
        return int(examine_config(args, __doc__ or ""))
    if any(arg.startswith("--") and arg != "--help" for arg in args[1:]):
        raise UserError(
            f"{args[0]}: a run is examined as it was trained; keys go with --config FILE, in place of the run"
        )
    parser = PlainParser(__doc__ or "")
    parser.add_argument("run")
    return int(explain_run(parser.parse_args(args).run))


if __name__ == "__main__":
    sys.exit(main(doctor))
