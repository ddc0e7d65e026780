"""Resampling, plateau, final value, depth and drop, on curves whose values are known."""

import numpy as np
import pandas as pd
import pytest

from interp.data.rows import Row
from interp.errors import InputError
from interp.statistics.intervals import Method
from probes.cliff.trajectory import (
    CLOSED,
    POINTS,
    Trajectories,
    cliff,
    prompt_cliffs,
    trajectories,
)

Scored = tuple[Row, np.ndarray]


def row(index: int, prompt: int, thought: int, closing: int = 1) -> Row:
    spans = {"thinking": (prompt, prompt + thought)}
    spans["closing"] = (prompt + thought, prompt + thought + closing)
    return Row(index, tuple(range(prompt + thought + closing)), "", spans)


def scored(index: int, prompt: int, thought: list[float], closing: list[float]) -> Scored:
    values = np.array([0.5] * prompt + thought + closing)
    return row(index, prompt, len(thought), len(closing)), values


def test_rows_of_unequal_length_are_resampled_each_by_itself() -> None:
    harmful = [scored(0, 2, [0.8] * 4, [0.1]), scored(1, 7, [0.6] * 9, [0.3])]
    harmless = [scored(0, 3, [0.1] * 5, [0.1])]
    found = trajectories(harmful, harmless)
    inside = (found.positions > 0.3) & (found.positions <= 1)
    # Zero filling would give less wherever one thought is shorter than the other.
    np.testing.assert_allclose(found.harmful[:, inside].mean(0), 0.7)
    assert found.positions[-1] == pytest.approx(CLOSED)
    np.testing.assert_allclose(found.harmful[:, -1], [0.1, 0.3])
    assert (np.diff(found.positions) > 0).all()


def test_the_grid_hits_every_token_of_rows_of_one_length_and_is_bounded() -> None:
    values = np.linspace(0, 1, 10)
    found = trajectories([(row(0, 3, 6), values)], [(row(0, 3, 6), values)])
    np.testing.assert_allclose(found.harmful[0], values)
    long = np.linspace(0, 1, 401)
    many = trajectories([(row(0, 200, 200), long)], [(row(0, 200, 200), long)])
    assert len(many.positions) == 2 * POINTS + 1


def test_plateau_final_and_depth_are_of_the_difference() -> None:
    harmful = [scored(i, 3, [0.9] * 10, [0.2]) for i in range(4)]
    harmless = [scored(i, 3, [0.2] * 10, [0.1]) for i in range(4)]
    fall = cliff(trajectories(harmful, harmless), harmful, seed=0)
    assert fall.plateau == pytest.approx(0.7) and fall.final == pytest.approx(0.1)
    assert fall.depth == pytest.approx(0.6)
    assert fall.interval == pytest.approx((0.6, 0.6))


def test_only_20_to_90_per_cent_of_the_thought_are_the_plateau() -> None:
    thought = [9.0, *[0.5] * 8, 9.0]  # tokens at 0.1 and at 1.0 are outside
    harmful = [scored(0, 1, thought, [0.0])]
    harmless = [scored(0, 1, [0.0] * 10, [0.0])]
    found = trajectories(harmful, harmless)
    assert found.plateau(found.difference) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("thought", "closing", "index"),
    [
        ([0.9] * 6, [0.0], 6),  # at the closing marker
        ([0.9] * 6, [0.9, 0.0, 0.0], 7),  # inside of it
        ([0.9, 0.9, 0.9, 0.9, 0.0, 0.0], [0.0], 4),  # inside the thought
        ([0.9, 0.9, 0.0, 0.9, 0.9, 0.9], [0.0], 6),  # a dip that recovers is no drop
    ],
)
def test_the_drop_is_located(thought: list[float], closing: list[float], index: int) -> None:
    harmful = [scored(i, 3, thought, closing) for i in range(3)]
    harmless = [scored(i, 3, [0.0] * 6, [0.0] * len(closing)) for i in range(3)]
    fall = cliff(trajectories(harmful, harmless), harmful, seed=0)
    assert fall.token_index == index
    assert fall.from_end == index - 6 - len(closing)


def test_no_drop_is_named_where_nothing_falls() -> None:
    rng = np.random.default_rng(0)
    harmful = [scored(i, 3, list(rng.uniform(0.4, 0.6, 6)), [0.9]) for i in range(8)]
    harmless = [scored(i, 3, [0.1] * 6, [0.1]) for i in range(8)]
    fall = cliff(trajectories(harmful, harmless), harmful, seed=0)
    assert fall.depth < 0 and fall.token_index is None and fall.from_end is None


def test_the_band_is_over_prompts() -> None:
    rng = np.random.default_rng(1)
    harmful = [scored(i, 2, [float(x)] * 5, [0.0]) for i, x in enumerate(rng.uniform(0, 1, 40))]
    harmless = [scored(i, 2, [0.2] * 5, [0.0]) for i in range(30)]
    table = pd.DataFrame(trajectories(harmful, harmless).points(seed=0))
    middle = table.iloc[len(table) // 2]
    values = np.array([one[1][3] for one in harmful])
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert middle["harmful_high"] - middle["harmful_low"] == pytest.approx(2 * half, rel=0.1)
    assert middle["difference_low"] < middle["difference"] < middle["difference_high"]
    assert table["harmless_high"].iloc[-2] == pytest.approx(0.2)


def test_rows_without_a_course_are_left_out_and_none_left_is_refused() -> None:
    harmful = [scored(0, 3, [0.9] * 6, [0.0]), scored(1, 3, [0.9], [0.0])]
    found = trajectories(harmful, harmful[:1])
    assert len(found.harmful) == 1
    assert prompt_cliffs(found, harmful)["row"].to_list() == [0]
    with pytest.raises(InputError, match="no harmless request"):
        trajectories(harmful, [])


def test_the_draws_of_the_bootstrap_stay_the_same() -> None:
    """Worked by the code before all bootstraps had one core."""
    found = Trajectories(
        np.linspace(-1, 1.1, 22),
        0.5 + 0.4 * np.sin(np.arange(154.0)).reshape(7, 22),
        0.5 + 0.4 * np.cos(np.arange(110.0)).reshape(5, 22),
    )
    fall = cliff(found, [], 3)
    assert fall.interval.method is Method.TWO_SAMPLE_BOOTSTRAP
    ends = [*fall.plateau_interval, *fall.final_interval, *fall.interval]
    assert ends == pytest.approx(
        [-0.0435612709893572, 0.023227392592536845, -0.18819506176510226, 0.3733500498215002,
         -0.41159729736397915, 0.20691702468745246], rel=1e-12
    )  # fmt: skip
    point = found.points(3)[10]
    assert [point.harmful_low, point.harmless_high, point.difference_low] == pytest.approx(
        [0.330803987052242, 0.6998256910349341, -0.29646144467637003], rel=1e-12
    )
