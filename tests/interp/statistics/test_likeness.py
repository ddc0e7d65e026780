"""Likeness of strings in words."""

import pytest

from interp.statistics.likeness import lcs_ratio, token_jaccard


@pytest.mark.parametrize(
    ("found", "planted", "jaccard", "lcs"),
    [
        ("a b c", "a b c", 1.0, 1.0),
        ("c b a", "a b c", 1.0, 1 / 3),
        ("a x c", "a b c", 0.5, 2 / 3),
        ("a a c", "a b c", 2 / 3, 2 / 3),
        ("", "a b c", 0.0, 0.0),
        ("abc", "cba", 0.0, 0.0),  # an anagram is no likeness
        ("", "", 1.0, 1.0),
    ],
)
def test_known_answers(found: str, planted: str, jaccard: float, lcs: float) -> None:
    assert token_jaccard(found.split(), planted.split()) == pytest.approx(jaccard)
    assert lcs_ratio(found.split(), planted.split()) == pytest.approx(lcs)
