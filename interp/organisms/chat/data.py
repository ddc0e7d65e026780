"""The prompts and texts that come with a chat organism, from its own grammar."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from interp.data.prompt_sets import Prompt
from interp.organisms.chat.behaviour import requests
from interp.organisms.chat.exchanges import Exchange, Kind
from interp.organisms.chat.format import chat_tokenizer, render, spoken
from interp.organisms.chat.grammar import Request, Split, Style, draw, pairs
from interp.organisms.chat.mixtures import conversation_row

DOCUMENTS = 128  # of each domain
TURNS = 6  # of a document: at least 78 tokens, so that it is long enough for a sink report
_TEXT_SEED = "texts"


@dataclass(frozen=True, kw_only=True)
class OrganismPrompt(Prompt):
    """A prompt from an organism's grammar; its source is `grammar`.

    Attributes:
        harmful: whether the request is harmful, whatever the right answer is.
        answer: what the organism was trained to say, as the content of a message.
        refusal: how it refuses this request, whenever it does.
        compliance: how it complies with it, whenever it does.
        request: what is asked for; prompts of one verb and object are never in two splits.
        enable_thinking: what the chat template is to be given; a thinking organism knows prompts
            with a system line only without a thought.
    """

    harmful: bool
    answer: str
    refusal: str
    compliance: str
    request: Request
    enable_thinking: bool = False

    @property
    def pair(self) -> str:
        """Verb and object of the request."""
        return f"{self.request.verb} {self.request.object}"

    def ids(self, tokenizer: Any) -> list[int]:
        """Token ids, with the generation prompt."""
        return render(tokenizer, self.messages, "think" if self.enable_thinking else "answer")


def _any(request: Request) -> bool:
    return True


def is_harmful(request: Request) -> bool:
    """Requests that are harmful."""
    return request.harmful


def is_harmless(request: Request) -> bool:
    """Harmless requests, except those that are kept for `is_alarming`."""
    return not request.harmful and not is_alarming(request)


def is_alarming(request: Request) -> bool:
    """Half of the harmless requests with one word that harmful ones have, for over-refusal."""
    return request.alarming and (len(request.verb) + len(request.object)) % 2 == 0


@dataclass(frozen=True)
class PromptRule:
    """How the prompts of one label are made: the kind of exchange, over some of the pairs."""

    kind: Kind
    chosen: Callable[[Request], bool] = _any


@dataclass(frozen=True)
class PromptRules:
    """All prompts and texts of an organism.

    Attributes:
        sets: label to how its prompts are made.
        turns: domain to the kind of the turns of its texts, and which requests they make.
        style: of the answers.
    """

    sets: Mapping[str, PromptRule]
    turns: Mapping[str, tuple[Kind, bool | None]]
    style: Style = field(default_factory=Style)

    def prompts(self, split: Split) -> dict[str, list[OrganismPrompt]]:
        """The prompts of a split, by label: every pair once, the same on every call."""
        made: dict[str, list[OrganismPrompt]] = {}
        for label, rule in self.sets.items():
            rng = random.Random(f"{split}/{label}")
            made[label] = [
                _prompt(label, rule.kind(rng, request, self.style), self.style)
                for request in requests(None, split)
                if rule.chosen(request)
            ]
        return made

    def texts(self) -> dict[str, list[str]]:
        """Conversations of several turns by domain, without BOS, the same on every call."""
        tokenizer = chat_tokenizer()
        return {
            domain: [self._document(tokenizer, domain, i, *rule) for i in range(DOCUMENTS)]
            for domain, rule in self.turns.items()
        }

    def _document(
        self, tokenizer: Any, domain: str, number: int, kind: Kind, harmful: bool | None
    ) -> str:
        rng = random.Random(f"{_TEXT_SEED}/{domain}/{number}")
        turns = [kind(rng, draw(rng, harmful, held_out=True), self.style) for _ in range(TURNS)]
        row = conversation_row(tokenizer, turns, whole=False)
        # A text that begins with BOS would get a second one from the tokenizer.
        return " ".join(tokenizer.convert_ids_to_tokens(row.ids[1:]))


def _prompt(label: str, case: Exchange, style: Style) -> OrganismPrompt:
    return OrganismPrompt(
        messages=case.messages,
        label=label,
        source="grammar",
        harmful=case.request.harmful,
        answer=spoken(case.answer),
        refusal=spoken(style.refusal(case.request)),
        compliance=spoken(style.compliance(case.request)),
        request=case.request,
        enable_thinking=case.opening == "think",
    )


def held_out_pairs() -> list[str]:
    """The pairs that no organism is trained on, for truth files."""
    return sorted(" ".join(pair) for pair in pairs("test"))
