import math

import pytest

from analyses.report.text import escape, estimate, interval, number, setting, token, visible


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.074129, "0.0741"),
        (55.23, "55.2"),
        (-12.345, "−12.3"),
        (0.9996, "1.00"),
        (99.97, "100"),
        (123456.7, "123000"),
        (2048, "2048"),
        (2048.0, "2048"),
        (0, "0"),
        (-0.0, "0"),
        (4.217e-5, "4.22e−5"),
        (-2.5e7, "−2.50e7"),
        (1234567, "1.23e6"),
        (None, "–"),
        (math.nan, "–"),
        (-math.inf, "–"),
    ],
)
def test_numbers_have_three_significant_places(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_estimates_keep_their_decimals_and_drop_missing_bounds() -> None:
    assert number(61.0, whole=False) == "61.0"
    assert estimate(61.0, 58.5, 63.0) == "61.0 [58.5–63.0]"
    assert estimate(61.5, None, 63.0) == "61.5"
    assert interval([-0.01, 0.02]) == "−0.0100 to 0.0200"
    assert interval([None, 1.0]) == interval(None) == "–"
    assert setting(0.3) == "0.3"


def test_nothing_invisible_or_dangerous_is_left() -> None:
    nasty = "</script>\x00\n\x85\u202e\u200b\ud800<b>&\"'"
    shown = visible(nasty)
    assert shown.startswith("</script>\\x00\\n\\x85\\u202e\\u200b\ufffd")
    assert all(char.isprintable() for char in shown)
    assert shown.encode("utf-8")
    safe = escape(nasty)
    assert not set("<>\"'") & set(safe)
    assert "&lt;/script&gt;" in safe and "&amp;" in safe


@pytest.mark.parametrize(
    ("raw", "shown"), [("the", "‘the’"), (" the", "‘␣the’"), ("  ", "‘␣␣’"), ("", "‘’")]
)
def test_spaces_of_tokens_are_seen(raw: str, shown: str) -> None:
    assert token(raw) == shown
