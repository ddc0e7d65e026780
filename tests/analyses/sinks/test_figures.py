import json
from typing import Any

import pytest

from analyses.sinks.figures import figures, panels


def titles(finding: dict[str, Any]) -> set[str]:
    return {panel.title for panel in panels(finding)}


def caption(finding: dict[str, Any], title: str) -> str:
    return next(panel.text for panel in panels(finding) if panel.title == title)


def test_a_full_finding_fills_every_panel(full: dict[str, Any]) -> None:
    shown = panels(full)
    assert len(shown) == 21
    assert "What is not shown" not in titles(full)
    for panel in shown:
        assert (panel.figure is None) != (panel.table is None)
        assert panel.text.count("sequences") >= 1, panel.title
        assert "interval" in panel.text or "point estimates" in panel.text, panel.title


def test_what_is_absent_is_left_out_and_named(plain: dict[str, Any]) -> None:
    shown = titles(plain)
    assert "Attention on the first token, by head" in shown
    for title in (
        "Sink mass before and after the gate",
        "Learned sinks, by head",
        "Gate against sink mass",
        "Attention entropy",
        "Effect of single heads on the loss",
        "Active and dormant heads",
        "Massive activations",
        "Attention by key position",
        "Which token is the sink",
    ):
        assert title not in shown
    reasons = caption(plain, "What is not shown")
    for word in ("gate", "learned sink", "causal", "one corpus", "Sun et al."):
        assert word in reasons


def test_a_finding_of_bare_rates_still_draws() -> None:
    bare = {"kind": "sinks", "format_version": 1, "heads": [], "layers": [], "sink_rate": {}}
    assert titles(bare) == {"Key numbers", "What is not shown"}
    assert "softmax attention" in caption(bare, "What is not shown")


def test_figures_survive_json(full: dict[str, Any]) -> None:
    again = json.loads(json.dumps(full))
    first, second = figures(full), figures(again)
    assert list(first) == list(second)
    for name, figure in first.items():
        assert figure.to_json() == second[name].to_json()
        assert figure.layout.title.text


def test_heat_map_holds_the_means_and_marks_the_layers(full: dict[str, Any]) -> None:
    full["layers"].append({"layer": 8, "attention": "linear"})
    figure = figures(full)["attention_on_the_first_token_by_head"]
    grid = figure.data[0].z
    for row in full["heads"]:
        assert grid[row["layer"]][row["head"]] == pytest.approx(row["alpha_first"], rel=1e-3)
    labels = list(figure.layout.yaxis.ticktext)
    assert labels[0] == "0" and labels[1] == "1 sliding" and labels[8] == "8 linear"
    assert set(grid[8]) == {None}
    assert "marked linear" in caption(full, "Attention on the first token, by head")


def test_gated_mass_stands_beside_the_raw(full: dict[str, Any]) -> None:
    grid = figures(full)["sink_mass_before_and_after_the_gate"].data[0].z
    row = full["heads"][13]
    line = grid[row["layer"]]
    assert line[row["head"]] == pytest.approx(row["sink_mass"], rel=1e-3)
    assert line[8] is None
    assert line[9 + row["head"]] == pytest.approx(row["gated_sink_mass"], rel=1e-3)


def test_causal_panel_ranks_by_effect_and_keeps_controls(full: dict[str, Any]) -> None:
    figure = figures(full)["effect_of_single_heads_on_the_loss"]
    zeroed, moved, random = figure.data
    effects = [abs(value) for value in zeroed.x]
    assert effects == sorted(effects, reverse=True) and len(effects) == 24
    assert [trace.name for trace in (moved, random)] == ["moved to the sink", "random, same norm"]
    assert "24 with the largest effect of 64" in caption(full, "Effect of single heads on the loss")


def test_threshold_figure_shows_the_uniform_step(full: dict[str, Any]) -> None:
    figure = figures(full)["sink_rate_against_its_threshold"]
    uniform = next(trace for trace in figure.data if trace.name == "uniform attention")
    edge = full["sink_rate"]["uniform_alpha"]
    assert uniform.x[1] == uniform.x[2] == edge and uniform.y == (100, 100, 0, 0)


def test_threshold_of_massive_follows_the_median(full: dict[str, Any]) -> None:
    figure = figures(full)["extreme_activations_by_layer"]
    limit = next(trace for trace in figure.data if trace.name == "threshold of massive")
    assert limit.x[0] == "emb" and limit.y[0] == 100.0
    assert limit.y[4] == pytest.approx(1000 * full["layers"][3]["median_abs"])


def test_tokens_are_no_markup_in_figures(full: dict[str, Any]) -> None:
    figure = figures(full)["which_token_is_the_sink"]
    labels = list(figure.layout.yaxis.categoryarray)
    assert labels[0] == "‘&lt;bos&gt;’ at 0"
    assert not any("<" in label for label in labels)


def test_head_table_names_heads_and_intervals(full: dict[str, Any]) -> None:
    table = next(panel.table for panel in panels(full) if panel.title == "All heads")
    best = max(full["heads"], key=lambda row: row["sink_mass"])
    assert table is not None
    assert table["head"][0] == f"L{best['layer']} H{best['head']}"
    assert "[" in table["α₁"][0]


def test_switching_is_unknown_without_ablations(full: dict[str, Any]) -> None:
    assert "7 switch" in caption(full, "Active and dormant heads")
    for row in full["domain_heads"]:
        row |= {"switching": None, "delta_loss_low": None, "delta_loss_high": None}
    assert "not known which switch" in caption(full, "Active and dormant heads")
    table = next(panel.table for panel in panels(full) if panel.title == "Heads across domains")
    assert table is not None and set(table["switches"]) == {"–"}


def test_sink_tokens_are_ranked_by_heads(full: dict[str, Any]) -> None:
    full["sink_tokens"][0] |= {"heads": 0.01, "mass": 0.99}
    labels = figures(full)["which_token_is_the_sink"].layout.yaxis.categoryarray
    assert labels[-1] == "‘&lt;bos&gt;’ at 0"
