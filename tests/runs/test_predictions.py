"""Predictions as a table, and the files to predict."""

import csv
import io
from pathlib import Path

import pytest
import torch

from runs.errors import UserError
from runs.predictions import check_out, expand, labels_to_csv, to_csv


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def test_files_keep_their_order_and_folders_stand_for_their_files() -> None:
    touch("z.png", "a.png", "f/2.png", "f/10.png", "f/.hidden", "f/deeper/x.png")
    assert [str(path) for path in expand(["z.png", "f", "a.png", "z.png"])] == [
        "z.png", "f/10.png", "f/2.png", "f/deeper/x.png", "a.png", "z.png",
    ]  # fmt: skip


def test_a_missing_file_is_kept_for_the_reader_to_tell() -> None:
    assert expand(["missing.png"]) == [Path("missing.png")]


def test_nothing_to_predict_is_a_mistake() -> None:
    Path("empty").mkdir()
    with pytest.raises(UserError, match="nothing to predict: no files in empty"):
        expand(["empty"])


def test_a_row_names_all_labels_that_are_more_probable_than_not() -> None:
    probabilities = torch.tensor([[0.75, 0.25, 0.625], [0.5, 0.0, 0.125]])
    table = labels_to_csv([(Path("a"), 1), (Path("a"), 2)], probabilities, ["cat", "dog", "cow"], ["file", "row"])
    assert table == (
        "file,row,labels,cat,dog,cow\n"
        "a,1,cat;cow,0.750000,0.250000,0.625000\n"
        "a,2,,0.500000,0.000000,0.125000\n"
    )  # fmt: skip


def test_a_row_names_the_most_probable_class() -> None:
    table = to_csv([Path("a"), Path("b")], torch.tensor([[0.25, 0.75], [0.5, 0.5]]), ["cat", "dog"], ["file"])
    assert table == (
        "file,prediction,confidence,cat,dog\n"
        "a,dog,0.750000,0.250000,0.750000\n"
        "b,cat,0.500000,0.500000,0.500000\n"
    )  # fmt: skip


@pytest.mark.parametrize("name", ["a,b.png", 'say "x".png', "two words.png", "数.png", "line\nbreak.png"])
def test_any_name_of_file_or_class_survives_the_table(name: str) -> None:
    text = to_csv([Path(name)], torch.tensor([[0.1, 0.9]]), ["plain", name], ["file"])
    header, row = csv.reader(io.StringIO(text))
    assert header[-1] == row[0] == row[1] == name


def test_as_many_files_as_predictions_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        to_csv([Path("a")], torch.ones(2, 1), ["one"], ["file"])


def test_a_table_that_can_not_be_written_is_told_before_the_work() -> None:
    touch("there.csv")
    Path("folder").mkdir()
    check_out("new.csv", overwrite=False)
    check_out("there.csv", overwrite=True)
    with pytest.raises(UserError, match=r"--out: there\.csv exists already"):
        check_out("there.csv", overwrite=False)
    with pytest.raises(UserError, match="--out: no such folder: nowhere"):
        check_out("nowhere/new.csv", overwrite=False)
    with pytest.raises(UserError, match="--out: can't write folder"):
        check_out("folder", overwrite=True)
