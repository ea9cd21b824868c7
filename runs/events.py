"""The curves in TensorBoard's files, read in one pass."""

import os
import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.util import tensor_util

HEADER = struct.Struct("<Q4x")  # the length of a record; its checksum is left out, it would take most of the time
LARGEST = 2**20  # bytes; a longer record is a picture, and no numbers


@dataclass
class Curve:
    """What was logged under one name, without what a later start of the run has logged again.

    Attributes:
        steps: `(N,)` int64, ascending.
        values: `(N,)` float64.
        times: `(N,)` float64, when that was, in seconds since 1970.
        files: `(N,)` int64, in which of the files it stands.
    """

    steps: np.ndarray
    values: np.ndarray
    times: np.ndarray
    files: np.ndarray


@dataclass
class Log:
    """The log of a run.

    Attributes:
        curves: By name, in the order of their first values.
        spans: Of each file the time of its first and of its last record, in seconds since 1970.
    """

    curves: dict[str, Curve] = field(default_factory=dict)
    spans: list[tuple[float, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long the run went on, without the time between an interruption and the next start."""
        return sum(last - first for first, last in self.spans)

    @cached_property
    def epochs(self) -> tuple[np.ndarray, np.ndarray]:
        """`(E,)` int64 the epochs, and `(E,)` int64 the last step of each that has logged anything."""
        if (curve := self.curves.get("epoch")) is None:
            return np.empty(0, int), np.empty(0, int)
        known = np.isfinite(curve.values)
        others = [c.steps[-1] for tag, c in self.curves.items() if tag != "epoch" and not tag.startswith("test")]
        if others:  # what is logged after the training, in a test, counts as of the next epoch
            known &= curve.steps <= max(others)
        epochs, steps = curve.values[known].astype(int), curve.steps[known]
        last = np.flatnonzero(np.append(np.diff(epochs) != 0, True)) if len(epochs) else np.empty(0, int)
        return epochs[last], steps[last]

    def epoch_of(self, step: float) -> int | None:
        """The epoch in which a step was; None where the log does not say it."""
        epochs, steps = self.epochs
        place = int(np.searchsorted(steps, step))
        return int(epochs[place]) if place < len(epochs) else None


def read_log(folder: Path, wanted: Callable[[str], bool] | None = None, word: bytes = b"") -> Log:
    """The curves of a run; a record that is cut off, as the last one of a run that was killed may be, ends its file.

    Args:
        folder: The run's.
        wanted: Which names are kept; the default is all.
        word: Records without it are passed over, which is several times as fast.
    """
    log = Log()
    found: dict[str, tuple[array[int], array[float], array[float], array[int]]] = {}
    dropped: set[str] = set()
    for number, path in enumerate(sorted(folder.glob("events.out.tfevents.*"), key=_started)):
        first = last = None
        for event in _events(path, word):
            last = event.wall_time
            first = last if first is None else first
            for value in event.summary.value:
                name, kind = value.tag, value.WhichOneof("value")
                if kind == "simple_value":
                    number_of = value.simple_value
                elif kind == "tensor" and value.metadata.plugin_data.plugin_name == "scalars":
                    number_of = float(tensor_util.make_ndarray(value.tensor))
                else:
                    continue
                if (columns := found.get(name)) is None:
                    if name in dropped:
                        continue
                    if wanted is not None and not wanted(name):
                        dropped.add(name)
                        continue
                    columns = found[name] = (array("q"), array("d"), array("d"), array("q"))
                columns[0].append(event.step)
                columns[1].append(number_of)
                columns[2].append(last)
                columns[3].append(number)
        if first is not None and last is not None:
            log.spans.append((first, last))
    for name, columns in found.items():
        steps, values, times, files = (np.array(column) for column in columns)
        # a start that goes back has logged its steps again: what is later in the files counts
        lowest = np.append(np.minimum.accumulate(steps[::-1])[::-1][1:], np.iinfo(np.int64).max)
        kept = steps < lowest
        log.curves[name] = Curve(steps[kept], values[kept], times[kept], files[kept])
    return log


def _started(path: Path) -> tuple[int, str]:
    """When a file was begun, from its name; those of one second by the rest of it."""
    second, _, rest = path.name.removeprefix("events.out.tfevents.").partition(".")
    return (int(second) if second.isdigit() else 0, rest)


def _events(path: Path, word: bytes) -> Iterator[Event]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while len(header := file.read(12)) == 12:
                (length,) = HEADER.unpack(header)
                if length > LARGEST:
                    if length > size:  # no length at all
                        return
                    file.seek(length + 4, os.SEEK_CUR)
                    continue
                data = file.read(length + 4)
                if len(data) < length + 4:
                    return
                if word in data:
                    yield Event.FromString(data[:-4])
    except (OSError, DecodeError):  # damaged from here on
        return
