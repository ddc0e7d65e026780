"""The five shapes of figure that the panels are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from analyses.report.theme import BLUE, SCALE_LIGHT, blank_layout, faint

Values = Sequence[int | float | None]

_SMALL_GRID = 12  # columns up to which the number fits into its cell on a telephone


@dataclass(frozen=True)
class Series:
    """One set of marks: values, optional 95 % bounds, and how it looks.

    Attributes:
        name: in the legend.
        x: positions; strings make a category axis.
        y: values, None where there is none.
        low: lower bounds, same length.
        high: upper bounds.
        hover: one ready line of (plotly) markup per mark; in a scatter, the mark's name.
        colour: of marks, line and band, from `theme`.
        symbol: of the marks, so that colour is never the only difference.
        dash: of the line; None draws it through.
    """

    name: str
    x: Sequence[Any]
    y: Sequence[Any]
    low: Values | None = None
    high: Values | None = None
    hover: Sequence[str] | None = None
    colour: str = BLUE
    symbol: str = "circle"
    dash: str | None = None


def heatmap(
    grid: Sequence[Values],
    rows: Mapping[int, str],
    *,
    title: str,
    hover: str,
    extra: Sequence[Sequence[Sequence[str]]] | None = None,
    x: str = "head",
    y: str = "layer",
    top: float | None = 1.0,
) -> go.Figure:
    """Rows × columns of numbers ≥ 0 on the sequential scale, first row on top.

    Args:
        grid: None leaves a cell empty.
        rows: number and label of each row of `grid`.
        title: what the colour means, beside its bar.
        hover: plotly template of a cell, with `%{y}`, `%{x}`, `%{z}` and `%{customdata[i]}`.
        extra: per cell the strings that `hover` calls customdata.
        x: title of the horizontal axis.
        y: title of the vertical axis.
        top: end of the colour scale; None takes the largest value.
    """
    columns = max((len(line) for line in grid), default=0)
    if top is None:
        # Left to plotly, the scale would begin at the smallest value rather than at 0.
        top = max((value for line in grid for value in line if value is not None), default=1.0)
    figure = go.Figure(
        go.Heatmap(
            z=[[_short(value) for value in line] for line in grid],
            x=list(range(columns)),
            y=list(rows),
            customdata=extra,
            hovertemplate=f"{hover}<extra></extra>",
            hoverongaps=False,
            texttemplate="%{z:.2f}" if columns <= _SMALL_GRID else None,
            textfont={"size": 10},
            xgap=1,
            ygap=1,
            coloraxis="coloraxis",
        )
    )
    # Heads are whole numbers; left alone, plotly puts ticks between two of them.
    figure.update_xaxes(tick0=0, dtick=max(1, -(-columns // 16)))
    return figure.update_layout(_heat_layout(rows, title, x, y, top))


def lines(
    series: Sequence[Series], *, x: str, y: str, log: bool = False, height: int = 340
) -> go.Figure:
    """Curves with bands where there are bounds."""
    figure = go.Figure()
    for one in series:
        if one.low is not None and one.high is not None:
            figure.add_traces(_band(one))
        figure.add_trace(
            go.Scatter(
                x=list(one.x),
                y=[_short(value) for value in one.y],
                name=one.name,
                mode="lines+markers" if len(one.x) <= 80 and one.dash is None else "lines",
                line={"color": one.colour, "width": 2, "dash": one.dash or "solid"},
                marker={"color": one.colour, "size": 6, "symbol": one.symbol},
                text=list(one.hover) if one.hover else None,
                hovertemplate="%{text}<extra></extra>" if one.hover else None,
            )
        )
    figure.update_layout(_axes(x, y, _log_ticks(series) if log else None, height))
    return figure


def scatter(
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    log_y: bool = False,
    level: float | None = None,
    diagonal: bool = False,
    height: int = 380,
) -> go.Figure:
    """Points, with a dotted reference: the diagonal, or the horizontal line at `level`.

    The `hover` of a series names its points; their coordinates are added from the axes.
    """
    template = f"%{{text}}<br>{x}: %{{x:.3~g}}<br>{y}: %{{y:.3~g}}<extra></extra>"
    figure = go.Figure()
    for one in series:
        figure.add_trace(
            go.Scatter(
                x=[_short(value) for value in one.x],
                y=[_short(value) for value in one.y],
                name=one.name,
                mode="markers",
                marker={"color": one.colour, "size": 8, "symbol": one.symbol, "opacity": 0.8},
                text=list(one.hover) if one.hover else None,
                hovertemplate=template,
            )
        )
    dotted = {"color": "#8b929c", "width": 1, "dash": "dot"}
    if level is not None:
        figure.add_hline(y=level, line=dotted)
    if diagonal:
        low, high = _shared_span(series)
        figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line=dotted)
    figure.update_layout(
        _axes(x, y, _log_ticks(series) if log_y else None, height),
        showlegend=len(series) > 1,
        hovermode="closest",
    )
    return figure


def forest(rows: Sequence[str], series: Sequence[Series], *, x: str) -> go.Figure:
    """Estimates with 95 % whiskers, a row each; the series of a row are set apart vertically."""
    figure = go.Figure()
    step = 0.62 / max(len(series), 1)
    for place, one in enumerate(series):
        shift = (place - (len(series) - 1) / 2) * step
        figure.add_trace(
            go.Scatter(
                x=[_short(value) for value in one.x],
                y=[row + shift for row in range(len(rows))],
                name=one.name,
                mode="markers",
                marker={"color": one.colour, "size": 7, "symbol": one.symbol},
                error_x=_whiskers(one),
                text=list(one.hover) if one.hover else None,
                hovertemplate="%{text}<extra></extra>" if one.hover else None,
            )
        )
    figure.add_vline(x=0, line={"color": "#8b929c", "width": 1, "dash": "dot"})
    figure.update_layout(
        blank_layout(
            height=max(200, max(24, 12 * len(series)) * len(rows) + 90),
            xaxis={"title": {"text": x}},
            yaxis={
                "tickvals": list(range(len(rows))),
                "ticktext": list(rows),
                "range": [len(rows) - 0.4, -0.6],
                "showgrid": False,
            },
            hovermode="closest",
        )
    )
    return figure


def bars(labels: Sequence[str], series: Sequence[Series], *, x: str) -> go.Figure:
    """Horizontal bars, the first label on top; each series fills the labels that are its own."""
    figure = go.Figure()
    for one in series:
        figure.add_trace(
            go.Bar(
                x=[_short(value) for value in one.x],
                y=list(one.y),
                name=one.name,
                orientation="h",
                marker={"color": one.colour},
                text=list(one.hover) if one.hover else None,
                textposition="none",
                hovertemplate="%{text}<extra></extra>" if one.hover else None,
            )
        )
    figure.update_layout(
        blank_layout(
            height=max(160, 26 * len(labels) + 90),
            barmode="overlay",
            xaxis={"title": {"text": x}, "rangemode": "tozero"},
            yaxis={
                "type": "category",
                "categoryorder": "array",
                "categoryarray": list(labels),
                "autorange": "reversed",
                "showgrid": False,
            },
        )
    )
    return figure


def _heat_layout(rows: Mapping[int, str], title: str, x: str, y: str, top: float) -> dict[str, Any]:
    """Cells of equal height under a horizontal colour bar, with margins that nothing moves."""
    bar = {
        "title": {"text": title, "side": "top"},
        "orientation": "h",
        "thickness": 8,
        "len": 0.5,
        "x": 1,
        "xanchor": "right",
        "y": 1,
        "yanchor": "bottom",
        "ypad": 4,
    }
    # Not an axis title, which plotly puts among the tick labels where it finds room.
    below = {"text": x, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0, "yshift": -36}
    left = 34 + 7 * max((len(label) for label in rows.values()), default=1)
    return blank_layout(
        height=max(170, (26 if len(rows) <= 16 else 16) * len(rows) + 98),
        xaxis={"showgrid": False, "tickformat": "d"},
        yaxis={
            "title": {"text": y},
            "showgrid": False,
            "autorange": "reversed",
            "tickvals": list(rows),
            "ticktext": list(rows.values()),
        },
        annotations=[{**below, "yanchor": "middle", "showarrow": False, "font": {"size": 13}}],
        coloraxis={"cmin": 0, "cmax": top, "colorscale": SCALE_LIGHT, "colorbar": bar},
        margin={"l": left, "r": 12, "t": 52, "b": 46, "autoexpand": False},
    )


def _axes(x: str, y: str, ticks: list[float] | None, height: int) -> dict[str, Any]:
    """Layout of a figure with two plain axes, the upright one logarithmic if it has ticks."""
    upright: dict[str, Any] = {"title": {"text": y}}
    if ticks is not None:
        upright |= {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    return blank_layout(height=height, xaxis={"title": {"text": x}}, yaxis=upright)


def _log_ticks(series: Sequence[Series]) -> list[float]:
    """Powers of ten, with their doubles and fives where the values span few of them."""
    values = [value for one in series for value in one.y if value is not None and value > 0]
    low, high = math.floor(math.log10(min(values, default=1))), math.log10(max(values, default=1))
    span = math.ceil(high) - low
    steps = (1,) if span > 4 else (1, 3) if span > 2 else (1, 2, 5)
    return [step * 10.0**power for power in range(low, math.ceil(high) + 1) for step in steps]


def _shared_span(series: Sequence[Series]) -> tuple[int | float, int | float]:
    """Where the ranges of x and y overlap; both together where they do not."""
    x = [value for one in series for value in one.x if value is not None] or [0]
    y = [value for one in series for value in one.y if value is not None] or [0]
    low, high = max(min(x), min(y)), min(max(x), max(y))
    return (low, high) if low < high else (min([*x, *y]), max([*x, *y]))


def _band(one: Series) -> list[go.Scatter]:
    """The two invisible edges between which the band of a series is filled."""
    edge: dict[str, Any] = {
        "x": list(one.x),
        "mode": "lines",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    low = go.Scatter(y=[_short(value) for value in one.low or ()], **edge)
    high = go.Scatter(
        y=[_short(value) for value in one.high or ()],
        fill="tonexty",
        fillcolor=faint(one.colour),
        **edge,
    )
    return [low, high]


def _whiskers(one: Series) -> dict[str, Any] | None:
    """Asymmetric horizontal error bars from bounds; a missing bound has no whisker."""
    if one.low is None or one.high is None:
        return None
    up = [_gap(high, value) for high, value in zip(one.high, one.x, strict=True)]
    down = [_gap(value, low) for value, low in zip(one.x, one.low, strict=True)]
    return {"array": up, "arrayminus": down, "symmetric": False, "thickness": 1.2, "width": 2}


def _gap(upper: Any, lower: Any) -> float | None:
    if upper is None or lower is None:
        return None
    return _short(max(0.0, upper - lower))


def _short(value: Any) -> Any:
    """Four significant places are more than a screen shows, and keep the page small."""
    if value is None or isinstance(value, str):
        return value
    return float(f"{value:.4g}") if value == value else None
