"""The panels of the steering finding."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analyses.report.charts import Series, forest, lines
from analyses.report.panel import Drawing, Panel
from analyses.report.text import estimate
from analyses.report.theme import ACCENT, BLUE, GREY, MARKS
from interp.statistics.intervals import Method, auroc_interval, caption, wilson

_SETS = {
    "harmful": ("harmful", GREY, "circle"),
    "jailbroken": ("jailbroken", ACCENT, "diamond"),
    "harmless": ("harmless", BLUE, "square"),
    "over_refusal": ("over-refusal", "#2a9d8f", "triangle-up"),
}
_HARMFUL = ("harmful", "jailbroken")  # not from `material`, for a page is drawn without torch
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x")
_RESULTS = {"refused": "refused", "over": "benign", "kept": "harmful", "score": "score"}


def panels(finding: dict[str, Any]) -> list[Panel]:
    """In reading order."""
    found = [_rates(finding), _gates(finding), _costs(finding)]
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
                csv="policy_answers.csv",
            )
        )
    return found


def _rates(finding: dict[str, Any]) -> Panel:
    rows = finding["policies"]
    names = [row["name"] for row in rows]
    series: list[Series] = []
    table: dict[str, list[Any]] = {"policy": names}
    for key, (name, colour, symbol) in _SETS.items():
        rates = [row["rates"].get(key) for row in rows]
        if not all(rates):
            continue
        shown = [estimate(one["rate"], *one["interval"]) for one in rates]
        n = rates[0]["n"]
        table[f"{name}, n = {n}"] = shown
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
                    f"{policy}, {name}: {share}, n = {n}"
                    for policy, share in zip(names, shown, strict=True)
                ],
            )
        )
    figure = forest(names, series, x="share refused")
    figure.update_xaxes(range=[-0.03, 1.03])
    return Panel(
        "What is refused under each policy",
        "Share of held-out prompts that are refused, with "
        f"{caption(Method.WILSON, over='prompts')} (scorer: {finding['scorer']}); base is the "
        "model without a policy. Over-refusal prompts are benign and sound or look as if they were "
        "not. A good policy moves the harmful sets to 1 and leaves the benign ones where the base "
        "has them.",
        figure,
        pd.DataFrame(table),
        csv="policies.csv",
    )


def _gates(finding: dict[str, Any]) -> Panel:
    """Whom the policies steer; the base steers nobody."""
    table = []
    for row in finding["policies"][1:]:
        gate, sizes = row["gate"], _sizes(row["rates"])
        score = gate["auroc"]
        table.append(
            {
                "policy": row["name"],
                "strength": row["strength"],
                "threshold": gate["threshold"],
                "AUROC": None if score is None else estimate(score, *auroc_interval(score, *sizes)),
                "opens, benign": _share(gate["fpr"], sizes[0]),
                "opens, harmful": _share(gate["tpr"], sizes[1]),
            }
        )
    benign, harmful = _sizes(finding["policies"][0]["rates"])
    return Panel(
        "Whom the policies steer",
        "A gate scores every prompt and opens above its threshold: the shares of "
        f"{benign} benign prompts and of {harmful} harmful or jailbroken ones that are steered at "
        "all. AUROC is that of its scores. Shares have "
        f"{caption(Method.WILSON, over='prompts')}, the AUROC "
        f"{caption(Method.NEWCOMBE_AUROC, over='prompts')}. A policy without a gate steers "
        "every prompt.",
        table=pd.DataFrame(table),
        csv="policies.csv",
    )


def _sizes(rates: dict[str, Any]) -> tuple[int, int]:
    """Benign and harmful prompts in all sets together."""
    counts = {name: one["n"] for name, one in rates.items() if one}
    harmful = sum(n for name, n in counts.items() if name in _HARMFUL)
    return sum(counts.values()) - harmful, harmful


def _share(share: float, n: int) -> str:
    return estimate(share, *wilson(round(share * n), n))


def _costs(finding: dict[str, Any]) -> Panel:
    table = [
        {
            "policy": row["name"],
            "benign KL": row["benign_kl"],
            "largest KL where closed": row.get("benign_kl_closed"),
            "benign loss": row["benign_loss_delta"],
            "speed": row["throughput_ratio"],
        }
        for row in finding["policies"][1:]
    ]
    return Panel(
        "What the policies cost",
        "Benign KL is the mean KL(base ‖ steered) in nats per token, forced on the base's own "
        "replies to benign prompts, and benign loss the rise of their loss. Where a gate is closed "
        "nothing may change at all. Speed is tokens per second of generate over those of the base, "
        "runs alternating.",
        table=pd.DataFrame(table),
        csv="policies.csv",
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
                    symbol=_SYMBOLS[number % len(_SYMBOLS)],
                )
            )
        n = next(one["n"] for one in curves if one["side"] == side)
        found.append(
            Panel(
                f"Refusals of {side} prompts against strength",
                f"Multiples of each policy's own strength; 0 is the base. Whole answers to {n} "
                f"prompts, with {caption(Method.WILSON, over='prompts')}.",
                lines(series, x="times the policy's strength", y="share refused"),
                csv="policy_doses.csv",
            )
        )
    return found


def _trials(finding: dict[str, Any]) -> Panel:
    rows = [
        {"policy": name, **trial}
        for name, record in finding["training"].items()
        for trial in sorted(record["trials"], key=lambda trial: not trial["chosen"])
    ]
    table = pd.DataFrame(rows).dropna(axis="columns", how="all")
    results = [*_RESULTS, "chosen"]
    settings = [name for name in table.columns if name not in results]
    return Panel(
        "Settings tried on validation prompts",
        "Every method has tried as many settings through the model. Refused is the share of "
        "refusals among prompts to be refused: jailbroken ones, or harmful ones where there are "
        "none; benign and harmful are those among the other prompts. The score is the first, less "
        "the excess over the base among benign prompts, less what is lost of the base's refusals "
        "of harmful ones. The setting taken stands first.",
        table=table[settings + results].rename(columns=_RESULTS),
    )


DRAWING = Drawing("Steering", panels)
