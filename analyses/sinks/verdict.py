"""The sink finding in one to three sentences that say what was measured and no more."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from analyses.report.text import interval, number, setting, token
from analyses.sinks.rows import Row, bounds, column, has, having, head_name


def verdict(finding: dict[str, Any]) -> str:
    """The opening lines of the report.

    The first sentence is about the first token (with n, interval and the uniform baseline), the
    second about what the gate or the learned sinks leave of it and about massive activations, the
    third about ablations and heads that switch between domains; what was not measured is not
    mentioned.

    Args:
        finding: the sink finding as in `report.json`; its own `verdict` is not read.
    """
    causal, domains = _causal(finding), _domains(finding)
    if causal and domains:
        causal = f"{causal.removesuffix('.')}; {domains}."
    sentences = [_first_token(finding), _state(finding), causal]
    return " ".join(sentence for sentence in sentences if sentence)


def _first_token(finding: Row) -> str:
    rate, heads = finding["sink_rate"], finding.get("heads") or []
    if not heads:
        return "The model has no softmax-attention heads, so there is no sink rate."
    epsilon = rate["epsilon"]
    above = sum((row.get("alpha_first") or 0.0) > epsilon for row in heads)
    bos = (finding.get("provenance") or {}).get("bos")
    where = "the first token" + (" (BOS)" if bos else "")
    who = f"None of the {len(heads)}" if above == 0 else f"{above} of {len(heads)}"
    puts, whose = ("put", "their") if above > 1 else ("puts", "its")
    lead = (
        f"{who} heads {puts} on average more than {setting(100 * epsilon)} % of {whose} attention "
        f"on {where}"
    )
    uniform = rate.get("uniform_alpha")
    details = [f"sink rate {number(rate['percent'])} %"]
    if rate.get("interval"):
        details[0] += f", 95 % interval {interval(rate['interval'])}"
    details[0] += f", {rate['sequences']} sequences of {rate['length']} tokens"
    if uniform is not None:
        details.append(f"uniform attention would give α₁ = {number(uniform)}")
        if uniform > epsilon:
            details.append("this is above the threshold, so the rate says nothing at this length")
    return f"{lead}: {'; '.join(details)}."


def _state(finding: Row) -> str:
    """Gate, learned sinks and massive activations in one sentence."""
    heads = finding.get("heads") or []
    parts = []
    if has(heads, "sink_mass", "gated_sink_mass"):
        parts.append(
            f"weighted by the gate, the mean mass on the first token is "
            f"{_mean(heads, 'gated_sink_mass')} instead of {_mean(heads, 'sink_mass')}"
            + (f" (mean gate {_mean(heads, 'gate_mean')})" if has(heads, "gate_mean") else "")
        )
    if has(heads, "learned_sink"):
        parts.append(f"learned sinks take {_mean(heads, 'learned_sink')} of the softmax on average")
    parts.append(_massive(finding))
    sentence = "; ".join(part for part in parts if part)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def _mean(rows: list[Row], key: str) -> str:
    return number(fmean(value for value in column(rows, key) if value is not None))


def _massive(finding: Row) -> str:
    rows = finding.get("massive_activations") or []
    if rows:
        top = max(rows, key=lambda row: abs(row["value"]))
        count = "one massive activation" if len(rows) == 1 else f"{len(rows)} massive activations"
        opening = f"{count}," if len(rows) == 1 else f"{count}, the largest"
        return (
            f"{opening} {number(top['value'])} in dimension {top['dim']} after layer "
            f"{top['layer']}, at {token(str(top['token']))} (position {top['position']})"
        )
    if finding.get("massive_activations") is None:
        return ""
    extremes = [row["max_abs"] for row in having(finding.get("layers"), "max_abs")]
    known = f" (largest |x| {number(max(extremes))})" if extremes else ""
    return f"no activation reaches the threshold of a massive one{known}"


def _domains(finding: Row) -> str:
    """How many heads are active in one domain and dormant in another."""
    rows = finding.get("domain_heads") or []
    if not rows or any(row.get("switching") is None for row in rows):
        return ""
    switching = [row for row in rows if row["switching"]]
    if not switching:
        return f"none of {len(rows)} heads is active in one domain and dormant in another"
    verb = "is" if len(switching) == 1 else "are"
    example = switching[0]
    return (
        f"{len(switching)} of {len(rows)} heads {verb} active in one domain and dormant in "
        f"another, {head_name(example)} in {token(example['domain_low'])} and "
        f"{token(example['domain_high'])}" + (" for one" if len(switching) > 1 else "")
    )


def _causal(finding: Row) -> str:
    """The strongest single-head effect, beside its control and the number it was chosen from."""
    run = finding.get("causal") or {}
    heads = having(finding.get("heads"), "ablation_delta_loss")
    if not heads or not run:
        return ""
    top = max(heads, key=lambda row: abs(row["ablation_delta_loss"]))
    effect = top["ablation_delta_loss"]
    sign = "+" if effect > 0 else ""
    details = [f"{run.get('sequences')} sequences"]
    pair = bounds(top, "ablation_delta_loss")
    if None not in pair:
        details.insert(0, f"95 % interval {interval(pair)}")
    if top.get("random_delta_loss") is not None:
        details.append(
            f"a random perturbation of equal norm there: {number(top['random_delta_loss'])}"
        )
    return (
        f"Zeroing one head at a time changes the loss by at most {sign}{number(effect)} nats "
        f"per token, the largest of {len(heads)} effects, at {head_name(top)} "
        f"({'; '.join(details)})."
    )
