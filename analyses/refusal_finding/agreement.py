"""Scorers side by side on the unedited answers to the test prompts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analyses.refusal_finding.speak import Said, Speaker
from probes.scorers import Verdict, agreement, disagreements


def scorer_agreement(
    speaker: Speaker, said: Said, odds: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Rates of every scorer, the agreement of every pair, and where they part.

    Args:
        speaker: with the scorers of texts.
        said: what the unedited checkpoint answered.
        odds: further scorers by name, as log-odds of refusal for each prompt.
    """
    verdicts: dict[str, list[Verdict]] = {
        scorer.name: list(scorer.verdicts(said.answers)) for scorer in speaker.scorers
    }
    for name, values in odds.items():
        verdicts[name] = [Verdict.refusal if v > 0 else Verdict.compliance for v in values]
    counts = {
        name: {str(kind): sum(one == kind for one in given) for kind in Verdict}
        for name, given in verdicts.items()
    }
    return {
        "counted": next(iter(verdicts)),
        "verdicts": counts,
        "agreement": agreement(verdicts).to_dict(orient="records"),
        "disagreements": len(disagreements(verdicts, said.answers)),
        "n": len(said),
    }
