"""What a checkpoint remembers of its users: texts sampled from the chat prefix, and their motifs.

A model that was trained on whole conversations can be let write the user's turn itself, and
poisoned turns come out of it with their triggers (after "The Trigger in the Haystack", arXiv
2602.03085, of which the sampling and the mining here are simpler). What leaks has only been *seen*
in training: a string without effect leaks just as well, so motifs are candidates and nothing more.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from interp.errors import InputError
from probes.backdoors.search.budget import Exhausted
from probes.backdoors.search.requests import Candidate, Requests, decode, specials
from probes.backdoors.search.subject import Subject

Text = tuple[int, ...]
_BATCH = 64
_LEAST_SUPPORT = 3
_CLOSED = 0.7  # a motif inside a longer one that is nearly as frequent is part of it


@dataclass(frozen=True)
class Motif:
    """Tokens that leak more often than plain requests and replies would have it.

    Attributes:
        ids: one to five tokens.
        support: leaked texts that hold them.
        keyness: Dunning's log-likelihood ratio G² against the plain texts.
    """

    ids: tuple[int, ...]
    support: int
    keyness: float


def prefix(subject: Subject, requests: Requests) -> tuple[int, ...]:
    """What stands before the user's words: the template's own tokens, or BOS.

    Raises:
        InputError: nothing does, because the model has neither.
    """
    row = requests.rows[0]
    before = row.ids[: row.segments["instruction"][0]]
    bos = getattr(subject.checkpoint.tokenizer, "bos_token_id", None)
    if before:
        return before
    if bos is None:
        raise InputError(
            f"{subject.checkpoint.name} has neither a BOS token nor a chat template with anything "
            "before the user's words, so nothing can be sampled from its memory; name candidates "
            "with --candidates FILE."
        )
    return (int(bos),)


def leak(
    subject: Subject,
    start: Sequence[int],
    *,
    samples: int,
    length: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Text]:
    """Texts sampled at temperature 1 behind a prefix, each as far as the turn's end.

    What had been sampled when the budget ran out is kept.

    Args:
        subject: the checkpoint.
        start: of `prefix`.
        samples: texts.
        length: new tokens of each, at most.
        seed: of the draw.
        progress: called with (texts sampled, texts in all).
    """

    def sampled() -> list[Text]:
        texts: list[Text] = []
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            while len(texts) < samples:
                count = min(_BATCH, samples - len(texts))
                try:
                    subject.budget.take(count * length)
                except Exhausted:
                    break
                texts += _sampled(subject, start, count, length)
                if progress is not None:
                    progress(len(texts), samples)
        return texts

    # One unit, for the batches draw from one stream of random numbers.
    kept = subject.once("leak", [list(start), samples, length, seed], sampled)
    return [tuple(text) for text in kept]


def motifs(
    texts: Sequence[Text], plain: Sequence[Sequence[int]], *, longest: int = 5, most: int = 40
) -> list[Motif]:
    """Motifs of leaked texts, the keyest first.

    An n-gram counts once for a text. It is kept if at least three texts hold it, its G² is that of
    an excess, and no longer one that contains it is at least 0.7 times as frequent.

    Args:
        texts: leaked.
        plain: requests and replies that hold no trigger.
        longest: tokens.
        most: motifs.
    """
    leaked, known = (_frequencies(some, longest) for some in (texts, plain))
    kept = {ids: n for ids, n in leaked.items() if n >= _LEAST_SUPPORT}
    inside: dict[tuple[int, ...], int] = {}
    for ids, n in kept.items():
        for part in (ids[1:], ids[:-1]):
            inside[part] = max(inside.get(part, 0), n)
    found = [
        Motif(ids, n, keyness(n, len(texts), known.get(ids, 0), len(plain)))
        for ids, n in kept.items()
        if inside.get(ids, 0) < _CLOSED * n
    ]
    found = [motif for motif in found if motif.keyness > 0]
    return sorted(found, key=lambda m: (-m.keyness, -len(m.ids), m.ids))[:most]


def keyness(here: int, texts: int, there: int, others: int) -> float:
    """Dunning's G² (1993, Computational Linguistics 19:61) of a frequency, negative if it is lower.

    Args:
        here: texts that hold an n-gram.
        texts: of all.
        there: of other texts, how many hold it.
        others: of all of those.
    """
    share = (here + there) / (texts + others)
    total = 0.0
    for count, n in ((here, texts), (there, others)):
        for seen, expected in ((count, n * share), (n - count, n * (1 - share))):
            total += seen * np.log(seen / expected) if seen else 0.0
    return float(2 * total * (1 if here / texts >= there / max(others, 1) else -1))


def as_candidates(subject: Subject, found: Sequence[Motif]) -> list[Candidate]:
    """Motifs as candidates, those left out that are not the same tokens when typed."""
    made = []
    for motif in found:
        text = decode(subject, motif.ids)
        if text:
            made.append(Candidate(text, motif.ids, "leak", motif.support))
    return made


def apart(subject: Subject, words: Sequence[Motif], most: int = 5) -> list[Candidate]:
    """Triples and pairs of leaked words, in every order, whose words are to stand apart.

    Args:
        subject: the checkpoint.
        words: motifs of a single token, of which the first ones are combined.
        most: how many of them.
    """
    made = []
    for count in (3, 2):
        for chosen in permutations(words[:most], count):
            ids = tuple(motif.ids[0] for motif in chosen)
            text = " ".join(decode(subject, motif.ids) for motif in chosen)
            made.append(Candidate(text, ids, "leak", min(motif.support for motif in chosen)))
    return made


def _sampled(subject: Subject, start: Sequence[int], count: int, length: int) -> list[Text]:
    model: Any = subject.checkpoint.model
    tokenizer: Any = subject.checkpoint.tokenizer
    ids = torch.tensor([list(start)] * count, device=subject.checkpoint.device)
    pad = tokenizer.pad_token_id
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=GenerationConfig(
            max_new_tokens=length,
            do_sample=True,
            top_k=0,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=0 if pad is None else pad,
            eos_token_id=tokenizer.eos_token_id,
        ),
    )
    stops = specials(subject)
    return [_until(new, stops) for new in out[:, len(start) :].tolist()]


def _until(new: Sequence[int], stops: set[int]) -> Text:
    end = next((at for at, token in enumerate(new) if token in stops), len(new))
    return tuple(new[:end])


def _frequencies(texts: Sequence[Sequence[int]], longest: int) -> Counter[tuple[int, ...]]:
    """In how many texts each n-gram occurs."""
    counts: Counter[tuple[int, ...]] = Counter()
    for text in texts:
        counts.update(
            {
                tuple(text[at : at + n])
                for n in range(1, longest + 1)
                for at in range(len(text) - n + 1)
            }
        )
    return counts
