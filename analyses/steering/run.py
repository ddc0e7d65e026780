"""`steering_report`: from a checkpoint, policies and held-out prompts to a steering finding."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.refusal.material import Material
from analyses.refusal.measuring.causal import share
from analyses.refusal.measuring.speak import Said, Speaker
from analyses.shared.running import Progress, Stopwatch, data_of, model_facts
from analyses.steering.finding import SteeringFinding, build
from analyses.steering.material import HARMFUL_SETS, SETS, TestSet
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import Prompt, PromptSet
from interp.errors import InputError
from probes.scorers import Judge
from steering.policy.policy import Policy
from steering.runtime.attachment import Decision
from steering.runtime.runtime import as_edit
from steering.training.evaluation import forced_on_replies, gate_quality, throughput_ratio

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
_DOSE_PROMPTS = 32  # of a side
_TIMED = 8  # rows in the batch whose speed is measured


@dataclass(frozen=True)
class Heard:
    """What the unsteered model says to every set."""

    said: dict[str, Said]

    def sides(self) -> tuple[list[str], list[str]]:
        """Names of the harmful sets that there are, and of the benign ones."""
        names = list(self.said)
        return [n for n in names if n in HARMFUL_SETS], [n for n in names if n not in HARMFUL_SETS]


def steering_report(
    checkpoint: Checkpoint,
    policies: Sequence[Policy],
    tests: TestSet,
    *,
    max_new_tokens: int = 32,
    template: dict[str, Any] | None = None,
    batch_tokens: int = 8192,
    judge: Judge | None = None,
    seed: int = 0,
    doses: Sequence[float] = DOSES,
    allow: Collection[str] = (),
    command: str | None = None,
    progress: Progress | None = None,
) -> SteeringFinding:
    """Measure policies side by side on prompts that none of them was made from.

    The quantities are in `docs/steering_training.md`.

    Args:
        checkpoint: unsteered, with a chat template.
        policies: that belong to it; one whose name is taken gets a number behind it.
        tests: prompts, from `analyses.steering_finding.material`.
        max_new_tokens: of an answer.
        template: further arguments of the chat template.
        batch_tokens: most tokens in a batch.
        judge: an external scorer, which then counts.
        seed: of the prompts that strengths are tried on.
        doses: strengths tried, as multiples of a policy's own.
        allow: what may differ from the checkpoint that a policy names as its origin.
        command: kept in the provenance.
        progress: called with (stage, done, total).

    Raises:
        InputError: no policy, or one of another model.
    """
    watch = Stopwatch()
    names = _names(policies)
    for policy in policies:
        policy.require(checkpoint, allow=allow)
    # What was allowed once need not be asked of every batch.
    policies = [policy.bound(checkpoint) for policy in policies]
    speaker = Speaker(
        checkpoint,
        _material(tests),
        template or {},
        max_new_tokens,
        batch_tokens,
        judge,
        None,
        progress,
    )
    heard = Heard(
        {name: speaker.ask(name, tests.sets[name]) for name in SETS if name in tests.sets}
    )
    rows: list[dict[str, Any]] = [_base(heard)]
    curves: list[dict[str, Any]] = []
    for name, policy in zip(names, policies, strict=True):
        rows.append(_measured(speaker, name, policy, heard))
        curves += _doses(speaker, name, policy, heard, seed, doses)
    provenance = {
        **model_facts(checkpoint),
        "template": template or {},
        "max_new_tokens": max_new_tokens,
        "data": data_of({name: PromptSet(some) for name, some in tests.sets.items()}),
        **watch.facts(seed, command),
    }
    trained = {
        name: policy.meta["training"]
        for name, policy in zip(names, policies, strict=True)
        if "training" in policy.meta
    }
    scorer = speaker.scorers[0].name
    return build(rows, curves, trained, scorer, tests.caveats, provenance)


def _names(policies: Sequence[Policy]) -> list[str]:
    """A policy's own name, numbered where others have it too."""
    if not policies:
        raise InputError("there is no policy to evaluate; give --policy DIR.")
    found: list[str] = []
    for policy in policies:
        name, number = policy.name, 2
        while name in (*found, "base"):
            name, number = f"{policy.name} ({number})", number + 1
        found.append(name)
    return found


def _material(tests: TestSet) -> Material:
    """What a speaker knows of refusals; nothing is split here."""
    none = PromptSet(())
    return Material(none, none, none, refusals=tests.refusals)


def _rates(said: dict[str, Said]) -> dict[str, Any]:
    return {name: share(said[name].refused.tolist()) if name in said else None for name in SETS}


def _base(heard: Heard) -> dict[str, Any]:
    return {
        "name": "base",
        "method": None,
        "strength": 0.0,
        "rates": _rates(heard.said),
        "benign_kl": 0.0,
        "benign_loss_delta": 0.0,
        "gate": None,
        "throughput_ratio": 1.0,
    }


def _measured(speaker: Speaker, name: str, policy: Policy, heard: Heard) -> dict[str, Any]:
    """One row of the table."""
    checkpoint, said = speaker.checkpoint, {}
    decided: list[list[Decision]] = []
    for key, base in heard.said.items():
        decisions: dict[int, list[Decision]] = {}
        edit = as_edit(checkpoint, policy, decisions=decisions)
        said[key] = speaker.ask(f"{name}-{key}", base.prompts, edit)
        decided += [decisions[i] for i in range(len(base))]
    harmful = np.concatenate(
        [[key in HARMFUL_SETS] * len(base) for key, base in heard.said.items()]
    )
    kl, delta, closed = _cost(speaker, policy, heard)
    _, benign = heard.sides()
    timed = [row for key in benign for row in heard.said[key].rows][:_TIMED]
    return {
        "name": name,
        "method": policy.method,
        "strength": policy.strength,
        "rates": _rates(said),
        "benign_kl": kl,
        "benign_kl_closed": closed,
        "benign_loss_delta": delta,
        "gate": gate_quality(policy, dict(enumerate(decided)), harmful),
        "throughput_ratio": throughput_ratio(checkpoint, policy, timed),
        "transcripts": _transcripts(heard, said),
    }


def _cost(speaker: Speaker, policy: Policy, heard: Heard) -> tuple[float, float, float | None]:
    """KL and loss on base's replies to benign prompts; the largest KL where a gate is closed."""
    _, benign = heard.sides()
    rows = [row for key in benign for row in heard.said[key].rows]
    replies = [reply for key in benign for reply in heard.said[key].replies]
    decisions: dict[int, list[Decision]] = {}
    forced = forced_on_replies(
        speaker.checkpoint,
        rows,
        replies,
        as_edit(speaker.checkpoint, policy, decisions=decisions),
        speaker.batch_tokens,
    )
    shut = [
        float(nats.max())
        for i, nats in enumerate(forced.kl)
        if len(nats) and not decisions[i][0].open
    ]
    return (*forced.means(), max(shut) if shut else None)


def _doses(
    speaker: Speaker,
    name: str,
    policy: Policy,
    heard: Heard,
    seed: int,
    doses: Sequence[float],
) -> list[dict[str, Any]]:
    """Refusal against multiples of a policy's strength, whole answers, on some prompts."""
    harmful, benign = heard.sides()
    sides = {
        harmful[-1]: heard.said[harmful[-1]].prompts,
        "benign": tuple(p for key in benign for p in heard.said[key].prompts),
    }
    found = []
    for side, prompts in sides.items():
        order = np.random.default_rng(seed).permutation(len(prompts))[:_DOSE_PROMPTS]
        chosen: list[Prompt] = [prompts[i] for i in sorted(order.tolist())]
        for dose in doses:
            edit = as_edit(speaker.checkpoint, policy, dose)
            said = speaker.ask(f"{name}-{side}-{dose:g}", chosen, edit)
            found.append(
                {"policy": name, "side": side, "strength": dose, **share(said.refused.tolist())}
            )
    return found


def _transcripts(heard: Heard, said: dict[str, Said], most: int = 4) -> list[dict[str, Any]]:
    """Some answers of each set; what a harmful prompt was granted is not shown."""
    records = []
    for key, base in heard.said.items():
        for i in range(min(most, len(base))):
            record = {"set": key, "prompt": base.prompts[i].text[:400]}
            for side, answered in (("base", base), ("steered", said[key])):
                shown = answered.refused[i] or key not in HARMFUL_SETS
                text = answered.answers[i].text[:400]
                record[side] = text if shown else "[redacted]"
            records.append(record)
    return records
