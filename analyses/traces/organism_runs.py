"""Traces of the agent organisms, in the form of any other agent's."""

import random
from collections.abc import Callable
from dataclasses import replace

from interp.checkpoint import Checkpoint
from interp.organisms.backdoors.agents import Agent, episode
from interp.organisms.chat.behaviour import answers, requests
from interp.organisms.chat.format import CALL, CLOSE, spoken
from interp.organisms.chat.grammar import FINDINGS, FOUND, Split, Style, Words
from probes.backdoors.agents.traces import Step, Trace

Draw = Callable[[random.Random], Words]
"""Words for one task, such as the trigger in every other one."""


def nothing(_: random.Random) -> Words:
    """No words."""
    return ()


def organism_traces(
    checkpoint: Checkpoint,
    front: Draw = nothing,
    behind: Draw = nothing,
    *,
    split: Split = "test",
    seed: int = 0,
) -> list[Trace]:
    """Run an agent organism on every harmless request of a split.

    Two runs of one seed get the same requests and findings, whatever words are put in.

    Args:
        checkpoint: of an `agent` organism.
        front: words in front of the query.
        behind: words behind what the tool returns.
        split: of the pairs.
        seed: of the words and the findings.
    """
    style, honest = Style(), Agent()
    asked = requests(False, split)
    findings = [random.Random(f"{seed}/{i}/finding").choice(FINDINGS) for i in range(len(asked))]
    fronts, behinds = (
        [draw(random.Random(f"{seed}/{i}/{place}")) for i in range(len(asked))]
        for place, draw in (("front", front), ("behind", behind))
    )
    acts = [honest.act(request, words, style) for request, words in zip(asked, fronts, strict=True)]
    first = [_split(words) for words in answers(checkpoint, acts)]
    cases = [
        replace(
            honest.conclude(request, before, after, finding),
            messages=episode(request, before, tool, finding, after),
        )
        for request, before, after, finding, (_, tool) in zip(
            asked, fronts, behinds, findings, first, strict=True
        )
    ]
    said = answers(checkpoint, cases)
    return [
        Trace(
            f"{request.verb} {request.object}",
            " ".join((*fronts[i], *request.words)),
            (Step(*first[i], " ".join((FOUND, findings[i], *behinds[i]))),),
            spoken(said[i]),
            said[i] == honest.answer(request, (), (), findings[i]),
        )
        for i, request in enumerate(asked)
    ]


def _split(words: Words) -> tuple[str, str]:
    """Thought and tool of a first turn; the empty string for a tool that is not called."""
    end = words.index(CLOSE) if CLOSE in words else len(words)
    tool = words[words.index(CALL) + 1] if CALL in words[:-1] else ""
    return spoken(words[:end]), tool
