"""`callbacks.Progress`: lines in a log file, a bar in a terminal."""

import re
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.demos.boring_classes import BoringModel
from rich.console import Console
from torch import Tensor, nn

from callbacks import Progress
from tests.conftest import Loader, quick_trainer

BATCHES = Loader([torch.ones(2, 3)] * 4)


class Model(LightningModule):
    """Logs given numbers, so many that no narrow terminal holds them."""

    def __init__(self, metrics: dict[str, float]) -> None:
        super().__init__()
        self.net, self.metrics = nn.Linear(3, 1), metrics

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log_dict({k: v for k, v in self.metrics.items() if k.startswith("train")}, on_step=False, on_epoch=True)
        return self.net(batch).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log_dict({k: v for k, v in self.metrics.items() if not k.startswith("train")})

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


METRICS = {"val/acc": 0.75, "val/loss": 0.5, "train/loss": 0.25}
MANY = {f"val/metric_number_{i}": float(i) for i in range(9)}


def terminal(**options: Any) -> Console:
    return Console(file=StringIO(), force_terminal=True, width=60, _environ={"TERM": "xterm"}, **options)


def printed(console: Console, model: LightningModule | None = None, batches: Any = BATCHES, **options: Any) -> str:
    """What a run of two epochs prints."""
    progress = Progress(console, refresh_seconds=0)
    trainer = quick_trainer(enable_progress_bar=True, callbacks=[progress], **{"max_epochs": 2, **options})
    trainer.fit(model or Model(METRICS), batches, Loader(BATCHES.batches[:1]))
    return console.file.getvalue()  # type: ignore[attr-defined]


def lines_seen(text: str) -> list[str]:
    """What stands on the lines of a terminal at one time or another, without escape codes."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return [line.rstrip() for line in re.split(r"[\r\n]", plain) if line.strip()]


def test_a_log_file_gets_a_headline_and_a_line_for_each_epoch() -> None:
    lines = printed(Console(file=StringIO(), width=200)).splitlines()
    assert lines[0] == "Model with Linear (4 parameters) on its own data, cpu, 4 steps an epoch"
    assert len(lines) == 3
    for epoch, line in enumerate(lines[1:]):
        assert re.fullmatch(rf"epoch   {epoch}  train loss 0\.2500  val loss 0\.5000 acc 0\.7500  \d+\.\d s", line)


def test_a_log_file_gets_no_escape_codes_and_no_bar() -> None:
    text = printed(Console(file=StringIO(), width=200))
    assert "\x1b" not in text
    assert "\r" not in text
    assert "━" not in text


def test_a_terminal_gets_a_bar_that_counts_the_steps_and_goes_away() -> None:
    text = printed(terminal())
    assert "━" in text
    assert any(re.match(r"epoch 0 .*4/4", line) for line in lines_seen(text))
    assert any(re.match(r"epoch 1 .*2/4", line) for line in lines_seen(text))
    assert text.count("\x1b[?25h") == text.count("\x1b[?25l") > 0  # the cursor comes back


def test_a_terminal_gets_the_line_of_each_epoch_too() -> None:
    lines = [line for line in lines_seen(printed(terminal())) if "val loss" in line]
    assert [line[:11] for line in lines] == ["epoch   0  ", "epoch   1  "]


@pytest.mark.parametrize("metrics", [METRICS, MANY])
def test_no_line_is_longer_than_the_terminal(metrics: dict[str, float]) -> None:
    assert max(map(len, lines_seen(printed(terminal(), Model(metrics))))) <= 60


def test_the_console_of_the_command_line_prints_no_line_longer_than_the_terminal() -> None:
    console = terminal(highlight=False, soft_wrap=True)  # as Progress makes it
    assert max(map(len, lines_seen(printed(console, Model(METRICS))))) <= 60


def test_the_line_of_an_epoch_is_cut_where_the_terminal_ends() -> None:
    lines = lines_seen(printed(terminal(highlight=False, soft_wrap=True), Model(MANY)))
    epochs = [line for line in lines if "metric_number" in line]
    assert len(epochs) == 2
    assert all(len(line) == 60 and line.endswith("…") for line in epochs)


def test_a_log_file_gets_every_metric_in_one_line() -> None:
    lines = printed(Console(file=StringIO(), highlight=False, soft_wrap=True), Model(MANY)).splitlines()
    assert "metric_number_0 0.0000" in lines[1]
    assert "metric_number_8 8.0000" in lines[1]


@pytest.mark.parametrize("console", [terminal, lambda: Console(file=StringIO())])
def test_once_disabled_it_prints_nothing(console: Any) -> None:
    console, progress = console(), Progress()
    progress.console = console
    trainer = quick_trainer(enable_progress_bar=True, callbacks=[progress])
    progress.disable()
    trainer.fit(Model(METRICS), BATCHES, BATCHES)
    assert console.file.getvalue() == ""


def test_a_crash_gives_the_cursor_back() -> None:
    class Broken(Model):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                raise RuntimeError("broken")

    console = terminal()
    with pytest.raises(RuntimeError, match="broken"):
        printed(console, Broken(METRICS))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_batches_without_a_known_number_are_counted_without_a_total() -> None:
    class Endless:
        def __iter__(self) -> Iterator[Tensor]:
            return iter(BATCHES)

    text = printed(terminal(), batches=Endless())
    assert any(re.match(r"epoch 1 .*4/\?", line) for line in lines_seen(text))


def test_a_module_that_logs_nothing_gets_its_lines() -> None:
    model, batches = BoringModel(), Loader([torch.ones(2, 32)])
    console = Console(file=StringIO(), width=200)
    trainer = quick_trainer(enable_progress_bar=True, callbacks=[Progress(console)])
    trainer.fit(model, batches, batches)
    assert re.search(r"^epoch   0  \d+\.\d s$", console.file.getvalue(), re.MULTILINE)  # type: ignore[attr-defined]
