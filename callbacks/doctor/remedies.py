"""What to change: overrides of the keys that a run really has, with values that follow from the evidence."""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LR = r"(^|[._])(lr|learning_rate)$"
# norm of the first step's change over that of the weights, as learning rates that work have it; later ones are smaller
USUAL_UPDATE = 0.02
PLAIN = ("SGD", "ASGD", "Rprop", "LBFGS")
NICE = (1, 2, 3, 5, 10)


class Keys:
    """The keys of a run's config, and how they can be changed.

    Args:
        config: Every key with its value, as it is put on a command line: `{"optimizer.lr": 0.01, …}`, a class by its
            `class_path`.
        accepts: Whether the config with an override is valid; everything is when it is left out.
    """

    def __init__(self, config: Mapping[str, Any], accepts: Callable[[str], bool] | None = None) -> None:
        self.config = dict(config)
        self.accepts = accepts or (lambda override: True)

    def find(self, pattern: str, rooms: Sequence[str] = ("model", "data")) -> list[tuple[str, Any]]:
        """The keys whose last name matches, of the given groups, and their values."""
        return [
            (key, value)
            for key, value in self.config.items()
            if key.split(".")[0] in rooms and re.search(pattern, key.rsplit(".", 1)[-1]) and "class_path" not in key
        ]

    def set(self, key: str, value: Any) -> list[str]:
        """An override, when it changes something and is valid."""
        if key not in self.config or self.config[key] == value:
            return []
        shown = str(value).lower() if isinstance(value, bool) else "null" if value is None else f"{value}"
        override = f"--{key} {shown}"
        # numbers and switches keep their type; a name may be unknown there
        return [override] if not isinstance(value, str) or self.accepts(override) else []

    # ---- kinds of keys

    def rate(self) -> tuple[str, float] | None:
        """The key that sets the learning rate, and its value."""
        most = self.config.get("lr_scheduler.max_lr")
        if isinstance(most, int | float) and not isinstance(most, bool):
            return "lr_scheduler.max_lr", float(most)
        for key in ("optimizer.lr", *(key for key, _ in self.find(LR))):
            if isinstance(value := self.config.get(key), int | float):
                return key, float(value)
        return None

    def set_rate(self, value: float, lower: bool) -> list[str]:
        """A new learning rate, at least three times lower (or higher) than now."""
        found = self.rate()
        if found is None:
            return []
        key, now = found
        if now > 0:
            value = min(value, now / 3) if lower else max(value, now * 3)
        return self.set(key, nice(value)) if value > 0 and math.isfinite(value) else []

    @property
    def adaptive(self) -> bool:
        """Whether the optimizer divides each gradient by its own size."""
        name = str(self.config.get("optimizer.class_path", "")).rsplit(".", 1)[-1]
        return name not in PLAIN

    @property
    def decoupled(self) -> bool:
        """Whether weight decay acts on the weights themselves, and not by way of the gradient."""
        name = str(self.config.get("optimizer.class_path", "")).rsplit(".", 1)[-1]
        return name in ("AdamW", "Lion") or bool(self.config.get("optimizer.decoupled_weight_decay"))

    def usual_rate(self, per_rate: float) -> float:
        """The learning rate with the usual size of a step, when a rate of 1 makes steps of the given one."""
        if per_rate <= 0:
            return math.nan
        # plain gradient descent adds up the gradients of 1 / (1 - momentum) steps
        momentum = self.config.get("optimizer.momentum") or 0.0
        share = 1.0 if self.adaptive or not 0 < momentum < 1 else 1 - momentum
        if str(self.config.get("optimizer.class_path", "")).endswith("RMSprop"):
            # its mean of squares begins at 0 and is not corrected for that: the first step is so many times too large
            alpha = self.config.get("optimizer.alpha")
            share = (1 - (0.99 if alpha is None else float(alpha))) ** -0.5
        return USUAL_UPDATE * share / per_rate

    def switch(self, pattern: str, to: bool, rooms: Sequence[str] = ("model", "data")) -> list[str]:
        """Every key of that name that is switched the other way, switched."""
        return [o for key, value in self.find(pattern, rooms) if value is (not to) for o in self.set(key, to)]

    def number(
        self, pattern: str, change: Callable[[float], float | int | None], rooms: Sequence[str] = ("model", "data")
    ) -> list[str]:
        """Every key of that name that holds a number, changed; where None comes out, it stays."""
        found: list[str] = []
        for key, value in self.find(pattern, rooms):
            if isinstance(value, int | float) and not isinstance(value, bool):
                new = change(value)
                found += self.set(key, new) if new is not None else []
        return found

    def sizes(self, pattern: str, change: Callable[[int], int]) -> list[str]:
        """Every key of the model of that name that holds a list of whole numbers, each of them changed."""
        found: list[str] = []
        for key, value in self.find(pattern, ("model",)):
            if isinstance(value, list) and value and all(type(n) is int for n in value):
                shown = f"[{','.join(str(change(n)) for n in value)}]"
                found += self.set(key, shown) if shown != str(value).replace(" ", "") else []
        return found

    def choice(
        self, pattern: str, now: str, choices: Sequence[str], rooms: Sequence[str] = ("model", "data")
    ) -> list[str]:
        """For keys of that name whose value matches `now`, the first valid one of the choices."""
        found: list[str] = []
        for key, value in self.find(pattern, rooms):
            if not re.search(now, str(value), re.IGNORECASE):
                continue
            for choice in choices:
                if new := self._in_its_spelling(key, str(value), choice):
                    found += new
                    break
        return found

    def _in_its_spelling(self, key: str, now: str, choice: str) -> list[str]:
        """A name in place of another one: a class path stays one, and in place of `Sigmoid` `ReLU` is tried first."""
        if now.startswith("torch.nn."):
            return self.set(key, f"torch.nn.{choice}")
        spellings = (choice.lower(), choice) if now == now.lower() else (choice, choice.lower())
        return next((new for name in spellings if (new := self.set(key, name))), [])

    def activation(self, now: str, choices: Sequence[str], name: str = "") -> list[str]:
        """Another function between the layers, for keys of the model that name one of those in `now`.

        Args:
            now: Names, as `tanh|sigmoid`.
            choices: Of which the first valid one is taken.
            name: A pattern of the keys' own names.
        """
        found: list[str] = []
        for key, value in self.find(rf"^(?!.*(out|final|last|gate|head)).*({name})", ("model",)):
            names = rf"(torch\.nn\.)?({now})"
            if isinstance(value, str) and re.fullmatch(names, value, re.IGNORECASE):
                found += next((new for c in choices if (new := self._in_its_spelling(key, value, c))), [])
        return found

    def norms(self) -> list[str]:
        """Normalisation between the layers, where it is off."""
        named = self.choice(r"norm", r"^(none|null|no)$", ("batch", "layer"), ("model",))
        switch = r"^(use_|with_)?((batch|layer|group)_?)?(norm|bn)(ali[sz]ation|s)?$"
        return named + self.switch(switch, True, ("model",))

    def cleaning(self) -> list[str]:
        """What mends or leaves out samples with values that are not finite, where it is off."""
        return self.switch(r"clean|impute|drop_na|fill_na|dropna", True, ("data",))

    def class_weights(self, counts: Sequence[float]) -> list[str]:
        """Weights of the classes by their rarity, for keys that take numbers.

        Args:
            counts: Samples of each class, none of them 0.
        """
        total, k = sum(counts), len(counts)
        found: list[str] = []
        for key, value in self.find(r"class_?weights?$|^cls_weights?$|^pos_weight$|^loss_weights?$", ("model",)):
            if value is not None:  # somebody has thought of it
                continue
            balanced = [float(f"{total / (k * n):.3g}") for n in counts]
            shown = f"[{','.join(f'{weight:g}' for weight in balanced)}]"
            if key.endswith("pos_weight") and k == 2:
                shown = f"{counts[0] / counts[1]:.3g}"
            override = f"--{key} {shown}"
            found += [override] * self.accepts(override)
        return found

    def clip(self, norm: float = 1.0) -> list[str]:
        """Clip the gradients to a norm."""
        now = self.config.get("trainer.gradient_clip_val")
        if "trainer.gradient_clip_val" not in self.config or (now is not None and now <= norm):
            return []
        return self.set("trainer.gradient_clip_val", nice(norm))

    def start_values(self, fan_in: float = 0.0) -> list[str]:
        """Keys of the weights at the start that are far from what is usual: back to that.

        Args:
            fan_in: Inputs of a unit, the median over the layers; 0 where it is not known. The root of its inverse is
                the standard deviation with which signals stay as large as they are (LeCun et al. 1998, Efficient
                BackProp, section 4.6).
        """
        usual = min(max(nice(fan_in**-0.5), 0.01), 0.3) if fan_in > 0 else 0.02
        scales = self.number(
            r"(init\w*_(scale|gain|factor)|^gain$|scale_init|weight_scale|init_mult)",
            lambda v: 1.0 if not 0.5 <= abs(v) <= 2 else None,
        )
        stds = self.number(
            r"(init\w*_std|^std$|init_range|initializer_range|^(weights?|kernel|w)_std$|std_init|^init_sd$)",
            lambda v: usual if abs(v) > 2 * max(usual, 0.15) or 0 < abs(v) < 1e-3 else None,
        )
        bias = self.number(
            r"(bias\w*init|init\w*bias|bias_value|bias_shift|^bias$)", lambda v: 0.0 if abs(v) > 0.5 else None
        )
        names = self.choice(
            r"^(init|weight_init|initiali[sz]\w*)$", r"zero|const|ones|large|normal", ("kaiming", "default", "xavier")
        )
        return scales + stds + bias + names


def nice(value: float) -> float:
    """The number with one digit, 1, 2, 3 or 5, that is nearest by ratio."""
    power = math.floor(math.log10(value))
    digit = min(NICE, key=lambda d: abs(math.log(value / (d * 10.0**power))))
    return float(f"{digit * 10.0**power:.1g}")


def spare_cores() -> int:
    """Processes that can load data beside the one that trains, from 1 to 8."""
    return max(1, min(8, (os.cpu_count() or 2) - 1))
