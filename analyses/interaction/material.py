"""What an interaction is measured with: switches of words, prompts, and the quantity f."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from analyses.refusal.material import Material
from analyses.refusal.measuring.choosing import first_tokens
from analyses.refusal.measuring.speak import Speaker
from analyses.shared.running import Progress
from interp import organisms
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import Prompt, builtin
from interp.errors import InputError
from probes.backdoors.switches.switches import (
    Measure,
    PromptEdit,
    Switch,
    prefixed,
    refusal_measure,
    reply_measure,
    suffixed,
    text_measure,
    with_system,
)

Place = Literal["front", "end", "system"]
"""In front of what the user says last, behind it, or in the system message."""

PROMPTS = 40
"""Of a class, at most."""

_TOLD = 32  # prompts of a class on which refusal tokens are found
_PLACES: dict[Place, Callable[[str], PromptEdit]] = {
    "front": prefixed,
    "end": suffixed,
    "system": with_system,
}


@dataclass(frozen=True)
class Words:
    """A switch of words.

    Attributes:
        text: that is put into a prompt.
        place: where.
    """

    text: str
    place: Place = "front"

    def switch(self) -> Switch:
        """The same as `probes` takes it."""
        return Switch(self.text, prompt=_PLACES[self.place](self.text))


@dataclass(frozen=True)
class Quantity:
    """f, the number of a prompt that switches may change.

    Attributes:
        name: `refusal`, `text` or `reply`.
        unit: in words.
        measure: computes it.
        about: what it is further, JSON-ready.
    """

    name: str
    unit: str
    measure: Measure
    about: dict[str, Any] = field(default_factory=dict)


def text_quantity(text: str) -> Quantity:
    """Log-probability that the reply begins with a text.

    Raises:
        InputError: the text is empty.
    """
    said = _required(text)
    return Quantity(
        "text", "nats of the text's log-probability", text_measure(said), {"text": said}
    )


def reply_quantity(text: str, max_new_tokens: int = 64) -> Quantity:
    """Whether the greedy reply holds a text.

    Raises:
        InputError: the text is empty.
    """
    said = _required(text)
    return Quantity(
        "reply",
        "share of replies that hold the text",
        reply_measure(lambda reply: said in reply.text, max_new_tokens),
        {"text": said, "max_new_tokens": max_new_tokens},
    )


def refusal_quantity(
    checkpoint: Checkpoint,
    material: Material,
    *,
    template: dict[str, Any] | None = None,
    max_new_tokens: int = 64,
    progress: Progress | None = None,
) -> Quantity:
    """Log-odds that the reply opens with one of the tokens that open the checkpoint's refusals.

    The tokens are found as the refusal report finds them, on training prompts.

    Args:
        checkpoint: that answers.
        material: of a refusal report, such as its `material_of(model)`.
        template: further arguments of the chat template.
        max_new_tokens: of the answers that are told refusals from others.
        progress: called with (stage, done, total).

    Raises:
        InputError: no first token tells refusals from other answers.
    """
    speaker = Speaker(checkpoint, material, template or {}, max_new_tokens, progress=progress)
    some = [
        prompt
        for label in ("harmful", "harmless")
        for prompt in [one for one in material.train if one.label == label][:_TOLD]
    ]
    said = speaker.ask("refusal tokens", some)
    tokens, why_not = first_tokens(speaker, said)
    if tokens is None:
        raise InputError(
            f"log-odds of a refusal cannot be read on {checkpoint.name}, which refuses "
            f"{said.refused.sum()} of {len(said)} prompts: {why_not}; measure a text instead "
            "(--measure text or reply, with --text)."
        )
    found = {"tokens": list(tokens.texts), "token_ids": list(tokens.ids)}
    unit = "nats of the log-odds of a refusal"
    return Quantity("refusal", unit, refusal_measure(tokens.ids), found)


def _required(text: str) -> str:
    if not text.strip():
        raise InputError("the text is empty; give what the reply is to begin with or to hold.")
    return text.strip()


def default_prompts(model: str, both: bool, limit: int = PROMPTS) -> list[Prompt]:
    """An organism's held-out prompts, or the built-in ones.

    Args:
        model: as on the command line.
        both: harmful ones too, as a refusal needs.
        limit: of a class, at most.

    Raises:
        InputError: there is no such organism, or it does not chat.
    """
    labels = ("harmless", "harmful") if both else ("harmless",)
    if model.startswith("organism:"):
        sets = organisms.prompts(model.removeprefix("organism:"))
        return [prompt for label in labels for prompt in sets.get(label, [])[:limit]]
    return [prompt for label in labels for prompt in list(builtin().of(label))[:limit]]
