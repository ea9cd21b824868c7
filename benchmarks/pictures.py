"""Makes the README's pictures anew, from real runs: docs/{terminal,compare}.svg and docs/{tensorboard,report}.png.

usage: python benchmarks/pictures.py [NAME …]        (needs Chromium for those that are PNGs)
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
NAMES = ("terminal", "tensorboard", "report", "compare")
FIT = [sys.executable, str(ROOT / "scripts" / "fit.py"), "--config", str(ROOT / "configs" / "cnn.yaml")]
CHROMIUM = [
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"),
    *("--hide-scrollbars", "--virtual-time-budget=20000"),
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
    return b"".join(chunks).decode().replace(f"{ROOT}/", "")  # as it is called from the project's folder


def terminal_picture(printed: str) -> None:
    """Lines that stayed on the screen, the middle epochs left out, as an SVG."""
    text = re.sub(r"\x1b\[\?25[lh]|\x1b\[1A|\x1b\[2K", "", printed)
    lines = [line.split("\r")[-1] for line in text.replace("\r\n", "\n").split("\n")]
    lines = [line for line in lines if "━" not in line and line.strip()]
    epochs = [i for i, line in enumerate(lines) if line.startswith("epoch")]
    lines = [*lines[: epochs[3]], "…", *lines[epochs[-3] :]]
    save_svg("terminal", "python scripts/fit.py --config configs/cnn.yaml", lines)


def compare_picture(folder: str) -> None:
    """A few runs side by side in the terminal, as an SVG."""
    changes = (
        ["--optimizer.lr", "0.001"],
        ["--model.net.width", "32"],
        ["--optimizer", "torch.optim.SGD", "--optimizer.lr", "0.5", "--optimizer.momentum", "0.9"],
    )
    for change in changes:
        subprocess.run([*FIT, *change], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    printed = in_terminal([sys.executable, str(ROOT / "scripts" / "compare.py"), "--sort", "val/acc"], folder)
    save_svg("compare", "python scripts/compare.py --sort val/acc", printed.replace("\r\n", "\n").rstrip().split("\n"))


def save_svg(name: str, command: str, lines: list[str]) -> None:
    """What a command has printed, as docs/NAME.svg."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=100, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(f"$ {command}", style="bold")
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    svg = console.export_svg(title="lightning-project-template")
    svg = "\n".join(line.rstrip() for line in re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.S).split("\n"))
    (ROOT / "docs" / f"{name}.svg").write_text(svg)


def report_picture(folder: str) -> None:
    """The top of the run's page, as a PNG."""
    (page,) = Path(folder).glob("lightning_logs/cnn/version_0/report.html")
    screenshot("report", page.as_uri(), "1200,1000")


def screenshot(name: str, address: str, size: str) -> None:
    """A page as docs/NAME.png."""
    with tempfile.TemporaryDirectory() as profile:
        picture = f"--screenshot={ROOT / 'docs' / name}.png"
        command = [*CHROMIUM, f"--window-size={size}", f"--user-data-dir={profile}", picture, address]
        subprocess.run(command, check=True, timeout=120)


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
        tags = urllib.parse.quote("^(train|val)/(loss|acc)$|^lr$|^grad_norm/all$")
        address = f"http://127.0.0.1:{port}/#scalars&tagFilter={tags}&_smoothingWeight=0"
        screenshot("tensorboard", address, "1500,780")
    finally:
        server.terminate()
        server.wait(20)


def main() -> None:
    """One run, and a few more for the last picture."""
    names = sys.argv[1:] or NAMES
    if unknown := set(names) - set(NAMES):
        raise SystemExit(f"no such picture: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory() as folder:
        printed = in_terminal(FIT, folder)
        if "terminal" in names:
            terminal_picture(printed)
        if "tensorboard" in names and shutil.which("chromium"):
            tensorboard_picture(folder)
        if "report" in names and shutil.which("chromium"):
            report_picture(folder)
        if "compare" in names:
            compare_picture(folder)


if __name__ == "__main__":
    main()
