"""The keys of a config, as they stand on a command line: which are there, and which are not at their defaults."""

import dataclasses
import inspect
import json
import sys
from collections.abc import Mapping
from typing import Any


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """`{"optimizer": "torch.optim.AdamW", "optimizer.lr": 0.01, …}` of a config with `class_path` and `init_args`."""
    found: dict[str, Any] = {}

    def visit(node: Any, key: str) -> None:
        if not isinstance(node, dict) or not node:
            found[key] = node
            return
        for name, value in node.items():
            inner = name in ("class_path", "init_args", "dict_kwargs") and "class_path" in node
            visit(value, key if inner else f"{key}.{name}")

    for name, value in config.items():
        visit(value, str(name))
    return found


def short_class(value: Any) -> Any:
    """`AdamW` of `torch.optim.AdamW`; other values as they are."""
    if isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split(".")):
        return value.rsplit(".", 1)[1]
    return value


def changed_keys(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are not at their defaults, each with its default; None for those that have none.

    Args:
        config: A complete config, in plain types, whose objects have been made: only classes that are imported
            already are asked for their defaults.
        defaults: Of the top-level keys and those in them.
    """
    found: dict[str, Any] = {}

    def visit(node: Any, base: Any, key: str) -> None:
        base = _plain(base)
        if isinstance(node, dict) and "class_path" in node:
            path = node["class_path"]
            same = isinstance(base, dict) and base.get("class_path") == path
            if not same:
                found[key] = base.get("class_path") if isinstance(base, dict) else base
            own = {**_signature_defaults(path), **((base.get("init_args") or {}) if same else {})}
            for name, value in (node.get("init_args") or {}).items():
                visit(value, own.get(name), f"{key}.{name}")
        elif isinstance(node, dict) and node:
            for name, value in node.items():
                visit(value, base.get(name) if isinstance(base, dict) else None, f"{key}.{name}")
        elif node != base:
            found[key] = base

    for name, value in config.items():
        visit(value, defaults.get(name), name)
    return found


def _signature_defaults(path: str) -> dict[str, Any]:
    module, _, name = path.rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    found: dict[str, Any] = {}
    for base in getattr(kind, "__mro__", ()):  # an argument may be handed on to the class above
        if "__init__" in vars(base) and base is not object:
            for parameter in inspect.signature(base.__init__).parameters.values():
                if parameter.default is not parameter.empty:
                    found.setdefault(parameter.name, parameter.default)
    return found


def _plain(value: Any) -> Any:
    """In the types of a config: tuples as lists, data classes as dicts, and objects as their text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.loads(json.dumps(value, default=str))
