"""`runs.weights`: files of many kinds, names that differ, and what is told of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import save_file
from torch import Tensor, nn

from runs.errors import UserError
from runs.weights import load_weights, read_weights


class Model(LightningModule):
    """A network of two layers and a head, as tasks have it."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        torch.manual_seed(1)
        body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
        self.net = nn.ModuleDict({"backbone": body, "head": nn.Linear(4, outputs)})


def body(value: float = 7.0, prefix: str = "") -> dict[str, Tensor]:
    """Weights of the body, all of them the same number, under other names."""
    state = Model().net["backbone"].state_dict()
    return {prefix + name: torch.full_like(tensor, value) for name, tensor in state.items()}


def is_seven(model: Model) -> bool:
    return all(bool((value == 7).all()) for value in model.net["backbone"].state_dict().values())


@pytest.mark.parametrize("prefix", ["", "module.", "model.encoder.", "net.backbone.", "net._orig_mod.backbone."])
def test_names_that_differ_by_what_stands_before_them_are_matched(prefix: str) -> None:
    torch.save(body(prefix=prefix), "w.pt")
    model = Model()
    head = model.net["head"].weight.clone()
    found = load_weights(model, Path("w.pt"))
    assert is_seven(model)
    assert torch.equal(model.net["head"].weight, head)
    assert len(found.fitted) == 9
    assert found.missing == ["net.head.weight", "net.head.bias"]
    told = {"net.backbone.": None, "net._orig_mod.backbone.": ("net._orig_mod.", "net.")}
    assert found.renamed == told.get(prefix, (prefix, "net.backbone."))
    # of 16 + 8 + 20 + 10 parameters
    assert found.share == pytest.approx(44 / 54)


def save(kind: str, state: dict[str, Tensor]) -> Path:
    """A file, or a folder, with these weights."""
    Path("out").mkdir()
    if kind == "folder":
        save_file(state, "out/model.safetensors")
        return Path("out")
    if kind == "parts":
        names = list(state)
        parts = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
        for part, inside in parts.items():
            save_file({name: state[name] for name in inside}, f"out/{part}")
        index = {"weight_map": {name: part for part, inside in parts.items() for name in inside}}
        Path("out/model.safetensors.index.json").write_text(json.dumps(index))
        return Path("out")
    path = Path("out", "w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        wrapped: Any = {"nested": {"model": state, "epoch": 3}, "old": state, "plain": state}[kind]
        torch.save(wrapped, path, _use_new_zipfile_serialization=kind != "old")
    return path


@pytest.mark.parametrize("kind", ["plain", "old", "nested", "safetensors", "folder", "parts"])
def test_each_kind_of_file(kind: str) -> None:
    model = Model()
    load_weights(model, save(kind, body()))
    assert is_seven(model)


def test_prefixes_that_are_replaced_and_names_that_are_left_out() -> None:
    state = {f"a.{name}" if name[0] == "0" else f"b.{name}": value for name, value in body().items()}
    torch.save({**state, "old.weight": torch.full((2, 4), 7.0)}, "w.pt")
    model = Model()
    rename = {"a.": "net.backbone.", "b.": "net.backbone.", "old.": "net.head."}
    found = load_weights(model, Path("w.pt"), rename, ["net.backbone.2.*"])
    assert (model.net["head"].weight == 7).all()
    assert found.skipped == ["net.backbone.2.weight", "net.backbone.2.bias"]
    assert found.missing == ["net.head.bias"]
    assert not (model.net["backbone"][2].weight == 7).any()
    assert "skipped: 2 (net.backbone.2.weight, net.backbone.2.bias)" in str(found)


def test_the_report_names_what_did_not_fit() -> None:
    head = {"head.weight": torch.zeros(1000, 4), "more": torch.zeros(2)}
    torch.save({f"backbone.{name}": value for name, value in body().items()} | head, "w.pt")
    assert str(load_weights(Model(), Path("w.pt"), source="package:x/w.pt")).splitlines() == [
        "weights: 9 of 11 tensors from package:x/w.pt, 81.5% of the parameters",
        "  renamed: * → net.*",
        "  missing: 1 (net.head.bias)",
        "  unexpected: 1 (more)",
        "  of another shape: 1 (net.head.weight (1000, 4) → (2, 4))",
    ]


def test_little_that_fits_is_told() -> None:
    torch.save({"net.head.bias": torch.zeros(2)}, "w.pt")
    assert "  warning: 96% of the parameters start as those of a new model" in str(load_weights(Model(), Path("w.pt")))


def test_what_can_not_be_is_one_line() -> None:
    torch.save(body(), "w.pt")
    torch.save({"x": torch.zeros(1)}, "other.pt")
    torch.save({"epoch": 3}, "none.pt")
    Path("damaged.safetensors").write_bytes(b"\x10\0\0\0")
    Path("empty").mkdir()
    Path("bad.index.json").write_text('{"weight_map": {"a": "../w.pt"}}')
    cases: list[tuple[str, dict[str, Any], str]] = [
        (
            "other.pt",
            {},
            "--weights: nothing in other.pt fits the model; it has x, and the model net.backbone.0.weight",
        ),
        ("none.pt", {}, "none.pt: there are no weights in it"),
        ("gone.safetensors", {}, "gone.safetensors: no such file"),
        ("gone.pt", {}, "gone.pt: no such file"),
        ("damaged.safetensors", {}, "damaged.safetensors: damaged, or no safetensors file"),
        ("empty", {}, "empty: no weights in this folder, that is, none of model.safetensors"),
        ("bad.index.json", {}, "bad.index.json: refused: it names '../w.pt'"),
        (
            "w.pt",
            {"rename": {"encoder.": ""}},
            "--weights_rename: no name in w.pt begins with 'encoder.'; it has 0.weig",
        ),
        ("w.pt", {"skip": ["head.*"]}, "--weights_skip: 'head.*' matches nothing; the model has net.backbone.0.weight"),
    ]
    for name, options, message in cases:
        with pytest.raises(UserError) as told:
            load_weights(Model(), Path(name), **options)
        assert str(told.value).startswith(message)
        assert "\n" not in str(told.value)


def test_a_file_in_parts_of_which_one_is_missing_is_told() -> None:
    folder = save("parts", body())
    Path(folder, "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"out/b.safetensors: no such file"):
        read_weights(folder)
