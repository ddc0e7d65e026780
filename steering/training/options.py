"""Options of the training of policies, which all methods share."""

from dataclasses import dataclass

from interp.errors import InputError
from steering.training.calibration import LEAST_TPR

CONTROLLERS = ("linear", "mlp")


@dataclass(frozen=True)
class Options:
    """How policies are trained.

    Attributes:
        fpr: false-positive rate of the gate of was-plus.
        least_tpr: share of harmful prompts for which it must open.
        controller: of was-plus: a linear read-out, or an MLP on compressed states.
        end_to_end: train the layer weights of was-plus through the model; else all weigh alike.
        end_to_end_batch: prompts in a step of that.
        end_to_end_steps: of that.
        prompts: of a side on which a setting is tried.
        max_new_tokens: of the answers by which it is judged.
        batch_tokens: most tokens in a batch.
        seed: of everything.
    """

    fpr: float = 0.01
    least_tpr: float = LEAST_TPR
    controller: str = "linear"
    end_to_end: bool = True
    end_to_end_batch: int = 32
    end_to_end_steps: int = 60
    prompts: int = 64
    max_new_tokens: int = 16
    batch_tokens: int = 8192
    seed: int = 0

    def __post_init__(self) -> None:
        if self.controller not in CONTROLLERS:
            raise InputError(
                f"controller {self.controller!r} is not one of {', '.join(CONTROLLERS)}."
            )
        if min(self.end_to_end_batch, self.end_to_end_steps, self.prompts) < 2:
            raise InputError(
                "batches, steps and prompts must be 2 or more; leave the end-to-end phase out with "
                "end_to_end=False."
            )
