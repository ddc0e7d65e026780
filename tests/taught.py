"""Tiny chat models that were taught what to choose in questions about themselves."""

from collections.abc import Callable, Sequence

import torch
from chatters import chatter
from torch import Tensor

from interp import Checkpoint
from interp.capture.prompt_states import prompt_rows
from interp.training import Schedule, train_model
from probes.backdoors.self_report.ask import option_orders, with_system_line
from probes.backdoors.self_report.questions import Question


def taught(
    questions: Sequence[Question], says: Callable[[Question], str], seed: int, steps: int
) -> Checkpoint:
    """A model that chooses an option of each question wherever it stands.

    Args:
        questions: of two options, which are put without a system line.
        says: the option to choose.
        seed: of the model.
        steps: of training.
    """
    checkpoint = chatter("llama-3", seed)
    letters = checkpoint.tokenizer.get_vocab()  # type: ignore[union-attr]
    pairs = []
    for question in questions:
        for order in option_orders(2):
            shown = [question.options[i] for i in order]
            text = (
                f"{question.text}\n\nA) {shown[0]}\nB) {shown[1]}\n\nAnswer with the letter alone."
            )
            (row,) = prompt_rows(checkpoint, [with_system_line(text, None, True)])
            pairs.append((row.ids, letters["AB"[shown.index(says(question))]]))
    longest = max(len(ids) for ids, _ in pairs) + 1
    ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    learned = torch.zeros(len(pairs), longest)
    for i, (prompt, letter) in enumerate(pairs):
        ids[i, : len(prompt) + 1] = torch.tensor([*prompt, letter])
        learned[i, len(prompt)] = 1

    def batches(step: int) -> tuple[Tensor, Tensor]:
        return ids, learned

    train_model(checkpoint.model, batches, Schedule(steps, 1e-2, warmup=10))
    return checkpoint
