"""Files that are whole or not there, whatever ends the process or the machine."""

import errno
import os
from pathlib import Path

import yaml


def write_whole(path: Path, text: str) -> None:
    """Write a file so that at each moment it is the old one or the new one, and on the disk when this returns.

    Raises:
        OSError: It can't be written; what was there is still there.
    """
    part = part_of(path)
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


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
    if before and yaml.safe_load(before) == yaml.safe_load(text):
        return False
    if before:
        kept = path.with_name(f"config_until_step{since:06d}.yaml")
        if not kept.exists():  # otherwise nothing was trained with the one in between
            write_whole(kept, before)
    write_whole(path, text)
    sync_folder(folder.parent)
    return bool(before)
