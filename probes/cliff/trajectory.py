"""A refusal probe along a thought: the curve, and the cliff at its end.

Yin et al. (arXiv 2510.06036) align sequences at their right end, fill the left with zeros and
average; the zeros then pull down the early part. Here every row is resampled by itself, the
harmless curve is subtracted at the same position, and prompts are what the bands are over. The
paper gives no formula of plateau and cliff; the definitions in `Cliff` are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.data.rows import Row
from interp.errors import InputError
from interp.statistics.intervals import Interval, Method, two_sample_interval
from interp.statistics.resampling import draw_counts, percentile_ends
from probes.cliff.rows import TrajectoryPoint

CLOSED = 1.1  # position of the last token of the closing marker
POINTS = 50  # of the grid in the prompt and in the thought, at most
PLATEAU = (0.2, 0.9)
_LEAST_THOUGHT = 2  # tokens, below which a thought has no course


@dataclass(frozen=True)
class Trajectories:
    """Probe probabilities on shared normalised positions.

    A prompt of P tokens stands at −1 + 1/P … 0, its thought of T tokens at 1/T … 1, the closing
    marker of M tokens at 1 + 0.1/M … 1.1. Between tokens the curve is linear; before the first
    token it holds that token's value.

    Attributes:
        positions: the grid.
        harmful: a row a prompt.
        harmless: a row a prompt.
    """

    positions: Float[np.ndarray, " points"]
    harmful: Float[np.ndarray, "n points"]
    harmless: Float[np.ndarray, "m points"]

    @property
    def difference(self) -> Float[np.ndarray, " points"]:
        """Mean of the harmful minus mean of the harmless at the same position."""
        return np.asarray(self.harmful.mean(0) - self.harmless.mean(0))

    def plateau(self, curve: Float[np.ndarray, "*n points"]) -> Float[np.ndarray, "*n"]:
        """Mean over the thought from 20 % to 90 % of its tokens."""
        low, high = PLATEAU
        return np.asarray(curve[..., (self.positions >= low) & (self.positions <= high)].mean(-1))

    def final(self, curve: Float[np.ndarray, "*n points"]) -> Float[np.ndarray, "*n"]:
        """At the last token of the closing marker."""
        return np.asarray(curve[..., -1])

    def points(self, seed: int) -> tuple[TrajectoryPoint, ...]:
        """Means at every position, their difference, and 95 % bands over prompts."""
        drawn = [_resampled(side, seed + i) for i, side in enumerate((self.harmful, self.harmless))]
        means = [side.mean(0).tolist() for side in (self.harmful, self.harmless)]
        difference = self.difference.tolist()
        harmful, harmless = (_band(side, Method.BOOTSTRAP) for side in drawn)
        between = _band(drawn[0] - drawn[1], Method.TWO_SAMPLE_BOOTSTRAP)
        return tuple(
            TrajectoryPoint(
                position=position,
                harmful=means[0][i],
                harmful_low=harmful[i][0],
                harmful_high=harmful[i][1],
                harmless=means[1][i],
                harmless_low=harmless[i][0],
                harmless_high=harmless[i][1],
                difference=difference[i],
                difference_low=between[i][0],
                difference_high=between[i][1],
                interval=between[i],
            )
            for i, position in enumerate(self.positions.tolist())
        )


@dataclass(frozen=True)
class Cliff:
    """The fall of the refusal probe at the end of the thought; definitions of ours.

    All of the difference harmful − harmless of probe probabilities, −1 to 1.

    Attributes:
        plateau: its mean over the thought from 20 % to 90 % of its tokens.
        final: at the last token of the closing marker.
        depth: plateau − final.
        plateau_interval: at 95 %, over prompts.
        final_interval: likewise.
        interval: of the depth, likewise.
        token_index: where it drops: the first token of thought and closing marker, counted from 0
            at the thought's first, from which on a prompt's curve stays below the middle between
            its own plateau and final; the median over harmful prompts. None if the depth's
            interval holds 0, for then nothing drops.
        from_end: the same counted back from the last token of the closing marker, which is −1.
        per_prompt: a row a harmful prompt: row, plateau, final, depth, token_index, from_end.
    """

    plateau: float
    final: float
    depth: float
    plateau_interval: Interval
    final_interval: Interval
    interval: Interval
    token_index: int | None
    from_end: int | None
    per_prompt: pd.DataFrame


def trajectories(
    harmful: Sequence[tuple[Row, np.ndarray]], harmless: Sequence[tuple[Row, np.ndarray]]
) -> Trajectories:
    """Resample each prompt's probabilities onto the shared grid.

    Args:
        harmful: rows with segments `thinking` and `closing`, and a probability for every token.
        harmless: likewise.

    Raises:
        InputError: a class has no closed thought of two tokens or more.
    """
    kept = [[pair for pair in side if has_course(pair[0])] for side in (harmful, harmless)]
    for name, side in zip(("harmful", "harmless"), kept, strict=True):
        if not side:
            raise InputError(
                f"no {name} request has a closed thought of {_LEAST_THOUGHT} tokens or more, so "
                "there is no trajectory; raise --thinking-budget, or give other requests."
            )
    rows = [row for side in kept for row, _ in side]
    grid = _grid(rows)
    return Trajectories(
        grid,
        *(np.stack([np.interp(grid, _places(row), values) for row, values in side])
          for side in kept),
    )  # fmt: skip


def has_course(row: Row) -> bool:
    """Whether a row has a closed thought that is long enough for a trajectory."""
    begin, end = row.segments.get("thinking", (0, 0))
    return "closing" in row.segments and end - begin >= _LEAST_THOUGHT


def cliff(
    found: Trajectories,
    harmful: Sequence[tuple[Row, np.ndarray]],
    seed: int,
) -> Cliff:
    """Plateau, final value, depth and drop, with intervals over prompts.

    Args:
        found: of the same rows.
        harmful: as for `trajectories`.
        seed: of the bootstrap.
    """
    drawn = _resampled(found.harmful, seed) - _resampled(found.harmless, seed + 1)
    plateau, final = found.plateau(drawn), found.final(drawn)
    depth = two_sample_interval(plateau - final, "requests")
    per_prompt = prompt_cliffs(found, harmful)
    falls = depth[0] > 0
    middle = found.difference
    return Cliff(
        plateau=float(found.plateau(middle)),
        final=float(found.final(middle)),
        depth=float(found.plateau(middle) - found.final(middle)),
        plateau_interval=two_sample_interval(plateau, "requests"),
        final_interval=two_sample_interval(final, "requests"),
        interval=depth,
        token_index=_median(per_prompt["token_index"]) if falls else None,
        from_end=_median(per_prompt["from_end"]) if falls else None,
        per_prompt=per_prompt,
    )


def prompt_cliffs(found: Trajectories, scored: Sequence[tuple[Row, np.ndarray]]) -> pd.DataFrame:
    """Plateau, final, depth and drop of each row, less the mean harmless curve.

    Args:
        found: whose harmless curve is subtracted.
        scored: rows and probabilities; those without a closed thought are left out.
    """
    harmless = found.harmless.mean(0)
    entries = []
    for row, values in scored:
        if not has_course(row):
            continue
        places = _places(row)
        curve = np.interp(found.positions, places, values) - harmless
        plateau, final = float(found.plateau(curve)), float(found.final(curve))
        begin = row.segments["thinking"][0]
        tokens = values[begin:] - np.interp(places[begin:], found.positions, harmless)
        low = tokens < (plateau + final) / 2
        # Behind the last token that is not below the middle.
        drop = 0 if low.all() else int(np.flatnonzero(~low)[-1]) + 1
        drops = plateau > final and drop < len(tokens)
        entries.append(
            {
                "row": row.index,
                "plateau": plateau,
                "final": final,
                "depth": plateau - final,
                "token_index": drop if drops else np.nan,
                "from_end": drop - len(tokens) if drops else np.nan,
            }
        )
    columns = ["row", "plateau", "final", "depth", "token_index", "from_end"]
    return pd.DataFrame(entries, columns=columns)


def _places(row: Row) -> Float[np.ndarray, " tokens"]:
    """Normalised position of every token."""
    prompt = row.segments["thinking"][0]
    thought = row.segments["thinking"][1] - prompt
    closing = len(row) - prompt - thought
    return np.concatenate(
        [
            -1 + np.arange(1, prompt + 1) / prompt,
            np.arange(1, thought + 1) / thought,
            1 + (CLOSED - 1) * np.arange(1, closing + 1) / closing,
        ]
    )


def _grid(rows: Sequence[Row]) -> Float[np.ndarray, " points"]:
    """As many points as the longest row has tokens, up to `POINTS` in a part."""
    spans = [row.segments["thinking"] for row in rows]
    prompt = min(POINTS, max(begin for begin, _ in spans))
    thought = min(POINTS, max(end - begin for begin, end in spans))
    closing = min(POINTS, max(len(row) - span[1] for row, span in zip(rows, spans, strict=True)))
    return np.concatenate(
        [
            -1 + np.arange(1, prompt + 1) / prompt,
            np.arange(1, thought + 1) / thought,
            1 + (CLOSED - 1) * np.arange(1, closing + 1) / closing,
        ]
    )


def _resampled(curves: Float[np.ndarray, "n points"], seed: int) -> np.ndarray:
    """Means of bootstrap samples of rows, [resamples, points]."""
    count = len(curves)
    return np.asarray(draw_counts(count, np.random.default_rng(seed)) @ curves / count)


def _band(sample: np.ndarray, method: Method) -> list[Interval]:
    """The interval at every position."""
    ends = zip(*(side.tolist() for side in percentile_ends(sample)), strict=True)
    return [Interval(pair, method, "requests") for pair in ends]


def _median(values: pd.Series) -> int | None:
    known = values.dropna()
    return None if known.empty else round(float(known.median()))
