"""Predict from your own files with a trained network: classes, or numbers; or let a language model write.

usage: python scripts/predict.py RUN INPUT [INPUT …] [--out FILE] [--ckpt best|last|FILE] [--key value …]
       python scripts/predict.py RUN --prompt TEXT [--tokens 200] [--temperature 0.8] [--top-k 50] [--seed 0]

examples:
  python scripts/predict.py cnn photo.png
  python scripts/predict.py lightning_logs/cnn/version_3 scans/ --out predictions.csv
  python scripts/predict.py mlp patients.csv --out predictions.csv
  python scripts/predict.py gpt --prompt "The for statement" --tokens 400

what to predict:
  RUN                      a run's folder, or a recipe's name for its latest run
  INPUT                    files that the run's data can read (PNG, JPEG, … for images; CSV or Parquet with the columns
                           of the training for tables), or folders with such files; images are brought to the size and
                           the channels of the training images

what to go on with:
  --prompt TEXT            the beginning of the text
  --tokens N               how many tokens to write (200)
  --temperature T          below 1 more probable ones, above 1 less; 0 always the most probable one (0.8)
  --top-k K                draw from the K most probable tokens only; 0 from all (0)
  --seed N                 the same number gives the same text (0)

what to write:
  --out FILE               a CSV table: file (and row), prediction, confidence, the probability of each class; or the
                           labels above 0.5 and the probability of each; or numbers; printed when left out
  --overwrite              replace FILE when it exists

more:
  --ckpt                   best (the default), last, or a checkpoint file
  --KEY VALUE              any key of the run's config, such as --trainer.accelerator cpu
  --debug                  the traceback of an error

A file that can't be read is named, the others are predicted, and the exit status is 1.
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

if not __package__:  # started as a script: the rooms of this clone come first, wherever it is started from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from runs.errors import UserError, told
from runs.generation import check_generation, write_text
from runs.predictions import check_out, expand, labels_to_csv, numbers_to_csv, to_csv
from scripts.cli import CLI
from scripts.evaluate import RunParser, open_run
from scripts.main import main

GENERATION = (
    ("prompt", str, None),
    ("tokens", int, 200),
    ("temperature", float, 0.8),
    ("top-k", int, 0),
    ("seed", int, 0),
)


def predict(args: list[str]) -> int:
    """Predict as the command line says; 1 when a file could not be read."""
    parser = RunParser(__doc__ or "")
    writes = any(arg.split("=")[0] == "--prompt" for arg in args)
    parser.add_argument("inputs", nargs="*" if writes else "+")
    for option, kind, default in GENERATION:
        parser.add_argument(f"--{option}", type=kind, default=default)
    parser.add_argument("--out")
    parser.add_argument("--overwrite", action="store_true")
    given, overrides = parser.parse_known_args(args)
    if given.out:
        check_out(given.out, given.overwrite)
    if writes:
        check_generation(given)
    cli, _ = open_run(given.run, given.ckpt, [*overrides, "--trainer.devices=1"])
    return _write(cli, given) if writes else _predict_files(cli, given)


def _predict_files(cli: CLI, given: Any) -> int:
    if not hasattr(cli.datamodule, "read_files"):
        hint = "; it writes text by --prompt" if hasattr(cli.model, "generate") else " (no `read_files`)"
        raise UserError(f"{given.run}: its data, {type(cli.datamodule).__name__}, can't read files{hint}")
    paths = expand(given.inputs, getattr(cli.datamodule, "file_suffixes", None))
    files = cli.datamodule.read_files(paths)
    try:
        outputs = cli.trainer.predict(cli.model, datamodule=cli.datamodule)
    except Exception as error:
        raise told(error) from error
    for path, reason in files.unread:
        print(f"can't read {path}: {reason}", file=sys.stderr)
    for column, values in getattr(files, "unseen", {}).items():
        shown = ", ".join(map(repr, sorted(values)[:5])) + (", …" if len(values) > 5 else "")
        print(f"warning: column {column!r} has values that the training had not: {shown}", file=sys.stderr)
    if outputs:
        values, heads = torch.cat(cast(list[torch.Tensor], outputs)), getattr(files, "names", ("file",))
        if (classes := getattr(cli.datamodule, "class_names", None)) is not None:
            write = labels_to_csv if getattr(cli.model, "multi_label", False) else to_csv
            table = write(files.read, values, classes, heads)
        else:
            names = cli.datamodule.target_names
            table = numbers_to_csv(files.read, values, cli.model.prediction_names(names), heads)
        if given.out:
            Path(given.out).write_text(table, encoding="utf-8")
            print(f"{len(files.read)} of {len(paths)} predicted: {given.out}")
        else:
            print(table, end="")
    return 1 if files.unread else 0


def _write(cli: CLI, given: Any) -> int:
    with open(given.out, "w", encoding="utf-8") if given.out else nullcontext(sys.stdout) as output:
        print(given.prompt, end="", file=output, flush=True)
        for piece in write_text(cli.model, cli.datamodule, given):
            print(piece, end="", file=output, flush=True)
        print(file=output)
    if given.out:
        print(f"{given.tokens} tokens written: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(predict))
