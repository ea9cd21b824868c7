"""Checkpoint files are made of nothing but tensors and plain values, whatever a run had in its state."""

import argparse
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import Namespace
from torch import nn

from runs.checkpoints import plain, write_checkpoint
from tests.same import unequal

PATH = Path("checkpoints/last.ckpt")


class Colour(Enum):
    RED = "red"
    PLACE = Path("red/place")
    PAIR = (1, Path("x"))


class Level(IntEnum):
    HIGH = 3


class Mode(StrEnum):
    FAST = "fast"


class Bits(Flag):
    ONE = 1
    TWO = 2


class Text(str):
    pass


class Number(int):
    pass


class Share(float):
    pass


class Odd:
    def __repr__(self) -> str:
        return "an odd one"


@dataclass
class Sizes:
    hidden: int = 8
    place: Path = Path("a/b")
    levels: list[Level] = field(default_factory=lambda: [Level.HIGH])


@dataclass(frozen=True)
class Frozen:
    size: int = 1


class Own(torch.Tensor):
    pass


Pair = namedtuple("Pair", "one other")

PLAIN: list[tuple[str, Any, Any]] = [
    ("none", None, None),
    ("numbers", [True, 1, -(2**70), 2.5, 1 + 2j, math.inf], [True, 1, -(2**70), 2.5, 1 + 2j, math.inf]),
    ("texts", ["é世", "\udc80", b"a\0\xff"], ["é世", "\udc80", b"a\0\xff"]),
    ("path", Path("a/b"), "a/b"),
    ("enum", [Colour.RED, Colour.PLACE, Colour.PAIR], ["red", "red/place", (1, "x")]),
    ("int enum", Level.HIGH, 3),
    ("text enum", Mode.FAST, "fast"),
    ("flag", Bits.ONE | Bits.TWO, 3),
    ("dataclass", Sizes(), {"hidden": 8, "place": "a/b", "levels": [3]}),
    ("named tuple", Pair(1, Path("x")), (1, "x")),
    ("tuple", (1, (Path("x"), [Level.HIGH])), (1, ("x", [3]))),
    ("set", {5}, [5]),
    ("frozenset", frozenset([Path("x")]), ["x"]),
    ("range", range(2, 8, 3), [2, 5]),
    ("slice", slice(1, 2), "slice(1, 2, None)"),
    ("decimal", Decimal("1.50"), "1.50"),
    ("timedelta", timedelta(minutes=1, milliseconds=500), 60.5),
    ("defaultdict", defaultdict(list, a=[Path("x")]), {"a": ["x"]}),
    ("ordered dict", OrderedDict([("b", Path("x")), ("a", 1)]), OrderedDict([("b", "x"), ("a", 1)])),
    ("counter", Counter("aab"), {"a": 2, "b": 1}),
    ("mapping proxy", MappingProxyType({"a": Level.HIGH}), {"a": 3}),
    ("keys", {Path("x"): 1, (1, Path("y")): 2, Level.HIGH: 3, None: 4}, {"x": 1, (1, "y"): 2, 3: 3, None: 4}),
    ("numpy scalars", [np.float64(1.5), np.int64(3), np.bool_(True), np.str_("x")], [1.5, 3, True, "x"]),
    ("numpy half and complex", [np.float16(0.5), np.complex64(2j), np.uint8(7)], [0.5, 2j, 7]),
    ("numpy time", np.datetime64("2024-05-06"), "2024-05-06"),
    ("numpy array", np.arange(6, dtype=np.int16).reshape(2, 3), torch.arange(6, dtype=torch.int16).view(2, 3)),
    ("numpy array backwards", np.arange(3)[::-1], torch.tensor([2, 1, 0])),
    ("numpy array of texts", np.array(["a", "b"]), ["a", "b"]),
    ("numpy array of objects", np.array([Path("x"), None], dtype=object), ["x", None]),
    ("numpy array of no dimension", np.array(2.5), torch.tensor(2.5, dtype=torch.float64)),
    ("jsonargparse", Namespace(a=1, b=Namespace(c=Path("x"))), {"a": 1, "b": {"c": "x"}}),
    ("argparse", argparse.Namespace(a=Path("x"), b=[Level.HIGH]), {"a": "x", "b": [3]}),
    ("class", nn.Linear, "torch.nn.modules.linear.Linear"),
    ("function", math.sqrt, "math.sqrt"),
    ("method", Path.is_file, "pathlib.Path.is_file"),
    ("subclasses", [Text("x"), Number(4), Share(0.5)], ["x", 4, 0.5]),
    ("odd object", Odd(), "an odd one"),
    ("nested", {"a": [{"b": ({Path("x")}, Sizes(1))}]}, {"a": [{"b": (["x"], plain(Sizes(1)))}]}),
    ("torch", [torch.Size([2, 3]), torch.float16, torch.device("cpu")], None),
    ("tensors", [torch.ones(2, dtype=d) for d in (torch.bfloat16, torch.bool, torch.complex64, torch.uint8)], None),
    ("shapes of tensors", [torch.tensor(2.5), torch.zeros(0, 3), torch.ones(3).expand(2, 3), torch.eye(2).T], None),
]


def saved_and_read(value: Any) -> Any:
    write_checkpoint({"state_dict": {}, "value": value}, PATH)
    return torch.load(PATH, weights_only=True)["value"]


@pytest.mark.parametrize(("value", "expected"), [pytest.param(v, e, id=name) for name, v, e in PLAIN])
def test_any_value_is_read_back_as_a_plain_one(value: Any, expected: Any) -> None:
    expected = value if expected is None else expected
    assert unequal(plain(value), expected) == []
    assert unequal(saved_and_read(value), expected) == []


def test_functions_with_arguments_modules_and_networks_become_texts() -> None:
    found = saved_and_read({"partial": partial(int, base=2), "module": math, "net": nn.ReLU(), "lambda": lambda: 0})
    assert {type(value) for value in found.values()} == {str}
    assert found["net"] == "torch.nn.modules.activation.ReLU"
    assert "math" in found["module"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(np.longdouble(1.5), 1.5, id="long double"),
        pytest.param(np.ones(2, dtype=np.longdouble), torch.ones(2, dtype=torch.float64), id="array of long doubles"),
        pytest.param(np.ones(2, dtype=">f4"), torch.ones(2), id="array of the other byte order"),
        pytest.param({frozenset([1]): 2}, {(1,): 2}, id="set as a key"),
        pytest.param({Frozen(): 2}, {"Frozen(size=1)": 2}, id="dataclass as a key"),
        pytest.param(torch.ones(2).as_subclass(Own), torch.ones(2), id="subclass of Tensor"),
        pytest.param(
            nn.Parameter(torch.ones(2)).as_subclass(Own), nn.Parameter(torch.ones(2)), id="subclass made of a Parameter"
        ),
    ],
)
def test_no_value_is_too_odd_to_be_saved(value: Any, expected: Any) -> None:
    assert unequal(saved_and_read(value), expected) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(deque([1, Path("x")]), [1, "x"], id="deque"),
        pytest.param(bytearray(b"xy"), [b"xy", bytearray(b"xy")], id="bytearray"),
        pytest.param({"a": 1}.values(), [1], id="values of a dict"),
    ],
)
def test_a_collection_stays_one(value: Any, expected: list[Any]) -> None:
    found = saved_and_read(value)
    assert found == expected or found in expected


def test_tensors_stay_the_tensors_they_are() -> None:
    tensor, parameter = torch.ones(2, dtype=torch.bfloat16), nn.Parameter(torch.ones(3))
    state = plain({"tensor": tensor, "list": [tensor], "parameter": parameter})
    assert state["tensor"] is tensor
    assert state["list"][0] is tensor
    assert state["parameter"] is parameter


def test_a_tensor_that_is_there_twice_is_saved_once() -> None:
    tensor = torch.zeros(10_000)
    found = saved_and_read({"one": tensor, "other": tensor})
    assert PATH.stat().st_size < 1.5 * 4 * 10_000
    found["one"][0] = 1
    assert found["other"][0] == 1


def test_a_parameter_stays_one() -> None:
    found = saved_and_read(nn.Parameter(torch.ones(3), requires_grad=False))
    assert type(found) is nn.Parameter
    assert not found.requires_grad


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adam])
def test_an_optimizer_goes_on_from_a_saved_state_as_if_nothing_had_been(kind: type[torch.optim.Optimizer]) -> None:
    def make() -> tuple[nn.Parameter, torch.optim.Optimizer]:
        weight = nn.Parameter(torch.linspace(-1, 1, 5))
        return weight, kind([{"params": [weight], "lr": 0.125}])  # type: ignore[call-arg]

    def step(weight: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        weight.pow(3).sum().backward()
        optimizer.step()

    weight, optimizer = make()
    step(weight, optimizer)
    state = saved_and_read({"weight": weight.data, "optimizer": optimizer.state_dict()})
    assert unequal(state["optimizer"], optimizer.state_dict()) == []
    again, restored = make()
    again.data.copy_(state["weight"])
    restored.load_state_dict(state["optimizer"])
    for _ in range(3):
        step(weight, optimizer)
        step(again, restored)
    assert torch.equal(weight, again)


def test_saving_changes_nothing_of_what_is_saved() -> None:
    state = {"state_dict": {"weight": torch.ones(2)}, "paths": [Path("x")], "sizes": Sizes()}
    write_checkpoint(state, PATH)
    assert state["paths"] == [Path("x")]
    assert state["sizes"] == Sizes()
