"""`doctor.py`: a run that is over, and a config that was not trained yet."""

import gc
import json
import re
import shutil
from pathlib import Path

import psutil
import pytest

from callbacks.doctor import History, Keys, Thresholds
from runs import Run
from scripts.examine import one_batch
from scripts.examine_data import Seen, inputs_and_labels, loading, parts
from tests.conftest import CNN, Command, Result
from tests.scripts.test_doctor import LOGS, TOO_HIGH, fit

BORING = "lightning.pytorch.demos.boring_classes"
CODE = '''
import lightning
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset


class Stream(IterableDataset):
    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        while True:
            x = torch.randn(5, generator=generator)
            yield {"y": x.sum().view(1), "x": x}


class Regression(lightning.LightningModule):
    """Dicts, no validation, a logger of its own, and a schedule that waits for a validation."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch, batch_idx):
        self.logger.experiment.add_scalar("mine", 1.0)
        batch["x"].mul_(1.0)
        return F.mse_loss(self.layers(batch["x"]), batch["y"])

    def configure_optimizers(self):
        made = torch.optim.Adam(self.parameters(), 0.01)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(made)
        return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "monitor": "val/loss"}}

    def configure_callbacks(self):
        return [lightning.pytorch.callbacks.ModelCheckpoint("mine")]


class Streamed(lightning.LightningDataModule):
    def train_dataloader(self):
        assert self.trainer.world_size == 1
        return DataLoader(Stream(), batch_size=16)


class Language(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 32), nn.Linear(32, 20)

    def training_step(self, batch, batch_idx):
        logits = self.head(self.embed(batch["input_ids"]))
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.05)


class Text(lightning.LightningDataModule):
    def __init__(self, num_workers: int = 1):
        super().__init__()
        self.num_workers = num_workers

    def train_dataloader(self):
        tokens = torch.arange(320).view(32, 10) * 7 % 20
        labels = tokens.roll(-1, 1)
        labels[:, -1] = -100
        samples = [{"labels": b, "input_ids": a} for a, b in zip(tokens, labels)]
        return DataLoader(samples, 8, num_workers=self.num_workers, persistent_workers=self.num_workers > 0)


class Bytes(lightning.LightningModule):
    """Images as bytes, some without a label."""

    def __init__(self, normalize: bool = True, frozen: bool = False):
        super().__init__()
        self.normalize = normalize
        self.layer = nn.Linear(64, 3)
        self.frozen = frozen
        if frozen:
            self.scale = nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        x = batch[0].flatten(1).float()
        logits = self.layer((x - 128) / 74 if self.normalize else x)
        return F.cross_entropy(logits.detach() + self.scale if self.frozen else logits, batch[1])

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.01)


class Images(lightning.LightningDataModule):
    def __init__(self, sort: bool = False, rare: bool = False, dark: bool = False, size: int = 300, lost: int = -1):
        super().__init__()
        self.sort, self.rare, self.dark, self.size, self.lost = sort, rare, dark, size, lost

    def part(self, sort):
        x = torch.randint(0, 256, (300, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        y = torch.arange(300) % 3
        if self.rare:
            y[(y == 2) & (torch.arange(300) > 20)] = 0
        y = y.sort().values if sort else y
        y[:3] = -100
        if self.lost >= 0:
            x = x.float()
            x[self.lost, 0, 3] = torch.nan
        return x[: self.size], y[: self.size]

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.part(self.sort)), 30)

    def val_dataloader(self):
        x, y = self.part(False)
        return DataLoader(TensorDataset(x // 8 if self.dark else x, y), 30)


class Manual(lightning.LightningModule):
    """Returns no loss."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization, self.layer = False, nn.Linear(4, 4)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.manual_backward(self.layer(batch[0]).pow(2).mean())
        optimizer.step()

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(32, 4)), 8)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
'''


@pytest.fixture(autouse=True)
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path.parent / f"{tmp_path.name}_odd"
    folder.mkdir()
    (folder / "odd_project.py").write_text(CODE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr("scripts.examine_data.TIMING", 0.1)
    monkeypatch.setattr("scripts.examine_data.LOOKING", 0.5)


def examine(command: Command, model: str, data: str = "", *args: str) -> Result:
    result = command(
        "doctor", "--model", f"odd_project.{model}", *(["--data", f"odd_project.{data}"] if data else []), *args
    )
    assert result.err == ""
    assert not list(Path().iterdir()), "nothing is written"
    return result


def rows(result: Result) -> dict[str, str]:
    """What was said of each check."""
    return {
        found[2].strip(): f"{found[1]} {found[3]}" for found in re.finditer("^(ok|no)  (.{14})(.*)$", result.out, re.M)
    }


# ---- runs


def test_a_run_is_told_as_it_was_when_it_was_trained(command: Command) -> None:
    fit(command, **TOO_HIGH, epochs=2)
    result = command("doctor", "case")
    assert (result.status, result.err) == (1, "")
    (known, *_) = json.loads((LOGS / "version_0/doctor.json").read_text())["findings"]
    lines = result.out.splitlines()
    assert lines[0].startswith("the learning rate is too high (learning_rate_too_high), from step ")
    assert lines[1] == f"  how it shows   {known['evidence']}"
    assert lines[2] == f"  what mends it  try {known['remedies'][0]}"
    (LOGS / "version_0/doctor.json").unlink()
    result = command("doctor", LOGS / "version_0")
    assert "has no doctor.json; this is what its TensorBoard log says" in result.out
    assert result.status == int("no problems found" not in result.out)


def test_a_healthy_run_has_status_0_with_and_without_its_file(command: Command, trained: Run) -> None:
    shutil.copytree(trained.folder, "a run")
    told = command("doctor", "a run")
    assert told.status == 0
    assert re.match(r"no problems found\nlooked for: inputs not normalised, .*\n$", told.out)
    Path("a run/doctor.json").unlink()
    told = command("doctor", "a run")
    assert (told.status, told.err) == (0, "")
    assert "no problems found\nlooked for, as far as the log goes: " in told.out
    assert "dead relus" not in told.out, "of which a log of a few steps has too little"
    # a file that can't be read is no reason to say nothing
    Path("a run/doctor.json").write_text("{")
    told = command("doctor", "a run")
    assert (told.status, told.err) == (0, "")
    assert told.out.startswith("note: a run/doctor.json: damaged (")


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"findings": []}', '{"checked": [], "findings": [{"name": "x"}]}', '{"checked": null}']
)
def test_a_damaged_file_is_one_line(command: Command, content: str) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text("model:\n")
    Path("run/doctor.json").write_text(content)
    result = command("doctor", "run")
    assert result.status == 2
    assert re.fullmatch(r"error: run/doctor.json: damaged \(.*\).*\n", result.err)


def test_what_follows_is_told_beneath_its_cause(command: Command) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text("model:\n")
    cause = {
        "name": "a",
        "title": "first [bold]",
        "step": 9,
        "since": 3,
        "epoch": 0,
        "evidence": "n = 1",
        "remedies": [],
    }
    symptom = {**cause, "name": "b", "title": "second", "follows_from": "a"}
    cause["advice"] = "do it"
    repairs = [{"run": "version_0", "finding": "c", "remedy": ["--x=1", "--y=2"], "result": {}}]
    Path("run/doctor.json").write_text(json.dumps({"checked": [], "findings": [cause, symptom], "repairs": repairs}))
    assert command("doctor", "run").out.splitlines() == [
        "before it: version_0, ended for c, mended with --x=1 --y=2",
        "first [bold] (a), from step 3 on, said at step 9",
        "  how it shows   n = 1",
        "  what mends it  do it",
        "  and so         second: n = 1",
    ]


def test_no_such_run_is_one_line(command: Command) -> None:
    result = command("doctor", "nothing")
    assert result.status == 2
    assert re.fullmatch("error: no run 'nothing', .*\n", result.err)
    assert command("doctor").status == 2
    assert command("doctor", "--help").status == 0
    keys = command("doctor", "nothing", "--optimizer.lr", "1")
    assert keys.err.startswith("error: nothing: a run is examined as it was trained; keys go with --config FILE")
    empty = Path("run")
    empty.mkdir()
    (empty / "config.yaml").write_text("model:\n")
    assert command("doctor", empty).err == "error: run has no doctor.json, and run: no log of a training loss in it\n"


# ---- configs


def test_a_recipe_is_examined_and_nothing_is_left(command: Command) -> None:
    before = set(psutil.Process().children(recursive=True))
    result = command("doctor", "--config", CNN)
    assert (result.status, result.err) == (0, "")
    assert list(rows(result)) == [
        *("inputs", "first loss", "gradients", "one batch", "finite", "labels", "order", "same inputs", "loading")
    ]
    assert "ln 10 is 2.303" in rows(result)["first loss"]
    assert "10 classes" in rows(result)["labels"]
    assert result.out.endswith("\nno problems found in 9 checks\n")
    assert not list(Path().iterdir())
    gc.collect()
    assert set(psutil.Process().children(recursive=True)) == before


@pytest.mark.parametrize(
    ("keys", "check", "cure"),
    [
        (["--optimizer.lr", "1e-7"], "one batch", "try --optimizer.lr 0.0"),
        (["--optimizer.lr", "100"], "one batch", "try --optimizer.lr 0.0"),
    ],
)
def test_a_fault_in_a_recipe_is_found(command: Command, keys: list[str], check: str, cure: str) -> None:
    result = command("doctor", "--config", CNN, *keys)
    assert result.status == 1
    assert rows(result)[check].startswith("no ")
    assert f"{'':18}{cure}" in result.out
    assert not list(Path().iterdir())


def test_a_mistake_in_a_config_is_one_line(command: Command) -> None:
    result = command("doctor", "--config", CNN, "--optimizer.lrr", "1")
    assert result.status == 2
    assert result.err.startswith("error: optimizer.lrr: no such key")


def test_a_recipe_for_gpus_is_examined_where_there_are_none(command: Command) -> None:
    gpu = ["--trainer.accelerator", "gpu", "--trainer.devices", "4", "--trainer.precision", "bf16-mixed"]
    result = examine(command, "Bytes", "Images", *gpu)
    assert result.out.startswith("note: trainer.accelerator gpu is not here: examined on the CPU\n")
    assert result.status == 0


def test_a_regression_on_a_stream_of_dicts(command: Command) -> None:
    result = examine(command, "Regression", "Streamed")
    assert result.status == 0
    assert set(rows(result)) == {"inputs", "first loss", "gradients", "one batch", "finite", "loading"}


def test_a_language_model_has_no_labels_to_balance(command: Command) -> None:
    result = examine(command, "Language", "Text")
    found = rows(result)
    assert found["inputs"] == "ok whole numbers, for an embedding"
    assert "ln 20 is 2.996" in found["first loss"]
    assert found["one batch"].startswith("ok ")
    assert "labels" not in found
    assert re.search("ms with 0, 1, 2 workers; a step ", found["loading"])
    gc.collect()
    assert not [child for child in psutil.Process().children() if "pt_data" in child.name()]


def test_images_as_bytes_and_samples_without_label(command: Command) -> None:
    found = rows(examine(command, "Bytes", "Images"))
    assert found["labels"] == "ok 3 classes with 99 samples each"
    assert found["same inputs"].startswith("ok ")
    wrong = [examine(command, "Bytes", "Images", *keys) for keys in (
        ["--data.sort", "true"], ["--data.rare", "true"], ["--data.dark", "true"], ["--model.normalize", "false"],
        ["--model.frozen", "true"],
    )]  # fmt: skip
    assert "try --data.sort false" in wrong[0].out
    assert "same inputs" in rows(wrong[0]), "all were seen, whatever their order"
    checks = ["order", "labels", "same inputs", "inputs", "one batch"]
    assert all(result.status == 1 for result in wrong)
    assert all(rows(result)[check].startswith("no ") for result, check in zip(wrong, checks, strict=True))


def test_a_sample_that_is_not_finite_is_named(command: Command) -> None:
    result = examine(command, "Bytes", "Images", "--data.lost", "167")
    assert result.status == 1
    assert rows(result)["finite"] == (
        "no 1 of 300 training samples have a NaN or infinite input, the first is sample 167; "
        "1 of 300 validation samples have a NaN or infinite input, the first is sample 167"
    )


def test_outputs_without_a_class_are_no_problem() -> None:
    train = Seen([50.0, 50.0, 0.0, 0.0], [(100, 0.69)], samples=100, whole=True)
    text = parts(train, Seen([5.0, 5.0, 0.0, 0.0]), Thresholds(), Keys({}))[1]
    assert (text.wrong, text.text) == (False, "2 classes for 4 outputs; 50 to 50 samples of each that is there")
    lost = parts(train, Seen([5.0, 5.0, 3.0, 0.0]), Thresholds(), Keys({}))[1]
    assert lost.wrong
    assert "no training samples of 2, of which validation has some" in lost.text


@pytest.mark.filterwarnings("default:You defined a `validation_step`")
def test_modules_of_other_kinds(command: Command) -> None:
    empty = command("doctor", "--model", "odd_project.Bytes", "--data", "odd_project.Images", "--data.size", "0")
    assert (empty.status, empty.err) == (2, "error: data: the train_dataloader of Images gives no batch\n")
    tiny = examine(command, "Bytes", "Images", "--data.size", "6")
    assert "3 classes" in rows(tiny)["labels"]
    assert "order" not in rows(tiny), "one batch says nothing of it"
    assert "returns no loss" in rows(examine(command, "Manual"))["one batch"]
    result = command("doctor", "--model", f"{BORING}.BoringModel", "--data", f"{BORING}.BoringDataModule")
    assert result.status in (0, 1)
    assert result.err == ""
    none = command("doctor", "--model", f"{BORING}.ManualOptimBoringModel", "--data", "lightning.LightningDataModule")
    assert none.status == 2
    assert re.search("^error: .*train_dataloader.*\n$", none.err, re.M)


# ---- its parts


def test_a_batch_that_was_hardly_tried_is_no_problem() -> None:
    history = History()
    for step in range(1, 11):
        history.add_loss(step, 2.3)
    few = one_batch(history, Keys({}))
    assert (few.wrong, few.open) == (False, True)
    history.add_loss(11, float("nan"))
    for step in range(12, 60):
        history.add_loss(step, float("nan"))
    assert one_batch(history, Keys({})).wrong


def test_loss_below_zero_can_be_learnt() -> None:
    history = History()
    for step in range(1, 100):
        history.add_loss(step, 1.0 - step / 10)
    assert not one_batch(history, Keys({})).wrong


def test_labels_are_told_from_what_looks_like_them() -> None:
    import torch

    x, y = torch.randn(4, 2), torch.tensor([0, 2, -100, 1])
    for batch in ((x, y), [x, y], {"label": y, "x": x}, (x, y, torch.randn(4)), (x, y[:, None])):
        inputs, labels = inputs_and_labels(batch, 3)
        assert inputs is not None
        assert torch.equal(inputs, x)
        assert labels is not None
        assert labels.tolist() == [0, 2, 1]
    for other in ((x, torch.tensor([10**12] * 4)), (x, torch.randn(4)), (x, y.repeat(3, 1)), x, "text", (), {"a": 1}):
        assert inputs_and_labels(other, 3)[1] is None
    assert inputs_and_labels((x, torch.tensor([0.0, 1, 1, 0])), 2)[1] is not None, "for one logit"


@pytest.mark.parametrize(
    ("found", "workers", "step", "cure"),
    [
        ({0: 50.0, 1: 20.0, 2: 9.0}, 0, 0.01, ["--data.num_workers 2"]),
        ({0: 1.0, 1: 3.0, 2: 3.0}, 0, 0.01, []),
        ({0: 50.0, 1: 20.0, 2: 9.0}, 2, 0.01, []),
        ({0: 50.0, 1: 50.0, 2: 49.0}, 0, 0.01, ["make a sample cheaper, or keep decoded ones in memory"]),
        ({None: 50.0}, None, 0.01, ["make a sample cheaper, or keep decoded ones in memory"]),
        ({None: float("nan")}, None, 0.01, []),
        ({0: 50.0}, 0, float("nan"), []),
    ],
)
def test_workers_are_advised_where_they_help(
    found: dict[int | None, float], workers: int | None, step: float, cure: list[str]
) -> None:
    checks = loading(found, workers, step, Keys({"data.num_workers": workers}), Thresholds())
    assert [remedy for check in checks for remedy in check.remedies] == cure
    without_key = loading({0: 50.0, 1: 20.0, 2: 9.0}, 0, 0.01, Keys({}), Thresholds())[0].remedies
    assert without_key == ["no key sets the workers: give the DataLoader num_workers=2"]
