"""The palette of every figure: it reads on white and on near-black, and without colour vision.

Marks use three hues of middle lightness (blue, orange, grey) which stay apart under all common
forms of colour blindness. Backgrounds, text and grids are left to the page, which knows whether
it is light or dark; outside the page they are a grey that suits both.
"""

from typing import Any

BLUE = "#3b7dc4"
ORANGE = "#d9731a"
GREY = "#8b929c"
ACCENT = ORANGE
MARKS = (BLUE, ORANGE, GREY, "#2a9d8f", "#8f6bb3", "#b8860b")

SCALE_LIGHT = ["#f4f7fa", "#c5d9ec", "#7fb0d8", "#3a7fbd", "#14538c", "#082c54"]
SCALE_DARK = ["#1b222b", "#1d4266", "#266aa6", "#4f97d1", "#92c3ea", "#e3f1fc"]

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


def faint(colour: str, alpha: float = 0.18) -> str:
    """The hex `colour` as an rgba string, for bands behind a line of the same hue."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def blank_layout(height: int = 340, **more: Any) -> dict[str, Any]:
    """A plotly layout without opinions on background: transparent paper, grey text, thin grids.

    Args:
        height: of the figure in pixels; the width is the container's.
        more: layout keys that are added or that replace those given here.
    """
    axis = {
        "gridcolor": "rgba(139,146,156,0.25)",
        "zeroline": False,
        "automargin": True,
        "ticks": "",
    }
    titled = {"standoff": 10, "font": {"size": 13}}
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"}
    layout: dict[str, Any] = {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 34, "b": 46},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12.5, "color": "#7d848e"},
        "legend": {**legend, "traceorder": "normal"},
        "hoverlabel": {"align": "left", "font": {"family": FONT}},
        "colorway": list(MARKS),
    }
    for key, value in more.items():
        if key.startswith(("xaxis", "yaxis")):
            value = {**axis, **value, "title": {**titled, **value.get("title", {})}}
        layout[key] = value
    for key in ("xaxis", "yaxis"):
        layout.setdefault(key, axis)
    return layout
