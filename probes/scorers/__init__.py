"""Scorers of refusal: several side by side, and how far they agree.

Each has a `name` and `verdicts(answers)`, and says refusal, partial or compliance; empty and
looping answers are told apart by all of them in the same way.
"""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from probes.scorers.agreements import Disagreement as Disagreement
    from probes.scorers.agreements import agreement as agreement
    from probes.scorers.agreements import confusion as confusion
    from probes.scorers.agreements import disagreements as disagreements
    from probes.scorers.answer import Answer as Answer
    from probes.scorers.answer import Scorer as Scorer
    from probes.scorers.answer import Verdict as Verdict
    from probes.scorers.answer import answers as answers
    from probes.scorers.answer import answers_to_rows as answers_to_rows
    from probes.scorers.answer import unanswered as unanswered
    from probes.scorers.judge import Judge as Judge
    from probes.scorers.judge import classifier_judge as classifier_judge
    from probes.scorers.judge import judge_from as judge_from
    from probes.scorers.likelihood import Likelihood as Likelihood
    from probes.scorers.likelihood import RefusalTokens as RefusalTokens
    from probes.scorers.likelihood import find_refusal_tokens as find_refusal_tokens
    from probes.scorers.likelihood import prefix_contrast as prefix_contrast
    from probes.scorers.likelihood import prefix_log_probability as prefix_log_probability
    from probes.scorers.likelihood import refusal_log_odds as refusal_log_odds
    from probes.scorers.phrases import Phrases as Phrases
    from probes.scorers.whole import WholeRefusal as WholeRefusal

__getattr__, __all__ = attach(
    __name__,
    {
        "Answer": "answer",
        "Disagreement": "agreements",
        "Judge": "judge",
        "Likelihood": "likelihood",
        "Phrases": "phrases",
        "RefusalTokens": "likelihood",
        "Scorer": "answer",
        "Verdict": "answer",
        "WholeRefusal": "whole",
        "agreement": "agreements",
        "answers": "answer",
        "answers_to_rows": "answer",
        "classifier_judge": "judge",
        "confusion": "agreements",
        "disagreements": "agreements",
        "find_refusal_tokens": "likelihood",
        "judge_from": "judge",
        "prefix_contrast": "likelihood",
        "prefix_log_probability": "likelihood",
        "refusal_log_odds": "likelihood",
        "unanswered": "answer",
    },
)
