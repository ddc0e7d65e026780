"""How answers begin, as a further scorer of refusals."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from analyses.refusal.measuring.speak import Said, Speaker
from probes.scorers import prefix_contrast, prefix_log_probability


def knows(speaker: Speaker, texts: Sequence[str]) -> bool:
    """Whether the tokenizer has words for these; an organism's has those of its grammar alone."""
    tokenizer: Any = speaker.checkpoint.tokenizer
    try:
        return all(tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    except Exception:  # tokenizers raises nothing narrower
        return False


def contrast(speaker: Speaker, said: Said) -> np.ndarray:
    """Log-odds that an answer begins as refusals do, against as compliant answers do."""
    refusing, complying = (
        prefix_log_probability(
            speaker.checkpoint, said.rows, texts, batch_tokens=speaker.batch_tokens
        )
        for texts in (speaker.material.refusing, speaker.material.complying)
    )
    return prefix_contrast(refusing, complying)
