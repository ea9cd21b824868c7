"""What is changed, and to which value."""

import pytest

from callbacks.doctor import Evidence, History
from callbacks.doctor.data import InputsNotNormalised, LabelOrder
from callbacks.doctor.fit import NotLearning
from callbacks.doctor.network import BadInitialisation
from callbacks.doctor.remedies import Keys, nice

CONFIG = {
    "optimizer.class_path": "torch.optim.Adam",
    "optimizer.lr": 1.0,
    "optimizer.weight_decay": 0.0,
    "lr_scheduler": None,
    "model.class_path": "modules.Classifier",
    "model.net.dropout": 0.0,
    "model.net.activation": "relu",
    "model.net.act_layer": "torch.nn.Tanh",
    "model.net.norm": "none",
    "data.shuffle": False,
    "data.num_workers": 0,
    "trainer.gradient_clip_val": None,
}


@pytest.mark.parametrize(
    ("value", "expected"), [(0.00021, 0.0002), (0.0042, 0.005), (7.9, 10.0), (1.0, 1.0), (3e-8, 3e-8)]
)
def test_numbers_of_one_digit(value: float, expected: float) -> None:
    assert nice(value) == pytest.approx(expected)


def test_the_learning_rate_moves_at_least_by_three() -> None:
    keys = Keys(CONFIG)
    assert keys.set_rate(0.9, lower=True) == ["--optimizer.lr 0.3"]
    assert keys.set_rate(1e-4, lower=True) == ["--optimizer.lr 0.0001"]
    assert keys.set_rate(1.1, lower=False) == ["--optimizer.lr 3.0"]


def test_the_key_that_counts() -> None:
    assert Keys(CONFIG | {"lr_scheduler.max_lr": 0.1}).rate() == ("lr_scheduler.max_lr", 0.1)
    own = {"model.class_path": "other.Module", "model.learning_rate": 0.5, "model.lr_decay": 0.9}
    assert Keys(own).set_rate(0.01, lower=True) == ["--model.learning_rate 0.01"]
    assert Keys({"model.width": 3}).rate() is None
    assert Keys({"model.width": 3}).set_rate(0.01, lower=True) == []


def test_switches_names_and_numbers_that_are_there() -> None:
    keys = Keys(CONFIG)
    assert keys.switch("shuffle", True, ("data",)) == ["--data.shuffle true"]
    assert keys.switch("shuffle", False, ("data",)) == []
    assert keys.number("drop", lambda v: 0.3) == ["--model.net.dropout 0.3"]
    assert keys.choice("act", "relu", ("GELU", "leaky_relu"), ("model",)) == ["--model.net.activation gelu"]
    assert keys.choice("act", "tanh", ("ReLU",), ("model",)) == ["--model.net.act_layer torch.nn.ReLU"]
    assert keys.choice("norm", "none", ("batch",)) == ["--model.net.norm batch"]
    assert keys.clip() == ["--trainer.gradient_clip_val 1.0"]
    assert Keys({}).clip() == []


@pytest.mark.parametrize(
    ("key", "value", "advised"),
    [
        ("shuffle", False, True),
        ("train_shuffle", False, True),
        ("sort", True, True),
        ("order", True, True),
        ("sorted_by_label", True, True),
        ("by_class", True, True),
        ("shuffle_labels", False, False),
        ("order_embeddings", True, False),
        ("border", True, False),
    ],
)
def test_only_what_orders_samples_mends_their_order(key: str, value: bool, advised: bool) -> None:
    keys = Keys({f"data.{key}": value})
    evidence = Evidence("", 1)
    new = str(not value).lower()
    assert LabelOrder().remedies(evidence, History(), keys) == [f"--data.{key} {new}"] * advised


def test_a_name_that_the_class_does_not_know_is_not_advised() -> None:
    keys = Keys(CONFIG, accepts=lambda override: "gelu" not in override.lower())
    assert keys.choice("activation", "relu", ("GELU", "leaky_relu"), ("model",)) == [
        "--model.net.activation leaky_relu"
    ]


def test_functions_norms_and_weights_in_the_spelling_of_the_run() -> None:
    keys = Keys(
        {"model.act": "Sigmoid", "model.function": "tanh", "model.out_act": "sigmoid", "model.norm": "none",
         "model.batch_norm": False, "model.norm_first": False, "model.class_weights": None, "model.pos_weight": None}
    )  # fmt: skip
    assert keys.activation("sigmoid|tanh", ("ReLU",)) == ["--model.act ReLU", "--model.function relu"]
    assert keys.activation("none", ("ReLU",)) == ["--model.norm relu"]
    assert keys.activation("none", ("ReLU",), "act|function") == []
    assert keys.norms() == ["--model.norm batch", "--model.batch_norm true"]
    assert keys.class_weights([90, 10]) == ["--model.class_weights [0.556,5]", "--model.pos_weight 9"]
    picky = Keys(keys.config, accepts=lambda override: "[" in override)
    assert picky.class_weights([90, 10]) == ["--model.class_weights [0.556,5]"]


def test_targets_are_scaled_by_their_own_key() -> None:
    keys = Keys({"data.normalize_targets": False, "data.normalize": False})
    unscaled = Evidence("", 1, {"target_mean": 152.0, "target_std": 77.0})
    assert NotLearning().remedies(unscaled, History(), keys) == ["--data.normalize_targets true"]
    assert NotLearning().remedies(Evidence("", 1), History(), keys) == []


def test_widths_in_a_list_and_scales_by_name() -> None:
    keys = Keys({"model.sizes": [2, 64], "model.kernel_sizes": [3], "data.scale": "none"})
    assert keys.sizes("^(hidden_)?sizes$", lambda n: max(4 * n, 32)) == ["--model.sizes [32,256]"]
    assert InputsNotNormalised().remedies(Evidence("", 1), History(), keys) == ["--data.scale standard"]


def test_weights_at_the_start_follow_from_the_size_of_the_layers() -> None:
    keys = Keys({"model.weight_std": 1.5, "model.bias": -5.0, "model.gain": 2.4})
    assert keys.start_values(64) == ["--model.gain 1.0", "--model.weight_std 0.1", "--model.bias 0.0"]
    assert Keys({"model.weight_std": 0.125}).start_values(64) == []


def test_bad_weights_at_the_start_are_drawn_anew_where_no_key_of_the_network_mends_them() -> None:
    keys = {"parameters.init": "default", "model.net.norm": "none", "model.net.init_scale": 1.0}
    assert BadInitialisation().remedies(Evidence("", 1), History(), Keys(keys))[:2] == [
        "--parameters.init he",
        "--model.net.norm batch",
    ]
    keys = keys | {"parameters.init": "he", "model.net.init_scale": 20.0}
    assert BadInitialisation().remedies(Evidence("", 1), History(), Keys(keys))[:2] == [
        "--model.net.init_scale 1.0",
        "--model.net.norm batch",
    ]


def test_the_first_step_of_rmsprop_is_larger_than_the_others() -> None:
    adam, rms = (Keys({"optimizer.class_path": f"torch.optim.{name}"}) for name in ("Adam", "RMSprop"))
    assert rms.usual_rate(20.0) == pytest.approx(10 * adam.usual_rate(20.0))
    assert [Keys({"optimizer.class_path": f"torch.optim.{n}"}).decoupled for n in ("Adam", "AdamW")] == [False, True]


def test_steps_of_the_usual_size() -> None:
    adam = Keys(CONFIG)
    sgd = Keys(CONFIG | {"optimizer.class_path": "torch.optim.SGD", "optimizer.momentum": 0.9})
    # a rate of 1 changes the weights by 20 times their size
    assert adam.usual_rate(20.0) == pytest.approx(0.001)
    assert sgd.usual_rate(20.0) == pytest.approx(0.0001)


def test_values_at_the_start_only_where_they_are_far_off() -> None:
    odd = Keys({"model.net.init_scale": 20.0, "model.net.init_std": 0.0, "model.net.bias_init": -6.0})
    assert odd.start_values() == ["--model.net.init_scale 1.0", "--model.net.bias_init 0.0"]
    assert (
        Keys({"model.net.init_scale": 0.7, "model.net.init_std": 0.1, "model.net.bias_init": 0.1}).start_values() == []
    )
