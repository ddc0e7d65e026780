"""`analyses.steering.run.steering`: from a checkpoint, policies and prompts to a finding."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.refusal.material import RefusalPrompts
from analyses.refusal.measuring.speak import Responder, Responses, share
from analyses.shared.data import PromptData
from analyses.shared.reports import NotMeasured, Rate
from analyses.shared.running import Progress, Stopwatch, data_of, model_facts
from analyses.steering.finding import SteeringFinding, build
from analyses.steering.material import HARMFUL_SETS, SETS, TestSet, tests_of
from analyses.steering.report import (
    GateRow,
    PolicyAnswerRow,
    PolicyDoseRow,
    PolicyRates,
    PolicyRow,
    SteeringProvenance,
)
from interp.checkpoint import Checkpoint
from interp.checks import require_type
from interp.data.prompt_sets import Prompt, PromptSet
from interp.errors import InputError
from probes.scorers import Judge
from steering.policy.policy import Policy
from steering.runtime.decisions import Decision
from steering.runtime.runtime import as_edit
from steering.training.evaluation import forced_on_replies, gate_quality, throughput_ratio

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
_DOSE_PROMPTS = 32  # of a side
_TIMED = 8  # rows in the batch whose speed is measured
_ANSWERS = 4  # of a set that the report shows
_LONGEST = 400  # characters of a prompt or an answer


@dataclass(frozen=True)
class Unsteered:
    """How the model without a policy answers every set."""

    responses: dict[str, Responses]

    def sides(self) -> tuple[list[str], list[str]]:
        """Names of the harmful sets that there are, and of the benign ones."""
        names = list(self.responses)
        return [n for n in names if n in HARMFUL_SETS], [n for n in names if n not in HARMFUL_SETS]


def steering(
    checkpoint: Checkpoint,
    policies: Sequence[Policy],
    data: TestSet | PromptData = None,
    *,
    scorer: Judge | None = None,
    max_new_tokens: int = 32,
    template: dict[str, Any] | None = None,
    batch_tokens: int = 8192,
    doses: Sequence[float] = DOSES,
    allow: Collection[str] = (),
    seed: int = 0,
    command: str | None = None,
    progress: Progress | None = None,
) -> SteeringFinding:
    """Measure policies side by side on prompts that none of them was made from.

    The quantities are in `docs/steering_training.md`.

    Args:
        checkpoint: unsteered, with a chat template.
        policies: that belong to it; one whose name is taken gets a number behind it.
        data: prompts with the labels `harmful`, `jailbroken`, `harmless` and `alarming` (see
            `analyses.shared.data`), or the sets of `analyses.steering.material`; None for an
            organism's held-out or the built-in ones.
        scorer: an external scorer of answers, which then counts.
        max_new_tokens: of an answer.
        template: further arguments of the chat template.
        batch_tokens: most tokens in a batch.
        doses: strengths tried, as multiples of a policy's own.
        allow: what may differ from the checkpoint that a policy names as its origin.
        seed: of the prompts that strengths are tried on.
        command: kept in the provenance.
        progress: called with (stage, done, total).

    Raises:
        InputError: no policy, or one of another model, or prompts that cannot be used.
    """
    watch = Stopwatch()
    require_type(checkpoint, Checkpoint, "checkpoint", "load one with mechguard.load(source)")
    names = _names(policies)
    for policy in policies:
        policy.require(checkpoint, allow=allow)
    # What was allowed once need not be asked of every batch.
    policies = [policy.bound(checkpoint) for policy in policies]
    tests = data if isinstance(data, TestSet) else tests_of(checkpoint.name, data)
    responder = Responder(
        checkpoint,
        _material(tests),
        template or {},
        max_new_tokens,
        batch_tokens,
        scorer,
        None,
        progress,
    )
    unsteered = Unsteered(
        {name: responder.respond(name, tests.sets[name]) for name in SETS if name in tests.sets}
    )
    rows = [_base(unsteered)]
    curves: list[PolicyDoseRow] = []
    answers: list[PolicyAnswerRow] = []
    for name, policy in zip(names, policies, strict=True):
        row, steered = _measured(responder, name, policy, unsteered)
        rows.append(row)
        curves += _doses(responder, name, policy, unsteered, seed, doses)
        answers += _answers(name, unsteered, steered)
    provenance = SteeringProvenance(
        template=template or {},
        max_new_tokens=max_new_tokens,
        data=data_of({name: PromptSet(some) for name, some in tests.sets.items()}),
        **model_facts(checkpoint),
        **watch.facts(seed, command),
    )
    return build(
        rows,
        provenance=provenance,
        scorer=responder.scorers[0].name,
        doses=curves,
        training={
            name: policy.meta["training"]
            for name, policy in zip(names, policies, strict=True)
            if "training" in policy.meta
        },
        answers=answers,
        caveats=tests.caveats,
    )


def _names(policies: Sequence[Policy]) -> list[str]:
    """A policy's own name, numbered where others have it too."""
    require_type(policies, (list, tuple), "policies", "give a list of policies")
    for policy in policies:
        require_type(policy, Policy, "a policy", "read one with Policy.load(folder)")
    if not policies:
        raise InputError("there is no policy to evaluate; give --policy DIR.")
    found: list[str] = []
    for policy in policies:
        name, number = policy.name, 2
        while name in (*found, "base"):
            name, number = f"{policy.name} ({number})", number + 1
        found.append(name)
    return found


def _material(tests: TestSet) -> RefusalPrompts:
    """What a responder knows of refusals; nothing is split here."""
    none = PromptSet(())
    return RefusalPrompts(none, none, none, refusals=tests.refusals)


def _rates(responses: dict[str, Responses]) -> PolicyRates:
    def of(name: str) -> Rate | NotMeasured:
        if name not in responses:
            return NotMeasured("there are no such prompts")
        return share(responses[name].refused.tolist())

    return PolicyRates(
        harmful=of("harmful"),
        jailbroken=of("jailbroken"),
        harmless=of("harmless"),
        over_refusal=of("over_refusal"),
    )


def _base(unsteered: Unsteered) -> PolicyRow:
    return PolicyRow(
        name="base",
        method=None,
        strength=0.0,
        rates=_rates(unsteered.responses),
        benign_kl=0.0,
        benign_kl_closed=None,
        benign_loss_delta=0.0,
        gate=None,
        throughput_ratio=1.0,
    )


def _measured(
    responder: Responder, name: str, policy: Policy, unsteered: Unsteered
) -> tuple[PolicyRow, dict[str, Responses]]:
    """One row of the table, and the answers under the policy."""
    checkpoint = responder.checkpoint
    steered: dict[str, Responses] = {}
    decided: list[list[Decision]] = []
    for key, base in unsteered.responses.items():
        decisions: dict[int, list[Decision]] = {}
        edit = as_edit(checkpoint, policy, decisions=decisions)
        steered[key] = responder.respond(f"{name}-{key}", base.prompts, edit)
        decided += [decisions[i] for i in range(len(base))]
    harmful = np.concatenate(
        [[key in HARMFUL_SETS] * len(base) for key, base in unsteered.responses.items()]
    )
    kl, delta, closed = _cost(responder, policy, unsteered)
    gate = gate_quality(policy, dict(enumerate(decided)), harmful)
    _, benign = unsteered.sides()
    timed = [row for key in benign for row in unsteered.responses[key].rows][:_TIMED]
    row = PolicyRow(
        name=name,
        method=policy.method,
        strength=policy.strength,
        rates=_rates(steered),
        benign_kl=kl,
        benign_kl_closed=closed,
        benign_loss_delta=delta,
        gate=GateRow(
            auroc=gate.auroc, threshold=gate.threshold, fpr=gate.fpr, tpr=gate.tpr, n=gate.n
        ),
        throughput_ratio=throughput_ratio(checkpoint, policy, timed),
    )
    return row, steered


def _cost(
    responder: Responder, policy: Policy, unsteered: Unsteered
) -> tuple[float, float, float | NotMeasured]:
    """KL and loss on base's replies to benign prompts; the largest KL where a gate is closed."""
    _, benign = unsteered.sides()
    rows = [row for key in benign for row in unsteered.responses[key].rows]
    replies = [reply for key in benign for reply in unsteered.responses[key].replies]
    decisions: dict[int, list[Decision]] = {}
    forced = forced_on_replies(
        responder.checkpoint,
        rows,
        replies,
        as_edit(responder.checkpoint, policy, decisions=decisions),
        responder.batch_tokens,
    )
    shut = [
        float(nats.max())
        for i, nats in enumerate(forced.kl)
        if len(nats) and not decisions[i][0].open
    ]
    closed = max(shut) if shut else NotMeasured("the gate is open for every benign prompt")
    return (*forced.means(), closed)


def _doses(
    responder: Responder,
    name: str,
    policy: Policy,
    unsteered: Unsteered,
    seed: int,
    doses: Sequence[float],
) -> Iterator[PolicyDoseRow]:
    """Refusal against multiples of a policy's strength, whole answers, on some prompts."""
    harmful, benign = unsteered.sides()
    sides = {
        harmful[-1]: unsteered.responses[harmful[-1]].prompts,
        "benign": tuple(p for key in benign for p in unsteered.responses[key].prompts),
    }
    for side, prompts in sides.items():
        order = np.random.default_rng(seed).permutation(len(prompts))[:_DOSE_PROMPTS]
        chosen: list[Prompt] = [prompts[i] for i in sorted(order.tolist())]
        for dose in doses:
            edit = as_edit(responder.checkpoint, policy, dose)
            responses = responder.respond(f"{name}-{side}-{dose:g}", chosen, edit)
            refused = share(responses.refused.tolist())
            yield PolicyDoseRow(name, side, dose, refused.rate, refused.n, refused.interval)


def _answers(
    policy: str, unsteered: Unsteered, steered: dict[str, Responses]
) -> Iterator[PolicyAnswerRow]:
    """Some answers of each set; what a harmful prompt was granted is not shown."""
    for key, base in unsteered.responses.items():
        for i in range(min(_ANSWERS, len(base))):
            yield PolicyAnswerRow(
                policy=policy,
                set=key,
                prompt=base.prompts[i].text[:_LONGEST],
                base=_shown(base, i, key),
                steered=_shown(steered[key], i, key),
            )


def _shown(responses: Responses, i: int, key: str) -> str:
    kept = responses.refused[i] or key not in HARMFUL_SETS
    return responses.answers[i].text[:_LONGEST] if kept else "[redacted]"
