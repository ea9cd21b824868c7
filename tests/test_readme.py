"""The README: every command in it runs as it stands, every file it shows works."""

import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from tests.conftest import ROOT, make_idx_set

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
COMMANDS = [line for language, block in BLOCKS if not language for line in block.splitlines()]
FILES = dict(re.findall(r"One \w+, `([^`]+)`[^`]*```\w+\n(.*?)^```$", README, re.M | re.S))
NOTEBOOK = re.findall(r"^Back in Python.*?```python\n(.*?)^```$", README, re.M | re.S)

# Runs the commands of a JSON list one after the other in one process, since each start of Python costs seconds;
# prints the exit statuses as its last line.
DRIVER = """
import json, shlex, sys
sys.path.insert(0, ".")
from scripts import compare, doctor, export, fit, predict, report, test, validate
from scripts.main import main
commands = {"fit": fit.fit, "validate": validate.validate, "test": test.test, "predict": predict.predict}
commands |= {"export": export.export, "report": report.report, "compare": compare.compare, "doctor": doctor.doctor}
statuses = []
for line in json.load(open("commands.json")):
    _, script, *args = shlex.split(line)
    try:
        statuses.append(main(commands[script.split("/")[1].removesuffix(".py")], args))
    except SystemExit as stop:
        statuses.append(stop.code or 0)
for code in json.load(open("notebook.json")):
    exec(code)
print(json.dumps(statuses))
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the README's own files in it, and something to predict."""
    folder = tmp_path_factory.mktemp("a clone") / "my project"
    ignore = shutil.ignore_patterns(".git", ".venv", "venv", "lightning_logs", "data", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, folder, ignore=ignore)
    for name, content in FILES.items():
        assert not (folder / name).exists(), f"{name} is an example, and in the project already"
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "photos").mkdir()
    for i, name in enumerate(("scan.png", "photos/one.png", "photos/two.jpg")):
        Image.fromarray((load_digits().images[i] * 15).astype("uint8")).save(folder / name)
    numbers = np.random.default_rng(0).normal(100, 20, (60, 2)).round(1).tolist()
    rows = [f"{size},{'Rome' if size > 100 else 'Bern'},{1000 * size + age}" for size, age in numbers]
    for name in ("houses.csv", "new_houses.csv"):
        (folder / name).write_text("\n".join(["size,city,price", *rows]) + "\n", encoding="utf-8")
    make_idx_set(folder / "data" / "mnist", size=28, train=400)
    return folder


def test_the_readme_shows_the_files_it_speaks_of() -> None:
    assert list(FILES) == [
        "modules/nets/perceptron.py",
        "configs/perceptron.yaml",
        "tests/modules/nets/test_perceptron.py",
    ]
    assert len(NOTEBOOK) == 1
    assert len(README.splitlines()) <= 250


def test_every_script_command_of_the_readme_runs(clone: Path) -> None:
    lines = [line for line in COMMANDS if line.startswith("python scripts/") and "ddp.yaml" not in line]
    assert len(lines) >= 10
    first = f"python scripts/fit.py{README.split('python scripts/fit.py')[1].splitlines()[0]}"
    long = ("--print", "--resume")
    shorter = {
        "gpt.yaml": " --trainer.max_steps 20 --trainer.val_check_interval 20 --trainer.limit_val_batches 5",
        "images.yaml": " --trainer.max_epochs 1 --trainer.limit_train_batches 6 --trainer.limit_val_batches 2",
        "finetune.yaml": " --trainer.max_epochs 1 --trainer.limit_train_batches 2 --data.size 32",
        "finetune_text.yaml": " --trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1",
    }
    short = [
        line
        + next((keys for name, keys in shorter.items() if name in line), " --trainer.max_epochs 1")
        * ("fit.py --config" in line and not any(word in line for word in long))
        for line in lines
    ]
    (clone / "commands.json").write_text(json.dumps([first, *short]))
    (clone / "notebook.json").write_text(json.dumps(NOTEBOOK))
    done = _run([sys.executable, "-c", DRIVER], clone)
    statuses = json.loads(done.stdout.splitlines()[-1])
    without_gpu = 0 if torch.cuda.is_available() else 2
    assert statuses == [0] + [without_gpu if "gpu.yaml" in line else 0 for line in lines], done.stdout + done.stderr


def test_the_ddp_command_of_the_readme_runs(clone: Path) -> None:
    (line,) = [line for line in COMMANDS if "ddp.yaml" in line]
    done = _run([sys.executable, *line.split()[1:], "--trainer.max_epochs", "1", "--name", "ddp"], clone)
    assert done.stdout.count("run folder") == 1
    assert [path.name for path in (clone / "lightning_logs" / "ddp").iterdir()] == ["version_0"]


def test_the_test_of_the_readme_passes(clone: Path) -> None:
    (line,) = [line for line in COMMANDS if line.startswith("python -m pytest tests/")]
    done = _run([sys.executable, *line.split()[1:], "-n", "0"], clone)
    assert "1 passed" in done.stdout


def test_the_tensorboard_command_of_the_readme_serves(clone: Path) -> None:
    (line,) = [line for line in COMMANDS if line.startswith("tensorboard")]
    (clone / "lightning_logs").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tensorboard.main", *line.split()[1:], "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert process.stdout
        printed, end = "", time.monotonic() + 60
        while not (found := re.search(r"http://[\w.]+:\d+", printed)) and time.monotonic() < end:
            if select.select([process.stdout], [], [], 1)[0]:
                printed += os.read(process.stdout.fileno(), 65536).decode()
        assert found, printed
        with urllib.request.urlopen(found[0], timeout=30) as answer:
            assert "TensorBoard" in answer.read().decode()
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout:
            process.stdout.close()


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done
