"""A language model through the whole program: trained, resumed, tested, and writing."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, Command
from tests.same import differences

RECIPE = ["--config", str(ROOT / "configs" / "gpt.yaml"), "--model.net.depth=1", "--model.net.width=32"]
OWN = ["--data=datamodules.Text", "--data.path=my text.txt", "--data.context=16", "--data.test_fraction=0.1"]
SHORT = ["--trainer.val_check_interval=20", "--trainer.max_steps=100", "--optimizer.lr=0.01", "--lr_scheduler.warmup=5"]
RUN = Path("lightning_logs/gpt/version_0")


@pytest.fixture(autouse=True)
def _text() -> None:
    Path("my text.txt").write_text("to be or not to be, that is the question; " * 400)


def test_a_text_is_learnt_tested_and_written(command: Command) -> None:
    done = command("fit", *RECIPE, *OWN, *SHORT)
    assert (done.status, done.err) == (0, "")
    assert '--prompt "The "' in done.out
    summary = json.loads((RUN / "summary.json").read_text())
    assert summary["test"]["test/loss"] < 1.5
    assert summary["test"]["test/bits_per_byte"] == pytest.approx(summary["test"]["test/loss"] / 0.6931472, rel=1e-5)
    assert f"bits_per_byte {summary['test']['test/bits_per_byte']:.4f}" in command("test", "gpt").out
    written = command("predict", "gpt", "--prompt", "to be ", "--tokens", "60")
    assert written.status == 0
    assert written.out.startswith("to be ")
    assert len(written.out) == len("to be ") + 60 + 1
    assert written.out == command("predict", "gpt", "--prompt=to be ", "--tokens=60").out
    assert written.out != command("predict", "gpt", "--prompt=to be ", "--tokens=60", "--seed=1").out
    best = [command("predict", "gpt", "--prompt=to", *options).out for options in (["--temperature=0"], ["--top-k=1"])]
    assert best[0] == best[1]
    result = command("predict", "gpt", "--prompt=to", "--out=text.txt")
    assert result.out == "200 tokens written: text.txt\n"
    assert Path("text.txt").read_text().startswith("to")


def test_a_run_that_was_cut_goes_on_to_the_same_weights(command: Command) -> None:
    keys = ["--model.net.dropout=0.1", "--model.net.checkpoint_activations=true", "--lr_scheduler=null"]
    keys += ["--doctor.enabled=false"]  # at its end, a short run may be told what a long one is not
    for name, steps in (("whole", 40), ("cut", 20)):
        done = command("fit", *RECIPE, *OWN, SHORT[0], *keys, f"--trainer.max_steps={steps}", f"--name={name}")
        assert (done.status, done.err) == (0, "")
    assert command("fit", "--resume", "lightning_logs/cut", "--trainer.max_steps=40").status == 0
    assert differences(*(Path(f"lightning_logs/{name}/version_0") for name in ("cut", "whole"))) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prompt="], "--prompt: it is empty; a line break will do: --prompt $'\\n'"),
        (["--prompt=a", "--tokens=0"], "--tokens: 0 is below 1"),
        (["--prompt=a", "--temperature=-1"], "--temperature: -1.0 is below 0"),
        (
            ["my text.txt", "--prompt=a"],
            "--prompt: text is written, or files are predicted: my text.txt is one too many",
        ),
        (["my text.txt"], "lightning_logs/gpt: its data, Text, can't read files; it writes text by --prompt"),
    ],
)
def test_what_can_not_be_written_is_told(args: list[str], message: str, command: Command) -> None:
    if "--tokens" not in message:
        assert command("fit", *RECIPE, *OWN, "--trainer.max_steps=1", "--trainer.val_check_interval=1").status == 0
    result = command("predict", "lightning_logs/gpt", *args)
    assert result.status == 2
    assert result.err.startswith(f"error: {message}")
    assert result.err.count("\n") == 1


def test_a_classifier_writes_no_text(command: Command) -> None:
    cnn = ["--config", str(ROOT / "configs" / "cnn.yaml"), "--model.net.width=4", "--trainer.max_epochs=1"]
    assert command("fit", *cnn).status == 0
    result = command("predict", "cnn", "--prompt=hello")
    assert result.err == "error: --prompt: cnn is no language model, but Classifier on Digits\n"
