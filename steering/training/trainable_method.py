"""What a trainable method is, and how its file registers it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from steering.training.candidates import Fitted
    from steering.training.examples import Captured, Progress
    from steering.training.options import Options

REGISTERED: "dict[str, Method]" = {}
"""Methods whose files were imported, by name; `steering.training.registry` finds the others."""


class Candidates(Protocol):
    """How a method is fitted to captured states."""

    def __call__(
        self,
        read: "Captured",
        options: "Options",
        workdir: Path | None,
        progress: "Progress | None",
        /,
    ) -> "Fitted":
        """Fit, and name the settings that are to be tried through the model.

        Args:
            read: states of the training prompts.
            options: of the training.
            workdir: where a stopped phase of training leaves its state; None keeps none.
            progress: called with (stage, done, total).
        """


@dataclass(frozen=True)
class Method:
    """A method that policies can be trained with.

    Attributes:
        name: by which it is asked for.
        candidates: how it is fitted.
    """

    name: str
    candidates: Candidates


def trainable(name: str) -> Callable[[Candidates], Candidates]:
    """Register a function as the way in which a method is fitted; a decorator.

    Args:
        name: of the method; inside of `steering.training.methods` that of the file, with dashes.

    Raises:
        ValueError: there is a method of this name already.
    """
    if name in REGISTERED:
        raise ValueError(f"the method {name!r} is registered twice")

    def register(candidates: Candidates) -> Candidates:
        REGISTERED[name] = Method(name, candidates)
        return candidates

    return register
