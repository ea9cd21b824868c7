"""A command line of a few options."""

import argparse
from typing import Any, NoReturn

from runs.errors import UserError, nearest


class PlainParser(argparse.ArgumentParser):
    """argparse's parser, with this project's way of helping and of telling mistakes.

    Args:
        help_text: What `--help` prints.
    """

    def __init__(self, help_text: str) -> None:
        super().__init__(allow_abbrev=False)
        self.help_text = help_text

    @property
    def options(self) -> list[str]:
        """What may stand on the command line with two dashes."""
        return [option for action in self._actions for option in action.option_strings]

    def format_help(self) -> str:
        return self.help_text

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        given, rest = self.parse_known_args(args, namespace)
        if rest:
            raise UserError(f"{rest[0]}: no such option{nearest(rest[0].split('=')[0], self.options)}")
        return given

    def error(self, message: str) -> NoReturn:
        usage = next(line for line in self.help_text.splitlines() if line.startswith("usage:"))
        raise UserError(f"{message} ({usage})")
