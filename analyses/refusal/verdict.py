"""The refusal finding in a few sentences that say what was measured and no more."""

from __future__ import annotations

from typing import Any

from analyses.report.text import estimate, number


def verdict(finding: dict[str, Any]) -> str:
    """The opening lines of the report.

    What is refused; what the selected direction does; what is read of harmfulness and where; what
    stays open.

    Args:
        finding: the refusal finding as in `report.json`; its own `verdict` is not read.
    """
    sentences = [_rates(finding), _direction(finding), _harmfulness(finding), _limits(finding)]
    return " ".join(sentence for sentence in sentences if sentence)


def _share(one: dict[str, Any]) -> str:
    low, high = one["interval"]
    return f"{estimate(one['rate'], low, high)} (n = {one['n']})"


def _rates(finding: dict[str, Any]) -> str:
    rates = finding["rates"]
    shares = [f"{_share(rates['harmful']['base'])} of harmful prompts"]
    shares.append(f"{_share(rates['harmless']['base'])} of harmless ones")
    if rates.get("over_refusal"):
        shares.append(f"{_share(rates['over_refusal']['base'])} of alarming but harmless ones")
    return f"The checkpoint refuses {', '.join(shares[:-1])} and {shares[-1]}."


def _direction(finding: dict[str, Any]) -> str:
    direction, rates = finding["direction"], finding["rates"]
    if direction.get("why_not"):
        return (
            "No refusal direction could be selected, for candidates are scored by the first token "
            "of answers, and it does not distinguish refusals."
        )
    if direction["layer"] is None:
        if {row["discarded"] for row in finding["selection"]} <= {"layer", "no number"}:
            return (
                f"No refusal direction is selected: all {direction['candidates']} candidates lie "
                "in the last fifth of the layers or have no length."
            )
        return (
            f"No single direction carries refusal: none of the {direction['candidates']} "
            "candidates passes the selection."
        )
    harmful, harmless = rates["harmful"], rates["harmless"]
    left, base = harmful["ablated"]["rate"], harmful["base"]["rate"]
    where = f"layer {direction['layer']}, position {number(direction['position'])}"
    effects = (
        f"with it ablated {_share(harmful['ablated'])} of harmful prompts are refused, with it "
        f"added at the last prompt token {_share(harmless['added'])} of harmless ones"
    )
    null = _null(finding)
    lead = f"The selected refusal direction ({where})"
    if left > 0.5 * base:
        return (
            f"No single direction carries refusal: of the one selected ({where}), {effects}{null}."
        )
    return f"{lead}: {effects}{null}."


def _null(finding: dict[str, Any]) -> str:
    """What random directions of equal length do."""
    random = finding.get("random_rates") or []
    if not random:
        return ""
    plain = [one for one in random if one["direction"] == "isotropic"]
    ablated = [one["rate"] for one in plain if one["edit"] == "ablated"]
    added = [one["rate"] for one in plain if one["edit"] == "added"]
    return (
        f" ({len(ablated)} random directions of its length leave at least {number(min(ablated))} "
        f"refused and bring about at most {number(max(added))})"
    )


def _harmfulness(finding: dict[str, Any]) -> str:
    found = finding["harmfulness"]
    areas = found["auroc_t_inst_by_layer"]
    best = max(range(len(areas)), key=lambda layer: areas[layer])
    low, high = found["auroc_t_inst_interval_by_layer"][best]
    cosine = found["cosine_with_refusal_by_layer"][best]
    guard = found["latent_guard"]
    n = guard["n"]["positives"], guard["n"]["negatives"]
    return (
        f"Harmfulness is read at the end of the instruction with AUROC "
        f"{estimate(areas[best], low, high)} at layer {best}, the best of {len(areas)}, by a "
        f"direction whose cosine with the refusal direction of that layer is {number(cosine)}; "
        f"Latent Guard has AUROC {estimate(guard['auroc'], *guard['interval'])} (n = {n[0]} and "
        f"{n[1]}) on {guard['on']}."
    )


def _limits(finding: dict[str, Any]) -> str:
    return (
        "This does not show that the checkpoint is safe, nor that the directions hold under attack."
    )
