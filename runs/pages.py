"""What the pages of this project share: how they are made, told from others, and how they write numbers."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from runs.errors import UserError
from runs.numbers import number, seconds, shown

MADE_BY = "lightning-project-template"  # in every page and picture of this project; others are not overwritten


def check_ours(path: Path, option: str = "--out") -> None:
    """Refuse to write over a file that another hand has made.

    Raises:
        UserError: There is one.
    """
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            ours = MADE_BY.encode() in file.read(2000)
            empty = file.tell() == 0
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror}") from error
    if not ours and not empty:
        raise UserError(f"{path}: not made by this project; move it away, or give another name with {option}")


def render(template: str, **values: Any) -> str:
    """A page from one of the templates next to this file."""
    place = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=place, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, seconds=seconds, value=shown)
    return environment.get_template(template).render(made_by=MADE_BY, **values)
