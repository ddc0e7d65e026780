"""Numbers and foreign strings as a reader should see them.

Tokens may contain anything: markup, control characters, text that runs right to left, halves of
surrogate pairs. Whatever reaches the page goes through here first.
"""

import html
import math
import re
from typing import Any

MISSING = "–"
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    r"""`text` with every character that would be invisible or dangerous written as an escape.

    Controls, invisible and direction-changing characters become Python's escapes (`\n`, `\x00`,
    `\u202e`), lone surrogates the replacement character.
    """
    text = _SURROGATE.sub("\ufffd", text)
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def escape(value: Any) -> str:
    """`str(value)`, made visible and safe both as HTML text and inside a quoted attribute."""
    return html.escape(visible(str(value)), quote=True)


def token(text: str) -> str:
    """A token in quotation marks, with spaces at its ends shown as ␣."""
    core = visible(str(text))
    inner = core.strip(" ")
    lead = len(core) - len(core.lstrip(" "))
    tail = len(core) - lead - len(inner)
    return f"‘{'␣' * lead}{inner}{'␣' * tail}’"


def number(value: Any, digits: int = 3, whole: bool = True) -> str:
    """A number to `digits` significant places.

    Args:
        value: None, NaN and infinities give a dash; the minus is U+2212.
        digits: significant places.
        whole: show whole numbers below a million exactly, without decimals.

    >>> number(0.074129), number(2048.0), number(-0.00004217), number(None)
    ('0.0741', '2048', '−4.22e−5', '–')
    """
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return MISSING
    value = float(value)
    if value == 0 or (whole and value.is_integer() and abs(value) < 1e6):
        return f"{int(value)}".replace("-", "−")
    power = math.floor(math.log10(abs(float(f"{value:.{digits}g}"))))
    if -4 <= power < 6:
        shown = f"{float(f'{value:.{digits}g}'):.{max(0, digits - 1 - power)}f}"
    else:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        shown = f"{mantissa}e{int(exponent)}"
    return shown.replace("-", "−")


def setting(value: Any) -> str:
    """A chosen number, such as a threshold, without padding: `0.3`."""
    return MISSING if value is None else f"{value:g}"


def interval(bounds: Any) -> str:
    """A pair as `low–high`, or `low to high` if one of them is negative; a dash if absent."""
    if not bounds or any(bound is None for bound in bounds):
        return MISSING
    low, high = (number(bound, whole=False) for bound in bounds)
    return f"{low} to {high}" if low.startswith("−") or high.startswith("−") else f"{low}–{high}"


def estimate(value: Any, low: Any = None, high: Any = None) -> str:
    """A value with its interval in brackets where there is one: `0.62 [0.58–0.66]`."""
    if value is None or low is None or high is None:
        return number(value)
    return f"{number(value, whole=False)} [{interval((low, high))}]"
