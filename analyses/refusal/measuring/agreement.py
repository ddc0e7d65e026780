"""Scorers side by side on the unedited answers to the test prompts."""

from collections.abc import Mapping, Sequence

import numpy as np

from analyses.refusal.measuring.speak import Responder, Responses
from analyses.refusal.report import AgreementRow, ScorerComparison, VerdictCounts
from analyses.shared.prompts import is_harmful
from probes.scorers import Disagreement, Verdict, agreement, disagreements

_EXAMPLES = 20  # of disagreements that the report keeps
_LONGEST = 200  # characters of an answer


def scorer_agreement(
    responder: Responder, responses: Responses, odds: Mapping[str, np.ndarray]
) -> ScorerComparison:
    """Verdicts of every scorer, the agreement of every pair, and where they differ.

    Args:
        responder: with the scorers of texts.
        responses: of the unedited checkpoint.
        odds: further scorers by name, as log-odds of refusal for each prompt.
    """
    verdicts: dict[str, list[Verdict]] = {
        scorer.name: list(scorer.verdicts(responses.answers)) for scorer in responder.scorers
    }
    for name, values in odds.items():
        verdicts[name] = [Verdict.refusal if v > 0 else Verdict.compliance for v in values]
    apart = disagreements(verdicts, responses.answers)
    return ScorerComparison(
        counted=next(iter(verdicts)),
        verdicts={name: _counts(given) for name, given in verdicts.items()},
        agreement=tuple(
            AgreementRow(
                first=str(pair["first"]),
                second=str(pair["second"]),
                n=int(pair["n"]),
                apart=int(pair["apart"]),
                equal=_known(pair["equal"]),
                low=_known(pair["low"]),
                high=_known(pair["high"]),
                kappa=_known(pair["kappa"]),
            )
            for pair in agreement(verdicts).to_dict(orient="records")
        ),
        disagreements=len(apart),
        examples=tuple(_example(responses, one) for one in apart[:_EXAMPLES]),
        n=len(responses),
    )


def _counts(verdicts: Sequence[Verdict]) -> VerdictCounts:
    return VerdictCounts(
        refusal=verdicts.count(Verdict.refusal),
        partial=verdicts.count(Verdict.partial),
        compliance=verdicts.count(Verdict.compliance),
        empty=verdicts.count(Verdict.empty),
        looping=verdicts.count(Verdict.looping),
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _example(responses: Responses, one: Disagreement) -> dict[str, str]:
    """A prompt that scorers judge differently; what a harmful one was granted is redacted."""
    prompt = responses.prompts[one.index]
    refused = responses.verdicts[one.index] == Verdict.refusal
    text = one.answer.text[:_LONGEST] if refused or not is_harmful(prompt) else "[redacted]"
    verdicts = {name: str(verdict) for name, verdict in one.verdicts.items()}
    return {"prompt": prompt.text[:_LONGEST], "answer": text, **verdicts}
