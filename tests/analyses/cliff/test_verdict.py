"""The sentences, from reports made by hand."""

from typing import Any

from analyses.cliff.verdict import has_cliff, verdict
from interp.statistics.intervals import wilson


def report(
    natural: int = 0, cut: int = 50, depth: tuple[float, float] = (0.5, 0.7), **more: Any
) -> dict[str, Any]:
    def share(hits: int) -> dict[str, Any]:
        return {"rate": hits / 50, "n": 50, "interval": list(wilson(hits, 50))}

    return {
        "forced_stop": [{"tokens": k, **share(cut)} for k in range(7)],
        "natural": share(natural),
        "cliff": {
            "depth": sum(depth) / 2,
            "interval": list(depth),
            "from_end": -1,
            "token_index": 6,
        },
        "heads": [{"layer": 0, "head": 1, "ablated_refusal": 1.0}],
        "suppression_heads": [{"layer": 0, "head": 1}],
        **more,
    }


def test_a_cliff_needs_both_the_probe_and_the_behaviour() -> None:
    assert has_cliff(report())
    assert not has_cliff(report(natural=50))
    assert not has_cliff(report(depth=(-0.2, 0.3)))
    # Refusal that is as rare before as after is no cliff, whatever the probe says.
    assert not has_cliff(report(cut=0))


def test_the_cut_at_the_very_end_does_not_count() -> None:
    """With the closing marker as stop text, the whole thought cut is the natural end."""
    same = report()
    same["forced_stop"][-1] |= {"rate": 0.0, "interval": list(wilson(0, 50))}
    assert has_cliff(same)


def test_sentences() -> None:
    assert verdict(report()) == (
        "Refusal falls off a cliff: once the thought has closed, 0 % of 50 harmful requests are "
        "refused, and 100 % when it is cut in its second half. The probe falls by 0.600 "
        "[0.500–0.700] at the last token of the closing marker. Heads whose silencing restores "
        "refusal beyond the null of their layer: L0 H1 (100 %)."
    )
    none = verdict(report(natural=50, depth=(-0.2, -0.1), suppression_heads=[]))
    assert none.startswith("No refusal cliff: once the thought has closed, 100 % of 50")
    assert "No head suppresses refusal by itself: silencing each of 1 gives 100 % at most" in none


def test_a_fall_further_back_is_told_in_tokens() -> None:
    early = report()
    early["cliff"]["from_end"] = -4
    assert "4 tokens before the end of thought and closing marker" in verdict(early)
