import re
from typing import Any

from analyses.sinks.verdict import verdict


def test_counts_heads_and_states_n_interval_and_baseline(full: dict[str, Any]) -> None:
    above = sum(row["alpha_first"] > 0.3 for row in full["heads"])
    text = verdict(full)
    assert text.startswith(
        f"{above} of 64 heads put on average more than 30 % of their attention on the first token "
        "(BOS): sink rate 55.2 %, 95 % interval 53.1–57.0, 180 sequences of 64 tokens; uniform "
        "attention would give α₁ = 0.0741."
    )


def test_names_gate_learned_sinks_and_massive_activations(full: dict[str, Any]) -> None:
    text = verdict(full)
    mean = sum(row["gated_sink_mass"] for row in full["heads"]) / 64
    assert f"Weighted by the gate, the mean mass on the first token is {mean:.3g}" in text
    assert "learned sinks take" in text
    assert "20 massive activations, the largest 380 in dimension 1415 after layer 2" in text
    full["massive_activations"] = full["massive_activations"][1:2]
    assert "one massive activation, −340 in dimension 1422" in verdict(full)


def test_the_strongest_effect_comes_with_control_and_count(full: dict[str, Any]) -> None:
    for row in full["heads"]:
        row["ablation_delta_loss"] = 0.001
    full["heads"][9] |= {
        "ablation_delta_loss": -0.5,
        "ablation_delta_loss_low": -0.6,
        "ablation_delta_loss_high": -0.4,
        "random_delta_loss": 0.02,
    }
    text = verdict(full)
    assert "at most −0.500 nats per token, the largest of 64 effects, at layer 1, head 1" in text
    assert (
        "−0.600 to −0.400; 16 sequences; a random perturbation of equal norm there: 0.0200" in text
    )


def test_zero_sinks_are_said_as_such(plain: dict[str, Any]) -> None:
    text = verdict(plain)
    assert text.startswith("None of the 64 heads puts on average more than 30 % of its attention")
    assert "BOS" not in text and "gate" not in text and "Zeroing" not in text
    assert "No activation reaches the threshold of a massive one (largest |x| 9.50)." in text


def test_one_head_is_singular(plain: dict[str, Any]) -> None:
    plain["heads"][3]["alpha_first"] = 0.31
    assert verdict(plain).startswith("1 of 64 heads puts on average more than 30 % of its")


def test_a_baseline_above_the_threshold_is_admitted(plain: dict[str, Any]) -> None:
    plain["sink_rate"] |= {"uniform_alpha": 0.52, "length": 4}
    assert "above the threshold, so the rate says nothing" in verdict(plain)


def test_without_softmax_heads_or_measurements_nothing_is_claimed(plain: dict[str, Any]) -> None:
    plain |= {"heads": [], "massive_activations": None}
    assert verdict(plain) == "The model has no softmax-attention heads, so there is no sink rate."


def test_at_most_three_sentences(full: dict[str, Any], plain: dict[str, Any]) -> None:
    for finding in (full, plain):
        assert 1 <= len(re.findall(r"\.(?= [A-Z0-9]|$)", verdict(finding))) <= 3


def test_heads_that_switch_between_domains_are_named(full: dict[str, Any]) -> None:
    rows = full["domain_heads"]
    switching = sum(bool(row["switching"]) for row in rows)
    assert f"{switching} of {len(rows)} heads" in verdict(full)
    still = {**full, "domain_heads": [{**row, "switching": False} for row in rows]}
    assert f"none of {len(rows)} heads is active in one domain" in verdict(still)
    unknown = {**full, "domain_heads": [{**row, "switching": None} for row in rows]}
    assert "dormant" not in verdict(unknown)
