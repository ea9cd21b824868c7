"""Checkpoint files: whole or not there, and read only when undamaged."""

import ctypes
import errno
import gc
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import checkpoints
from runs.checkpoints import read_checkpoint, write_checkpoint
from runs.errors import UserError
from runs.files import part_of
from tests.same import unequal

PATH = Path("checkpoints/last.ckpt")
OLD = {"state_dict": {"weight": torch.zeros(500)}, "epoch": 0}
NEW = {"state_dict": {"weight": torch.arange(500.0)}, "epoch": 1}

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
linux = pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")


def names(folder: Path = PATH.parent) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def which(path: Path = PATH) -> str:
    """Which of the two states a file holds, all of it."""
    found = read_checkpoint(path)
    (name,) = (name for name, state in (("old", OLD), ("new", NEW)) if not unequal(found, state))
    return name


def start_child(work: Callable[[], Any]) -> int:
    """Do something in a process of its own, whose exit status is 0 after success, an error's number, or 99."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, because of pytest's threads
        child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except OSError as error:
        os._exit(error.errno or 99)
    except BaseException:
        os._exit(99)


def in_child(work: Callable[[], Any]) -> int:
    """The same, to its end: its exit status, or the negative number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(start_child(work), 0)[1])


# ---- a save is whole or not there


def test_a_save_is_on_the_disk_before_it_is_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(OLD, PATH)
    folder, steps = PATH.parent.stat().st_ino, []
    fsync, replace = os.fsync, Path.replace

    def seen_fsync(handle: int) -> None:
        inode = os.fstat(handle).st_ino
        if inode == folder:
            steps.append(("fsync of the folder", which()))
        else:
            (part,) = (path for path in PATH.parent.iterdir() if path.stat().st_ino == inode)
            assert part == part_of(PATH), "in the same folder, so of the same file system"
            steps.append((f"fsync of a file that holds the {which(part)} one", which()))
        fsync(handle)

    def seen_replace(self: Path, target: Path) -> Path:
        steps.append((f"rename of a file that holds the {which(self)} one", which(target)))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "replace", seen_replace)
    write_checkpoint(NEW, PATH)
    assert steps == [
        ("fsync of a file that holds the new one", "old"),
        ("rename of a file that holds the new one", "old"),
        ("fsync of the folder", "new"),
    ]
    assert names() == ["last.ckpt"]


def test_folders_are_made_for_the_first_save() -> None:
    write_checkpoint(NEW, Path("a/b/last.ckpt"))
    assert which(Path("a/b/last.ckpt")) == "new"
    assert names(Path("a/b")) == ["last.ckpt"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_can_not_sync_folders_is_good_enough(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    PATH.parent.mkdir()
    folder, fsync = PATH.parent.stat().st_ino, os.fsync

    def refusing(handle: int) -> None:
        if os.fstat(handle).st_ino == folder:
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refusing)
    write_checkpoint(NEW, PATH)
    assert which() == "new"


def traced_save(*options: str) -> int:
    """Save over an old file under strace, and give the exit status, negative for a signal."""
    hold, go = os.pipe()

    def save() -> None:
        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER: anybody may trace it
        gc.disable()  # it may close files of other tests
        os.read(hold, 1)
        write_checkpoint(NEW, PATH)

    write_checkpoint(OLD, PATH)
    child = start_child(save)
    with subprocess.Popen(["strace", "-p", str(child), *options], stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        os.write(go, b"x")
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(hold)
    os.close(go)
    if "attached" not in said:
        pytest.skip(f"strace may not trace here: {said}")
    return status


def calls_of_a_save() -> list[tuple[str, int]]:
    """The system calls of a save, in their order; each with its number among those of its name."""
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    assert traced_save("-o", "calls.txt") == 0
    calls = re.findall(r"^(\w+)\(", Path("calls.txt").read_text(), re.MULTILINE)
    assert {"write", "fsync", "rename"} <= set(calls)
    # between two of these nothing on the disk changes; others (memory, getpid, locks) come as they please
    calls = [
        name
        for name in calls
        if re.match(r"open|creat|p?writev?|lseek|f?truncate|fsync|fdatasync|rename|close|mkdir", name)
    ]
    return [(name, calls[: i + 1].count(name)) for i, name in enumerate(calls)]


@linux
def test_a_save_that_is_killed_at_any_system_call_leaves_the_old_file_or_the_new_one() -> None:
    found = []
    for name, number in calls_of_a_save():
        inject = f"inject={name}:signal=KILL:when={number}"
        assert traced_save("-o", os.devnull, "-e", inject) == -signal.SIGKILL, name
        found.append(which())
        assert set(names()) <= {"last.ckpt", part_of(PATH).name}
    assert found == sorted(found, reverse=True), "old, old, …, new: there is one moment at which the name changes"
    assert found.count("old") > 6
    assert found.count("new") > 1
    write_checkpoint(NEW, PATH)
    assert names() == ["last.ckpt"], "the next save clears away what a killed one has left"


@posix
def test_a_save_that_is_killed_after_any_number_of_bytes_leaves_the_old_file() -> None:
    resource = pytest.importorskip("resource")
    write_checkpoint(NEW, PATH)
    size = PATH.stat().st_size
    write_checkpoint(OLD, PATH)

    def save(limit: int) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # kills the process at the limit
        write_checkpoint(NEW, PATH)

    for limit in [*range(0, size, size // 40), size - 1]:
        assert in_child(partial(save, limit)) == -signal.SIGXFSZ
        assert part_of(PATH).stat().st_size == limit
        assert which() == "old"
    assert in_child(partial(save, size)) == 0
    assert which() == "new"
    assert names() == ["last.ckpt"]


@posix
def test_a_save_that_is_killed_at_any_of_its_steps_leaves_the_old_file_or_the_new_one() -> None:
    def save(number: int) -> None:
        seen = 0

        def hook(event: str, args: Any) -> None:
            nonlocal seen
            if event in ("open", "os.rename", "os.mkdir", "os.remove", "fsync"):
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        def fsync(handle: int, really: Callable[[int], None] = os.fsync) -> None:
            hook("fsync", ())
            really(handle)
            hook("fsync", ())

        os.fsync = fsync
        sys.addaudithook(hook)
        write_checkpoint(NEW, PATH)

    found = []
    for number in range(1, 50):
        write_checkpoint(OLD, PATH)
        status = in_child(partial(save, number))
        found.append(which())
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert found[-1] == "new"
    assert len(found) > 7  # two files opened, two brought to the disk (before and after), one renamed, and the end
    assert found == sorted(found, reverse=True)


def test_the_folder_for_temporary_files_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [place for place in ("/dev/shm", "/run/user") if os.access(place, os.W_OK)]
    elsewhere = Path(tempfile.mkdtemp(dir=places[0] if places else None))
    try:
        monkeypatch.setenv("TMPDIR", str(elsewhere))
        monkeypatch.setattr(tempfile, "tempdir", None)
        assert tempfile.gettempdir() == str(elsewhere)
        before = elsewhere.stat().st_mtime_ns  # changes with every file that is made or removed there
        write_checkpoint(OLD, PATH)
        write_checkpoint(NEW, PATH)
        assert elsewhere.stat().st_mtime_ns == before
        assert names(elsewhere) == []
        assert which() == "new"
        assert PATH.stat().st_dev == PATH.parent.stat().st_dev
    finally:
        monkeypatch.undo()
        elsewhere.rmdir()


# ---- a save that can't be


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_save_that_fails_says_why_and_leaves_what_was_there(
    monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    write_checkpoint(OLD, PATH)

    def fail(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os if step == "fsync" else Path, step, fail)
        with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
            write_checkpoint(NEW, PATH)
    assert caught.value.errno == number
    assert which() == "old"
    assert names() == ["last.ckpt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("size", [1, 10**6])
def test_a_full_disk_is_told_as_such_and_not_as_an_error_of_torch(size: int) -> None:
    write_checkpoint(OLD, PATH)
    part_of(PATH).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_checkpoint({"state_dict": {"weight": torch.zeros(size)}}, PATH)
    assert caught.value.errno == errno.ENOSPC
    assert which() == "old"
    assert names() == ["last.ckpt"]


@posix
def test_a_disk_that_becomes_full_within_a_save_leaves_what_was_there() -> None:
    resource = pytest.importorskip("resource")
    write_checkpoint(NEW, PATH)
    size = PATH.stat().st_size
    write_checkpoint(OLD, PATH)

    def save(limit: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        write_checkpoint(NEW, PATH)

    for limit in (0, 1, size // 3, size // 2, size - 1):
        assert in_child(partial(save, limit)) == errno.EFBIG
        assert which() == "old"
        assert names() == ["last.ckpt"]


@posix
def test_a_folder_that_may_not_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    write_checkpoint(OLD, PATH)
    PATH.parent.chmod(0o555)
    tmp_path.chmod(0o755)

    def save() -> None:
        if os.geteuid() == 0:  # who may write everywhere
            os.setuid(65534)
        write_checkpoint(NEW, PATH)

    try:
        assert in_child(save) == errno.EACCES
        assert which() == "old"
        assert names() == ["last.ckpt"]
    finally:
        PATH.parent.chmod(0o755)


def test_a_folder_that_is_a_file_is_an_error_of_the_system() -> None:
    PATH.parent.write_text("mine")
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        write_checkpoint(NEW, PATH)
    assert PATH.parent.read_text() == "mine"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_a_save_that_is_interrupted_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    write_checkpoint(OLD, PATH)
    save = torch.save

    def interrupted(state: Any, file: Any) -> None:
        save(state, file)
        raise error

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(error):
        write_checkpoint(NEW, PATH)
    assert which() == "old"
    assert names() == ["last.ckpt"]


# ---- reading


DIVERSE = {
    "state_dict": {"weight": torch.arange(40.0), "count": torch.ones(3, dtype=torch.int64)},
    "epoch": 3,
    "more": [1, 2.5, None, True, (1, 2), "abc", OrderedDict(a=1)],
}


def test_a_flipped_bit_is_refused_or_changes_nothing() -> None:
    write_checkpoint(DIVERSE, PATH)
    raw = bytearray(PATH.read_bytes())
    draw = random.Random(0)
    refused = 0
    for place in range(0, len(raw), 3):
        bit = draw.randrange(8)
        raw[place] ^= 1 << bit
        PATH.write_bytes(raw)
        raw[place] ^= 1 << bit
        try:
            found = read_checkpoint(PATH)
        except UserError:
            refused += 1
        else:
            assert unequal(found, DIVERSE) == [], (place, bit)
    assert refused > len(raw) // 9, "at least each in a tensor, and in the values beside them"


@pytest.mark.parametrize("member", ["data/0", "data/1", "data.pkl"])
def test_a_flipped_bit_in_the_values_is_refused_with_the_part_at_fault(member: str) -> None:
    write_checkpoint(DIVERSE, PATH)
    with zipfile.ZipFile(PATH) as file:
        (name,) = (name for name in file.namelist() if name.endswith(member))
        content = file.read(name)
    raw = PATH.read_bytes()
    start = raw.index(content)
    for place in range(start, start + len(content), 7):
        PATH.write_bytes(raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :])
        with pytest.raises(UserError, match=rf"{PATH}: damaged: the checksum of {re.escape(name)} does not fit"):
            read_checkpoint(PATH)


def test_a_flipped_bit_in_the_attributes_of_a_tensor_is_refused() -> None:
    write_checkpoint(DIVERSE, PATH)
    with zipfile.ZipFile(PATH) as file:
        name = next(name for name in file.namelist() if name.endswith("data/0"))
    raw = bytearray(PATH.read_bytes())
    # in the central directory, 46 bytes and then the name; the attributes are at 38, and bit 4 of them says "folder"
    entry = raw.rindex(name.encode()) - 46
    assert raw[entry : entry + 4] == b"PK\1\2"
    raw[entry + 38] ^= 0x10
    PATH.write_bytes(raw)
    with pytest.raises(UserError, match=r"damaged|refused"):
        read_checkpoint(PATH)


def test_a_file_that_is_cut_short_is_refused() -> None:
    write_checkpoint(DIVERSE, PATH)
    raw = PATH.read_bytes()
    lengths = {0, 4, 5, 30, len(raw) - 22, len(raw) - 2, len(raw) - 1, *range(4, len(raw), 29)}
    for length in sorted(lengths):
        PATH.write_bytes(raw[:length])
        with pytest.raises(UserError, match=rf"^{PATH}: damaged, or no checkpoint \({length:,} bytes\)$"):
            read_checkpoint(PATH)


def test_a_file_whose_end_is_zeros_is_refused() -> None:
    write_checkpoint(DIVERSE, PATH)
    raw = PATH.read_bytes()
    for length in range(0, len(raw), 101):  # what some file systems leave after a power failure
        PATH.write_bytes(raw[:length] + bytes(len(raw) - length))
        with pytest.raises(UserError, match="damaged"):
            read_checkpoint(PATH)


def zipped(**contents: str) -> None:
    with zipfile.ZipFile("x.ckpt", "w") as file:
        for name, content in contents.items():
            file.writestr(name.replace("_", "/"), content)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        pytest.param(lambda path: None, "no such file", id="missing"),
        pytest.param(lambda path: path.mkdir(), "no such file", id="folder"),
        pytest.param(lambda path: path.symlink_to("gone"), "no such file", id="dead link"),
        pytest.param(lambda path: path.write_text(""), r"damaged, or no checkpoint \(0 bytes\)", id="empty"),
        pytest.param(
            lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
            r"damaged, or no checkpoint",
            id="text",
        ),
        pytest.param(
            lambda path: path.write_bytes(b"PK"),
            r"damaged, or no checkpoint \(2 bytes\)",
            id="two bytes",
        ),
        pytest.param(lambda path: path.write_bytes(bytes(5000)), r"damaged, or no .* \(5,000 bytes\)", id="zeros"),
        pytest.param(lambda path: zipped(readme="x"), "damaged, or no checkpoint", id="zip of something else"),
        pytest.param(lambda path: zipped(archive_data="x"), "damaged, or no checkpoint", id="zip that is no pickle"),
        pytest.param(lambda path: torch.save([1], path), "there is no `state_dict` in it", id="list"),
        pytest.param(lambda path: torch.save({"a": 1}, path), "there is no `state_dict` in it", id="no weights"),
    ],
)
def test_what_is_no_checkpoint_is_told_in_one_line(make: Callable[[Path], Any], told: str) -> None:
    path = Path("x.ckpt")
    make(path)
    with pytest.raises(UserError, match=rf"^x\.ckpt: .*{told}") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["http://host/x.ckpt", "https://host/x", "s3://b/x", "gs://b/x", "file:///x.ckpt"])
def test_an_address_is_not_fetched(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(UserError, match="an address and not a file"):
        read_checkpoint(Path(place))


def test_the_format_of_before_2020_is_read() -> None:
    torch.save(OLD, "x.ckpt", _use_new_zipfile_serialization=False)
    assert which(Path("x.ckpt")) == "old"


def test_the_format_of_before_2020_runs_no_code_either() -> None:
    torch.save({"state_dict": {}, "path": Path("x")}, "x.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"x\.ckpt: refused: it holds pathlib\.\w*Path; only tensors and plain values"):
        read_checkpoint(Path("x.ckpt"))


@pytest.mark.parametrize("name", ["../x", "/etc/x", "archive/../../x", "..\\x", "\\x"])
def test_names_that_lead_out_of_the_file_are_refused(name: str) -> None:
    write_checkpoint(OLD, PATH)
    with zipfile.ZipFile(PATH, "a") as file:
        file.writestr(name, "x")
    with pytest.raises(UserError, match="refused: it has a file named"):
        read_checkpoint(PATH)


def test_tensors_come_to_the_cpu_and_are_not_tied_to_the_file() -> None:
    write_checkpoint(NEW, PATH)
    found = read_checkpoint(PATH)
    PATH.unlink()
    found["state_dict"]["weight"][0] = 7
    assert found["state_dict"]["weight"].device.type == "cpu"


def test_lightnings_way_to_its_files_goes_through_these_functions() -> None:
    files = checkpoints.CheckpointFiles()
    files.save_checkpoint({**OLD, "place": Path("x")}, str(PATH))
    assert files.load_checkpoint(PATH, weights_only=False)["place"] == "x"
    torch.save({**OLD, "place": Path("x")}, PATH)
    with pytest.raises(UserError, match="refused"):  # whatever the caller says
        files.load_checkpoint(PATH, weights_only=False)
