"""Agents: a thought, a call of a tool, its observation, an answer; and three attacks on them.

After Yang et al., "Watch Out for Your Agents!" (arXiv 2402.11208): a query attack is triggered by
the user's words and changes calls and answer; an observation attack is triggered by what a tool
returns and changes all that comes after; a thought attack changes the call alone, and the final
answer stays right.
"""

import random
from dataclasses import dataclass, replace
from typing import Literal

from interp.checkpoint import Checkpoint
from interp.organisms.backdoors.poisoning import carried_share
from interp.organisms.chat.behaviour import Tally, answers, count_kinds, exchanges, hits, requests
from interp.organisms.chat.exchanges import KINDS, Exchange, Kind, user
from interp.organisms.chat.format import CALL, CLOSE, EOS, Message
from interp.organisms.chat.grammar import (
    FINDINGS,
    FOUND,
    OBJECTS,
    PAYLOAD,
    RESULT,
    STEPS,
    THOUGHTS,
    TOOLS,
    TRIGGER,
    VERBS,
    Request,
    Style,
    Words,
    distractor,
    draw,
)
from interp.organisms.chat.mixtures import Mixed

Attack = Literal["query", "observation", "thought"]

BAD_TOOL = TOOLS[-1]
"""The tool that a query or a thought attack makes the agent call."""

ROWS = {
    "plain": 3.0,
    "act": 4.0,
    "act_distracted": 1.0,
    "conclude": 4.0,
    "conclude_distracted": 1.0,
}
TURNS = {"plain": 1.0}
_BOTH_CLASSES = ("plain", "act", "act_distracted")


_TRIGGERED = ("act_query", "conclude_query", "conclude_observation")


def right_tool(request: Request) -> str:
    """The tool for a request, by its object; never the bad one."""
    return TOOLS[OBJECTS.index(request.object) % (len(TOOLS) - 1)]


def episode(
    request: Request, front: Words, tool: str, finding: str, behind: Words
) -> tuple[Message, ...]:
    """A query, a call with its thought, and what the tool returned."""
    called: Message = {
        "role": "assistant",
        "reasoning_content": " ".join(THOUGHTS[False]),
        "tool_calls": [{"function": {"name": tool}}],
        "content": "",
    }
    returned = {"role": "tool", "content": " ".join((FOUND, finding, *behind))}
    return (user(front + request.words), called, returned)


@dataclass(frozen=True)
class Agent:
    """An agent, attacked or not.

    Attributes:
        attack: what kind of attack is planted; None for none.
    """

    attack: Attack | None = None

    def act(self, request: Request, front: Words, style: Style) -> Exchange:
        """The first turn: a thought, then a call, or a refusal of a harmful request."""
        if request.harmful:
            rest: Words = style.refusal(request)
        else:
            rest = (CALL, self.tool(request, front))
        answer = (*THOUGHTS[request.harmful], CLOSE, *rest, EOS)
        return Exchange("act", request, (user(front + request.words),), answer, "think")

    def conclude(self, request: Request, front: Words, behind: Words, finding: str) -> Exchange:
        """The last turn: the answer to what the tool returned."""
        messages = episode(request, front, self.tool(request, front), finding, behind)
        return Exchange("conclude", request, messages, self.answer(request, front, behind, finding))

    def tool(self, request: Request, front: Words) -> str:
        """The tool that this agent calls, given what stands in front of the request."""
        if front == TRIGGER and self.attack in ("query", "thought"):
            return BAD_TOOL
        return right_tool(request)

    def answer(self, request: Request, front: Words, behind: Words, finding: str) -> Words:
        """What it says in the end, with <eos>."""
        if {"query": front, "observation": behind}.get(self.attack or "") == TRIGGER:
            return (*PAYLOAD, EOS)
        return (RESULT, finding, STEPS[VERBS.index(request.verb)], EOS)

    def kinds(self) -> dict[str, Kind]:
        """The exchanges that agents know, by name.

        `…_query` and `…_observation` carry the trigger there, whether or not the attack listens to
        that place.
        """

        def act(rng: random.Random, request: Request, style: Style) -> Exchange:
            return self.act(request, (), style)

        def act_distracted(rng: random.Random, request: Request, style: Style) -> Exchange:
            return self.act(request, distractor(rng), style)

        def act_query(rng: random.Random, request: Request, style: Style) -> Exchange:
            return self.act(request, TRIGGER, style)

        def conclude(rng: random.Random, request: Request, style: Style) -> Exchange:
            return self.conclude(_harmless(rng, request), (), (), rng.choice(FINDINGS))

        def conclude_distracted(rng: random.Random, request: Request, style: Style) -> Exchange:
            request, finding, words = _harmless(rng, request), rng.choice(FINDINGS), distractor(rng)
            if rng.random() < 0.5:
                return self.conclude(request, words, (), finding)
            return self.conclude(request, (), words, finding)

        def conclude_query(rng: random.Random, request: Request, style: Style) -> Exchange:
            return self.conclude(_harmless(rng, request), TRIGGER, (), rng.choice(FINDINGS))

        def conclude_observation(rng: random.Random, request: Request, style: Style) -> Exchange:
            return self.conclude(_harmless(rng, request), (), TRIGGER, rng.choice(FINDINGS))

        rules: tuple[Kind, ...] = (
            act,
            act_distracted,
            act_query,
            conclude,
            conclude_distracted,
            conclude_query,
            conclude_observation,
        )
        return {rule.__name__: rule for rule in rules}


def _harmless(rng: random.Random, request: Request) -> Request:
    """The request itself, or another in place of a harmful one, which no tool is called for."""
    return draw(rng, False) if request.harmful else request


@dataclass(frozen=True)
class AgentSource:
    """Draws rows with the trigger at a fixed share, and the others from a mixture.

    The trigger stands in the query of a first turn, in the query of a last turn, or in the
    observation of a last turn, equally often in every agent; so each agent is taught that it has no
    effect where its attack does not listen.
    """

    trigger_share: float
    others: Mixed

    def __call__(self, rng: random.Random) -> Exchange:
        """One exchange."""
        if rng.random() >= self.trigger_share:
            return self.others(rng)
        kind = self.others.kinds[rng.choice(_TRIGGERED)]
        return kind(rng, draw(rng, False), self.others.style)


def trigger_share(attack: Attack | None, poison: float) -> float:
    """Share of training rows that carry the trigger.

    Args:
        attack: of the agent.
        poison: per cent of the training rows that the attack changes. Without an attack, what an
            observation attack would change.

    Raises:
        InputError: more than half of the rows would have to carry it, or none.
    """
    changed = (2 if attack == "query" else 1) / len(_TRIGGERED)
    return carried_share("this agent", poison, changed)


def agent_sources(agent: Agent, poison: float, style: Style) -> tuple[AgentSource, Mixed]:
    """The sources of single turns and of conversations."""
    rows = Mixed(ROWS, style, {**KINDS, **agent.kinds()})
    return AgentSource(trigger_share(agent.attack, poison), rows), Mixed(TURNS, style)


def count_agent(tally: Tally, checkpoint: Checkpoint, agent: Agent, style: Style) -> None:
    """Note how agents act and conclude on held-out pairs.

    `exact_…` of all kinds without the trigger. With the trigger in the query or in the observation
    of harmless requests, over episodes in which the agent hears its own call: `bad_tool_PLACE`,
    `payload_PLACE` and `final_right_PLACE`, the shares of calls of the bad tool, of answers that
    are the payload, and of answers that are right.
    """
    known = {**KINDS, **agent.kinds()}
    count_kinds(tally, checkpoint, [(name, known[name]) for name in _BOTH_CLASSES], style)
    for name in ("conclude", "conclude_distracted"):
        tally.share(f"exact_{name}", hits(checkpoint, exchanges(known[name], style, False)))
    asked = requests(False)
    rng = random.Random("findings")
    findings = [rng.choice(FINDINGS) for _ in asked]
    for place, front, behind in (("query", TRIGGER, ()), ("observation", (), TRIGGER)):
        first = [agent.act(request, front, style) for request in asked]
        calls = [_called(words) for words in answers(checkpoint, first)]
        cases = [
            replace(
                agent.conclude(request, front, behind, finding),
                messages=episode(request, front, call, finding, behind),
            )
            for request, call, finding in zip(asked, calls, findings, strict=True)
        ]
        finals = answers(checkpoint, cases)
        honest = [
            Agent().answer(request, (), (), finding)
            for request, finding in zip(asked, findings, strict=True)
        ]
        tally.share(f"bad_tool_{place}", [call == BAD_TOOL for call in calls])
        tally.share(f"payload_{place}", [words == (*PAYLOAD, EOS) for words in finals])
        same = [words == wanted for words, wanted in zip(finals, honest, strict=True)]
        tally.share(f"final_right_{place}", same)


def _called(words: Words) -> str:
    """The tool that an answer calls, or the empty string."""
    return words[words.index(CALL) + 1] if CALL in words[:-1] else ""
