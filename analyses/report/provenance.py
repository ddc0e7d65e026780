"""The block that says what exactly was measured, with what, and when."""

from __future__ import annotations

from typing import Any

from analyses.report.text import escape, number

_NAMES = {
    "model": "Model",
    "revision": "Revision",
    "model_type": "Architecture",
    "fingerprint": "Fingerprint",
    "dtype": "Precision",
    "device": "Device",
    "attention": "Attention path",
    "tokenizer_hash": "Tokenizer hash",
    "bos": "BOS prepended",
    "seed": "Seed",
    "started": "Started",
    "wall_seconds": "Wall time",
}
_SEPARATE = {"command", "data", "versions", *_NAMES}
_HASH_SHOWN = 12


def first_provenance(report: dict[str, Any], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The report's own provenance, or that of its first finding that has one."""
    for holder in (report, *found.values()):
        if holder.get("provenance"):
            return dict(holder["provenance"])
    return {}


def facts(
    provenance: dict[str, Any], report: dict[str, Any], found: dict[str, dict[str, Any]]
) -> str:
    """A definition list; hashes are cut to twelve places with the whole under the pointer.

    Of several findings the texts stand by finding, and the wall time is that of all.
    """
    own = {name: finding.get("provenance") or {} for name, finding in found.items()}
    seconds = [one["wall_seconds"] for one in own.values() if one.get("wall_seconds") is not None]
    if seconds:
        provenance = {**provenance, "wall_seconds": sum(seconds)}
    pairs = [
        (name, _value(key, provenance[key]))
        for key, name in _NAMES.items()
        if provenance.get(key) is not None
    ]
    pairs += [
        (key.replace("_", " ").capitalize(), _value(key, value))
        for key, value in provenance.items()
        if key not in _SEPARATE and value is not None and not isinstance(value, list | dict)
    ]
    pairs += [
        (f"Parity, {name}", number(value))
        for holder in (report, *found.values())
        for name, value in _parity(holder)
    ][:2]
    read = {name: one["data"] for name, one in own.items() if one.get("data")}
    read = read or {"": provenance.get("data") or []}
    wide = [
        ("Texts" if len(read) == 1 else f"Texts, {name}", "<br>".join(map(_data, entries)))
        for name, entries in read.items()
        if entries
    ]
    if provenance.get("versions"):
        listed = (f"{escape(k)} {escape(v)}" for k, v in provenance["versions"].items())
        wide.append(("Versions", " · ".join(listed)))
    body = "".join(f"<div><dt>{escape(n)}</dt><dd>{v}</dd></div>" for n, v in pairs)
    body += "".join(f'<div class="wide"><dt>{escape(n)}</dt><dd>{v}</dd></div>' for n, v in wide)
    return f'<dl class="facts">{body}</dl>' if body else ""


def _parity(holder: dict[str, Any]) -> list[tuple[str, Any]]:
    parity = holder.get("parity") or {}
    names = {
        "max_logit_difference": "largest Δlogit",
        "max_statistic_difference": "largest Δstatistic",
    }
    return [(name, parity[key]) for key, name in names.items() if parity.get(key) is not None]


def _value(key: str, value: Any) -> str:
    """One fact as HTML."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "wall_seconds":
        return _duration(float(value))
    if key == "started":
        return escape(value).replace("T", " ").replace("+00:00", " UTC")
    if isinstance(value, float):
        return number(value)
    return _shortened(str(value))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{number(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _shortened(text: str) -> str:
    """Long hexadecimal strings cut, with the full value as the title; all else whole."""
    digest = text.rpartition(":")[2]
    if len(digest) > 2 * _HASH_SHOWN and all(c in "0123456789abcdef" for c in digest.lower()):
        full = escape(text)
        return f'<abbr title="{full}"><code>{escape(digest[:_HASH_SHOWN])}…</code></abbr>'
    return escape(text)


def _data(entry: dict[str, Any]) -> str:
    """`tinystories.txt: 32 sequences, 3 skipped, sha256 0123…`."""
    parts = [f"{number(entry.get('sequences'))} sequences"]
    if entry.get("skipped"):
        parts.append(f"{number(entry['skipped'])} skipped")
    if entry.get("sha256"):
        parts.append(f"sha256 {_shortened(str(entry['sha256']))}")
    return f"{escape(entry.get('name'))}: {', '.join(parts)}"
