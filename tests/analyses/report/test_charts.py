import pytest

from analyses.report.charts import Series, bars, forest, heatmap, lines, scatter
from analyses.report.theme import BLUE, faint


def test_heatmap_keeps_gaps_and_puts_the_first_row_on_top() -> None:
    figure = heatmap(
        [[0.12345678, None], [float("nan"), 1.0]], {0: "0", 3: "3 s"}, title="m", hover=""
    )
    assert figure.data[0].z == ([0.1235, None], [None, 1.0])
    assert figure.layout.yaxis.autorange == "reversed"
    assert list(figure.layout.yaxis.ticktext) == ["0", "3 s"]
    assert figure.data[0].y == figure.layout.yaxis.tickvals == (0, 3)


def test_bands_lie_between_the_bounds() -> None:
    figure = lines([Series("a", [0, 1], [0.5, 0.6], [0.4, 0.5], [0.6, 0.7])], x="x", y="y")
    low, high, line = figure.data
    assert (low.y, high.y, line.y) == ((0.4, 0.5), (0.6, 0.7), (0.5, 0.6))
    assert high.fill == "tonexty" and high.fillcolor == faint(BLUE)
    assert not low.showlegend and not high.showlegend


def test_whiskers_are_distances_from_the_estimate() -> None:
    figure = forest(["r"], [Series("a", [1.0], [0], [0.75], [1.5]), Series("b", [2.0], [0])], x="x")
    assert figure.data[0].error_x.array == (0.5,) and figure.data[0].error_x.arrayminus == (0.25,)
    assert figure.data[1].error_x.array is None
    assert figure.data[0].y[0] < figure.data[1].y[0]


@pytest.mark.parametrize(
    ("x", "y", "span"), [([0, 4], [2, 9], (2, 4)), ([0, 1], [5, 6], (0, 6)), ([], [], None)]
)
def test_the_diagonal_spans_what_both_axes_share(
    x: list[float], y: list[float], span: tuple[float, float] | None
) -> None:
    shape = scatter([Series("a", x, y)], x="x", y="y", diagonal=True).layout.shapes[0]
    assert (shape.x0, shape.x1) == (span or (0, 0))
    assert (shape.x0, shape.x1) == (shape.y0, shape.y1)


def test_bars_keep_the_order_of_their_labels() -> None:
    series = [Series("b", [0.1], ["second"]), Series("a", [0.2], ["first"])]
    axis = bars(["first", "second"], series, x="x").layout.yaxis
    assert axis.categoryarray == ("first", "second") and axis.autorange == "reversed"


@pytest.mark.parametrize(
    ("y", "ticks"),
    [
        ([0.02, 0.5], ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5"]),
        ([9.0, 400.0], ["1", "3", "10", "30", "100", "300", "1000", "3000"]),
        ([1e-3, 1e3, None, 0], ["0.001", "0.01", "0.1", "1", "10", "100", "1000"]),
        ([], ["1", "2", "5"]),
    ],
)
def test_log_axes_have_round_ticks(y: list[float | None], ticks: list[str]) -> None:
    axis = lines([Series("a", range(len(y)), y)], x="x", y="y", log=True).layout.yaxis
    assert list(axis.ticktext) == ticks
    assert axis.type == "log"


def test_the_scale_of_a_heatmap_begins_at_0_however_high_the_values_lie() -> None:
    figure = heatmap([[0.8, None], [1.2, 0.9]], {0: "0", 1: "1"}, title="x", hover="", top=None)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1.2)
