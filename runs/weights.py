"""The weights that a new run starts from: read from files of many kinds, and matched by name."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from lightning.pytorch import LightningModule
from torch import Tensor

from runs.checkpoints import read_tensors
from runs.errors import UserError

IN_FOLDERS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
# where files that hold more than weights have them
NESTED = ("state_dict", "model_state_dict", "model", "net")


@dataclass
class Matched:
    """What became of weights from a file.

    Attributes:
        source: The file.
        fitted: Names in the model that got their weights from it.
        total: Number of tensors in the model.
        share: Of the model's parameters, how many of all got their values from it.
        renamed: A prefix in the file, and the one in the model that it stands for; empty where they are the same.
        skipped: Names in the model that were left out on purpose.
        missing: Names in the model that are not in the file.
        unexpected: Names in the file that are not in the model.
        reshaped: By name in the model, its shape in the file and there.
    """

    source: str
    fitted: list[str]
    total: int
    share: float
    renamed: tuple[str, str] | None
    skipped: list[str]
    missing: list[str]
    unexpected: list[str]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __str__(self) -> str:
        found = f"{len(self.fitted)} of {self.total} tensors from {self.source}"
        lines = [f"weights: {found}, {self.share:.1%} of the parameters"]
        if self.renamed:
            lines.append(f"  renamed: {self.renamed[0]}* → {self.renamed[1]}*")
        shapes = [f"{name} {before} → {now}" for name, (before, now) in self.reshaped.items()]
        rows = {
            "skipped": self.skipped,
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": shapes,
        }
        lines += [f"  {title}: {len(names)} ({_some(names)})" for title, names in rows.items() if names]
        if self.share < 0.5:
            lines.append(f"  warning: {1 - self.share:.0%} of the parameters start as those of a new model")
        return "\n".join(lines)


def load_weights(
    module: LightningModule,
    place: Path,
    rename: Mapping[str, str] | None = None,
    skip: Sequence[str] = (),
    source: str = "",
) -> Matched:
    """Give a new module the weights of a file, as far as names and shapes fit.

    Names that differ by what stands before all of them (`module.`, `_orig_mod.`, `net.backbone.`) are matched.

    Args:
        module: The module.
        place: A checkpoint, a file of weights alone (`.pt`, `.safetensors`), the index of a file in parts, or a folder
            with one of these by its usual name.
        rename: Prefixes of names in the file, and what is to stand in their place.
        skip: Names in the module, with `*` for anything, that keep their first values.
        source: What the report calls the file.

    Raises:
        UserError: The file can't be read, a prefix or a pattern matches nothing, or nothing fits.
    """
    source, found, own = source or str(place), read_weights(place), module.state_dict()
    renamed = {_renamed(name, rename or {}): value for name, value in found.items()}
    for prefix in rename or {}:
        if not any(name.startswith(prefix) for name in found):
            raise UserError(f"--weights_rename: no name in {source} begins with {prefix!r}; it has {_some(found)}")
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in own):
            raise UserError(f"--weights_skip: {pattern!r} matches nothing; the model has {_some(own)}")
    skipped = [name for name in own if any(fnmatchcase(name, pattern) for pattern in skip)]
    before, after = _prefixes(renamed, own)
    there, unexpected = {}, []
    for given, (name, value) in zip(found, renamed.items(), strict=True):
        known = after + name.removeprefix(before) if name.startswith(before) else name
        there[known] = value
        if known not in own:
            unexpected.append(given)
    both = [name for name in own if name in there and name not in skipped]
    fitting = {name: there[name] for name in both if there[name].shape == own[name].shape}
    if not fitting:
        raise UserError(
            f"--weights: nothing in {source} fits the model; it has {_some(found)}, and the model {_some(own)}"
        )
    module.load_state_dict(fitting, strict=False)
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    return Matched(
        source=source,
        fitted=list(fitting),
        total=len(own),
        share=sum(sizes.get(name, 0) for name in fitting) / max(1, sum(sizes.values())),
        renamed=(before, after) if before != after else None,
        skipped=skipped,
        missing=[name for name in own if name not in there and name not in skipped],
        unexpected=unexpected,
        reshaped={name: (tuple(there[name].shape), tuple(own[name].shape)) for name in both if name not in fitting},
    )


def read_weights(place: Path) -> dict[str, Tensor]:
    """The tensors of a file, or of a folder that holds one, by name, on the CPU; nothing in it is executed.

    Raises:
        UserError: The file can't be read, or holds no tensors by name.
    """
    if place.is_dir():
        path = next((place / name for name in IN_FOLDERS if (place / name).is_file()), None)
        if path is None:
            raise UserError(f"{place}: no weights in this folder, that is, none of {', '.join(IN_FOLDERS)}")
        place = path
    if place.name.endswith(".index.json"):
        return {name: value for part in _parts(place) for name, value in read_weights(part).items()}
    state = _safetensors(place) if place.suffix == ".safetensors" else read_tensors(place)
    for key in NESTED:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    values = state.items() if isinstance(state, dict) else ()
    tensors = {str(name): value for name, value in values if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{place}: there are no weights in it, that is, no tensors by name")
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged, or no safetensors file ({error})") from error


def _parts(index: Path) -> list[Path]:
    """The files of weights in parts, which are beside their index."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except FileNotFoundError as error:
        raise UserError(f"{index}: no such file") from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index}: damaged, or no index of weights in parts") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name.endswith(".index.json"):
            raise UserError(f"{index}: refused: it names {name!r}, which is no file of weights beside it")
    return [index.with_name(name) for name in names]


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    """A name with the longest prefix that is to be replaced replaced."""
    prefix = max((prefix for prefix in rename if name.startswith(prefix)), key=len, default=None)
    return name if prefix is None else rename[prefix] + name.removeprefix(prefix)


def _prefixes(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[str, str]:
    """What stands before names in a file, and before the same names in a model: where most of them fit by shape."""

    def fitting(before: str, after: str) -> int:
        inner = ((name.removeprefix(before), value) for name, value in found.items() if name.startswith(before))
        return sum(after + name in own and own[after + name].shape == value.shape for name, value in inner)

    pairs = [(before, after) for before in _chain(found) for after in _chain(own)]
    # the first of the best, and so the shortest ones
    return max(sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1])), key=lambda pair: fitting(*pair))


def _chain(names: Iterable[str], most: int = 6) -> list[str]:
    """Prefixes that half of the names have, at least, from the empty one on."""
    names = list(names)
    chain = [""]
    while len(chain) < most:
        inner = [name.removeprefix(chain[-1]) for name in names if name.startswith(chain[-1])]
        heads = Counter(name.split(".")[0] for name in inner if "." in name).most_common(1)
        if not heads or heads[0][1] < len(names) / 2:
            break
        chain.append(f"{chain[-1]}{heads[0][0]}.")
    return chain


def _some(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
