"""The panels of the cliff finding, drawn from its JSON alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from analyses.report.charts import Series, forest, lines
from analyses.report.panel import Drawing, Panel
from analyses.report.text import MISSING, estimate, interval, number, visible
from analyses.report.theme import ACCENT, BLUE, GREY
from interp.statistics.intervals import AUROC, Method, caption
from probes.cliff.trajectory import CLOSED

_SHOWN_HEADS = 24
_SHOWN_PAIRS = 20

Row = dict[str, Any]


def panels(finding: Row) -> list[Panel]:
    """Every panel that the finding has numbers for, in reading order.

    Args:
        finding: as in `report.json` (`kind` "cliff", format version 1).
    """
    makers: list[Callable[[Row], Panel | None]] = [
        _numbers,
        _trajectory,
        _difference,
        _forced,
        _heads,
        _head_table,
        _ablations,
        _pairs,
        _selectors,
    ]
    return [panel for maker in makers if (panel := maker(finding)) is not None]


def _numbers(finding: Row) -> Panel:
    cliff, probe = finding.get("cliff") or {}, finding.get("probe") or {}
    settings = finding.get("settings") or {}
    rows = [
        ("probe, plateau", cliff.get("plateau"), cliff.get("plateau_interval"), _both(cliff)),
        ("probe, final", cliff.get("final"), cliff.get("final_interval"), _both(cliff)),
        ("probe, depth", cliff.get("depth"), cliff.get("interval"), _both(cliff)),
        ("token of the drop, from the end", cliff.get("from_end"), None, ""),
        ("AUROC of the answer probe", probe.get("auroc"), probe.get("interval"), _both(probe)),
    ]
    for label, rate in (finding.get("rates") or {}).items():
        if rate.get("n"):
            rows.append(
                (f"refused, {label}", rate.get("rate"), rate.get("interval"), str(rate["n"]))
            )
    table = pd.DataFrame(
        {
            "quantity": [row[0] for row in rows],
            "value": [number(row[1]) for row in rows],
            "95 % interval": [interval(row[2]) for row in rows],
            "n": [row[3] or MISSING for row in rows],
        }
    )
    text = (
        "Probe values are probabilities of refusal, harmful minus harmless at the same position: "
        "the plateau over 20 to 90 % of the thought, the final value at the last token of the "
        f"closing marker {visible(str(settings.get('closing', '')))}, and their difference, with "
        f"{caption(Method.TWO_SAMPLE_BOOTSTRAP, over='requests')}; the AUROC has "
        f"{caption(*AUROC, over='requests')}. Rates are of answers behind thoughts that the model "
        f"closed itself, with {caption(Method.WILSON, over='requests')}."
    )
    return Panel("Numbers", text, table=table)


def _trajectory(finding: Row) -> Panel | None:
    rows = finding.get("trajectory") or []
    if not rows:
        return None
    series = [
        Series(
            name,
            [row["position"] for row in rows],
            [row[name] for row in rows],
            low=[row.get(f"{name}_low") for row in rows],
            high=[row.get(f"{name}_high") for row in rows],
            colour=colour,
            symbol=symbol,
        )
        for name, colour, symbol in (("harmful", ACCENT, "circle"), ("harmless", BLUE, "square"))
    ]
    figure = _parts(
        lines(series, x="prompt, thought (from 0), closing marker", y="probability of refusal")
    )
    text = (
        "What the refusal probe reads at every token, each request resampled by itself: the prompt "
        "from −1 to 0, the thought from 0 to 1, the closing marker up to 1.1; means of "
        f"{_both(finding.get('cliff') or {})} harmful and harmless requests; bands are "
        f"{caption(Method.BOOTSTRAP, over='requests')}. In the prompt, where it learned nothing, "
        "the probe means little."
    )
    return Panel("Probe along the thought", text, figure, csv="trajectory.csv")


def _difference(finding: Row) -> Panel | None:
    rows = [row for row in finding.get("trajectory") or [] if row["position"] > 0]
    if not rows:
        return None
    cliff = finding.get("cliff") or {}
    position = [row["position"] for row in rows]
    series = [
        Series(
            "harmful − harmless",
            position,
            [row.get("difference") for row in rows],
            low=[row.get("difference_low") for row in rows],
            high=[row.get("difference_high") for row in rows],
            colour=ACCENT,
        ),
        Series("plateau", [0.2, 0.9], [cliff.get("plateau")] * 2, colour=GREY, dash="dash"),
    ]
    figure = _parts(lines(series, x="share of the thought", y="difference of probabilities"))
    text = (
        "Harmful minus harmless at the same position of thought (0 to 1) and closing marker (up to "
        f"1.1); the band shows {caption(Method.TWO_SAMPLE_BOOTSTRAP, over='requests')}. The "
        "cliff's depth is the plateau less the last value: "
        f"{estimate(cliff.get('depth'), *(cliff.get('interval') or (None, None)))}."
    )
    return Panel("Cliff", text, figure, csv="trajectory.csv")


def _forced(finding: Row) -> Panel | None:
    rows = [row for row in finding.get("forced_stop") or [] if row.get("n")]
    if not rows:
        return None
    natural, settings = finding.get("natural") or {}, finding.get("settings") or {}
    cut = Series(
        "cut",
        [row["tokens"] for row in rows],
        [row["rate"] for row in rows],
        low=[row["interval"][0] for row in rows],
        high=[row["interval"][1] for row in rows],
        hover=[f"{row['tokens']} tokens: {_rate(row)}, n {row['n']}" for row in rows],
        colour=ACCENT,
    )
    series = [cut]
    if natural.get("n"):
        series.append(
            Series(
                "closed by the model",
                [rows[0]["tokens"], rows[-1]["tokens"]],
                [natural["rate"]] * 2,
                low=[natural["interval"][0]] * 2,
                high=[natural["interval"][1]] * 2,
                colour=BLUE,
                dash="dash",
            )
        )
    figure = lines(series, x="tokens of the thought", y="refused")
    figure.update_yaxes(range=[-0.04, 1.04])
    text = (
        "Share of harmful requests refused when the thought is cut after so many tokens and "
        f"{visible(str(settings.get('stop_text', '')))} is put there (n {_span(rows)}), "
        f"against thoughts that the model closed itself (dashed, n "
        f"{number(natural.get('n'))}); bands are {caption(Method.WILSON, over='requests')}. "
        f"Thoughts never closed: {number(natural.get('unclosed'))}."
    )
    return Panel("Forced stops", text, figure, csv="forced_stop.csv")


def _heads(finding: Row) -> Panel | None:
    rows = (finding.get("heads") or [])[:_SHOWN_HEADS]
    tested = [row for row in rows if row.get("ablated_refusal") is not None]
    if not tested:
        return None
    chosen = {(row["layer"], row["head"]) for row in finding.get("suppression_heads") or []}
    groups = [
        ("above the null", [r for r in tested if (r["layer"], r["head"]) in chosen], ACCENT),
        ("within the null", [r for r in tested if (r["layer"], r["head"]) not in chosen], BLUE),
    ]
    labels = [_name(row) for row in tested]
    series = []
    for name, group, colour in groups:
        if group:
            value = {_name(row): row for row in group}
            picked = [value.get(label) for label in labels]
            series.append(
                Series(
                    name,
                    [None if row is None else row["ablated_refusal"] for row in picked],
                    labels,
                    low=[None if row is None else row["interval"][0] for row in picked],
                    high=[None if row is None else row["interval"][1] for row in picked],
                    hover=[
                        "" if row is None else f"{_name(row)}: {_rate_of(row)}" for row in picked
                    ],
                    colour=colour,
                    symbol="diamond" if colour == ACCENT else "circle",
                )
            )
    series.append(
        Series(
            "null, upper end",
            [row.get("null_high") for row in tested],
            labels,
            colour=GREY,
            symbol="line-ns-open",
        )
    )
    figure = forest(labels, series, x="harmful requests refused with the head silenced")
    text = (
        "Refusal when one head's output is zeroed at the closing marker, with "
        f"{caption(Method.WILSON, over='requests')}; heads in order of their direct "
        "contribution to the probe. The grey mark is the upper end of the null: other heads of the "
        "same layer, silenced in the same way."
    )
    return Panel("Single heads silenced", text, figure, csv="heads.csv")


def _head_table(finding: Row) -> Panel | None:
    rows = finding.get("heads") or []
    if not rows:
        return None
    shown = rows[:_SHOWN_HEADS]
    table = pd.DataFrame(
        {
            "rank": [row["rank"] for row in shown],
            "head": [_name(row) for row in shown],
            "contribution": [row["contribution"] for row in shown],
            "refused when silenced": [_rate_of(row) for row in shown],
            "null, upper end": [row.get("null_high") for row in shown],
            "suppresses": [row.get("suppresses") for row in shown],
        }
    )
    text = (
        f"The {len(shown)} of {len(rows)} heads that push the probe's logit down most at the last "
        "token of the closing marker, with the final norm folded in; negative suppresses refusal. "
        "Heads, MLPs, embedding and bias add up to the logit."
    )
    return Panel("Contributions of heads", text, table=table, csv="heads.csv")


def _ablations(finding: Row) -> Panel | None:
    rows = finding.get("ablations") or []
    if not rows:
        return None
    table = pd.DataFrame(
        {
            "condition": [row["condition"] for row in rows],
            "heads": [_spoken(row.get("heads") or "") or MISSING for row in rows],
            "norm": ["restored" if row.get("norm_restored") else "as is" for row in rows],
            "harmful": [_estimate(row, "refusal") for row in rows],
            "harmless": [_estimate(row, "over_refusal") for row in rows],
            "complied": [number(row.get("compliant")) for row in rows],
            "KL, nats": [number(row.get("kl")) for row in rows],
        }
    )
    text = (
        "The heads named by their contribution, silenced together at the closing marker, with and "
        "without the norm of the layer's heads restored, beside random heads; refusal of harmful "
        "and of harmless requests (alarming ones included) with "
        f"{caption(Method.WILSON, over='requests')}, and what becomes "
        "of harmless answers: the share that complies to the letter, where that is known, and "
        "KL(as it was ‖ silenced) of the first answer token."
    )
    return Panel("Ablations", text, table=table, csv="ablations.csv")


def _pairs(finding: Row) -> Panel | None:
    rows = (finding.get("pairs") or [])[:_SHOWN_PAIRS]
    if not rows:
        return None
    table = pd.DataFrame(
        {
            "heads": [_spoken(f"{row['a']} {row['b']}") for row in rows],
            "first alone": [row["effect_a"] for row in rows],
            "second alone": [row["effect_b"] for row in rows],
            "both": [row["effect_both"] for row in rows],
            "interaction": [
                estimate(row["interaction"], row["interaction_low"], row["interaction_high"])
                for row in rows
            ],
        }
    )
    text = (
        "Change of the probe's logit when two of the first 16 heads are silenced, alone and "
        "together; the interaction is what both do beyond the sum, with "
        f"{caption(Method.BOOTSTRAP, over='requests')}. The {len(rows)} largest of them."
    )
    return Panel("Pairs of heads", text, table=table, csv="pairs.csv")


def _selectors(finding: Row) -> Panel | None:
    rows = finding.get("selectors") or []
    if not rows:
        return None
    table = pd.DataFrame(
        {
            "selector": [row["selector"] for row in rows],
            "of the data, %": [row["percent"] for row in rows],
            "n": [row["n"] for row in rows],
            "complied": [row["complied"] for row in rows],
            "mean depth": [row["mean_depth"] for row in rows],
        }
    )
    text = (
        "Harmful requests chosen as training examples: by the cliff's depth, by the lowest final "
        "value, by a rule (the thought uses a word of refusal, the answer does not refuse), and at "
        "random; how many of the chosen were complied with. Training requests are among them, on "
        "which the probe was fitted."
    )
    return Panel("Cliff as a judge", text, table=table, csv="selectors.csv")


def _parts(figure: Any) -> Any:
    """Ticks that name the end of the closing marker, and borders between the parts of a row."""
    figure.update_xaxes(
        tickvals=[-1, -0.5, 0, 0.2, 0.4, 0.6, 0.8, 1, CLOSED],
        ticktext=["−1", "−0.5", "0", "0.2", "0.4", "0.6", "0.8", "", "closed"],
    )
    for border in (0, 1):
        figure.add_vline(x=border, line={"color": GREY, "width": 1, "dash": "dot"})
    return figure


def _both(holder: Row) -> str:
    n = holder.get("n")
    return f"{n[0]} + {n[1]}" if n else MISSING


def _name(row: Row) -> str:
    return f"L{row['layer']} H{row['head']}"


def _spoken(heads: str) -> str:
    """`2.0 1.3` as `L2 H0, L1 H3`."""
    named = (head.split(".") for head in heads.split())
    return ", ".join(f"L{layer} H{head}" for layer, head in named)


def _span(rows: list[Row]) -> str:
    """`58`, or `12 to 58` where longer cuts have fewer thoughts."""
    counts = sorted({row["n"] for row in rows})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _rate(row: Row) -> str:
    return estimate(row.get("rate"), *(row.get("interval") or (None, None)))


def _rate_of(row: Row) -> str:
    return estimate(row.get("ablated_refusal"), *(row.get("interval") or (None, None)))


def _estimate(row: Row, name: str) -> str:
    return estimate(row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high"))


DRAWING = Drawing("Refusal cliff", panels)
