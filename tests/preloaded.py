"""A process that has imported everything, of which others are forked that run `scripts/fit.py` at once.

Start-up is most of the time of a short run, and nothing that a test of signals, kills or several processes looks at.
"""

import atexit
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIZE = 8  # bytes of a number between the processes


class Process:
    """A process that runs a script of Python's, as `subprocess.Popen` has it, in a session of its own.

    Args:
        line: The script and its arguments.
        cwd: Where it runs.
        env: Its environment.
        stdout, stderr: Files that are open for writing.
    """

    def __init__(self, line: Sequence[str], cwd: Path, env: Mapping[str, str], stdout: Any, stderr: Any) -> None:
        self.returncode: int | None = None
        self._answers, theirs = socket.socketpair()
        request = json.dumps({"line": list(line), "cwd": str(cwd), "env": dict(env)}).encode()
        with theirs:
            fds = [stdout.fileno(), stderr.fileno(), theirs.fileno()]
            socket.send_fds(_server(), [len(request).to_bytes(SIZE, "big")], fds)
            _server().sendall(request)
        self.pid = self._answer(120)  # the first one waits for the imports

    def poll(self) -> int | None:
        """Its exit status, minus the number of a signal that ended it; None while it lives."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, seconds: float) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: It lives on.
        """
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(self._answer(seconds))
            self._answers.close()
        return self.returncode

    def _answer(self, seconds: float) -> int:
        self._answers.settimeout(seconds)
        try:
            answer = self._answers.recv(SIZE, socket.MSG_WAITALL)  # and not two of a process that is quick
        except (TimeoutError, BlockingIOError):
            raise subprocess.TimeoutExpired("scripts/fit.py", seconds) from None
        assert answer, "the preloaded process is gone"
        return int.from_bytes(answer, "big")


@cache
def _server() -> socket.socket:
    """The way to the preloaded process, which ends with this one."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.preloaded", str(theirs.fileno())],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.wait(60)

    atexit.register(end)
    return ours


def _serve(requests: socket.socket) -> list[str]:
    """Fork for each request; returns only in a process that is to run a script, with its line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are not waited for
    while True:
        head, fds, _, _ = socket.recv_fds(requests, SIZE, 3)
        if not head:
            os._exit(0)  # the tests have ended
        request = json.loads(_all(requests, int.from_bytes(head, "big")))
        if os.fork() == 0:
            break
        for fd in fds:
            os.close(fd)
    requests.close()
    out, err, answers = fds
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child:  # the keeper, who tells its number, and then how it ended
        answers = socket.socket(fileno=answers)
        answers.sendall(child.to_bytes(SIZE, "big"))
        _, status = os.waitpid(child, 0)
        with suppress(OSError):  # nobody waits any more
            answers.sendall(status.to_bytes(SIZE, "big"))
        os._exit(0)
    os.setsid()
    os.close(answers)
    for fd, place in ((out, 1), (err, 2)):
        os.dup2(fd, place)
        os.close(fd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    return request["line"]


def _all(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += connection.recv(size - len(data))
    return data


if __name__ == "__main__":
    import matplotlib.pyplot  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    import scripts.fit  # noqa: F401
    import tests.noisy
    import tests.processes  # noqa: F401

    sys.argv = _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_path(sys.argv[0], run_name="__main__")
