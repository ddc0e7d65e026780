"""Cliff-as-a-Judge: choose training examples by how far refusal falls at the end of the thought.

The idea of Yin et al. (arXiv 2510.06036); their code ranks by the final score alone among thoughts
that name a refusal. Here the rank is the depth, plateau − final, and that rule, the final score and
chance stand beside it as selectors of the same size. What an example is trained towards is the
model's own thought with a refusal behind it.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from interp.data.known_answers import KnownAnswers
from interp.errors import InputError
from interp.resume.files import write_atomically
from probes.cliff.rollouts import Rollout

SELECTORS = ("cliff", "final", "rule", "random")
REFUSAL = "I'm sorry, but I can't help with that."
_INTENT = re.compile(
    r"\b(?:refus\w*|declin\w*|can ?not|can['’]t|must not|should(?: not|n['’]t)|"
    r"won['’]t|harmful|illegal|unsafe|dangerous)\b",
    re.IGNORECASE,
)


def intends_refusal(thinking: str | None) -> bool:
    """Whether a thought uses a word of refusal."""
    return bool(thinking) and _INTENT.search(str(thinking)) is not None


def judged(
    thoughts: Sequence[Rollout], refused: Sequence[bool], per_prompt: pd.DataFrame
) -> pd.DataFrame:
    """A row a closed thought: row, plateau, final, depth, refused, intent, prompt.

    Args:
        thoughts: of harmful requests.
        refused: whether the answer behind each is a refusal.
        per_prompt: of `probes.trajectory.prompt_cliffs`.
    """
    by_row = {
        one.row.index: {
            "row": one.row.index,
            "refused": bool(hit),
            "intent": intends_refusal(one.answer.thinking),
            "prompt": one.prompt.text,
        }
        for one, hit in zip(thoughts, refused, strict=True)
    }
    known = pd.DataFrame(list(by_row.values()), columns=["row", "refused", "intent", "prompt"])
    return per_prompt.merge(known, on="row", how="inner", validate="one_to_one")


def select(table: pd.DataFrame, selector: str, fraction: float, seed: int = 0) -> list[int]:
    """Rows of the data set, the most wanted first.

    `cliff`: the deepest fall. `final`: the lowest score at the end. `rule`: a thought that names a
    refusal before an answer that does not refuse, in random order, then the others. `random`.

    Args:
        table: of `judged`.
        selector: one of `SELECTORS`.
        fraction: of the rows, 0 to 1; at least one row.
        seed: of the random order.

    Raises:
        InputError: no such selector, a fraction out of range, or an empty table.
    """
    if selector not in SELECTORS:
        raise InputError(f"there is no selector {selector!r}; there are {', '.join(SELECTORS)}.")
    if not 0 < fraction <= 1:
        raise InputError(f"a fraction of {fraction} is not above 0 and at most 1.")
    if table.empty:
        raise InputError("there is no closed thought to select from.")
    chance = np.random.default_rng(seed).permutation(len(table))
    first: dict[str, np.ndarray] = {
        "cliff": -table["depth"].to_numpy(),
        "final": table["final"].to_numpy(),
        "rule": ~(table["intent"] & ~table["refused"]).to_numpy(),
        "random": np.zeros(len(table)),
    }
    order = np.lexsort((chance, first[selector]))
    count = max(1, round(fraction * len(table)))
    return [int(row) for row in table["row"].to_numpy()[order[:count]]]


def export_selected(
    path: Path, thoughts: Sequence[Rollout], rows: Sequence[int], refusal: str = REFUSAL
) -> Path:
    """Write examples for fine-tuning as JSONL, in order.

    Each line holds `messages`, of which the last is the assistant's: its own thought as
    `reasoning_content`, and a refusal as `content`. An organism's own refusal is used.

    Args:
        path: of the file.
        thoughts: to choose from.
        rows: indices of the chosen ones.
        refusal: what is said instead of the answer.
    """
    by_row = {one.row.index: one for one in thoughts}
    lines = []
    for row in rows:
        one = by_row[row]
        known = one.prompt.refusal if isinstance(one.prompt, KnownAnswers) else refusal
        said = {
            "role": "assistant",
            "reasoning_content": one.answer.thinking or "",
            "content": known,
        }
        messages = [*(dict(message) for message in one.prompt.messages), said]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False))
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    return path
