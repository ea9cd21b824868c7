"""Files that are whole or not there, whatever ends the process or the machine."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast as the one without the C


def read_yaml(text: str) -> Any:
    """What YAML says, in plain types.

    Raises:
        yaml.YAMLError: It is none.
    """
    return yaml.load(text, Loader=YAML_LOADER)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, so that at each moment the one at `path` is the old one or the new one, and whole.

    It is next to `path` at first; at the end of the `with` it is brought to the disk, and renamed.

    Raises:
        OSError: It can't be written; what was at `path` is still there.
    """
    part = part_of(path)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a text by way of `whole_file`."""
    with whole_file(path) as file:
        file.write(text.encode())


def part_of(path: Path) -> Path:
    """Where a file is before it is whole: in the same folder, since a rename from another file system is a copy."""
    return path.with_name(f".{path.name}.part")


def sync_folder(folder: Path) -> None:
    """Bring the names of a folder's files to the disk, where the system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def write_config(folder: Path, text: str, since: int | None = None) -> bool:
    """Write a run's `config.yaml`.

    Args:
        folder: The run's; it is made where it is missing.
        text: The config, as YAML.
        since: The step at which a run goes on. The file that is there stays, unless the config has been changed; then
            it is kept as `config_until_step….yaml`.

    Returns:
        Whether the config of a run that goes on has been changed.

    Raises:
        OSError: It can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    before = path.read_text(encoding="utf-8") if since is not None and path.is_file() else ""
    if before and read_yaml(before) == read_yaml(text):
        return False
    if before:
        kept = path.with_name(f"config_until_step{since:06d}.yaml")
        if not kept.exists():  # otherwise nothing was trained with the one in between
            write_whole(kept, before)
    write_whole(path, text)
    sync_folder(folder.parent)
    return bool(before)
