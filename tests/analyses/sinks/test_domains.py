"""Active and dormant heads, planted in measurements that no model made."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from words import documents, wordy

from analyses.shared.tables import frame_of
from analyses.sinks.causal import CausalEffects
from analyses.sinks.domains import domain_head_rows, domain_rows
from analyses.sinks.measure import Measurements
from analyses.sinks.report import NO_CAUSAL_PANEL, DomainHeadRow
from analyses.sinks.run import sinks
from interp.capture.recorder import RowRecords
from interp.data.rows import Row, Rows

EACH = 16
SWITCHING, SAME_MASS, ALWAYS_ACTIVE, QUIET, NOISY = range(5)
LAYER = 3  # the only softmax layer


def _measurements(mass: NDArray[Any], names: tuple[str, ...] = ("code", "prose")) -> Measurements:
    """Sink mass [rows, heads], the rows of each domain one after the other."""
    rows = [Row(i, (1, 5, 6), names[i // EACH]) for i in range(len(mass))]
    values = {name: {LAYER: mass.astype(np.float32)} for name in ("alpha", "sink_mass")}
    records = {"first_key": RowRecords(np.arange(len(mass)), values)}
    return Measurements(Rows(tuple(rows), True, {"code": 2}), records, {})


def domain_heads(found: Measurements, effects: CausalEffects | None, seed: int) -> pd.DataFrame:
    return frame_of(domain_head_rows(found, effects, seed), DomainHeadRow)


@pytest.fixture
def planted() -> tuple[Measurements, CausalEffects]:
    """Five heads on two domains; `code` comes first."""
    draw = np.random.default_rng(0)
    low, high = draw.normal(0.1, 0.02, (EACH, 5)), draw.normal(0.8, 0.02, (EACH, 5))
    low[:, SAME_MASS] = high[:, SAME_MASS] - 0.01
    ablation = draw.normal(0.0, 0.01, (2 * EACH, 1, 5))
    noise = draw.normal(0.0, 0.01, (2 * EACH, 1, 5))
    ablation[:EACH, 0, SWITCHING] += 0.5
    ablation[:EACH, 0, SAME_MASS] += 0.5
    ablation[:, 0, ALWAYS_ACTIVE] += 0.5
    ablation[:EACH, 0, NOISY] += 0.5
    noise[:EACH, 0, NOISY] += 0.5
    effects = CausalEffects(
        rows=tuple(range(2 * EACH)),
        domains=("code",) * EACH + ("prose",) * EACH,
        layers=(LAYER,),
        loss=np.repeat([2.0, 3.0], EACH),
        delta={"ablation": ablation, "move_to_sink": ablation, "random": noise},
    )
    return _measurements(np.concatenate([low, high])), effects


def test_the_planted_head_switches_and_no_other(
    planted: tuple[Measurements, CausalEffects],
) -> None:
    table = domain_heads(*planted, seed=0)
    assert table["head"].tolist() == list(range(5)) and set(table["layer"]) == {LAYER}
    assert table["switching"].tolist() == [True, False, False, False, False]
    found = table.iloc[SWITCHING]
    assert (found["domain_low"], found["domain_high"]) == ("code", "prose")
    assert found["sink_mass_low"] == pytest.approx(0.1, abs=0.02)
    assert found["sink_mass_high"] == pytest.approx(0.8, abs=0.02)
    assert found["auc"] == 1.0
    assert found["delta_loss_low"] == pytest.approx(0.5, abs=0.01)
    assert found["delta_loss_high"] == pytest.approx(0.0, abs=0.01)
    assert 0.4 < found["excess_low_from"] < found["excess_low"] < 0.6


def test_why_the_others_do_not_switch(planted: tuple[Measurements, CausalEffects]) -> None:
    table = domain_heads(*planted, seed=0)
    assert table["auc"][SAME_MASS] < 0.95 and table["excess_low_from"][SAME_MASS] > 0
    assert table["excess_high_from"][ALWAYS_ACTIVE] > 0
    assert table["excess_low_from"][QUIET] <= 0
    assert table["delta_loss_low"][NOISY] > 0.4 and table["excess_low_from"][NOISY] <= 0


def test_the_order_of_the_domains_does_not_matter(
    planted: tuple[Measurements, CausalEffects],
) -> None:
    found, effects = planted
    mass = found.records["first_key"].at("sink_mass", LAYER)
    swapped = _measurements(np.roll(mass, EACH, 0), ("prose", "code"))
    turned = CausalEffects(
        effects.rows,
        effects.domains[EACH:] + effects.domains[:EACH],
        effects.layers,
        np.roll(effects.loss, EACH),
        {edit: np.roll(delta, EACH, 0) for edit, delta in effects.delta.items()},
    )
    one, other = domain_heads(found, effects, 0), domain_heads(swapped, turned, 0)
    for column in ("domain_low", "domain_high", "auc", "switching", "delta_loss_low"):
        assert one[column].tolist() == other[column].tolist()
    assert (one["auc"] >= 0.5).all()


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    draw = np.random.default_rng(2)
    mass = np.concatenate([draw.normal(0.3, 0.1, (EACH, 1)), draw.normal(0.4, 0.1, (EACH, 1))])
    (row,) = domain_heads(_measurements(mass), None, 0).to_dict(orient="records")
    low, high = np.float32(mass[:EACH, 0]), np.float32(mass[EACH:, 0])
    pairs = (high[:, None] > low[None, :]).mean()
    assert row["auc"] == pytest.approx(pairs) and 0.5 < row["auc"] < 1
    assert row["switching"] is None and np.isnan(row["delta_loss_low"])


def test_of_three_domains_the_outer_two_are_held_together() -> None:
    mass = np.repeat([0.5, 0.1, 0.9], EACH)[:, None]
    table = domain_heads(_measurements(mass, ("a", "b", "c")), None, 0)
    assert table[["domain_low", "domain_high"]].to_numpy().tolist() == [["b", "c"]]


def test_one_domain_has_nothing_to_switch_between() -> None:
    table = domain_heads(_measurements(np.full((EACH, 2), 0.4)), None, 0)
    assert table.empty and "switching" in table.columns


def test_one_sequence_a_domain_calls_nothing_switching() -> None:
    found = _measurements(np.array([[0.1], [0.9]]), ("code",))
    rows = (Row(0, (1, 5), "code"), Row(1, (1, 6), "prose"))
    found = Measurements(Rows(rows, True), found.records, {})
    delta = {edit: np.array([[[0.5]], [[0.0]]]) for edit in ("ablation", "random")}
    delta["random"] = np.zeros((2, 1, 1))
    effects = CausalEffects((0, 1), ("code", "prose"), (LAYER,), np.ones(2), delta)
    (row,) = domain_heads(found, effects, 0).to_dict(orient="records")
    assert row["auc"] == 1.0 and row["switching"] is False


def test_the_rows_of_domains(planted: tuple[Measurements, CausalEffects]) -> None:
    code, prose = domain_rows(*planted, epsilon=0.3, seed=0)
    assert (code.name, code.sequences, code.skipped, code.loss) == ("code", 16, 2, 2.0)
    assert (prose.name, prose.skipped, prose.loss) == ("prose", 0, 3.0)
    assert code.sink_percent == pytest.approx(20.0) and prose.sink_percent == 100.0
    assert isinstance(prose.interval, tuple) and isinstance(code.first_token_interval, tuple)
    assert prose.interval[1] == 100.0 and 70 < prose.interval[0] < 90
    low, high = code.first_token_interval
    assert low < code.first_token_attention < high
    without = domain_rows(planted[0], None, epsilon=0.3, seed=0)
    assert [row.loss for row in without] == [NO_CAUSAL_PANEL] * 2


def test_two_corpora_of_a_real_model_differ_where_the_words_do() -> None:
    texts = {
        "low": documents(6, 20, words=range(4, 20)),
        "high": documents(6, 20, words=range(60, 97)),
    }
    finding = sinks(wordy("llama"), texts, length=12, causal_sequences=4)
    assert finding.tables["domains"]["name"].tolist() == ["low", "high"]
    heads = finding.tables["domain_heads"]
    assert len(heads) == len(finding.heads) == 16
    assert (heads["sink_mass_low"] <= heads["sink_mass_high"]).all()
    mean = (heads["sink_mass_low"] + heads["sink_mass_high"]) / 2
    assert mean.to_numpy() == pytest.approx(finding.heads["sink_mass"].to_numpy(), rel=1e-5)
    assert set(heads["switching"]) <= {True, False}
