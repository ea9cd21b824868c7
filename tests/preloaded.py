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
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.strategies.launchers import subprocess_script as launcher

ROOT = Path(__file__).resolve().parents[1]
SIZE = 8  # bytes of a number between the processes


class Spare(subprocess.Popen):
    """The second process of a run, which was forked before it is needed; to Lightning as if it had been started.

    Args:
        pid: Its number.
        requests: The way to it.
    """

    def __init__(self, pid: int, requests: socket.socket) -> None:
        self.pid, self.returncode, self.args = pid, None, ["scripts/fit.py"]
        self.stdin = self.stdout = self.stderr = None
        self._child_created, self._waitpid_lock = True, threading.Lock()  # all that Popen itself asks for
        self._requests = requests

    def start(self, command: Sequence[str], env: Mapping[str, str], cwd: str | None) -> subprocess.Popen:
        """What Lightning calls in place of `Popen`; of more than two processes, the others are started."""
        if self._requests.fileno() < 0:
            return subprocess.Popen(command, env=env, cwd=cwd)
        with self._requests:
            _send(self._requests, {"line": list(command[1:]), "cwd": cwd or os.getcwd(), "env": dict(env)})
        return self


class Process:
    """A process that runs a script of Python's, as `subprocess.Popen` has it, in a session of its own.

    Args:
        line: The script and its arguments.
        cwd: Where it runs.
        env: Its environment.
        stdout, stderr: Files that are open for writing.
        spare: Whether a second process is ready, for when it starts one.
    """

    def __init__(
        self, line: Sequence[str], cwd: Path, env: Mapping[str, str], stdout: Any, stderr: Any, spare: bool = False
    ) -> None:
        self.returncode: int | None = None
        self._answers, theirs = socket.socketpair()
        request = {"line": list(line), "cwd": str(cwd), "env": dict(env), "spare": spare}
        with theirs:
            _send(_server(), request, [stdout.fileno(), stderr.fileno(), theirs.fileno()])
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
        request = _received(requests, head)
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
    return _become(_with_a_spare(request) if request["spare"] else request)


def _with_a_spare(request: dict[str, Any]) -> dict[str, Any]:
    """Fork the second process of a run, a child of the first one and with nothing done yet; the request of either."""
    ours, theirs = socket.socketpair()
    first = os.getpid()
    if pid := os.fork():
        theirs.close()
        launcher.subprocess = SimpleNamespace(Popen=Spare(pid, ours).start)  # type: ignore[attr-defined]
        return request
    ours.close()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # as fit.py does in such a process
        signal.signal(number, signal.SIG_IGN)
    head = theirs.recv(SIZE, socket.MSG_WAITALL)
    if not head or os.getppid() != first:
        os._exit(0)  # there was no need of it
    with theirs:
        found = _received(theirs, head)
    rank_zero_only.rank = int(found["env"]["LOCAL_RANK"])  # which Lightning finds out when it is imported
    return found


def _become(request: dict[str, Any]) -> list[str]:
    if request["env"].get("LOCAL_RANK", "0") == "0":
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    return request["line"]


def _send(connection: socket.socket, request: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    content = json.dumps(request).encode()
    socket.send_fds(connection, [len(content).to_bytes(SIZE, "big")], fds)
    connection.sendall(content)


def _received(connection: socket.socket, head: bytes) -> dict[str, Any]:
    """A request whose length was read already."""
    size, data = int.from_bytes(head, "big"), b""
    while len(data) < size:
        data += connection.recv(size - len(data))
    return json.loads(data)


if __name__ == "__main__":
    import sklearn.datasets  # noqa: F401

    import scripts.fit  # noqa: F401
    import tests.noisy
    import tests.processes  # noqa: F401
    from tests.pictures import go_without

    go_without(setattr)
    sys.argv = _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_path(sys.argv[0], run_name="__main__")
