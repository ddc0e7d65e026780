"""What `report.json` of a steering finding holds; see `docs/steering_training.md`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from analyses.shared.reports import DataEntry, NotMeasured, Provenance, Rate

TrainingRecord = Mapping[str, object]
"""How a policy was trained, as its file says it; the settings of its trials differ by method."""


@dataclass(frozen=True, kw_only=True)
class SteeringProvenance(Provenance):
    """What was measured, and how.

    Attributes:
        template: further arguments of the chat template.
        max_new_tokens: of an answer.
        data: the prompts of each set.
    """

    template: Mapping[str, object]
    max_new_tokens: int
    data: tuple[DataEntry, ...]


@dataclass(frozen=True)
class PolicyRates:
    """Share of each set of prompts that is refused."""

    harmful: Rate | NotMeasured
    jailbroken: Rate | NotMeasured
    harmless: Rate | NotMeasured
    over_refusal: Rate | NotMeasured


@dataclass(frozen=True)
class GateRow:
    """Which prompts a policy steers.

    Attributes:
        auroc: of the gate's scores, harmful against benign prompts; None without a gate.
        threshold: above which it opens; None for a gate that never closes.
        fpr: share of benign prompts that are steered.
        tpr: share of harmful and jailbroken prompts that are steered.
        n: prompts.
    """

    auroc: float | None
    threshold: float | None
    fpr: float | None
    tpr: float | None
    n: int


@dataclass(frozen=True)
class PolicyRow:
    """A policy, or the model without one.

    Attributes:
        name: of the policy; `base` without one.
        method: that made it; None without one.
        strength: its own.
        rates: of refusal.
        benign_kl: mean KL(base ‖ steered) on the base's replies to benign prompts, nats per token.
        benign_kl_closed: the largest KL where the gate is closed, in nats; None without a policy.
        benign_loss_delta: rise of the loss on the same replies, nats per token.
        gate: whom it steers; None without a policy.
        throughput_ratio: tokens per second of `generate` over those of the base.
    """

    name: str
    method: str | None
    strength: float
    rates: PolicyRates
    benign_kl: float
    benign_kl_closed: float | NotMeasured | None
    benign_loss_delta: float
    gate: GateRow | None
    throughput_ratio: float


@dataclass(frozen=True)
class PolicyDoseRow:
    """Share of prompts that is refused at a multiple of a policy's strength."""

    policy: str
    side: str
    strength: float
    rate: float
    n: int
    interval: tuple[float, float]


@dataclass(frozen=True)
class PolicyAnswerRow:
    """A prompt answered without and with a policy; what a harmful one was granted is redacted."""

    policy: str
    set: str
    prompt: str
    base: str
    steered: str


@dataclass(frozen=True, kw_only=True)
class SteeringReport:
    """All of a steering finding, as `report.json` holds it.

    Attributes:
        kind: of the finding.
        format_version: of the JSON.
        verdict: the result in one to three sentences.
        provenance: what was measured, and how.
        scorer: by which refusals are counted.
        policies: the first is the model without a policy.
        dose_response: refusal by strength.
        training: how policies were trained, by their names, where their files say it.
        transcripts: some answers.
        caveats: what the finding does not establish.
    """

    kind: Literal["steering"] = "steering"
    format_version: Literal[1] = 1
    verdict: str
    provenance: SteeringProvenance
    scorer: str
    policies: tuple[PolicyRow, ...]
    dose_response: tuple[PolicyDoseRow, ...]
    training: Mapping[str, TrainingRecord]
    transcripts: tuple[PolicyAnswerRow, ...]
    caveats: tuple[str, ...]
