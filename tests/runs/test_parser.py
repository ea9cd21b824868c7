"""The parser: which config files it refuses, and what it fills in."""

from pathlib import Path

import pytest

from runs.errors import UserError
from runs.parser import Parser, add_model_and_data, check_yaml, config_files, split_configs


@pytest.mark.parametrize(
    ("line", "files"),
    [
        (["--config", "a.yaml"], ["a.yaml"]),
        (["-c", "a.yaml"], ["a.yaml"]),
        (["--config=a.yaml", "--x", "1", "--config", "b c.yaml"], ["a.yaml", "b c.yaml"]),
        (["--x", "config"], []),
        (["--config"], []),
    ],
)
def test_the_config_files_of_a_command_line_are_found_in_order(line: list[str], files: list[str]) -> None:
    assert config_files(line) == [Path(file) for file in files]


@pytest.mark.parametrize("text", ["a: 1\n", "a:\n  b: 1\nc:\n  b: 2\n", "- &x\n  a: 1\n", "a: {b: 1, c: [1, 2]}\n"])
def test_sound_yaml_passes(text: str) -> None:
    Path("x.yaml").write_text(text)
    if text[0] == "-":
        with pytest.raises(UserError, match=r"x\.yaml: not a mapping"):
            check_yaml(Path("x.yaml"))
    else:
        check_yaml(Path("x.yaml"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", r"x\.yaml, line 3: the key a stands here again; first in line 1"),
        ("a:\n  b:\n    c: 1\n    c: 2\n", r"x\.yaml, line 4: the key a\.b\.c stands here again; first in line 3"),
        ("a:\n- b: 1\n  b: 2\n", r"x\.yaml, line 3: the key .*b stands here again"),
        ("a: {b: 1, b: 2}\n", r"x\.yaml, line 1: the key a\.b stands here again"),
        ("a: 'no end\n", r"x\.yaml, line \d: broken YAML"),
        ("a: 1\n b: 2\n", r"x\.yaml, line 2: broken YAML"),
        ("trainer:\n", r"x\.yaml, line 1: `trainer:` must hold keys of its own"),
        ("", r"x\.yaml: the file is empty"),
    ],
)
def test_wrong_yaml_is_told_with_its_line(text: str, told: str) -> None:
    Path("x.yaml").write_text(text)
    with pytest.raises(UserError, match=told):
        check_yaml(Path("x.yaml"), groups={"trainer"})


def test_a_missing_file_is_told_with_the_nearest_one() -> None:
    Path("configs").mkdir()
    Path("configs/cnn.yaml").write_text("a: 1\n")
    with pytest.raises(UserError, match=r"no such file: configs/cnm\.yaml; did you mean 'configs/cnn\.yaml'"):
        check_yaml(Path("configs/cnm.yaml"))
    with pytest.raises(UserError, match=r"no such file: nowhere/cnn\.yaml$"):
        check_yaml(Path("nowhere/cnn.yaml"))


def classifier(*args: str) -> tuple[Parser, object]:
    parser = Parser()
    add_model_and_data(parser)
    return parser, parser.parse_args(
        ["--model", "modules.Classifier", "--model.net", "modules.nets.CNN", "--data", "datamodules.Digits", *args]
    )


def test_the_network_is_told_what_the_data_know() -> None:
    parser, config = classifier()
    made = parser.instantiate_classes(config)  # type: ignore[arg-type]
    assert made.model.net.head[-1].out_features == 10
    assert made.model.net.features[0][0].in_channels == 1


def test_what_the_config_says_itself_beats_what_the_data_know() -> None:
    parser, config = classifier("--model.num_classes", "12", "--model.net.num_classes", "12")
    made = parser.instantiate_classes(config)  # type: ignore[arg-type]
    assert made.model.net.head[-1].out_features == 12


def test_the_help_text_is_the_one_given() -> None:
    assert Parser(help_text="short\n").format_help() == "short\n"


def test_a_command_line_is_divided_into_files_and_keys() -> None:
    line = ["--x", "1", "-c", "--config", "--y", "--config=b"]
    assert split_configs(line) == (["-c", "--config", "--config=b"], ["--x", "1", "--y"])


def test_data_for_another_task_are_told() -> None:
    parser, _ = classifier()
    config = parser.parse_args(
        ["--model", "modules.Regressor", "--model.net", "modules.nets.MLP", "--data", "datamodules.Digits"]
    )
    with pytest.raises(
        UserError, match=r"^model.num_targets: Digits has no .*; it has classes, .* modules.Classifier$"
    ):
        parser.instantiate_classes(config)
