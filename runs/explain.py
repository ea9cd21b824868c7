"""jsonargparse's messages, which are many lines long, told in one."""

import importlib
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from jsonargparse import ArgumentParser

from runs.errors import nearest, one_line
from runs.files import read_yaml

TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "NoneType": "null",
    "str": "text",
    "list": "a list",
    "dict": "a mapping",
}


def explain(parser: ArgumentParser, message: str) -> str:
    """`message` as one line: the key, the value, what is allowed, and the nearest valid choice."""
    key = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    classes = re.findall(r"Problem with given class_path '([^']+)'", message)
    # what stands after the first value belongs to the outer keys
    message = re.sub(r"((Given|Got) value: .*)[\s\S]*", r"\1", message, count=1)
    if broken := _broken_import(message):
        return f"{key}: {broken}"
    for pattern, tell in PATTERNS:
        found = re.search(pattern, message)
        if found:
            return tell(parser, key, classes[-1] if classes else "", found)
    return one_line(message)


def known_keys(parser: ArgumentParser, class_path: str = "") -> list[str]:
    """The keys that a class takes, nested ones included, or without a class all keys of the command line."""
    if class_path:
        inner = ArgumentParser(exit_on_error=False)
        inner.add_class_arguments(_import(class_path), fail_untyped=False, sub_configs=True)
        return [key for key in _destinations(inner) if key not in ("params", "optimizer")]
    keys = _destinations(parser)
    return sorted({*keys, *(key.split(".")[0] for key in keys)})


def recipe_keys(parser: ArgumentParser) -> list[str]:
    """The keys of all classes that the given config files name, as one writes them on the command line."""
    keys: list[str] = []

    def visit(node: Any, prefix: str) -> None:
        for name, value in node.items() if isinstance(node, dict) else ():
            if name == "class_path":
                with suppress(Exception):  # a class that can't be imported has no keys to offer
                    keys.extend(_join(prefix, key) for key in known_keys(parser, value))
            visit(value, prefix if name == "init_args" else _join(prefix, str(name)))

    for file in getattr(parser, "files", ()):
        visit(read_yaml(file.read_text(encoding="utf-8")), "")
    return keys


def _destinations(parser: ArgumentParser) -> list[str]:
    keys = [action.dest for action in parser._actions if action.option_strings]
    internal = ("help", "config", "print_config", "print_shtab")
    return [key for key in keys if key not in internal and not key.endswith(".help")]


def _import(class_path: str) -> type:
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _list(choices: Iterable[str], most: int = 12) -> str:
    choices = list(choices)
    return ", ".join(choices[:most]) + (", …" if len(choices) > most else "")


def _tops(keys: Iterable[str]) -> list[str]:
    return sorted({key.split(".")[0] for key in keys})


def _unknown_key(parser: Any, key: str, cls: str, found: re.Match[str]) -> str:
    name = _join(found.groupdict().get("group") or "", found["name"])
    choices = known_keys(parser, cls)
    if cls:  # a key of that class, and of no other
        hint = nearest(name, choices).replace("'", f"'{key}." if key else "'", 1)
        hint = hint or f"; it takes {_list(choices)}"
        return f"{_join(key, name)}: no such key of {cls}{hint}"
    choices = [*choices, "config"]
    if "." in name:
        group, _, leaf = name.partition(".")
        leaves = {choice.partition(".")[2] for choice in choices if choice.startswith(f"{group}.")}
        hint = nearest(leaf, leaves).replace("'", f"'{group}.", 1) if leaves else nearest(name, choices)
    else:  # `--lr` for `--optimizer.lr`
        full = {choice.rsplit(".", 1)[-1]: choice for choice in [*choices, *recipe_keys(parser)]}
        similar = nearest(name, [name] if name in full else [*full, *choices])
        hint = re.sub(r"'(.*)'", lambda m: f"'{full.get(m[1], m[1])}'", similar)
    siblings = [choice for choice in choices if choice.startswith(name.split(".")[0] + ".")]
    return f"{name}: no such key{hint or f'; allowed are {_list(siblings or _tops(choices), 16)}'}"


def _broken_import(message: str) -> str:
    """What is wrong with a user's own module that can't be imported; nothing when every module can."""
    # only what was to be imported anyway, and no other value that has dots in it
    names = re.findall(r"given class_path '([\w.]+)'", message)
    if re.search(r"Subtypes: \[.*<class '\w+\.", message):  # a class is what is expected
        value = message.rpartition("Given value: ")[2].strip()
        names += re.findall(r"^([\w.]+)$|val='([\w.]+)'|^\['([\w.]+)'\]$|'class_path': '([\w.]+)'", value)
    for module in ("".join(name).rpartition(".")[0] for name in names):
        if not module:
            continue
        try:
            importlib.import_module(module)
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and module.startswith(error.name or "-"):
                continue  # there is no such module, or it is no module at all
            return f"can't import {module}: {one_line(error)}"
        except SyntaxError as error:
            return f"can't import {module}: {error.msg} ({error.filename}, line {error.lineno})"
        except Exception as error:
            return f"can't import {module}: {type(error).__name__}: {one_line(error)}"
    return ""


def _no_value(parser: Any, key: str, cls: str, found: re.Match[str]) -> str:
    given = [arg for arg in getattr(parser, "given", []) if arg.startswith(f"--{found['name']}")]
    return f"{(given or ['--' + found['name']])[-1]}: a value is missing"


def _beside_class_path(parser: Any, key: str, cls: str, found: re.Match[str]) -> str:
    return f"{key}: the keys of {cls} go under `init_args:`, not beside `class_path:`"


def _group(parser: Any, key: str, cls: str, found: re.Match[str]) -> str:
    hint = "; --early_stopping.patience 1000000 never stops early" if found["name"] == "early_stopping" else ""
    return f"{found['name']}: holds keys of its own, such as {_list(_siblings(parser, found['name']), 4)}{hint}"


def _siblings(parser: Any, group: str) -> list[str]:
    return [key for key in known_keys(parser) if key.startswith(f"{group}.")]


def _unexpected(parser: Any, key: str, cls: str, found: re.Match[str]) -> str:
    return f"unexpected argument {found['name']!r}; keys are written --key value"


def _unknown_class(parser: Any, key: str, cls: str, found: re.Match[str]) -> str:
    module, name = found["module"], found["name"]
    names = vars(importlib.import_module(module))
    # what a package gives out may be imported when it is asked for
    members = {*(n for n, value in names.items() if isinstance(value, type)), *names.get("__all__", ())}
    similar = nearest(name, members).replace("'", f"'{module}.", 1)
    return f"{key}: no class {name!r} in {module}{similar or f'; there are {_list(sorted(members))}'}"


def _unknown_short_class(parser: Any, key: str, cls: str, found: re.Match[str]) -> str:
    base = re.search(r"Subtypes: \[.*?<?class '([^']+)'", found.string)
    subclasses = _subclasses(_import(base[1])) if base else {}
    value = found["name"]
    similar = nearest(value, subclasses)
    hint = re.sub(r"'(.*)'", lambda m: f"'{subclasses[m[1]]}'", similar)
    return f"{key}: {value!r} is no class_path{hint or '; one is written package.module.Class'}"


def _subclasses(cls: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for sub in cls.__subclasses__():
        # packages give their classes out under a shorter path than where they are defined
        top = sub.__module__.rsplit(".", 1)[0]
        short = top if getattr(importlib.import_module(top), sub.__name__, None) is sub else sub.__module__
        found[sub.__name__] = f"{short}.{sub.__name__}"
        found.update(_subclasses(sub))
    return found


def _stray_key(parser: Any, key: str, cls: str, found: re.Match[str]) -> str:
    value = re.search(r"Given value: (.*)", found.string)
    return f"{key}: takes class_path and init_args, and nothing else; found {value[1] if value else '?'}"


def _wrong_base(parser: Any, key: str, cls: str, found: re.Match[str]) -> str:
    value = found["name"] or found.string.rpartition("Given value: ")[2]
    return f"{key}: {value.strip()} is not a {found['base']}"


def _no_module(parser: Any, key: str, cls: str, found: re.Match[str]) -> str:
    rooms = ("modules", "modules.nets", "datamodules", "callbacks", "torch", "lightning", "torch.optim")
    return f"{key}: no module named {found['name']!r} (class_path {cls!r}){nearest(found['name'], rooms)}"


def _required(parser: Any, key: str, cls: str, found: re.Match[str]) -> str:
    names = _list(_join(key, name.strip()) for name in found["names"].split(","))
    where = f", which {cls} requires" if cls else "; a recipe such as --config configs/cnn.yaml has what a run needs"
    return f"missing {names}{where}"


def _wrong_value(parser: Any, key: str, cls: str, found: re.Match[str]) -> str:
    message = found.string
    value = re.search(r"Got value: (.*)|Given value: (.*)", message)
    given = (value[1] or value[2] or "").strip() if value else ""
    types, literals = [], []
    for type_, options in re.findall(r"Expected a (?:<class '([^']+)'>|typing\.Literal\[([^\]]+)\])", message):
        types += [TYPE_NAMES.get(type_, type_.rsplit(".", 1)[-1])] if type_ else []
        literals += [option.strip().strip("'\"") for option in options.split(",") if option]
    allowed = dict.fromkeys([*literals, *types])  # without what comes twice
    return f"{key}: {given!r} is not allowed; allowed: {_list(allowed, 20)}{nearest(given, literals)}"


PATTERNS: list[tuple[str, Callable[[Any, str, str, re.Match[str]], str]]] = [
    (r"Group '(?P<group>[^']+)' does not accept option '(?P<name>[^']+)'", _unknown_key),
    (r"Option 'class_path' is not accepted", _beside_class_path),
    (r"Option '(?P<name>[^']+)' is not accepted", _unknown_key),
    (r"argument (?:-\w/)?--(?P<name>[\w.]+): expected one argument", _no_value),
    (r'Parser key "(?P<name>\w+)":\s*Unable to load config', _group),
    (r"unrecognized arguments: --(?P<name>[\w.]+)", _unknown_key),
    (r"unrecognized arguments: (?P<name>\S+)", _unexpected),
    (r"module '(?P<module>[\w.]+)' has no attribute '(?P<name>\w+)'", _unknown_class),
    (r"No module named '(?P<name>[\w.]+)'", _no_module),
    (r"the following arguments are required: (?P<names>.+)", _required),
    (r"Subclass types expect one of", _stray_key),
    (r"^(?![\s\S]*Expected a <class '(int|float|bool|str)'>)[\s\S]*Expected a dot import path string: (?P<name>\w+)",
     _unknown_short_class),
    (r"^(?![\s\S]*Problem with given)[\s\S]*"
     r"Import path (?P<name>\S+ )?does not correspond to a subclass of (?P<base>\w+)", _wrong_base),
    (r"Got value: |Given value: ", _wrong_value),
]  # fmt: skip
