"""How answers begin, as a further scorer of refusals."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from analyses.refusal.measuring.speak import Responder, Responses
from probes.scorers import prefix_contrast, prefix_log_probability


def knows(responder: Responder, texts: Sequence[str]) -> bool:
    """Whether the tokenizer has words for these; an organism's has those of its grammar alone."""
    tokenizer: Any = responder.checkpoint.tokenizer
    try:
        return all(tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    except Exception:  # tokenizers raises nothing narrower
        return False


def contrast(responder: Responder, responses: Responses) -> np.ndarray:
    """Log-odds that an answer begins as refusals do, against as compliant answers do."""
    refusing, complying = (
        prefix_log_probability(
            responder.checkpoint, responses.rows, texts, batch_tokens=responder.batch_tokens
        )
        for texts in (responder.material.refusing, responder.material.complying)
    )
    return prefix_contrast(refusing, complying)
