"""Runs side by side."""

import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from runs import Run
from runs.compare import compare, differing, print_table, write_html
from runs.errors import UserError
from runs.keys import changed_keys, flat
from runs.resume import RunLock
from runs.run import run_folders
from runs.status import better_mode, read_config
from tests.runs.test_events import write_log

LOGS = Path("lightning_logs")
BASE: dict[str, Any] = {
    "seed_everything": 1,
    "model": {
        "class_path": "modules.Classifier",
        "init_args": {"net": {"class_path": "a.CNN", "init_args": {"width": 8}}},
    },
    "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "betas": [0.9, 0.999]}},
    "checkpoint": {"monitor": "val/loss", "mode": "min", "dirpath": None},
    "trainer": {"max_epochs": 3, "default_root_dir": None},
}


def make(place: str, *, lr: float = 0.01, loss: float | None = None, folder: Path = LOGS, **changes: Any) -> Path:
    """A run's folder; without a loss it has no summary."""
    run = folder / place
    run.mkdir(parents=True)
    config = json.loads(json.dumps({**BASE, **changes}))
    if config["optimizer"]["class_path"].endswith("AdamW"):
        config["optimizer"]["init_args"]["lr"] = lr
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if loss is not None:
        summary = {"val": {"val/loss": loss, "val/acc": 1 - loss}, "test": {"test/acc": 0.5}, "last_epoch": 2}
        (run / "summary.json").write_text(json.dumps({**summary, "seconds": 65.0}).replace("NaN", "null"))
    return run


def printed(width: int | None, **options: Any) -> str:
    """The table in a terminal of so many columns, or in a pipe."""
    console = Console(file=io.StringIO(), width=width or 80, force_terminal=width is not None, color_system=None)
    print_table(compare(**options), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def names(**options: Any) -> list[str]:
    return [row.name for row in compare(**options).rows]


# ---- which runs


def test_all_runs_are_found_in_natural_order() -> None:
    for name in ("b/version_2", "b/version_10", "a/version_0", "deep/er/version_1", "loose"):
        make(name, loss=0.5)
    (LOGS / "not a run").mkdir()
    (LOGS / "file").touch()
    found = [path.relative_to(LOGS).as_posix() for path in run_folders(LOGS)]
    assert found == ["a/version_0", "b/version_2", "b/version_10", "deep/er/version_1", "loose"]
    assert names(places=["b"]) == ["b/version_2", "b/version_10"]
    assert names(places=["lightning_logs/b/version_10", "b/version_10"]) == ["b/version_10"]
    assert names(places=["loose", "a"]) == ["loose", "a/version_0"]


def test_what_is_no_run_is_told() -> None:
    with pytest.raises(UserError, match="no runs in "):
        compare()
    make("cnn/version_0")
    with pytest.raises(UserError, match=r"no run 'cnm', neither .*; did you mean 'cnn'\?"):
        compare(["cnm"])
    (LOGS / "empty").mkdir()
    with pytest.raises(UserError, match=r"'empty', neither as a folder nor in .*; there are cnn$"):
        compare(["empty"])
    with pytest.raises(UserError, match="there are no runs in it"):
        compare([str(LOGS / "empty")])


# ---- in which state


def test_each_state_is_told_and_no_state_is_a_crash() -> None:
    make("r/version_0", loss=0.5)
    make("r/version_1")
    held = make("r/version_2")
    (make("r/version_3") / "config.yaml").write_text("model: [")
    (make("r/version_4", loss=0.5) / "config.yaml").unlink()
    (make("r/version_5", loss=0.5) / "summary.json").write_text('{"val": {"val/l')
    (make("r/version_6", loss=0.5) / "config.yaml").write_bytes(b"\xff\xfe\x00")
    (make("r/version_7") / "config.yaml").write_text("a: !!python/object/apply:os.system [exit]")
    (make("r/version_8", loss=0.5) / "summary.json").write_text('{"unsaved": "disk full", "val": {"val/loss": 3}}')
    (LOGS / "r" / "version_9").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLock, "held_elsewhere", lambda lock: lock.path.parent == held)
        states = {row.name[-1]: row.status for row in compare().rows}
    expected = [
        "finished",
        "interrupted",
        "running",
        "broken",
        "broken",
        "interrupted",
        "broken",
        "broken",
        "interrupted",
        "broken",
    ]
    assert states == {str(i): state for i, state in enumerate(expected)}
    told = printed(80)
    assert f"{LOGS}/r/version_3 is broken: config.yaml is no YAML that can be read (" in told
    assert f"{LOGS}/r/version_4 is broken: there is no config.yaml\n" in told
    assert f"{LOGS}/r/version_6 is broken: config.yaml is no text\n" in told


def test_what_ended_a_run_is_its_state() -> None:
    by_doctor = make("r/version_0", loss=0.5) / "summary.json"
    by_doctor.write_text(json.dumps({**json.loads(by_doctor.read_text()), "stopped": "by the doctor: no use"}))
    bad, again = make("r/version_1"), make("r/version_2")
    for folder, start in ((bad, "2026-01-01T10:00:00+00:00"), (again, "2026-01-01T10:10:00+00:00")):
        (folder / "nonfinite.json").write_text('{"loss": "nan", "time": "2026-01-01T10:05:00+00:00"}')
        (folder / "environment.json").write_text(json.dumps({"starts": [{"time": start}]}))
    states = [row.status for row in compare(sort="run").rows]
    assert states == ["ended by doctor", "not finite", "interrupted"], "the last one has begun again since"


def test_a_run_without_a_summary_has_the_best_of_its_log() -> None:
    folder = make("r/version_0")
    losses = [(0.5, 0.1), (0.25, 0.2), (math.nan, 0.9), (0.75, 0.3)]
    rows = [
        (step, {"epoch": float(step), "val/loss": loss, "val/acc": acc, "train/loss": 0.0})
        for step, (loss, acc) in enumerate(losses)
    ]
    write_log(folder, rows, every=2.0)
    (row,) = compare().rows
    assert row.metrics == pytest.approx({"val/loss": 0.25, "val/acc": 0.2})
    assert (row.epochs, row.seconds) == (4, 6)


def test_a_real_run_agrees_with_its_summary(trained: Run, tmp_path: Path) -> None:
    for number in (0, 1):
        shutil.copytree(trained.folder, tmp_path / "lightning_logs" / "cnn" / f"version_{number}")
    (LOGS / "cnn" / "version_1" / "summary.json").unlink()
    whole, cut = sorted(compare().rows, key=lambda row: row.name)
    assert (whole.status, cut.status) == ("finished", "interrupted")
    assert cut.metrics["val/loss"] == pytest.approx(whole.metrics["val/loss"], rel=1e-6)
    assert cut.metrics["val/acc"] == pytest.approx(whole.metrics["val/acc"], rel=1e-6)
    assert cut.epochs == whole.epochs == 2


# ---- the differences


def test_only_keys_that_differ_are_shown_as_on_the_command_line() -> None:
    make("r/version_0", lr=0.1, loss=0.5)
    make("r/version_1", lr=0.2, loss=0.4, checkpoint={**BASE["checkpoint"], "dirpath": "elsewhere"}, name="x")
    make(
        "r/version_2", loss=0.3, optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}
    )
    assert compare().keys == ["optimizer", "optimizer.lr"]
    table = printed(None)
    assert "SGD" in table
    assert "torch.optim" not in table
    assert "betas" not in table, "told by the class"


def test_keys_of_a_class_that_differ_within_it_are_shown() -> None:
    sgd = {"class_path": "torch.optim.SGD"}
    configs = [flat({"optimizer": {**sgd, "init_args": {"momentum": m}}}) for m in (0.1, 0.9)]
    assert "optimizer.momentum" in differing([*configs, flat(BASE)])
    assert differing(configs) == ["optimizer.momentum"]
    assert differing([{"a": None}, {}]) == [], "a key that another version of the project did not have"
    assert differing([]) == []


def test_a_config_in_blocks_is_the_one_that_yaml_reads(trained: Run, tmp_path: Path) -> None:
    texts = [
        trained.config_file.read_text(),
        "a: |\n  text\n\n  more: x\nb:\n- 1\n- c: 2\n# comment\nd: 'two\n\n  lines'\n",
        "a: &x 1\nb: *x\n",
        "---\na: 1\n",
        "{a: 1,\nb: 2}\n",
        "'a b': 1\n\"c\": 2\n? d\n: 3\n",
        "a: 1\r\nb: 2\r\n",
        "ä: 1\nb: [1,\n  2]\n",
        "",
        "- 1\n- 2\n",
        "text\n",
    ]
    blocks: dict[str, Any] = {}
    for text in [*texts, *texts]:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8", newline="")
        expected = yaml.safe_load(text)
        assert read_config(path, blocks) == (expected if isinstance(expected, dict) else {}), text
        assert read_config(path) == read_config(path, blocks)


def test_keys_that_are_not_at_their_defaults() -> None:
    config = {
        "seed_everything": 3,
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.5, "betas": [0.9, 0.999], "eps": 1e-8}},
        "trainer": {"max_epochs": 3, "min_epochs": None},
        "data": {"class_path": "not.imported.Data", "init_args": {"size": 3, "other": None}},
    }
    defaults = {"seed_everything": 0, "optimizer": None, "trainer": {"max_epochs": 1000, "min_epochs": None}}
    assert changed_keys(config, defaults) == {
        "seed_everything": 0,
        "optimizer": None,
        "optimizer.lr": 0.001,
        "trainer.max_epochs": 1000,
        "data": None,
        "data.size": None,
    }


# ---- the order


def test_the_best_run_is_the_first() -> None:
    for number, loss in enumerate((0.5, float("nan"), 0.25, None, 0.75)):
        make(f"r/version_{number}", loss=loss)
    assert [name[-1] for name in names()] == ["2", "0", "4", "1", "3"]
    assert [name[-1] for name in names(sort="val/acc")][:3] == ["2", "0", "4"], "the highest accuracy first"
    assert [name[-1] for name in names(sort="run")] == ["0", "1", "2", "3", "4"]


def test_runs_can_be_sorted_by_a_key() -> None:
    for number, lr in enumerate((0.3, 0.1, 0.2)):
        make(f"r/version_{number}", lr=lr, loss=0.5)
    assert [name[-1] for name in names(sort="optimizer.lr")] == ["1", "2", "0"]


def test_a_metric_has_one_column_whatever_its_module_calls_it() -> None:
    make("a/version_0", loss=0.5)
    other = make("b/version_0", checkpoint={"monitor": "val_loss", "mode": "min", "dirpath": None})
    summary = {"val": {"val_loss": 0.25, "valid/acc": 0.75}, "last_epoch": 1, "seconds": 1.0}
    (other / "summary.json").write_text(json.dumps(summary))
    found = compare()
    assert found.metrics == ["val/loss", "val/acc", "test/acc"]
    assert [row.name for row in found.rows] == ["b/version_0", "a/version_0"]
    assert names(sort="val_acc") == ["b/version_0", "a/version_0"]
    (other / "summary.json").write_text(json.dumps({"val": {"val_loss": 0.25, "val/loss": 0.75}, "last_epoch": 1}))
    (both,) = compare([str(other)]).rows
    assert both.metrics == {"val_loss": 0.25, "val/loss": 0.75}, "of both, both"


def test_an_unknown_column_is_told_with_the_nearest() -> None:
    make("r/version_0", loss=0.5)
    make("r/version_1", loss=0.25)
    with pytest.raises(UserError, match=r"--sort: no run has 'val/los'; did you mean 'val/loss'\?"):
        compare(sort="val/los")
    with pytest.raises(
        UserError, match=r"--sort: no run has 'zzz'; there are val/loss, val/acc, test/acc, epochs, run, status, time"
    ):
        compare(sort="zzz")
    with pytest.raises(UserError, match=r"--sort: optimizer\.lr is the same in all of these runs"):
        compare(sort="optimizer.lr")


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("val/loss", "min"), ("val/acc", "max"), ("valid_mse", "min"), ("test/perplexity", "min"), ("val/auroc", "max"),
        ("val/wer", "min"), ("val/lower_bound", "max"), ("val/error_rate", "min"), ("val/f1", "max"),
    ],
)  # fmt: skip
def test_which_way_a_metric_is_better(metric: str, mode: str) -> None:
    assert better_mode(metric, {}) == mode
    other = {"min": "max", "max": "min"}[mode]
    assert better_mode(metric, {"checkpoint": {"monitor": metric, "mode": other}}) == other


# ---- what is seen


def test_a_narrow_terminal_shows_all_and_folds_nothing_into_pieces() -> None:
    for number in range(3):
        make(
            f"a recipe/version_{number}",
            lr=10.0**-number,
            loss=0.5,
            seed_everything=number,
            x={"y": "z" * 100 * number},
        )
        finding = {
            "checked": ["a"],
            "findings": [{"name": "overfitting"}, {"name": "late", "follows_from": "overfitting"}],
        }
        (LOGS / "a recipe" / f"version_{number}" / "doctor.json").write_text(json.dumps(finding))
    for width in (30, 40, 60, 80, 120, 400):
        lines = printed(width).splitlines()
        assert max(map(len, lines)) <= width
        text = " ".join(" ".join(lines).split())
        for number in range(3):
            assert f"optimizer.lr {10.0**-number:g}" in text or width == 400
        assert text.count("overfitting") == 3
        assert "late" not in text
        assert text.count("0.5000") >= 3
    assert "a recipe/version_0  finished" in printed(60)
    assert printed(400).splitlines()[0].split() == printed(None).splitlines()[0].split()


def test_a_narrow_terminal_says_once_what_most_runs_have() -> None:
    for number in range(5):
        make(
            f"r/version_{number}",
            lr=0.5 if number == 2 else 0.1,
            loss=number,
            note={"text": "value" * 5 * (number > 3)},
        )
    lines = printed(60).splitlines()
    assert [line for line in lines if "optimizer.lr 0.5" in line] == ["  time 1 min 5 s  optimizer.lr 0.5"]
    assert sum("optimizer.lr 0.1" in line for line in lines) == 1
    assert "and where nothing else is said" in lines
    other = yaml.safe_load((LOGS / "r/version_0/config.yaml").read_text())
    del other["optimizer"]
    (LOGS / "r/version_0/config.yaml").write_text(yaml.safe_dump(other))
    assert any("optimizer.lr -" in line for line in printed(60).splitlines()), "it has none, and not that of most"
    assert all(line == line.rstrip() for line in lines)


def test_a_pipe_has_one_line_for_each_run() -> None:
    for number in range(4):
        make(
            f"{'long ' * 10}/version_{number}",
            lr=number,
            loss=0.5,
            note={f"key_{i}": f"{number}" * 30 for i in range(9)},
        )
    lines = printed(None).splitlines()
    assert len(lines) == 1 + 4
    assert all("3" * 30 in line for line in lines if "version_3" in line)


def test_the_page_is_ours_to_write_over_and_no_other(tmp_path: Path) -> None:
    make("r/version_0", loss=0.5)
    page = tmp_path / "runs.html"
    write_html(compare(), page)
    make("r/version_1", lr=0.5, loss=0.25)
    write_html(compare(), page)
    assert "r/version_1" in page.read_text()
    assert page.read_text().count('class="n best"') == 4, (
        "the best loss and accuracy, and the test's, which both runs share"
    )
    page.write_text("mine")
    with pytest.raises(UserError, match="not made by this project"):
        write_html(compare(), page)
    assert page.read_text() == "mine"


def test_names_can_not_break_out_of_the_page(tmp_path: Path) -> None:
    evil = "<script>alert(1)"
    make(f"{evil}/version_0", loss=0.5, seed_everything=evil)
    make("r/version_0", loss=0.5)
    write_html(compare(), tmp_path / "runs.html")
    assert (tmp_path / "runs.html").read_text().count("<script") == 1
