"""The hints of error lines: nearest names, one line."""

import pytest

from runs.errors import nearest, one_line
from runs.explain import explain, known_keys
from runs.parser import Parser, add_model_and_data


@pytest.fixture
def parser() -> Parser:
    parser = Parser()
    add_model_and_data(parser)
    parser.add_optimizer_args()
    return parser


@pytest.mark.parametrize(
    ("name", "choices", "hint"),
    [
        ("max_epoch", ["max_epochs", "max_steps", "min_epochs"], "; did you mean 'max_epochs'?"),
        ("ADAMW", ["SGD", "AdamW"], "; did you mean 'AdamW'?"),
        ("adamw", ["Adam", "AdamW"], "; did you mean 'AdamW'?"),
        ("entirely", ["different", "words"], ""),
        ("anything", [], ""),
        ("", ["lr"], ""),
    ],
)
def test_the_nearest_choice_is_offered_when_one_is_near(name: str, choices: list[str], hint: str) -> None:
    assert nearest(name, choices) == hint


def test_choices_may_come_from_a_generator() -> None:
    assert nearest("lrr", (name for name in ("lr", "eps"))) == "; did you mean 'lr'?"


def test_one_line_is_one_line() -> None:
    assert one_line("  a\n\tb \r\n c  ") == "a b c"
    assert one_line(ValueError("x\ny")) == "x y"


def test_the_keys_of_a_class_include_those_of_what_it_holds(parser: Parser) -> None:
    keys = known_keys(parser, "datamodules.Digits")
    assert {"batch_size", "val_fraction", "augment.rotate"} <= set(keys)
    assert "help" not in keys
    assert "params" not in known_keys(parser, "torch.optim.Adam")


def test_the_keys_of_the_command_line_are_those_of_the_parser(parser: Parser) -> None:
    assert {"model", "data", "optimizer"} <= set(known_keys(parser))
    assert not {"config", "help", "print_config"} & set(known_keys(parser))


def test_a_message_of_no_known_form_is_folded_into_a_line(parser: Parser) -> None:
    assert explain(parser, "something\n  new") == "something new"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("unrecognized arguments: extra", "unexpected argument 'extra'; keys are written --key value"),
        ("the following arguments are required: model",
         "missing model; a recipe such as --config configs/cnn.yaml has what a run needs"),
        ("unrecognized arguments: --modle x", "modle: no such key; did you mean 'model'?"),
    ],
)  # fmt: skip
def test_a_message_is_told_with_what_to_do(parser: Parser, message: str, told: str) -> None:
    assert explain(parser, message) == told


@pytest.mark.parametrize(
    ("name", "expected"),
    [("optimizer", "optimizer"), ("optimzer", "optimizer"), ("mdoel", "model"), ("dat", "data")],
)
def test_a_misspelt_top_level_key_is_recognised(parser: Parser, name: str, expected: str) -> None:
    told = explain(parser, f"unrecognized arguments: --{name}")
    assert told.startswith(f"{name}: no such key")
    assert f"'{expected}'" in told
