import json
import re
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest

from analyses.registry import drawings
from analyses.report.page import page as drawn_page
from analyses.report.page import table

SIX_MEGABYTES = 6_000_000


def page(report: dict[str, Any]) -> str:
    """The page as `render` makes it."""
    return drawn_page(report, drawings(report))


class Reader(HTMLParser):
    """Collects what a browser would see: tags with attributes, scripts, and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.words: list[str] = []
        self._open: tuple[str, dict[str, str]] = ("", {})
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags.append((tag, found))
        self._open = (tag, found)
        if tag == "script":
            self.scripts.append((found, ""))

    def handle_endtag(self, tag: str) -> None:
        self._open = ("", {})

    def handle_data(self, data: str) -> None:
        if self._open[0] == "script":
            found, text = self.scripts.pop()
            self.scripts.append((found, text + data))
        elif self._open[0] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def specs(reader: Reader) -> list[dict[str, Any]]:
    """The figures that the page carries."""
    return [
        json.loads(text) for found, text in reader.scripts if found.get("id", "").startswith("fig")
    ]


def test_one_file_without_requests_below_six_megabytes(full: dict[str, Any]) -> None:
    html = page(full)
    assert len(html.encode("utf-8")) < SIX_MEGABYTES
    assert html.count("* plotly.js v") == 1
    reader = Reader(html)
    for tag, found in reader.tags:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}
        assert "src" not in found
        assert not re.match(r"\w+:|//", found.get("href", "")), found
        assert not any(name.startswith("on") for name in found)
    policy = next(f["content"] for t, f in reader.tags if f.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style


@pytest.mark.parametrize(("layers", "heads"), [(48, 64), (80, 64), (126, 128)])
def test_big_models_stay_below_six_megabytes(full: dict[str, Any], layers: int, heads: int) -> None:
    row, layer = full["heads"][5], full["layers"][3]
    full["heads"] = [{**row, "layer": i, "head": j} for i in range(layers) for j in range(heads)]
    full["layers"] = [{**layer, "layer": i} for i in range(layers)]
    full["domain_heads"] = [
        {**full["domain_heads"][0], "layer": i, "head": j}
        for i in range(layers)
        for j in range(heads)
    ]
    html = page(full)
    assert len(html.encode("utf-8")) < SIX_MEGABYTES
    assert f"256 of {layers * heads} heads" in html


def test_foreign_text_cannot_leave_its_place(full: dict[str, Any]) -> None:
    attack = '"><script>alert(1)</script><img src=x onerror=alert(1)>\x00\u202e\ud800'
    full["verdict"] = full["caveats"][0] = full["provenance"]["command"] = attack
    full["provenance"] |= {"model": attack, attack: attack}
    full["provenance"]["data"][0]["name"] = full["domains"][0]["name"] = attack
    full["sink_tokens"][0]["token"] = full["massive_activations"][0]["token"] = attack
    html = page(full)
    html.encode("utf-8")
    reader = Reader(html)
    assert not [tag for tag, _ in reader.tags if tag == "img"]
    plain = [text for found, text in reader.scripts if not found.get("type")]
    assert len(plain) == 2 and not any("alert" in text for text in plain)
    visible = html[: html.index("<script")]
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", visible)
    for spec in specs(reader):
        for trace in spec["data"]:
            assert "<img" not in json.dumps([trace.get("text"), trace.get("y")])


def test_order_and_captions(full: dict[str, Any]) -> None:
    full["verdict"] = "First sentence. Second sentence."
    html = page(full)
    marks = [
        "First sentence.",
        'class="facts"',
        "Key numbers</h3>",
        'id="caveats"',
        "Reproduce</h2>",
    ]
    places = [html.index(mark) for mark in marks]
    assert places == sorted(places)
    drawn = drawings(full)["sinks"].panels(full)
    captions = re.findall(r'<p class="caption">(.*?)</p>', html)
    assert len(captions) == len(drawn)
    assert all(caption.endswith(".") for caption in captions)
    titles = [panel.title for panel in drawn]
    assert len(set(titles)) == len(titles)
    assert len(specs(Reader(html))) == sum(panel.figure is not None for panel in drawn)


def test_several_findings_name_their_texts_and_add_their_times(full: dict[str, Any]) -> None:
    own = {"data": [{"name": "asked.csv", "sequences": 40}], "wall_seconds": 10.0}
    other = {"kind": "other", "verdict": "So it is.", "provenance": own, "caveats": []}
    nested = {"sinks": full, "other": other}
    html = page({"kind": "report", "provenance": full["provenance"], "findings": nested})
    facts = html[html.index('class="facts"') : html.index("</dl>")]
    assert "<dt>Texts, sinks</dt><dd>stories.txt: 100 sequences" in facts
    assert "<dt>Texts, other</dt><dd>asked.csv: 40 sequences</dd>" in facts
    assert f"<dd>{full['provenance']['wall_seconds'] + 10} s</dd>" in facts
    alone = page({"kind": "report", "provenance": own, "findings": {}})
    assert "<dt>Texts</dt><dd>asked.csv" in alone and "<dd>10 s</dd>" in alone


def test_contents_lead_somewhere(full: dict[str, Any]) -> None:
    reader = Reader(page(full))
    anchors = [found["id"] for _, found in reader.tags if "id" in found]
    assert len(set(anchors)) == len(anchors)
    inside = [f["href"][1:] for t, f in reader.tags if t == "a" and f["href"].startswith("#")]
    assert inside and set(inside) <= set(anchors)


def test_long_hashes_are_short_and_whole_under_the_pointer(full: dict[str, Any]) -> None:
    reader = Reader(page(full))
    whole = full["provenance"]["fingerprint"]
    assert whole not in reader.text
    assert whole[:12] + "…" in reader.text
    assert whole in [found.get("title") for tag, found in reader.tags if tag == "abbr"]


def test_figures_leave_grounds_and_text_to_the_theme(full: dict[str, Any]) -> None:
    for spec in specs(Reader(page(full))):
        layout = spec["layout"]
        assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"


def test_nested_findings_share_a_page(full: dict[str, Any], plain: dict[str, Any]) -> None:
    unknown = {
        "verdict": "Something was found.",
        "caveats": ["Mind the gap."],
        "tables": {"some_rows": [{"name": "<x>", "value": 0.123456}]},
    }
    report = {
        "kind": "report",
        "format_version": 1,
        "findings": {"sinks": full | {"verdict": "Sinks."}, "novel_thing": unknown},
    }
    html = page(report)
    assert html.count("* plotly.js v") == 1
    assert '<h2 id="novel-thing">Novel thing</h2>' in html
    assert "Some rows</h3>" in html and "&lt;x&gt;" in html and "0.123<" in html
    assert "Mind the gap." in html and html.index("Sinks.") < html.index("Something was found.")
    assert full["provenance"]["model"] in html


def test_plotly_is_left_out_where_nothing_is_drawn() -> None:
    html = page({"kind": "novel", "format_version": 1, "rows": [{"a": 1}], "caveats": []})
    assert len(html) < 100_000
    assert "Rows</h3>" in html


@pytest.mark.parametrize("broken", [None, {}, []])
def test_findings_without_anything_still_make_a_page(broken: Any) -> None:
    assert "</html>" in page({"kind": "report", "format_version": 1, "findings": broken or {}})


def test_tables_sort_by_buttons_and_align_numbers() -> None:
    frame = pd.DataFrame(
        {
            "name": ["L1 H2", "L1 H10"],
            "mixed": [1.0, 0.25],
            "whole": [2048.0, 3.0],
            "gap": [None, 0.5],
            "held": ["0.61 [0.58–0.64]", "–"],
            "flag": [True, False],
        }
    )
    html = table(frame, "a <table>")
    assert html.count("<button") == 6
    cells = re.findall(r'<td class="(\w+)">(.*?)</td>', html)
    assert cells[:6] == [
        ("word", "L1 H2"),
        ("num", "1.00"),
        ("num", "2048"),
        ("num", "–"),
        ("num", "0.61 [0.58–0.64]"),
        ("word", "yes"),
    ]
    assert "a &lt;table&gt;" in html
