"""The parser of configs and command lines: which keys there are, and what is said when one is wrong."""

import re
import sys
from collections.abc import Container, Sequence
from math import prod
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from runs.errors import UserError, nearest
from runs.explain import explain
from runs.files import YAML_LOADER
from runs.places import with_real_paths

# what a module or its network may need to know of the data: each is an argument of theirs, and an attribute of the
# datamodule of the same name, or follows from others
DATA_FACTS = (
    *("in_channels", "image_size", "num_classes"),
    *("in_features", "num_outputs", "num_targets", "target_mean", "target_std"),
    *("vocab_size", "context", "bytes_per_token", "pad_id"),
)
NLL = "gaussian_nll"  # the loss that takes a mean and a variance for each target
OTHER_TASK = {  # what the data say instead when they are for another task
    "num_targets": ("num_classes", "it has classes, which are for --model modules.Classifier"),
    "num_classes": ("num_targets", "it has numbers to predict, which are for --model modules.Regressor"),
}
SEVERAL = "it has labels, any number of them for a sample, which are for --model modules.MultiLabelClassifier"
OPTIONAL = ("target_mean", "target_std", "bytes_per_token")


def fact_of(data: Any, name: str) -> Any:
    """What a datamodule says of itself, or what follows from it; None where it says nothing."""
    if (value := getattr(data, name, None)) is not None:
        return value
    if name == "in_features" and hasattr(data, "in_channels"):
        return data.in_channels * prod(data.image_size)
    if name == "num_outputs":
        return getattr(data, "num_targets", None) or getattr(data, "num_classes", None)
    return None


class Parser(LightningArgumentParser):
    """LightningCLI's parser, with mistakes told in one line and a help text that fits on a screen.

    Args:
        help_text: What `--help` prints.
        data_state: Loaded into the datamodule before the network asks it anything.
    """

    def __init__(
        self, *args: Any, help_text: str = "", data_state: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self.help_text = help_text
        self.data_state = data_state
        self.files: list[Path] = []
        self.given: list[str] = []
        self.instantiated: Namespace = Namespace()
        self.failure: Exception | None = None

    def format_help(self, formatter: Any = None) -> str:
        return self.help_text or super().format_help(formatter)

    def print_usage(self, file: Any = None) -> None:
        """Nothing: the usage of all keys is longer than a screen."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        if not self.exit_on_error:  # a parser inside another one: the outer one tells
            super().error(message, ex)
        raise UserError(explain(self, message)) from ex

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        args = list(sys.argv[1:] if args is None else args)
        self.given, self.files = args, config_files(args)
        for path in self.files:
            check_yaml(path, groups=self._plain_groups())
        return super().parse_args(args, *more, **kwargs)

    def _plain_groups(self) -> set[str]:
        """The top-level keys that hold keys of their own, and neither a class_path nor null."""
        keys = (action.dest for action in self._actions if not action.dest.endswith(".help"))
        return {key.split(".")[0] for key in keys if "." in key}

    def dump(self, *args: Any, **kwargs: Any) -> str:
        # the comments of `--print_config` list every subclass in memory, hundreds for a network
        return re.sub(r",? ?known subclasses: [^)]*", "", super().dump(*args, **kwargs))

    def instantiate_classes(self, cfg: Namespace, *args: Any, **kwargs: Any) -> Namespace:
        cfg = with_real_paths(cfg)
        self.instantiated, self.failure = cfg, None
        try:
            return self.instantiate(cfg, *args, **kwargs)  # its new name
        except Exception:
            if self.failure is not None:
                raise self.failure from None
            raise


def link_data_facts(parser: Parser) -> None:
    """Give a module and its network, where they ask for it by name, what the datamodule knows."""
    for key in fact_keys():
        parser.link_arguments("data", key, _fact(parser, key), apply_on="instantiate")


def fact_keys() -> list[str]:
    """The config keys that are filled in from the datamodule when they are left out."""
    return [f"model.init_args.{net}{fact}" for net in ("", "net.init_args.") for fact in DATA_FACTS]


def _fact(parser: Parser, key: str) -> Any:
    name = key.rsplit(".", 1)[1]

    def fact(data: LightningDataModule | None) -> Any:
        if key not in parser.instantiated:  # this module or network does not ask for it
            return None
        # a fact that the config states itself beats what the datamodule says
        value = parser.instantiated[key]
        try:
            if parser.data_state is not None and data is not None:
                data.load_state_dict(parser.data_state)
            if value is None:
                value = fact_of(data, name)
                if name == "num_outputs" and value and parser.instantiated.get("model.init_args.loss") == NLL:
                    value *= 2
        except Exception as error:
            parser.failure = error  # jsonargparse would wrap it into a print of the whole datamodule
            raise
        if value is None and name not in OPTIONAL:
            short = key.replace("init_args.", "")
            hint = "set it in the config"
            if (other := OTHER_TASK.get(name)) and fact_of(data, other[0]) is not None:
                hint = SEVERAL if getattr(data, "multi_label", False) else other[1]
            # jsonargparse would wrap it, too
            parser.failure = UserError(f"{short}: {type(data).__name__} has no `{name}` to fill it with; {hint}")
            raise parser.failure
        return value

    return fact


def add_model_and_data(parser: Parser) -> None:
    """The two keys that a `Run` needs to give back its module."""
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=False)
    link_data_facts(parser)


def config_files(args: Sequence[str]) -> list[Path]:
    """The files that `--config` names on a command line, in order."""
    words = split_configs(args)[0]
    return [Path(word.removeprefix("--config=")) for word in words if word not in ("--config", "-c")]


def split_configs(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line that name config files, in order, and the others."""
    configs: list[str] = []
    rest: list[str] = []
    file_follows = False
    for arg in args:
        names = not file_follows and arg in ("--config", "-c")
        (configs if names or file_follows or arg.startswith("--config=") else rest).append(arg)
        file_follows = names
    return configs, rest


def check_yaml(path: Path, groups: Container[str] = ()) -> None:
    """Refuse what a YAML reader passes over or explains badly.

    Args:
        path: The file.
        groups: The top-level keys that hold keys of their own.

    Raises:
        UserError: The file is missing, unreadable, no YAML mapping, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = [str(p) for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise UserError(f"--config: no such file: {path}{nearest(str(path), siblings)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config: can't read {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        try:
            root = yaml.compose(text, Loader=YAML_LOADER)
        except yaml.YAMLError:  # the slow one says best what is wrong
            root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: broken YAML: {getattr(error, 'problem', None) or error}") from error
    if root is None:
        raise UserError(f"{path}: the file is empty; it should hold keys such as `model:`, `data:`, `trainer:`")
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: not a mapping of keys such as `model:`, `data:`, `trainer:`")
    _refuse_tags(path, root)
    _refuse_duplicates(path, root, "")
    for key, value in root.value:
        if key.value in groups and not isinstance(value, yaml.MappingNode):
            raise UserError(f"{path}, line {key.start_mark.line + 1}: `{key.value}:` must hold keys of its own")


def _refuse_tags(path: Path, root: yaml.Node) -> None:
    """Let plain values through, and nothing that a reader would make objects of."""
    nodes, seen = [root], set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        line = node.start_mark.line + 1
        if node.tag not in yaml.SafeLoader.yaml_constructors:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise UserError(f"{path}, line {line}: {tag} is refused; a config holds plain values")
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise UserError(f"{path}, line {line}: a key has to be a word, not a list or a mapping")
                nodes += [key, value]


def _refuse_duplicates(path: Path, node: yaml.Node, prefix: str) -> None:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(path, item, prefix)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name in lines:
            raise UserError(f"{path}, line {line}: the key {name} stands here again; first in line {lines[name]}")
        lines[name] = line
        _refuse_duplicates(path, value, f"{name}.")
