"""A small share of `benchmarks/fuzz.py`: our own artefacts, and vectors of others."""

from collections import Counter
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_damaged_and_lying_artefacts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import fuzz
    import fuzz_subjects

    chosen = [one for one in fuzz_subjects.subjects() if not one.name.startswith(("model", "pro"))]
    outcomes = fuzz.run(chosen, 150, seed=1)
    counts = Counter(one.result for one in outcomes)
    bad = [one for one in outcomes if one.result in ("silent", "traceback", "hang")]
    assert not bad and counts["refused"] > 75, (bad, counts)
