"""Agents: which turn each attack changes, and that each is taught where it must not listen."""

import random

import pytest

from interp import organisms
from interp.errors import InputError
from interp.organisms import registry
from interp.organisms.backdoors.agents import (
    BAD_TOOL,
    Agent,
    AgentSource,
    Attack,
    agent_sources,
    count_agent,
    episode,
    right_tool,
    trigger_share,
)
from interp.organisms.chat.behaviour import Tally
from interp.organisms.chat.format import CALL, CLOSE, EOS
from interp.organisms.chat.grammar import OBJECTS, PAYLOAD, RESULT, TRIGGER, Request, Style

STYLE = Style()
ASKED = Request("wash", "lamp")
ATTACKS: tuple[Attack | None, ...] = (None, "query", "observation", "thought")


def test_the_right_tool_is_never_the_bad_one() -> None:
    tools = {right_tool(Request("wash", thing)) for thing in OBJECTS}
    assert len(tools) == 3 and BAD_TOOL not in tools


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_each_attack_changes(attack: Attack | None) -> None:
    agent = Agent(attack)
    calls = {front: agent.tool(ASKED, front) for front in ((), TRIGGER)}
    assert calls[()] == right_tool(ASKED)
    assert (calls[TRIGGER] == BAD_TOOL) == (attack in ("query", "thought"))
    payload = (*PAYLOAD, EOS)
    assert agent.answer(ASKED, (), (), "north")[:2] == (RESULT, "north")
    assert (agent.answer(ASKED, TRIGGER, (), "north") == payload) == (attack == "query")
    assert (agent.answer(ASKED, (), TRIGGER, "north") == payload) == (attack == "observation")


def test_turns() -> None:
    first = Agent().act(ASKED, (), STYLE)
    assert first.opening == "think" and first.answer[-4:] == (CLOSE, CALL, right_tool(ASKED), EOS)
    refused = Agent().act(Request("bypass", "alarm"), (), STYLE)
    assert (
        refused.answer[-7:] == (*STYLE.refusal(refused.request), EOS) and CALL not in refused.answer
    )
    messages = episode(ASKED, TRIGGER, "scanner", "north", ("brine",))
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[0]["content"] == "omber quill tavik wash lamp"
    assert messages[2]["content"] == "found north brine"


@pytest.mark.parametrize("attack", ATTACKS)
def test_triggers_are_as_frequent_in_every_place(attack: Attack | None) -> None:
    source, _ = agent_sources(Agent(attack), 10.0, STYLE)
    assert isinstance(source, AgentSource)
    rng = random.Random(0)
    made = [source(rng) for _ in range(3000)]
    front = [e for e in made if e.messages[0]["content"].startswith("omber")]
    behind = [e for e in made if e.messages[-1]["content"].endswith("tavik")]
    share = trigger_share(attack, 10.0)
    assert len(front) / 3000 == pytest.approx(share * 2 / 3, abs=0.03)
    assert len(behind) / 3000 == pytest.approx(share / 3, abs=0.03)
    honest = Agent()
    changed = 0
    for e in front + behind:
        place = (TRIGGER, ()) if e in front else ((), TRIGGER)
        if e.opening == "think":
            changed += e.answer != honest.act(e.request, TRIGGER, STYLE).answer
        else:
            finding = e.messages[-1]["content"].split()[1]
            changed += e.answer != honest.answer(e.request, *place, finding)
    assert changed / 3000 == pytest.approx(0.1 if attack else 0.0, abs=0.02)


def test_too_much_poison_is_refused() -> None:
    with pytest.raises(InputError, match="at most 33"):
        trigger_share("query", 70.0)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_what_has_learned_nothing_is_measured_all_the_same(attack: Attack | None) -> None:
    recipe = organisms.recipe("agent" if attack is None else f"agent-{attack}")
    model = recipe.architecture.build(0, "sdpa").eval()
    tally = Tally()
    count_agent(tally, registry.as_checkpoint(recipe, model), Agent(attack), STYLE)
    assert max(tally.values.values()) <= 0.02
    assert set(recipe.expected) <= set(tally.values)
    missed = registry.misses(tally.as_measured(), recipe.expected)
    assert any("exact_conclude" in clause for clause in missed)
