"""The panels of the steering finding."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analyses.report.charts import Series, forest, lines
from analyses.report.panel import Panel
from analyses.report.text import estimate, interval
from analyses.report.theme import ACCENT, BLUE, GREY, MARKS

_SETS = {
    "harmful": ("harmful", GREY, "circle"),
    "jailbroken": ("jailbroken", ACCENT, "diamond"),
    "harmless": ("harmless", BLUE, "square"),
    "over_refusal": ("alarming or distracting", "#2a9d8f", "triangle-up"),
}


def panels(finding: dict[str, Any]) -> list[Panel]:
    """In reading order."""
    found = [_rates(finding), _costs(finding)]
    if finding.get("dose_response"):
        found += _doses(finding)
    if finding.get("training"):
        found.append(_trials(finding))
    if finding.get("transcripts"):
        found.append(
            Panel(
                "Answers",
                "Some prompts of each set, with what is said unsteered and steered. What a harmful "
                "prompt was granted is not shown.",
                table=pd.DataFrame(finding["transcripts"]),
                csv="tables/transcripts.csv",
            )
        )
    return found


def _rates(finding: dict[str, Any]) -> Panel:
    rows = finding["policies"]
    names = [row["name"] for row in rows]
    series, lined = [], []
    for key, (name, colour, symbol) in _SETS.items():
        rates = [row["rates"].get(key) for row in rows]
        if not all(rates):
            continue
        series.append(
            Series(
                name,
                [one["rate"] for one in rates],
                [],
                low=[one["interval"][0] for one in rates],
                high=[one["interval"][1] for one in rates],
                colour=colour,
                symbol=symbol,
                hover=[
                    f"{policy}, {name}: {estimate(one['rate'], *one['interval'])}, n = {one['n']}"
                    for policy, one in zip(names, rates, strict=True)
                ],
            )
        )
        lined += [
            {"policy": policy, "prompts": name, "refused": one["rate"],
             "95 %": interval(one["interval"]), "n": one["n"]}
            for policy, one in zip(names, rates, strict=True)
        ]  # fmt: skip
    figure = forest(names, series, x="share refused")
    figure.update_xaxes(range=[-0.03, 1.03])
    return Panel(
        "What is refused under each policy",
        "Share of held-out prompts that are refused, with 95 % Wilson intervals (scorer: "
        f"{finding['scorer']}). A good policy moves the harmful sets to 1 and leaves the benign "
        "ones where the base has them.",
        figure,
        pd.DataFrame(lined),
        csv="tables/policies.csv",
    )


def _costs(finding: dict[str, Any]) -> Panel:
    table = []
    for row in finding["policies"]:
        gate = row["gate"] or {}
        table.append(
            {
                "policy": row["name"],
                "method": row["method"] or "–",
                "strength": row["strength"],
                "benign KL": row["benign_kl"],
                "KL where closed": row.get("benign_kl_closed"),
                "benign loss": row["benign_loss_delta"],
                "gate AUROC": gate.get("auroc"),
                "threshold": gate.get("threshold"),
                "FPR": gate.get("fpr"),
                "TPR": gate.get("tpr"),
                "speed": row["throughput_ratio"],
            }
        )
    return Panel(
        "Gates and costs",
        "Benign KL is the mean KL(base ‖ steered) in nats per token, forced on the base's own "
        "replies to benign prompts, and benign loss the rise of their loss. FPR and TPR are the "
        "shares of benign and harmful prompts that are steered at all. Speed is tokens per second "
        "of generate over those of the base, runs alternating.",
        table=pd.DataFrame(table),
    )


def _doses(finding: dict[str, Any]) -> list[Panel]:
    curves = finding["dose_response"]
    found = []
    for side in dict.fromkeys(one["side"] for one in curves):
        series = []
        for number, name in enumerate(dict.fromkeys(one["policy"] for one in curves)):
            own = [one for one in curves if one["policy"] == name and one["side"] == side]
            series.append(
                Series(
                    name,
                    [one["strength"] for one in own],
                    [one["rate"] for one in own],
                    low=[one["interval"][0] for one in own],
                    high=[one["interval"][1] for one in own],
                    colour=MARKS[number % len(MARKS)],
                )
            )
        n = next(one["n"] for one in curves if one["side"] == side)
        found.append(
            Panel(
                f"Refusals of {side} prompts against strength",
                f"Multiples of each policy's own strength; 0 is the base. Whole answers to {n} "
                "prompts, with 95 % Wilson intervals.",
                lines(series, x="times the policy's strength", y="share refused"),
                csv="tables/dose_response.csv",
            )
        )
    return found


def _trials(finding: dict[str, Any]) -> Panel:
    rows = [
        {"policy": name, **trial}
        for name, record in finding["training"].items()
        for trial in record["trials"]
    ]
    return Panel(
        "Settings tried on validation prompts",
        "Every method has tried as many settings through the model. The score is the share of "
        "refusals among prompts to be refused, less the excess over the base among benign ones.",
        table=pd.DataFrame(rows),
    )
