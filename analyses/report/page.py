"""From a report's JSON to one self-contained HTML page.

Nothing on the page is fetched: plotly.js, styles and data are inline, and a content security
policy forbids the rest. Every string of the report is escaped, for tokens may contain anything.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.report import theme
from analyses.report.panel import Drawing, Drawings, Panel
from analyses.report.provenance import facts, first_provenance
from analyses.report.text import escape, number

if TYPE_CHECKING:
    import plotly.graph_objects as go


_NUMERIC = re.compile(r"^[−+-]?\d")
_SENTENCE = re.compile(r"(?<=\.)(?<!al\.) +(?=[A-Z0-9])")
_BROAD = 8  # columns from which a table is printed small
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class _Section:
    """One finding on the page."""

    name: str
    title: str
    finding: dict[str, Any]
    panels: list[Panel]


def page(report: dict[str, Any], drawings: Drawings) -> str:
    """The whole page, from the doctype to the last script.

    Args:
        report: what `report.json` holds: a finding (`kind` "sinks" and its kin) or, with `kind`
            "report", several of them under `findings`.
        drawings: how the kinds are shown; one that is not there shows its tables as recorded.

    Returns:
        HTML in UTF-8, free of lone surrogates, that requests nothing from anywhere.
    """
    found = _findings(report)
    sections = [_section(name, finding, drawings) for name, finding in found.items()]
    provenance = first_provenance(report, found)
    specs: list[str] = []
    shown = "".join(_group(section, specs) for section in sections)
    caveats = _caveats(report, sections)
    command = provenance.get("command")
    model = escape(provenance.get("model") or provenance.get("run") or "unnamed model")
    ending = _reproduce(command) if command else ""
    main = (
        f'<header class="head"><div><p class="kicker">{_kicker(sections)}</p><h1>{model}</h1></div>'
        '<button class="toggle" type="button">Dark</button></header>'
        f"{_verdicts(sections)}{facts(provenance, report, found)}"
        "<noscript><p>Figures need JavaScript; the tables and the text do not.</p></noscript>"
        f'<div class="body">{_contents(sections, bool(caveats), bool(command))}'
        f"<main>{shown}{caveats}{ending}</main></div>"
    )
    return _document(f"{_kicker(sections)}: {model}", main, specs)


def _section(name: str, finding: dict[str, Any], drawings: Drawings) -> _Section:
    own = drawings.get(str(finding.get("kind")), Drawing(_spoken(name), recorded))
    return _Section(name, own.title, finding, own.panels(finding))


def recorded(finding: dict[str, Any]) -> list[Panel]:
    """The tables of a finding as they were recorded, for a kind that nobody draws."""
    tables = dict(finding.get("tables") or {})
    tables |= {key: rows for key, rows in finding.items() if _is_records(rows)}
    return [
        Panel(
            _spoken(name), f"{len(rows)} rows as recorded.", table=pd.DataFrame(rows, dtype=object)
        )
        for name, rows in tables.items()
        if _is_records(rows)
    ]


def _findings(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Findings by name; a report that is itself one finding is named by its kind."""
    if report.get("kind") == "report":
        nested = report.get("findings") or {}
        return {str(name): {"kind": name, **finding} for name, finding in nested.items()}
    return {str(report.get("kind")): report}


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _spoken(name: str) -> str:
    """`some_name` as a heading: `Some name`."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def _kicker(sections: Sequence[_Section]) -> str:
    if len(sections) != 1:
        return "Model report"
    title = sections[0].title
    return escape(title if title.endswith("report") else f"{title} report")


def _slug(group: str, title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{group} {title}".lower()).strip("-")


def _verdicts(sections: Sequence[_Section]) -> str:
    lines = []
    for section in sections:
        finding = section.finding
        if finding.get("verdict"):
            label = f"<b>{escape(section.title)}</b>" if len(sections) > 1 else ""
            # A verdict that is one word for machines has its sentences beside it.
            text = str(finding.get("summary") or finding["verdict"])
            first, *rest = _SENTENCE.split(text)
            lines.append(f'{label}<p class="lead">{escape(first)}</p>')
            lines += [f"<p>{escape(sentence)}</p>" for sentence in rest]
    return f'<div class="verdict">{"".join(lines)}</div>' if lines else ""


def _contents(sections: Sequence[_Section], caveats: bool, command: bool) -> str:
    items = []
    for section in sections:
        items.append(_entry(_slug("", section.name), section.title, "group"))
        items += [_entry(_slug(section.name, one.title), one.title) for one in section.panels]
    items += [_entry("caveats", "Caveats", "group")] * caveats
    items += [_entry("reproduce", "Reproduce", "group")] * command
    return (
        '<nav aria-label="Contents"><details open><summary>Contents</summary>'
        f"<ul>{''.join(items)}</ul></details></nav>"
    )


def _entry(anchor: str, title: str, kind: str = "item") -> str:
    return f'<li class="{kind}"><a href="#{anchor}">{escape(title)}</a></li>'


def _group(section: _Section, specs: list[str]) -> str:
    body = "".join(_panel(section.name, panel, specs) for panel in section.panels)
    anchor = _slug("", section.name)
    return f'<section><h2 id="{anchor}">{escape(section.title)}</h2>{body}</section>'


def _panel(group: str, panel: Panel, specs: list[str]) -> str:
    """One panel; the JSON of its figure goes onto `specs`, to stand at the page's end."""
    parts = [
        f'<section class="panel" id="{_slug(group, panel.title)}"><h3>{escape(panel.title)}</h3>',
        f'<p class="caption">{escape(panel.text)}</p>',
    ]
    if panel.figure is not None:
        spec, height = f"figure-{len(specs)}", panel.figure.layout.height or 340
        specs.append(f'<script type="application/json" id="{spec}">{_spec(panel.figure)}</script>')
        parts.append(
            f'<figure><div class="plot" data-spec="{spec}" style="min-height:{height}px" '
            f'role="img" aria-label="{escape(panel.title)}"></div></figure>'
        )
    if panel.table is not None:
        parts.append(table(panel.table, panel.title))
    if panel.csv:
        link = escape(f"tables/{group}/{panel.csv}")
        parts.append(f'<p class="source">Every number: <a href="{link}">{link}</a></p>')
    return "".join(parts) + "</section>"


def table(frame: pd.DataFrame, name: str) -> str:
    """A sortable table; numbers to three significant places, columns of numbers to the right.

    Args:
        frame: the index is not shown.
        name: what the scroll region is announced as.
    """
    columns = {str(title): _cells(list(frame[title])) for title in frame.columns}
    kinds = {title: _column_class(cells) for title, cells in columns.items()}
    head = "".join(
        f'<th scope="col" class="{kinds[title]}">'
        f'<button type="button">{escape(title)}</button></th>'
        for title in columns
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kinds[title]}">{escape(cell)}</td>'
            for title, cell in zip(columns, row, strict=True)
        )
        + "</tr>"
        for row in zip(*columns.values(), strict=True)
    )
    broad = " broad" if len(columns) >= _BROAD else ""
    return (
        f'<div class="scroll{broad}" tabindex="0" role="region" aria-label="{escape(name)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cells(values: list[Any]) -> list[str]:
    """A column as text; its numbers are shown whole only if all of them are."""
    numbers = [v for v in values if isinstance(v, float) and math.isfinite(v)]
    whole = all(value.is_integer() for value in numbers)
    return [_cell(value, whole or isinstance(value, int)) for value in values]


def _cell(value: Any, whole: bool) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False)
    return number(value, whole=whole)


def _column_class(cells: list[str]) -> str:
    """`num` if every filled cell starts with a number, `text` if some cell is long."""
    filled = [cell for cell in cells if cell != "–"]
    if filled and all(_NUMERIC.match(cell) for cell in filled):
        return "num"
    return "text" if any(len(cell) > 24 for cell in filled) else "word"


def _caveats(report: dict[str, Any], sections: Sequence[_Section]) -> str:
    lists = [(one.title, list(one.finding.get("caveats") or [])) for one in sections]
    if report.get("kind") == "report":
        lists.append(("", list(report.get("caveats") or [])))
    several = sum(bool(items) for _, items in lists) > 1
    body = ""
    for title, items in lists:
        if items:
            body += f"<h3>{escape(title)}</h3>" if several and title else ""
            body += f'<ul class="caveats">{"".join(f"<li>{escape(i)}</li>" for i in items)}</ul>'
    return f'<section><h2 id="caveats">Caveats</h2>{body}</section>' if body else ""


def _reproduce(command: Any) -> str:
    return f'<section><h2 id="reproduce">Reproduce</h2><pre>{escape(command)}</pre></section>'


def _spec(figure: go.Figure) -> str:
    """The figure as JSON that no HTML parser can leave the script element through.

    Plotly's default template goes: seven kilobytes a figure for a look that the theme replaces.
    """
    content = json.loads(figure.to_json())
    content["layout"].pop("template", None)
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode().replace("<", "\\u003c")


def _themes() -> str:
    light = {"ink": "#1c2127", "text": "#4a525c", "grid": "#e6e9ed", "line": "#c3c9d1"}
    dark = {"ink": "#e6e9ed", "text": "#aab2bd", "grid": "#2a3038", "line": "#454d58"}
    return json.dumps(
        {
            "light": {**light, "raised": "#ffffff", "scale": theme.SCALE_LIGHT},
            "dark": {**dark, "raised": "#1c2127", "scale": theme.SCALE_DARK},
        }
    )


def _document(title: str, main: str, specs: list[str]) -> str:
    """Head, body and scripts; plotly.js only if there is something to draw."""
    from plotly.offline import get_plotlyjs

    home = files("analyses.report")
    style, script = (home.joinpath(n).read_text("utf-8") for n in ("style.css", "script.js"))
    library = get_plotlyjs().replace("</script", "<\\/script") if specs else ""
    return (
        '<!doctype html>\n<html lang="en" data-theme="light"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head>\n"
        f'<body><div class="sheet">{main}</div>\n'
        f'<script type="application/json" id="themes">{_themes()}</script>\n'
        f"{chr(10).join(specs)}\n<script>{library}</script>\n<script>{script}</script></body></html>\n"
    )
