"""What a diagnosis is: a name, a rule over a run's history, and what it rests on."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from callbacks.doctor.history import History
from callbacks.doctor.remedies import Keys

# after these nothing that a network does is to be wondered at
BROKEN = ("inputs_not_normalised", "softmax_before_cross_entropy", "data_in_label_order", "bad_initialisation")
# after any of these a network may stand still
STILL = (
    *BROKEN,
    "nan_or_inf",
    "exploding_gradients",
    "learning_rate_too_high",
    "dead_relus",
    "saturation",
    "vanishing_gradients",
    "parameters_never_move",
    "over_regularised",
)


# why a diagnosis could not be made: what was not there to be seen, by what it needs
UNSEEN = {
    "losses": "no loss",
    "calls": "no loss function of torch",
    "classified": "no classes",
    "exclusive": "several labels for each sample",
    "evaluations": "no validation",
    "compared": "no batch in both modes",
    "first": "no layer with weights",
    "norms": "no gradients",
    "samples": "no gradients",
    "rectified": "no ReLU, or too few inputs",
    "squashed": "no tanh or sigmoid",
}


@dataclass(frozen=True)
class Thresholds:
    """Where the doctor draws its lines.

    Args:
        dead_units: Share of a layer's rectified units that are on for less than 1 % of the inputs.
        saturated: Share of the inputs of a layer of tanh or sigmoid that are beyond ±5.
        vanishing: Gradient of the first layer's weights over the largest one of a layer.
        exploding: Norm of the gradients over their median, in several steps.
        first_gradient: Norm of the gradients in the first steps.
        first_loss: Loss of the first step over that of the best constant prediction.
        update_high: Median over the layers of the norm of a step's change over that of the weights; above it a
            learning rate can be too high. About 0.001 is usual.
        update_low: The same; below it a learning rate can be too low.
        chance: Loss over that of the best constant prediction; above it nothing was learnt.
        skill: Training accuracy on a scale from the share of the most frequent class (0) to 1; below it a network
            underfits.
        overfitting: Validation loss over its best.
        imbalance: Samples of the most frequent class over those of a rare one.
        rare_recall: Share of the rare classes' validation samples that are recognised.
        waiting: Share of the time that is spent waiting for data.
        input_std: Standard deviation of the inputs, or of a column of a table.
        input_offset: Distance of the inputs' mean from 0, in standard deviations.
        label_entropy: Mean entropy of a batch's labels over that of batches drawn at random.
        mode_gap: Loss of the same training samples in evaluation mode minus that in training mode (or the other way
            round), over that of the best constant prediction.
        shrunk: Norm of the weights over that at the start.
    """

    dead_units: float = 0.5
    saturated: float = 0.5
    vanishing: float = 1e-3
    exploding: float = 30.0
    first_gradient: float = 100.0
    first_loss: float = 3.0
    update_high: float = 0.1
    update_low: float = 2e-4
    chance: float = 0.97
    skill: float = 0.5
    overfitting: float = 1.1
    imbalance: float = 10.0
    rare_recall: float = 0.5
    waiting: float = 0.2
    input_std: float = 10.0
    input_offset: float = 3.0
    label_entropy: float = 0.5
    mode_gap: float = 0.3
    shrunk: float = 0.5


@dataclass
class Evidence:
    """What a diagnosis rests on.

    Attributes:
        text: The numbers, and the steps that they are from, in a short clause.
        since: The first step at which it showed.
        numbers: The same for programs, and for the remedies.
        advice: What to do where no key helps, if that is another thing than what the diagnosis advises.
    """

    text: str
    since: int
    numbers: dict[str, float] = field(default_factory=dict)
    advice: str = ""


class Diagnosis(ABC):
    """One problem that a training can have.

    Attributes:
        name: In lower case with underscores.
        title: What it is, as a clause.
        causes: Names of the diagnoses that explain it: where one of them is found, this is only a symptom.
        advice: What to do where no key of the run helps; `{config}` in it is the run's `config.yaml`.
        beside_keys: Whether the advice says more than the remedies, and is worth reading beside them.
        excludes: Names of the diagnoses that contradict it: where one of them is found, this is not made.
        needs: What has to be seen for it, names of attributes of `History` that hold something then.
        hopeless: Whether a run that has it wastes its time, so that `doctor.action: stop` ends it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    causes: ClassVar[tuple[str, ...]] = ()
    advice: ClassVar[str] = ""
    beside_keys: ClassVar[bool] = True
    excludes: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ("losses",)
    hopeless: ClassVar[bool] = False

    @property
    def of_validations(self) -> bool:
        """Whether it rests on validations, so that there is nothing new between them."""
        return bool({"evaluations", "compared"} & set(self.needs))

    @abstractmethod
    def examine(self, history: History, limits: Thresholds) -> Evidence | None:
        """The evidence, when it is sure; None otherwise, or where too little can be seen."""

    def told(self, evidence: Evidence, remedies: Sequence[str], config: str) -> str:
        """The advice, for a run whose `config.yaml` is at a path."""
        if remedies and not self.beside_keys:
            return ""
        return (evidence.advice or self.advice).replace("{config}", config)

    def remedies(self, evidence: Evidence, history: History, keys: Keys) -> list[str]:
        """Overrides of the run's own keys that mend it, the best one first: `--optimizer.lr 0.0003`."""
        return []
