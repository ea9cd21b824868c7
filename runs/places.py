"""Files that Python packages carry, by a name that is the same on each machine."""

import importlib.util
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from runs.errors import UserError, nearest

PREFIX = "package:"


def real_path(place: str) -> Path:
    """The path of a file; of `package:NAME/FILE` that of a file in an installed package, which is not imported.

    Raises:
        UserError: There is no such package, or no such file in it.
    """
    if not place.startswith(PREFIX):
        return Path(place).expanduser()
    name, _, inside = place.removeprefix(PREFIX).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    if not folders:
        raise UserError(
            f"{place}: no package {name!r} is installed here; those of the recipes come with pip install -e "
            "'.[pretrained]'"
        )
    for folder in folders:
        if (folder / inside).exists():
            return folder / inside
    there = [str(path.relative_to(folders[0])) for path in folders[0].rglob("*") if path.suffix not in (".py", ".pyc")]
    hint = nearest(inside, there) or f"; there are {', '.join(sorted(there)[:8])}"
    raise UserError(f"{place}: no such file in the package{hint}")


def with_real_paths(value: Any, key: str = "") -> Any:
    """A config with the paths of files in place of their names in packages, wherever they stand in it.

    Args:
        value: The config, or a part of it.
        key: Of that part.

    Raises:
        UserError: As `real_path`, with the key first.
    """
    if isinstance(value, str) and value.startswith(PREFIX):
        try:
            return str(real_path(value))
        except UserError as error:
            raise UserError(f"{key.replace('init_args.', '')}: {error}") from error
    if isinstance(value, list):
        return [with_real_paths(item, key) for item in value]
    start = f"{key}." if key else ""
    if isinstance(value, dict):
        return {name: with_real_paths(item, f"{start}{name}") for name, item in value.items()}
    if isinstance(value, Namespace):
        return Namespace(**{name: with_real_paths(item, f"{start}{name}") for name, item in vars(value).items()})
    return value
