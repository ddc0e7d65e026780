"""Scorers side by side on the unedited answers to the test prompts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analyses.refusal.measuring.speak import Said, Speaker
from analyses.shared.prompts import is_harmful
from probes.scorers import Disagreement, Verdict, agreement, disagreements

_EXAMPLES = 20  # of disagreements that the report keeps
_LONGEST = 200  # characters of an answer


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
    apart = disagreements(verdicts, said.answers)
    return {
        "counted": next(iter(verdicts)),
        "verdicts": counts,
        "agreement": agreement(verdicts).to_dict(orient="records"),
        "disagreements": len(apart),
        "examples": [_example(said, one) for one in apart[:_EXAMPLES]],
        "n": len(said),
    }


def _example(said: Said, one: Disagreement) -> dict[str, Any]:
    """A prompt that scorers judge differently; what a harmful one was granted is redacted."""
    prompt, refused = said.prompts[one.index], said.verdicts[one.index] == Verdict.refusal
    text = one.answer.text[:_LONGEST] if refused or not is_harmful(prompt) else "[redacted]"
    verdicts = {name: str(verdict) for name, verdict in one.verdicts.items()}
    return {"prompt": prompt.text[:_LONGEST], "answer": text, **verdicts}
