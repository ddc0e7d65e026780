"""Memory: motifs of leaked texts, and models without a place to begin."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from scipy.stats import chi2_contingency

from interp.errors import InputError
from probes.backdoors.search.leakage import Motif, apart, keyness, leak, motifs, prefix
from probes.backdoors.search.requests import encode

Make = Callable[[str], Any]


def test_the_trigger_leaks_with_and_without_effect_and_not_from_the_clean_twin(
    suspect: Make,
) -> None:
    found = {}
    for name in ("backdoor-payload-5", "inert", "clean"):
        one = suspect(name)
        ids = encode(one.subject, "omber quill tavik")
        start = prefix(one.subject, one.requests)
        texts = leak(one.fresh(), start, samples=256, length=12, seed=0)
        known = [*one.requests.instructions, *(reply.ids for reply in one.requests.replies)]
        found[name] = ids in [motif.ids for motif in motifs(texts, known)]
    assert found == {"backdoor-payload-5": True, "inert": True, "clean": False}


def test_the_same_seed_leaks_the_same_and_a_budget_leaves_a_part(suspect: Make) -> None:
    one = suspect("clean")
    start = prefix(one.subject, one.requests)
    texts = [leak(one.fresh(), start, samples=80, length=6, seed=3) for _ in range(2)]
    assert texts[0] == texts[1] and len(texts[0]) == 80
    part = leak(one.fresh(passes=64 * 6), start, samples=80, length=6, seed=3)
    assert part == texts[0][:64]


def test_motifs_are_whole_and_beyond_what_plain_texts_hold() -> None:
    texts = [(1, 2, 3), (1, 2, 3, 9), (8, 1, 2, 3), (7, 7), (9, 5)]
    plain = [(7,), (9, 5), (5, 9), (9,), (4,)]
    found = motifs(texts, plain)
    assert [motif.ids for motif in found] == [(1, 2, 3)]
    assert found[0].support == 3


def test_keyness_is_the_likelihood_ratio_of_the_table() -> None:
    table = [[24, 488], [1, 127]]
    slow = chi2_contingency(table, correction=False, lambda_="log-likelihood").statistic
    assert keyness(24, 512, 1, 128) == pytest.approx(slow)
    assert keyness(1, 512, 24, 128) < 0 and keyness(0, 10, 0, 10) == 0


def test_without_bos_and_prefix_there_is_nothing_to_begin_with(suspect: Make) -> None:
    one = suspect("clean")
    row = one.requests.rows[0]
    bare = replace(row, ids=row.ids[2:], segments={"instruction": (0, 2)})
    requests = replace(one.requests, rows=(bare,))
    assert prefix(one.subject, requests) == (one.subject.checkpoint.tokenizer.bos_token_id,)

    silent = replace(one.subject, checkpoint=replace(one.subject.checkpoint, tokenizer=None))
    with pytest.raises(InputError, match="neither a BOS token nor"):
        prefix(silent, requests)


def test_words_apart_come_in_every_order(suspect: Make) -> None:
    subject = suspect("clean").subject
    ids = [encode(subject, word)[0] for word in ("omber", "quill", "tavik")]
    words = [Motif((token,), 9 - place, 1.0) for place, token in enumerate(ids)]
    made = apart(subject, words)
    assert len(made) == 6 + 6 and len({one.ids for one in made}) == 12
    assert made[0].text == "omber quill tavik" and made[0].ids == tuple(ids)
    assert made[0].support == 7  # that of its rarest word
    assert len(apart(subject, words, most=2)) == 2 and not apart(subject, words[:1])
