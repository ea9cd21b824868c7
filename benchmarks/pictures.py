"""Makes the README's two pictures anew, from a real run: docs/terminal.svg and docs/tensorboard.png.

usage: python benchmarks/pictures.py        (needs Chromium for the second one)
"""

import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIT = [sys.executable, str(ROOT / "scripts" / "fit.py"), "--config", str(ROOT / "configs" / "cnn.yaml")]
CHROMIUM = [
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"),
    *("--hide-scrollbars", "--window-size=1500,780", "--virtual-time-budget=20000"),
]


def in_terminal(command: list[str], folder: str) -> str:
    """What a command prints to a terminal of 100 columns, colours included."""
    master, slave = pty.openpty()
    env = {**os.environ, "COLUMNS": "100", "TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=folder, stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    chunks = []
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the terminal closes with the process
            break
        if not chunk:
            break
        chunks.append(chunk)
    process.wait()
    os.close(master)
    return b"".join(chunks).decode()


def terminal_picture(printed: str) -> None:
    """Lines that stayed on the screen, the middle epochs left out, as an SVG."""
    from rich.console import Console
    from rich.text import Text

    text = re.sub(r"\x1b\[\?25[lh]|\x1b\[1A|\x1b\[2K", "", printed)
    lines = [line.split("\r")[-1] for line in text.replace("\r\n", "\n").split("\n")]
    lines = [line for line in lines if "━" not in line and line.strip()]
    epochs = [i for i, line in enumerate(lines) if line.startswith("epoch")]
    lines = [*lines[: epochs[3]], "…", *lines[epochs[-3] :]]
    console = Console(record=True, width=100, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print("$ python scripts/fit.py --config configs/cnn.yaml", style="bold")
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    svg = console.export_svg(title="lightning-project-template")
    (ROOT / "docs" / "terminal.svg").write_text(re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.S))


def tensorboard_picture(folder: str) -> None:
    """The curves of the run in TensorBoard, as a PNG."""
    port = "6127"
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", "lightning_logs", "--host", "127.0.0.1", "--port", port],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(10)
        tags = urllib.parse.quote("^(train|val)/(loss|acc)$|^lr$")
        address = f"http://127.0.0.1:{port}/#scalars&tagFilter={tags}&_smoothingWeight=0"
        with tempfile.TemporaryDirectory() as profile:
            picture = f"--screenshot={ROOT / 'docs' / 'tensorboard.png'}"
            subprocess.run([*CHROMIUM, f"--user-data-dir={profile}", picture, address], check=True, timeout=120)
    finally:
        server.terminate()
        server.wait(20)


def main() -> None:
    """One run, two pictures."""
    with tempfile.TemporaryDirectory() as folder:
        terminal_picture(in_terminal(FIT, folder))
        if shutil.which("chromium"):
            tensorboard_picture(folder)


if __name__ == "__main__":
    main()
