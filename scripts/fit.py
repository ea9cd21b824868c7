"""Train a network, test the best checkpoint, and keep everything about it in lightning_logs/.

usage: python scripts/fit.py --config FILE [--config FILE …] [--resume [RUN]] [--key value …]

examples:
  python scripts/fit.py --config configs/cnn.yaml
  python scripts/fit.py --config configs/cnn.yaml --model.net.dropout 0.3 --optimizer.lr 3e-4
  python scripts/fit.py --config configs/cnn.yaml --config configs/trainer/ddp.yaml
  python scripts/fit.py --config configs/cnn.yaml --resume

what to run:
  --config FILE            a recipe; further ones add to it or change it, from left to right
  --model CLASS            the LightningModule, and its keys as --model.KEY
  --data CLASS             the LightningDataModule, and its keys as --data.KEY
  --optimizer CLASS        any optimizer of torch or a package, and its keys as --optimizer.KEY
  --lr_scheduler CLASS     any learning rate schedule, and its keys as --lr_scheduler.KEY

how to run it:
  --seed_everything N      the same number gives the same weights
  --trainer.max_epochs N   the longest the training may take; also max_steps, max_time
  --trainer.accelerator    auto, cpu, gpu; and how many as --trainer.devices
  --trainer.precision      32-true, bf16-mixed, 16-mixed

when it was interrupted:
  --resume                 go on with the recipe's latest unfinished run, to the same weights as without the
                           interruption; start one when there is none
  --resume RUN             go on with that run: its folder, or a recipe's name for its latest one
  --weights FILE           a new run that starts from the weights of a checkpoint, as far as they fit

what is wrong with it:
  --doctor.action ACTION   advise (the default); stop also ends a hopeless run; repair starts it anew with what the
                           doctor advises, up to --doctor.max_repairs times
  --doctor.ignore NAMES    diagnoses that are not made, as ["overfitting"]

when to stop, what to keep:
  --early_stopping.KEY     monitor, patience, min_delta, mode
  --checkpoint.KEY         monitor, save_top_k, filename; every_n_minutes, every_n_train_steps for long epochs
  --on_nonfinite ACTION    stop (the default), skip or ignore a step whose loss is NaN or infinite
  --name NAME              the folder in lightning_logs/; the recipe's file name when left out

more:
  --print_config           the whole config with every key explained, and stop
  --model.help CLASS       the keys of a class (also --data.help, --optimizer.help, --lr_scheduler.help)
  --debug                  the traceback of an error
"""

import os
import signal
import sys
from pathlib import Path

if not __package__:  # started as a script: the rooms of this clone come first, wherever it is started from
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # no traceback from within the imports
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.environ.get("LOCAL_RANK", "0") != "0":  # the first process hears the signals for all, until they train
        for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
            signal.signal(getattr(signal, name, signal.SIGINT), signal.SIG_IGN)

from scripts.main import main
from scripts.repair import fit_and_repair
from scripts.resume import take_resume


def fit(args: list[str]) -> None:
    """Train as the command line says."""
    resume, args = take_resume(args)
    fit_and_repair(args, __doc__ or "", resume)


if __name__ == "__main__":
    sys.exit(main(fit))
