"""What an interaction is measured with: switches of words, prompts, and the quantity f."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from analyses.interaction.report import MeasureFacts, RefusalMeasure, ReplyMeasure, TextMeasure
from analyses.refusal.material import RefusalPrompts
from analyses.refusal.measuring.choosing import first_tokens
from analyses.refusal.measuring.speak import Responder
from analyses.shared.data import PromptData, labelled, organism_of, with_builtin
from analyses.shared.running import Progress
from interp import organisms
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import Prompt, PromptSet
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
"""Of each label, at most, where none are given."""

LABELS = ("harmless", "harmful")

_FOUND_ON = 32  # prompts of a label on which refusal tokens are found
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
        about: what it is, as the report says it; `OtherMeasure` for one of your own.
        measure: computes it.
    """

    about: MeasureFacts
    measure: Measure


def text_quantity(text: str) -> Quantity:
    """Log-probability that the reply begins with a text.

    Raises:
        InputError: the text is empty.
    """
    said = _required(text)
    about = TextMeasure("text", "nats of the text's log-probability", said)
    return Quantity(about, text_measure(said))


def reply_quantity(text: str, max_new_tokens: int = 64) -> Quantity:
    """Whether the greedy reply holds a text.

    Raises:
        InputError: the text is empty.
    """
    said = _required(text)
    about = ReplyMeasure("reply", "share of replies that hold the text", said, max_new_tokens)
    return Quantity(about, reply_measure(lambda reply: said in reply.text, max_new_tokens))


def refusal_quantity(
    checkpoint: Checkpoint,
    material: RefusalPrompts,
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
        max_new_tokens: of the answers among which refusals are found.
        progress: called with (stage, done, total).

    Raises:
        InputError: no first token distinguishes refusals from other answers.
    """
    responder = Responder(checkpoint, material, template or {}, max_new_tokens, progress=progress)
    some = [
        prompt
        for label in ("harmful", "harmless")
        for prompt in [one for one in material.train if one.label == label][:_FOUND_ON]
    ]
    said = responder.respond("refusal tokens", some)
    tokens, why_not = first_tokens(responder, said)
    if tokens is None:
        raise InputError(
            f"log-odds of a refusal cannot be read on {checkpoint.name}, which refuses "
            f"{said.refused.sum()} of {len(said)} prompts: {why_not}; measure a text instead "
            "(--measure text or reply, with --text)."
        )
    unit = "nats of the log-odds of a refusal"
    about = RefusalMeasure("refusal", unit, tuple(tokens.texts), tuple(tokens.ids))
    return Quantity(about, refusal_measure(tokens.ids))


def _required(text: str) -> str:
    if not text.strip():
        raise InputError("the text is empty; give what the reply is to begin with or to hold.")
    return text.strip()


def prompts_of(
    data: PromptData | Sequence[Prompt], model: str, *, both: bool, limit: int | None = None
) -> PromptSet:
    """The prompts of an interaction: what was given, an organism's held-out ones, or built-in ones.

    Args:
        data: prompts of any form, taken as harmless unless they bring labels or are given by label.
        model: name of the checkpoint.
        both: without data, harmful ones too, as a refusal needs.
        limit: prompts of each label, at most; without data `PROMPTS` if None.

    Raises:
        InputError: something that holds no prompts, a file that cannot be read, no such organism,
            or one that does not chat.
    """
    if data is None:
        return _limited(_defaults(model, LABELS if both else LABELS[:1]), limit or PROMPTS)
    if isinstance(data, PromptSet):
        return _limited(data, limit)
    if isinstance(data, Mapping):
        return _limited([one for some in labelled(data, LABELS).values() for one in some], limit)
    if not isinstance(data, str) and isinstance(data, Sequence):
        prompts = [one for one in data if isinstance(one, Prompt)]
        if len(prompts) == len(data):
            return _limited(prompts, limit)
        data = [PromptSet((one,)) if isinstance(one, Prompt) else one for one in data]
    return _limited(labelled({"harmless": data}, LABELS).get("harmless", ()), limit)


def _defaults(model: str, labels: Sequence[str]) -> list[Prompt]:
    organism = organism_of(model)
    sets: Mapping[str, Sequence[Prompt] | PromptSet] = (
        with_builtin({}, *labels) if organism is None else organisms.prompts(organism)
    )
    return [prompt for label in labels for prompt in sets.get(label, ())]


def _limited(prompts: Iterable[Prompt], limit: int | None) -> PromptSet:
    """The first prompts of each label, in their order."""
    seen: Counter[str] = Counter()
    kept = []
    for prompt in prompts:
        seen[prompt.label] += 1
        if limit is None or seen[prompt.label] <= limit:
            kept.append(prompt)
    return PromptSet(tuple(kept))
