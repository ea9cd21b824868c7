"""A trained network in a file of its own, which runs without this project."""

import importlib.util
import json
import logging
import os
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn

from runs.errors import UserError, nearest, one_line

SUFFIXES = (".pt2", ".onnx")
TOLERANCE = 1e-3  # of the largest output: kernels of another library add up float32 in another order
TORCH = Path(torch.__file__).parent
LARGEST_ONNX = 2**31 - 2**24  # bytes; the format is protobuf's
Prepare = Callable[[Tensor], Tensor]


class Exported(nn.Module):
    """What `predict.py` does with inputs: their preparation by the data, the network, probabilities or units.

    Args:
        module: In evaluation mode.
        prepare: What is done with inputs before `module`.

    Attributes:
        method: Of `module`, which gives the outputs: `predict_step`, or `forward` where that takes no inputs alone.
    """

    def __init__(self, module: LightningModule, prepare: Prepare) -> None:
        super().__init__()
        self.module, self.prepare = module, prepare
        self.method = "predict_step"

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.prepare(inputs)
        return self.module.predict_step(x, 0) if self.method == "predict_step" else self.module(x)

    def try_out(self, inputs: Tensor) -> Tensor:
        """The outputs, by the first method that takes the inputs.

        Raises:
            UserError: Neither does, or what they give is no tensor.
        """
        try:
            outputs = self(inputs)
        except Exception:  # anything may happen in a step that wants to unpack targets
            self.method = "forward"
            try:
                outputs = self(inputs)
            except Exception as error:
                name, reason = type(self.module).__name__, one_line(error)[:300]
                raise UserError(f"{name} takes no inputs without targets, by forward: {reason}") from error
        if not isinstance(outputs, Tensor):
            name = f"{type(self.module).__name__}.{self.method}"
            raise UserError(f"{name} gives a {type(outputs).__name__}; what is exported has to give a tensor")
        return outputs


def check_suffix(out: str, option: str = "--out") -> None:
    """Refuse a file of another kind, and one that needs packages that are not there.

    Raises:
        UserError: It is neither `.pt2` nor `.onnx`, or the extra `export` is missing.
    """
    suffix = Path(out).suffix
    if suffix not in SUFFIXES:
        raise UserError(f"{option}: {out} ends in neither .pt2 nor .onnx{nearest(suffix, SUFFIXES)}")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if suffix == ".onnx" and missing:
        raise UserError(f"{option}: .onnx needs {' and '.join(missing)}: pip install -e '.[export]'")


def write_export(module: LightningModule, data: LightningDataModule, out: Path) -> dict[str, Any]:
    """Write a network, and make sure that the file gives the module's own outputs.

    Args:
        module: With its trained weights; it is brought to the CPU and into evaluation mode.
        data: As it was when the run was trained. Its method `exported` says how an exported network begins: what is
            done with inputs, some of them, and what is to be known of them; data without it are asked for a batch.
        out: `.pt2` (torch.export) or `.onnx`; it takes any number of samples, and of tokens.

    Returns:
        `inputs` and `outputs` (dtype and shape, what the data say of them, names of the columns) and `method`, which
        are in the file, too, as `about.json` or the metadata `about`; and `largest_difference` to the module's outputs,
        over the largest of these, or over 1.

    Raises:
        UserError: The network can't be exported, or gives other outputs.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    prepare, inputs, said = data.exported() if hasattr(data, "exported") else _of_a_batch(data)
    whole = Exported(module.cpu(), prepare).eval()
    part = out.with_name(f".{out.name}.{os.getpid()}")
    module.requires_grad_(False)  # so that the outputs of what is read again have no gradient
    try:
        with torch.no_grad(), _quiet():
            outputs = whole.try_out(inputs)  # before it is traced, so that what is made once is made
            program, tokens = _traced(whole, inputs)
            about = {
                "inputs": {**_shape(inputs, tokens), **said},
                "outputs": {**_shape(outputs, tokens and outputs.ndim == 3), "columns": _columns(module, data)},
                "method": whole.method,
            }
            again = (_write_onnx if out.suffix == ".onnx" else _write_pt2)(program, part, about)
            some = [inputs, inputs[:1], torch.cat((inputs, inputs[:1]))]  # other numbers than those it was traced with
            if tokens and inputs.shape[1] > 2:
                some.append(inputs[:, :-1])
            difference = max(_difference(again, whole, x) for x in some)
            part.replace(out)
    finally:
        part.unlink(missing_ok=True)
        for parameter in trainable:
            parameter.requires_grad_(True)
    return {**about, "largest_difference": difference}


def _of_a_batch(data: LightningDataModule) -> tuple[Prepare, Tensor, dict[str, Any]]:
    """How a network begins whose data say nothing of it: with what becomes of the inputs of a validation batch."""
    data.prepare_data()
    data.setup("validate")
    batch = next(iter(data.val_dataloader()), None)
    inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(inputs, Tensor) or not len(inputs):
        raise UserError(f"data: {type(data).__name__} gives inputs that are a {type(inputs).__name__} and no tensor")
    # three at least: a step that wants to unpack targets would unpack two of them
    some = inputs if len(inputs) > 2 else torch.cat([inputs] * 3)
    return lambda x: data.on_after_batch_transfer(x, 0), some, {}


def _traced(whole: Exported, inputs: Tensor) -> tuple[torch.export.ExportedProgram, bool]:
    """The network's graph, and whether it takes any number of tokens, too."""
    dims: dict[int, Any] = {0: torch.export.Dim("samples", min=1)}
    tokens = not inputs.is_floating_point() and inputs.ndim == 2 and inputs.shape[1] > 1
    if not tokens:
        return _program(whole, inputs, dims), False
    # what the network allows is found out first, and then said, without which ONNX can't be made of it
    program = _program(whole, inputs, {**dims, 1: torch.export.Dim.AUTO})
    length = next(node.meta["val"] for node in program.graph.nodes if node.name == "inputs").shape[1]
    if not isinstance(length, torch.SymInt):
        return program, False
    allowed = program.range_constraints[length.node.expr]
    least, most = max(1, int(allowed.lower)), int(allowed.upper) if allowed.upper.is_number else None
    return _program(whole, inputs, {**dims, 1: torch.export.Dim("tokens", min=least, max=most)}), True


def _program(whole: Exported, inputs: Tensor, dims: dict[int, Any]) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(whole, (inputs,), dynamic_shapes=(dims,))
    except Exception as error:
        first = error
    try:  # reads the code in place of running it: so `len(x)` is no constant; slower, and not for all code
        return torch.export.export(whole, (inputs,), dynamic_shapes=(dims,), strict=True)
    except Exception as error:
        frames = traceback.extract_tb(first.__traceback__)
        last = [frame for frame in frames if TORCH not in Path(frame.filename).parents][-1]
        place = f" ({last.filename}, line {last.lineno})" if last.filename != __file__ else ""
        reason = one_line(str(error).strip().partition("\n")[0])[:200]
        raise UserError(f"{type(whole.module).__name__} can't be exported: {reason}{place}") from first


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of what the tracers and exporters print, log and warn of: their steps, packages that are not there."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _difference(again: Prepare, whole: nn.Module, inputs: Tensor) -> float:
    expected, found = whole(inputs).float(), again(inputs).float()
    if expected.shape != found.shape:
        raise UserError(f"the exported network gives {tuple(found.shape)}, and the module {tuple(expected.shape)}")
    if expected.isnan().any():
        raise UserError("the module gives NaN for inputs that are none; --ckpt names another checkpoint")
    # infinite ones are equal or not: logits may be masked
    largest = max(1.0, float(expected.nan_to_num(posinf=0.0, neginf=0.0).abs().max()))
    difference = float(torch.where(found == expected, 0.0, found - expected).abs().max()) / largest
    if not difference <= TOLERANCE:
        raise UserError(f"the exported network gives other outputs than the module: they differ by {difference:.3g}")
    return difference


def _write_pt2(program: torch.export.ExportedProgram, out: Path, about: dict[str, Any]) -> Prepare:
    with out.open("wb") as file:
        torch.export.save(program, file, extra_files={"about.json": json.dumps(about)})
    with out.open("rb") as file:
        return torch.export.load(file).module()


def _write_onnx(program: torch.export.ExportedProgram, out: Path, about: dict[str, Any]) -> Prepare:
    import onnxruntime

    if (size := sum(tensor.nbytes for tensor in program.state_dict.values())) > LARGEST_ONNX:
        raise UserError(f"--out: {size / 1e9:.1f} GB of weights, and an ONNX file holds 2 GB; .pt2 holds any number")
    try:
        made = torch.onnx.export(program, dynamo=True, input_names=["inputs"], output_names=["outputs"], verbose=False)
    except torch.onnx.OnnxExporterError as error:
        unknown = re.search(r"No ONNX function found for <OpOverload\(op='(.+?)'", str(error))
        reason = f"it has no {unknown[1]}" if unknown else one_line(error).partition("Exception summary ")[2][:200]
        raise UserError(f"--out: ONNX can't tell what this network does ({reason}); .pt2 can") from error
    assert made is not None
    made.model.metadata_props["about"] = json.dumps(about)
    made.save(out, external_data=False)
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["outputs"], {"inputs": x.numpy()})[0])


def _shape(values: Tensor, tokens: bool) -> dict[str, Any]:
    shape = ["samples", *values.shape[1:]]
    if tokens:
        shape[1] = "tokens"
    return {"dtype": str(values.dtype).removeprefix("torch."), "shape": shape}


def _columns(module: LightningModule, data: LightningDataModule) -> list[str] | None:
    """What the outputs are called."""
    if (classes := getattr(data, "class_names", None)) is not None:
        return list(classes)
    if hasattr(module, "prediction_names"):
        return module.prediction_names(data.target_names)  # type: ignore[operator, attr-defined, no-any-return]
    return None
