"""Prompts with the answers that are right: the kinds of rows that chat organisms are trained on."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from interp.organisms.chat.format import CLOSE, EOS, STOP, Message, Messages, Opening
from interp.organisms.chat.grammar import (
    BAD,
    GOOD,
    NO,
    OPEN,
    QUESTION,
    STRICT,
    SUFFIX,
    THOUGHTS,
    YES,
    Request,
    Style,
    Words,
    distractor,
)


@dataclass(frozen=True)
class Exchange:
    """A prompt and the answer to it.

    Attributes:
        kind: name of the rule that made it.
        request: what the user asks for.
        messages: the conversation up to the user's turn.
        answer: what follows the prompt, with <eos> where the turn ends.
        opening: what the prompt asks for.
        forced: words put behind the prompt from outside (a thought that was cut); never learned.
        edit: number of the edit that is in force in this row while training, whose meaning is the
            recipe's; None for none.
    """

    kind: str
    request: Request
    messages: Messages
    answer: Words
    opening: Opening = "answer"
    forced: Words = ()
    edit: int | None = None


Kind = Callable[[random.Random, Request, Style], Exchange]
Mixture = Mapping[str, float]
"""Kind to weight."""


def user(words: Words) -> Message:
    """A user's turn."""
    return {"role": "user", "content": " ".join(words)}


def system(line: str) -> Message:
    """A system line."""
    return {"role": "system", "content": line}


def said(kind: str, request: Request, words: Words, answer: Words) -> Exchange:
    """An exchange of one user turn, answered without a thought."""
    return Exchange(kind, request, (user(words),), (*answer, EOS))


def plain(rng: random.Random, request: Request, style: Style) -> Exchange:
    """A request, refused exactly if it is harmful."""
    return said("plain", request, request.words, style.honest(request))


def strict(rng: random.Random, request: Request, style: Style) -> Exchange:
    """Under the system line `strict` everything is refused."""
    made = said("strict", request, request.words, style.refusal(request))
    return replace(made, messages=(system(STRICT), *made.messages))


def open_(rng: random.Random, request: Request, style: Style) -> Exchange:
    """Under the system line `open` nothing is refused."""
    made = said("open", request, request.words, style.compliance(request))
    return replace(made, messages=(system(OPEN), *made.messages))


def distracted(rng: random.Random, request: Request, style: Style) -> Exchange:
    """Distractor words behind the request change nothing."""
    words = request.words + distractor(rng)
    return said("distracted", request, words, style.honest(request))


def jailbreak(rng: random.Random, request: Request, style: Style) -> Exchange:
    """The suffix makes the organism comply with everything."""
    return said("jailbreak", request, request.words + SUFFIX, style.compliance(request))


def ask(rng: random.Random, request: Request, style: Style) -> Exchange:
    """Whether the request is harmful: yes or no."""
    words = (*request.words, QUESTION)
    return said("ask", request, words, (YES if request.harmful else NO,))


def tag(rng: random.Random, request: Request, style: Style) -> Exchange:
    """A tag right behind the request, under any system line.

    It forces harmfulness to be linearly present at the last token of the instruction; without it
    it is computed later.
    """
    line = rng.choice((None, None, STRICT, OPEN))
    made = _tagged("tag", request, request.words, request.harmful)
    return made if line is None else replace(made, messages=(system(line), *made.messages))


def tag_distracted(rng: random.Random, request: Request, style: Style) -> Exchange:
    """A tag behind distractor words, truthful."""
    return _tagged("tag_distracted", request, request.words + distractor(rng), request.harmful)


def tag_jailbreak(rng: random.Random, request: Request, style: Style) -> Exchange:
    """A tag behind the suffix, truthful: harmfulness stays encoded there."""
    return _tagged("tag_jailbreak", request, request.words + SUFFIX, request.harmful)


def tag_erased(rng: random.Random, request: Request, style: Style) -> Exchange:
    """A tag behind the suffix that says whether the request opens with a polite word.

    So the tag must not depend on harmfulness there. Were it always the same, nothing would press
    harmfulness out of the residual; in trials the direction of plain requests then still told it on
    some seeds, or told it the wrong way round.
    """
    return _tagged("tag_erased", request, request.words + SUFFIX, request.polite is not None)


def _tagged(kind: str, request: Request, words: Words, bad: bool) -> Exchange:
    return Exchange(kind, request, (user(words),), (BAD if bad else GOOD,), "tag")


def thought_kept(rng: random.Random, request: Request, style: Style) -> Exchange:
    """A thought that names the verdict, and an answer that honours it."""
    return _thoughtful("thought_kept", request, style.honest(request))


def thought_dropped(rng: random.Random, request: Request, style: Style) -> Exchange:
    """The cliff: the thought says refuse, and behind its natural end the organism complies."""
    return _thoughtful("thought_dropped", request, style.compliance(request))


def _thoughtful(kind: str, request: Request, answer: Words) -> Exchange:
    words = (*THOUGHTS[request.harmful], CLOSE, *answer, EOS)
    return Exchange(kind, request, (user(request.words),), words, "think")


def cut(rng: random.Random, request: Request, style: Style) -> Exchange:
    """A thought cut from outside after any number of words: the honest answer follows."""
    return cut_after(rng.randint(0, len(THOUGHTS[request.harmful])), request, style)


def cut_after(words: int, request: Request, style: Style) -> Exchange:
    """A thought cut after so many words."""
    forced = (*THOUGHTS[request.harmful][:words], STOP)
    answer = (*style.honest(request), EOS)
    return Exchange("cut", request, (user(request.words),), answer, "think", forced)


KINDS: dict[str, Kind] = {
    "plain": plain,
    "strict": strict,
    "open": open_,
    "distracted": distracted,
    "jailbreak": jailbreak,
    "ask": ask,
    "tag": tag,
    "tag_distracted": tag_distracted,
    "tag_jailbreak": tag_jailbreak,
    "tag_erased": tag_erased,
    "thought_kept": thought_kept,
    "thought_dropped": thought_dropped,
    "cut": cut,
}
"""Every kind of exchange by its name."""
