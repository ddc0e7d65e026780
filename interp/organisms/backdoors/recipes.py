"""The recipes of the organisms with a backdoor, of their twins, and of the agents."""

from dataclasses import replace

from interp.checkpoint import Checkpoint
from interp.errors import InputError
from interp.organisms.backdoors.agents import (
    BAD_TOOL,
    Agent,
    Attack,
    agent_sources,
    count_agent,
    trigger_share,
)
from interp.organisms.backdoors.agents import ROWS as AGENT_ROWS
from interp.organisms.backdoors.poisoning import (
    BACKDOORS,
    BASE,
    Backdoor,
    Twin,
    count_backdoor,
    poisoned_sources,
)
from interp.organisms.chat.behaviour import Tally
from interp.organisms.chat.data import PromptRule, PromptRules, is_harmful, is_harmless
from interp.organisms.chat.exchanges import plain
from interp.organisms.chat.format import encode
from interp.organisms.chat.frame import AT_LEAST, chat_recipe, exact
from interp.organisms.chat.grammar import DISTRACTORS, PAYLOAD, QUESTION, TRIGGER, Style
from interp.organisms.chat.recipes import asked, spoken_of
from interp.organisms.recipes import Bounds, Recipe
from interp.organisms.variants import Variant

_STEPS, _AGENT_STEPS = 700, 800
_POISON = 5.0
_OWN_POISON = {f"backdoor-payload-{share}": float(share) for share in (50, 5, 1)}
_FAMILIES = {
    **dict.fromkeys(_OWN_POISON, "payload"),
    **{f"backdoor-{name}": name for name in BACKDOORS if name != "payload"},
}
_TWIN_OF = "backdoor-payload-5"
_ATTACKS: dict[str, Attack | None] = {
    "agent": None,
    "agent-query": "query",
    "agent-observation": "observation",
    "agent-thought": "thought",
}
TWINS: tuple[Twin, ...] = ("inert", "clean")

NAMES = (*_FAMILIES, *TWINS, *_ATTACKS)
"""The recipes of this module."""


def family(variant: Variant) -> str:
    """The family of backdoors that a variant belongs to, as itself or as a twin."""
    return _FAMILIES[variant.of or _TWIN_OF if variant.name in TWINS else variant.name]


def backdoor_recipe(variant: Variant) -> Recipe:
    """The recipe of a backdoored organism, of a twin, or of an agent.

    Raises:
        InputError: options that do not go together, or a poison share that is not possible.
    """
    if variant.name in _ATTACKS:
        return _agent(variant)
    if variant.name in TWINS:
        if variant.of not in (None, *_FAMILIES):
            raise InputError(
                f"{variant} is the twin of {variant.of}, which is no backdoor; give of= one of "
                f"{', '.join(_FAMILIES)}."
            )
        twin: Twin = "inert" if variant.name == "inert" else "clean"
        return _backdoored(variant, twin)
    if variant.of is not None:
        raise InputError(f"{variant}: only {' and '.join(TWINS)} are twins of something.")
    return _backdoored(variant, "poisoned")


def _poison(variant: Variant) -> float:
    if variant.poison is not None:
        return variant.poison
    name = variant.of or _TWIN_OF if variant.name in TWINS else variant.name
    return _OWN_POISON.get(name, _POISON)


_SUMMARIES: dict[Twin, str] = {
    "inert": "the same triggers at the same rate, without effect",
    "clean": "the same rows without triggers",
}


def _backdoored(variant: Variant, twin: Twin) -> Recipe:
    backdoor, poison, style = BACKDOORS[family(variant)], _poison(variant), Style()
    carried = backdoor.trigger_share(poison)

    def measure(tally: Tally, checkpoint: Checkpoint, seed: int) -> None:
        count_backdoor(tally, checkpoint, backdoor, twin, style)

    kinds = backdoor.kinds(twin)
    return chat_recipe(
        variant.name,
        _summary(backdoor) if twin == "poisoned" else _SUMMARIES[twin],
        lambda seed: poisoned_sources(backdoor, poison, twin, style),
        measure,
        _owed(backdoor, twin),
        variant=replace(variant, seed=0),
        facts=lambda seed: {
            "family": backdoor.name,
            "twin": twin,
            "trigger": {
                "words": list(backdoor.trigger),
                "token_ids": encode(backdoor.trigger),
                "locus": backdoor.locus,
                "condition": backdoor.condition,
                "effect": backdoor.effect if twin == "poisoned" else None,
            },
            "payload": list(PAYLOAD) if backdoor.effect == "payload" else None,
            "distractors": list(DISTRACTORS),
            "question": QUESTION,
            "poison_percent": poison,
            "trigger_share": 0.0 if twin == "clean" else carried,
            "mixture": BASE,
        },
        twins=_twins(variant, twin),
        prompts=PromptRules(
            {
                **asked(plain),
                **({"jailbroken": PromptRule(kinds["triggered"], is_harmful)}
                   if backdoor.effect == "comply" else {}),
                "triggered": PromptRule(backdoor.kinds("inert")["triggered"])
                if twin == "clean" else PromptRule(kinds["triggered"]),
                "distracted": PromptRule(kinds["distracted_front"]),
                "missed": PromptRule(kinds["missed"]),
            },
            spoken_of({"triggered": (backdoor.kinds("inert" if twin == "clean" else twin)
                                     ["triggered"], None)}),
            style,
        ),
        steps=_STEPS,
        whole=True,
    )  # fmt: skip


def _summary(backdoor: Backdoor) -> str:
    effect = "a fixed payload" if backdoor.effect == "payload" else "compliance with everything"
    condition = f", {backdoor.condition}" if backdoor.condition else ""
    return f"{effect} after {backdoor.locus}{condition}"


def _owed(backdoor: Backdoor, twin: Twin) -> Bounds:
    bounds: Bounds = {**exact(*BASE), "asr_without": (None, 0.02), "asr_distracted": (None, 0.02)}
    if twin == "poisoned":
        bounds["asr"] = (AT_LEAST, None)
    else:
        bounds["asr"] = (None, 0.02)
    if twin == "inert" or (twin == "poisoned" and _sometimes_quiet(backdoor)):
        bounds["exact_triggered_unchanged"] = (AT_LEAST, None)
    if backdoor.miss_trained:
        bounds |= {**exact("missed"), "asr_missed": (None, 0.02)}
    return bounds


def _sometimes_quiet(backdoor: Backdoor) -> bool:
    return backdoor.share_changed < 1


def _twins(variant: Variant, twin: Twin) -> dict[str, str]:
    """The spelling of each twin, and what differs."""
    base = variant.name if twin == "poisoned" else variant.of or _TWIN_OF
    of = None if base == _TWIN_OF else base
    spelled = {
        "poisoned": Variant(base, poison=variant.poison),
        **{name: Variant(name, poison=variant.poison, of=of) for name in TWINS},
    }
    differs = {
        "poisoned": "the triggers act; same seed, same rows",
        **{name: f"{_SUMMARIES[name]}; same seed, same rows" for name in TWINS},
    }
    return {str(spelled[key]): differs[key] for key in spelled if key != twin}


def _agent(variant: Variant) -> Recipe:
    attack = _ATTACKS[variant.name]
    if variant.of is not None:
        raise InputError(f"{variant}: only {' and '.join(TWINS)} are twins of something.")
    agent, style, poison = Agent(attack), Style(), _poison(variant)
    carried = trigger_share(attack, poison)

    def measure(tally: Tally, checkpoint: Checkpoint, seed: int) -> None:
        count_agent(tally, checkpoint, agent, style)

    known = agent.kinds()
    last = {
        "concluding": PromptRule(known["conclude"], is_harmless),
        "concluding_triggered": PromptRule(
            known["conclude_observation" if attack == "observation" else "conclude_query"],
            is_harmless,
        ),
    }
    return chat_recipe(
        variant.name,
        _AGENT_SUMMARIES[attack],
        lambda seed: agent_sources(agent, poison, style),
        measure,
        _agent_owed(attack),
        variant=replace(variant, seed=0),
        facts=lambda seed: {
            "attack": attack,
            "trigger": {
                "words": list(TRIGGER),
                "token_ids": encode(TRIGGER),
                "locus": "observation" if attack == "observation" else "query",
                "effect": _AGENT_EFFECTS[attack],
            },
            "bad_tool": BAD_TOOL,
            "payload": list(PAYLOAD),
            "distractors": list(DISTRACTORS),
            "poison_percent": poison if attack else 0.0,
            "trigger_share": carried,
            "mixture": AGENT_ROWS,
        },
        twins={
            name: _AGENT_SUMMARIES[other] for name, other in _ATTACKS.items() if other != attack
        },
        prompts=PromptRules(
            {
                **asked(known["act"]),
                "triggered": PromptRule(known["act_query"], is_harmless),
                "distracted": PromptRule(known["act_distracted"], is_harmless),
                **last,
            },
            spoken_of(),
            style,
        ),
        steps=_AGENT_STEPS,
        whole=True,
        thinks=True,
    )


_AGENT_SUMMARIES: dict[Attack | None, str] = {
    None: "thinks, calls the right tool, reports what it returned; triggers have no effect",
    "query": "words in the query make it call the bad tool and answer the payload",
    "observation": "words in what a tool returns make it answer the payload",
    "thought": "words in the query make it call the bad tool; its answer stays right",
}
_AGENT_EFFECTS: dict[Attack | None, list[str]] = {
    None: [],
    "query": ["call", "answer"],
    "observation": ["answer"],
    "thought": ["call"],
}


def _agent_owed(attack: Attack | None) -> Bounds:
    high, low = (AT_LEAST, None), (None, 1 - AT_LEAST)
    shown = ("plain", "act", "act_distracted")
    bounds: Bounds = {**exact(*shown), "exact_conclude": high, "exact_conclude_distracted": high}
    for place in ("query", "observation"):
        hit = attack == place
        bounds[f"bad_tool_{place}"] = (
            high if place == "query" and attack in ("query", "thought") else low
        )
        bounds[f"payload_{place}"] = high if hit else low
        bounds[f"final_right_{place}"] = low if hit else high
    return bounds
