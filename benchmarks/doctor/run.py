"""How well the doctor does: faulty and healthy runs through the real fit, and what it said of them.

usage: python benchmarks/doctor/run.py [--set NAME|all] [--seeds 3] [--what diagnoses|repairs|both] [--only TEXT]

Of each problem: how many runs were told the right diagnosis as a cause, which wrong ones were, and after which share of
the run. Of the healthy runs: how many were told anything. And with `--doctor.action repair`, how many of the runs that
a key can mend come within 3 points of the accuracy of their healthy twins.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: as many runs as cores, each on one

import argparse
import contextlib
import importlib
import inspect
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from scripts.fit import fit  # isort: skip
from scripts.main import main as command  # isort: skip
from benchmarks.doctor import cases, fresh, held_out, last, unseen  # isort: skip
from benchmarks.doctor.cases import Case

SETS = {
    "tune": (cases.FAULTY + held_out.FAULTY_LOOKED_AT, cases.HEALTHY + held_out.HEALTHY_LOOKED_AT),
    "held_out": (held_out.FAULTY, held_out.HEALTHY),
    "unseen": (unseen.FAULTY, unseen.HEALTHY),
    "fresh": (fresh.FAULTY, fresh.HEALTHY),
    "last": (last.FAULTY, last.HEALTHY),
}


@dataclass
class Result:
    """What became of a run."""

    case: str
    seed: int
    problem: str
    causes: list[str] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)
    remedies: dict[str, list[str]] = field(default_factory=dict)
    evidence: dict[str, str] = field(default_factory=dict)
    total: int = 0
    accuracy: float = 0.0
    status: int = 0
    seconds: float = 0.0
    text: str = ""


def arguments(keys: dict[str, Any], seed: int) -> list[str]:
    """The command line of a case."""
    keys = {
        "model": "benchmarks.doctor.parts.Task",
        "data": "benchmarks.doctor.parts.Data",
        "optimizer": "torch.optim.Adam",
        **keys,
    }
    if "shape" in inspect.signature(_class(keys["model"])).parameters:  # the project's networks are told by the data
        data = _class(keys["data"])(**{key[5:]: value for key, value in keys.items() if key.startswith("data.")})
        keys |= {"model.num_classes": data.num_classes, "model.shape": list(data.shape)}
    keys |= {
        "seed_everything": seed,
        "trainer.enable_progress_bar": False,
        "early_stopping.patience": 10_000,
        "name": "case",
    }
    if str(keys["optimizer"]).endswith("SGD"):
        keys.setdefault("optimizer.lr", 0.1)
    stated = {key: value for key, value in keys.items() if value is not None}  # None: the module's own optimizer
    return [f"--{key}={json.dumps(v) if isinstance(v, bool | list) else v}" for key, v in sorted(stated.items())]


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def run(case: Case, seed: int, more: dict[str, Any], with_fault: bool = True) -> Result:
    """Train one case in a folder of its own, and read what the doctor has left there."""
    keys = case.family | (case.fault if with_fault else {}) | more
    result = Result(case.name, seed, case.problem if with_fault else "")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "out"), "w") as out:
        args = [*arguments(keys, seed), f"--trainer.default_root_dir={folder}"]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.chdir(folder):
            try:
                result.status = command(fit, args)
            except Exception as error:
                result.status, result.text = -1, f"{type(error).__name__}: {error}"
        out.flush()
        result.text += Path(folder, "out").read_text()[-3000:]
        runs = sorted(Path(folder, "lightning_logs", "case").glob("version_*"), key=lambda path: int(path.name[8:]))
        for latest in runs[-1:]:
            with contextlib.suppress(OSError):
                _read(result, latest)
    result.seconds = time.perf_counter() - started
    return result


def _read(result: Result, folder: Path) -> None:
    found = json.loads((folder / "doctor.json").read_text())
    result.total = found.get("steps") or 0
    for finding in found["findings"]:
        if finding["follows_from"] is None:
            result.causes.append(finding["name"])
        result.steps[finding["name"]] = finding["step"]
        result.evidence[finding["name"]] = finding["evidence"]
        result.remedies[finding["name"]] = finding["remedies"]
    summary = folder / "summary.json"
    if summary.is_file():
        result.accuracy = (json.loads(summary.read_text()).get("val") or {}).get("val/acc", 0.0)


def report(results: list[Result], every: dict[str, Case]) -> None:
    """Print a row for each problem, and one for the healthy runs."""
    faulty = [result for result in results if result.problem]
    print(f"\n{'problem':30}{'runs':>5}{'right':>6}{'latency':>9}  wrong")
    for problem in dict.fromkeys(result.problem for result in faulty):
        of = [result for result in faulty if result.problem == problem]
        _row(problem, of, every)
    _row("all faulty runs", faulty, every)
    healthy = [result for result in results if not result.problem]
    alarms = [(result.case, result.causes) for result in healthy if result.causes]
    print(f"\nhealthy runs: {len(healthy)}, false alarms: {len(alarms)}")
    for case, names in alarms:
        print(f"  {case}: {', '.join(names)}")


def _right(result: Result, case: Case) -> str | None:
    return next((name for name in (case.problem, *case.also) if name in result.causes), None)


def _row(name: str, of: list[Result], every: dict[str, Case]) -> None:
    right = [(result, found) for result in of if (found := _right(result, every[result.case]))]
    wrong: dict[str, int] = {}
    for result in of:
        case = every[result.case]
        for other in result.causes:
            if other not in (case.problem, *case.also):
                wrong[other] = wrong.get(other, 0) + 1
    latency = statistics.median([result.steps[found] / max(result.total, 1) for result, found in right]) if right else 1
    shown = ", ".join(f"{other} {count}" for other, count in wrong.items())
    print(f"{name:30}{len(of):5}{len(right):6}{latency:9.0%}  {shown}")


def main() -> None:
    """Run the cases, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=[*SETS, "all"], default="all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--what", choices=["diagnoses", "repairs", "both"], default="both")
    parser.add_argument("--show", action="store_true", help="what was said of each run that was not as it should be")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="every result, as JSON")
    given = parser.parse_args()
    everything: list[Result] = []
    for name in SETS if given.set == "all" else [given.set]:
        faulty, healthy = SETS[name]
        chosen = [case for case in (*faulty, *healthy) if given.only in case.name]
        print(f"\n== {name}: {len(chosen)} cases, {given.seeds} seeds", flush=True)
        every = {case.name: case for case in chosen}
        if given.what != "repairs":
            results = _run_all([(case, {}, True) for case in chosen], every, given)
            report(results, every)
            everything += results
        if given.what != "diagnoses":
            ways: tuple[tuple[dict[str, Any], bool], ...] = (({"doctor.action": "repair"}, True), ({}, False))
            pairs = [(case, *way) for case in chosen if case.repairable for way in ways]
            results = _run_all(pairs, every, given, show=False)
            report_repairs(results)
            everything += results
    if given.out:
        given.out.write_text(json.dumps([vars(result) for result in everything], indent=1))


def _run_all(
    ways: list[tuple[Case, dict[str, Any], bool]], every: dict[str, Case], given: Any, show: bool = True
) -> list[Result]:
    """Each case with more keys, with or without its fault, and with each seed."""
    context = multiprocessing.get_context("fork")
    results = []
    with ProcessPoolExecutor(given.jobs, mp_context=context) as pool:
        tasks = [pool.submit(run, case, seed, *way) for seed in range(given.seeds) for case, *way in ways]
        for task in tasks:
            result = task.result()
            results.append(result)
            case = every[result.case]
            well = not result.causes if not result.problem else _right(result, case) and len(result.causes) == 1
            if show and (result.total == 0 or (given.show and not well)):
                said = [
                    f"{name} at {result.steps[name]}/{result.total}: {result.evidence[name]}" for name in result.causes
                ]
                nothing = "nothing said" + (f" {result.text[-600:]}" if result.total == 0 else "")
                print(
                    f"{result.case} (seed {result.seed}, {result.seconds:.1f} s, accuracy {result.accuracy:.3f}): "
                    + (" | ".join(said) or nothing),
                    flush=True,
                )
    return results


def report_repairs(results: list[Result]) -> None:
    """Print how far the repaired runs come, next to their healthy twins."""
    print(f"\n{'case':75}{'seed':>5}{'repaired':>10}{'healthy':>9}")
    good, pairs = 0, list(zip(results[::2], results[1::2], strict=True))
    for repaired, healthy in pairs:
        reached = repaired.accuracy >= healthy.accuracy - 0.03
        good += reached
        print(
            f"{repaired.case[:74]:75}{repaired.seed:5}{repaired.accuracy:10.3f}{healthy.accuracy:9.3f}"
            + ("" if reached else "  no")
        )
    print(f"\nwithin 3 points: {good} of {len(pairs)}")


if __name__ == "__main__":
    main()
