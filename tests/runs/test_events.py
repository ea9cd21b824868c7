"""Reading TensorBoard's files."""

import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from runs import Run
from runs.events import read_log
from tests.same import scalars

Rows = list[tuple[int, dict[str, float]]]


def write_log(folder: Path, rows: Rows, started: int = 1_700_000_000, every: float = 1.0) -> Path:
    """An event file with one record for each row `(step, values)`, `every` seconds apart."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events.out.tfevents.{started}.host.1.0"
    with path.open("wb") as file:
        for number, (step, values) in enumerate(rows):
            found = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
            data = Event(wall_time=started + number * every, step=step, summary=found).SerializeToString()
            file.write(struct.pack("<QI", len(data), 0) + data + bytes(4))
    return path


def test_all_values_of_a_real_run_are_there(trained: Run) -> None:
    log = read_log(trained.folder)
    expected = scalars(trained.folder)
    assert "val/loss" in expected
    for tag, rows in expected.items():
        last = dict(rows)  # `epoch` is logged more than once at the end of an epoch
        assert log.curves[tag].steps.tolist() == list(last)
        np.testing.assert_allclose(log.curves[tag].values, list(last.values()), rtol=1e-7)
    assert log.epoch_of(0) == 0
    assert log.epoch_of(18) == 0
    assert log.epoch_of(19) == 1


def test_scalars_of_both_kinds_of_torch_are_read(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("old", 0.5, 3)
        writer.add_scalar("new", 0.25, 4, new_style=True)
        writer.add_text("text", "not a number", 5)
    curves = read_log(tmp_path).curves
    assert {tag: (c.steps.tolist(), c.values.tolist()) for tag, c in curves.items()} == {
        "old": ([3], [0.5]),
        "new": ([4], [0.25]),
    }


@pytest.mark.parametrize("cut", [1, 10, 17, 30])
def test_a_record_that_is_cut_off_ends_the_file(cut: int, tmp_path: Path) -> None:
    path = write_log(tmp_path, [(step, {"a": float(step)}) for step in range(5)])
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_log(tmp_path).curves["a"].steps.tolist() == [0, 1, 2, 3]


def test_damage_costs_the_rest_of_its_file_only(tmp_path: Path) -> None:
    damaged = write_log(tmp_path, [(step, {"a": 1.0}) for step in range(4)])
    size = damaged.stat().st_size // 4
    content = bytearray(damaged.read_bytes())
    content[size + 12 : 2 * size] = b"\xff" * (size - 12)
    damaged.write_bytes(content)
    write_log(tmp_path, [(7, {"a": 2.0})], started=1_700_000_100)
    (tmp_path / "events.out.tfevents.1700000200.host.1.0").touch()
    (tmp_path / "events.out.tfevents.unknown").write_bytes(b"\xff" * 100)
    assert read_log(tmp_path).curves["a"].steps.tolist() == [0, 7]


def test_what_a_later_start_logs_again_counts(tmp_path: Path) -> None:
    write_log(tmp_path, [(step, {"a": 1.0}) for step in range(10)])
    # the name of a later file comes first in the alphabet
    write_log(tmp_path, [(step, {"a": 2.0}) for step in range(6, 12)], started=10_000_000_000)
    curve = read_log(tmp_path).curves["a"]
    assert curve.steps.tolist() == list(range(12))
    assert curve.values.tolist() == [1.0] * 6 + [2.0] * 6


def test_the_time_between_two_starts_is_not_counted(tmp_path: Path) -> None:
    write_log(tmp_path, [(step, {"a": 1.0}) for step in range(11)])
    write_log(tmp_path, [(step, {"a": 1.0}) for step in range(11, 16)], started=1_700_100_000)
    assert read_log(tmp_path).seconds == 10 + 4


def test_only_wanted_names_are_kept(tmp_path: Path) -> None:
    write_log(tmp_path, [(0, {"a": 1.0, "b": 2.0}), (1, {"a": 1.0}), (2, {"b": 1.0})])
    assert list(read_log(tmp_path, wanted=lambda tag: tag == "b").curves) == ["b"]
    assert read_log(tmp_path, word=b"b").curves["a"].steps.tolist() == [0]


def test_pictures_are_passed_over(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("a", 1.0, 0)
        writer._get_file_writer().add_summary(
            Summary(value=[Summary.Value(tag="i", image=Summary.Image(encoded_image_string=bytes(2**21)))])
        )
        writer.add_scalar("a", 2.0, 1)
    assert read_log(tmp_path).curves["a"].values.tolist() == [1.0, 2.0]


def test_a_folder_without_a_log_gives_nothing(tmp_path: Path) -> None:
    log = read_log(tmp_path)
    assert (log.curves, log.seconds, log.epoch_of(0)) == ({}, 0, None)
