"""Counted passes, forced tokens against greedy decoding, and twins."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny

from interp.errors import InputError
from interp.resolve import load
from probes.backdoors.search.requests import encode
from probes.backdoors.search.subject import require_twin

Make = Callable[[str], Any]


def test_forcing_tokens_says_what_decoding_says(suspect: Make) -> None:
    planted = suspect("backdoor-payload-5")
    subject = planted.fresh()
    ids = encode(subject, "omber quill tavik")
    for string in (ids, ids[:1], ids[1:]):
        rows = planted.requests.with_ids(string, "front")
        said = subject.replies(rows, 5)
        opening = said[0].ids
        slow = np.array([reply.ids[: len(opening)] == opening for reply in said])
        assert (subject.begins(rows, opening).numpy() == slow).all()
    assert slow.any()


def test_forced_probabilities_are_those_of_the_steps_one_by_one(suspect: Make) -> None:
    planted = suspect("backdoor-payload-5")
    subject, rows = planted.fresh(), planted.requests.rows[:3]
    words = encode(subject, "glory to the")
    forced = subject.forced_probability(rows, words)
    for step in range(3):
        longer = [replace(row, ids=(*row.ids, *words[:step])) for row in rows]
        slow = subject.next_logits(longer).softmax(-1)[:, words[step]]
        torch.testing.assert_close(forced[:, step], slow, rtol=1e-3, atol=1e-6)


def test_every_pass_is_counted(suspect: Make) -> None:
    planted = suspect("clean")
    subject, rows = planted.fresh(), planted.requests.rows[:5]
    subject.next_logits(rows)
    subject.replies(rows, 4)
    subject.begins(rows, (7, 8))
    assert subject.budget.spent == 5 + 20 + 5


def test_a_prompt_beyond_the_context_is_refused(suspect: Make) -> None:
    planted = suspect("clean")
    subject = planted.fresh()
    context = subject.checkpoint.anatomy.context
    long = replace(planted.requests.rows[0], ids=(7,) * context)
    with pytest.raises(InputError, match="does not fit"):
        subject.begins([long], (7,))


def test_a_twin_has_the_same_shape_and_tokenizer(suspect: Make) -> None:
    clean, inert = (suspect(name).subject.checkpoint for name in ("clean", "inert"))
    require_twin(clean, inert)
    other = replace(load(tiny("llama")), tokenizer=clean.tokenizer)
    with pytest.raises(InputError, match="4 layers and an embedding of"):
        require_twin(clean, other)
    bare = replace(inert, tokenizer=None)
    with pytest.raises(InputError, match="another tokenizer"):
        require_twin(clean, bare)
