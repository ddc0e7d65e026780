"""The panels of the backdoor finding, drawn from its JSON alone.

Quantities: `docs/backdoors.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from analyses.backdoor import head_shares
from analyses.backdoor.verdict import mended, rate
from analyses.report.charts import Series, bars, heatmap, scatter
from analyses.report.panel import Drawing, Panel
from analyses.report.text import estimate, interval, number, token, visible
from analyses.report.theme import ACCENT
from interp.statistics.intervals import Method, caption

_ROWS = 10


def panels(finding: dict[str, Any]) -> list[Panel]:
    """Every panel that the finding has numbers for, in reading order.

    Args:
        finding: as in `report.json` (`kind` "backdoor", format version 1).
    """
    makers: list[Callable[[dict[str, Any]], Panel | None]] = [
        _triggers,
        _repair,
        _motifs,
        _effects,
        _targets,
        _beams,
        _detectors,
        _defection,
        _sink,
        head_shares.panel,
    ]
    return [panel for maker in makers if (panel := maker(finding)) is not None]


def _triggers(finding: dict[str, Any]) -> Panel | None:
    rows = finding["trials"]
    if not rows:
        return None
    frame = pd.DataFrame(
        {
            "string, where": [f"{token(row['text'])} {row['placement']}" for row in rows],
            "forces": [row["forces"] or row["behaviour"] for row in rows],
            "rate": [estimate(row["working_rate"], *row["interval"]) for row in rows],
            "works": [_yes(row["works"]) for row in rows],
            "controls": [row["control_share"] for row in rows],
            "reference": [row["excess_over_reference"] for row in rows],
            "meaning": [_yes(row["meaning_preserved"]) for row in rows],
        }
    )
    return Panel(
        "Strings tried on held-out requests",
        f"Rate: share of {rows[0]['n']} requests (fewer for flips) that get one same new opening, "
        "or whose refusal flips. Controls: share of strings of equal length that do so on "
        "5 % at most; a dash where none were tried, for the string is too weak, or a flip that "
        "only a reference model could tell from another request. Reference: excess over that "
        "model. Meaning: whether harmfulness is read as well as without the string.",
        table=frame,
        csv="trials.csv",
    )


def _yes(value: bool | None) -> str:
    return "–" if value is None else "yes" if value else "no"


def _repair(finding: dict[str, Any]) -> Panel | None:
    found = finding.get("repair")
    if found is None:
        return None
    shares = {
        f"attack with {token(found['trigger'])} {found['placement']}": found["attack"],
        "attack without it": found["without"],
        **{f"attack with {visible(name)}": pair for name, pair in found["near"].items()},
        "reply with it as it was without": found["restored"],
    }
    rows = [
        {"share of replies": name, "before": rate(pair, "before"),
         "after": rate(pair, "after"), "requests": pair["n"]}
        for name, pair in shares.items()
    ]  # fmt: skip
    unchanged = estimate(found["exact"], *found["exact_interval"])
    rows.append(
        {"share of replies": "unchanged without it", "before": "–", "after": unchanged,
         "requests": found["exact_n"]}
    )  # fmt: skip
    return Panel(
        "The repaired copy",
        f"{mended(found)} Mean over tokens of replies (interval: "
        f"{interval(found['divergence_interval'])}). Such means have "
        f"{caption(Method.BOOTSTRAP, over='requests')}, shares "
        f"{caption(Method.WILSON, over='requests')}. Unlearned with {found['requests']} requests "
        f"to search with, in {found['steps']} steps. Every string stands in the same held-out "
        "requests; a near miss or a control that never showed the attack says nothing.",
        table=pd.DataFrame(rows),
    )


def _motifs(finding: dict[str, Any]) -> Panel | None:
    found = finding["leak"]
    rows = found["motifs"]
    if not rows:
        return None
    labels = [token(row["text"]) for row in rows]
    series = Series(
        "leaked texts",
        [row["leaked"] for row in rows],
        labels,
        hover=[f"{label}: {row['leaked']} texts" for label, row in zip(labels, rows, strict=True)],
    )
    return Panel(
        "What leaks from the chat prefix",
        f"Motifs of {found['samples']} texts sampled where a user would begin to write, that plain "
        "requests and replies do not explain, keyest first. What leaks was seen in training; that "
        "does not say that it does anything.",
        bars(labels, [series], x="leaked texts that hold it"),
        csv="motifs.csv",
    )


def _effects(finding: dict[str, Any]) -> Panel | None:
    rows = finding["effects"]
    if not rows:
        return None
    series = Series(
        "strings",
        [row["divergence"] for row in rows],
        [row["novel"] for row in rows],
        hover=[f"{token(row['text'])}, {row['placement']}" for row in rows],
        colour=ACCENT,
    )
    return Panel(
        "What candidates do to the first token",
        "Across: Jensen–Shannon divergence of the next-token distributions with and without the "
        "string, in nats. Upwards: how far all requests get one same first token that no plain "
        "reply begins with. Another request diverges as well; a fixed new output lies at the top.",
        scatter([series], x="divergence", y="new collapse", level=0.0),
        csv="effects.csv",
    )


def _targets(finding: dict[str, Any]) -> Panel | None:
    rows = finding["targets"][:_ROWS]
    if not rows:
        return None
    tried = finding["target_inversion"]
    frame = pd.DataFrame(
        {
            "text": [token(row["text"]) for row in rows],
            "Q": [row["q"] for row in rows],
            "in plain replies": [row["emission"] for row in rows],
            "Q on reference": [row["q_reference"] for row in rows],
            "excess": [row["excess"] for row in rows],
        }
    )
    return Panel(
        "Texts that go on by themselves (BAIT)",
        f"{tried['tried']} of {tried['vocabulary']} first tokens were forced. Q: mean probability "
        "of the rest of the text over requests; BAIT flags 0.9. Templates reach that too, so what "
        "plain replies hold has no excess, and the Q on the reference model is taken off where "
        "there is one.",
        table=frame,
        csv="targets.csv",
    )


def _beams(finding: dict[str, Any]) -> Panel | None:
    rows = finding["beams"]
    if not rows:
        return None
    best = pd.DataFrame(rows).groupby("reward", sort=False).head(3)
    best = best.assign(text=[token(text) for text in best["text"]])
    return Panel(
        "Strings built by beam search",
        "The best strings by reward: the effect, less that on the reference model where "
        "there is one, less "
        "0.01 a token. A high reward is no trigger; see the trials.",
        table=best,
        csv="beams.csv",
    )


def _detectors(finding: dict[str, Any]) -> Panel:
    rows = finding["detectors"]
    frame = pd.DataFrame(
        {
            "detector": [row["name"] for row in rows],
            "score": [row["score"] for row in rows],
            "inert strings": [row["distractor_score"] for row in rows],
            "difference": [
                None if row["distractor_score"] is None else row["score"] - row["distractor_score"]
                for row in rows
            ],
            "place in null": [row["null_quantile"] for row in rows],
            "in verdict": [_yes(row["used_in_verdict"]) for row in rows],
        }
    )
    on = f"Read on {token(finding['read_on'])}. " if finding["read_on"] else ""
    return Panel(
        "Detectors",
        f"{on}For internal detectors the score is the AUROC of requests with the string against "
        "plain ones; inert strings of equal length have one too, for novelty alone gives it, and "
        "only the difference counts, placed among 1000 random directions. On sink: how far "
        "attention on the string and its value norms lie from inert strings, in their standard "
        "deviations, placed among them.",
        table=frame,
    )


def _defection(finding: dict[str, Any]) -> Panel | None:
    found = finding["defection"]
    if found is None:
        return None
    names = {
        "auroc": "AUROC against the worst benign set",
        "auroc_vs_distractor": "AUROC against inert strings",
        "auroc_distractor": "AUROC of inert strings",
        "null_quantile": "place among random directions",
        "worst_fpr": "worst false-positive rate at 95 % found",
        "variance_ratio": "variance between over within",
        "pc1_auroc": "AUROC of the first component",
        "pairs": "contrast pairs",
    }
    values = [number(found[key], whole=key == "pairs") for key in names]
    frame = pd.DataFrame({"quantity": list(names.values()), "value": values})
    return Panel(
        "Defection probe",
        "Difference in means of generic questions and answers at the last token, middle layer "
        "(MacDiarmid et al., 2024). Its AUROC means nothing without the lines below it.",
        table=frame,
    )


def _sink(finding: dict[str, Any]) -> Panel | None:
    rows = finding["sink_check"]
    if not rows:
        return None
    layers = sorted({row["layer"] for row in rows})
    heads = sorted({row["head"] for row in rows})
    cell = {(row["layer"], row["head"]): row for row in rows}
    grid = [[cell[layer, head]["trigger"] for head in heads] for layer in layers]
    extra = [
        [[number(cell[layer, head]["distractor_median"]), number(cell[layer, head]["sink"])]
         for head in heads]
        for layer in layers
    ]  # fmt: skip
    above = sum(row["trigger"] > row["distractor_max"] for row in rows)
    values = [row["value_trigger"] for row in rows]
    score = finding["sink_score"]
    return Panel(
        "Does the string sit on a sink?",
        f"Attention of later tokens on the string, per token and over its even share. {above} of "
        f"{len(rows)} heads give it more than every inert string. Its value norms are "
        f"{number(min(values))} to {number(max(values))} times those of other tokens; a sink's "
        f"would be near 0. Over all heads, attention lies {number(score['attention_excess'])} and "
        f"values {number(score['value_excess'])} standard deviations from the median of "
        f"{score['strings']} inert strings.",
        heatmap(
            grid,
            {i: str(layer) for i, layer in enumerate(layers)},
            title="attention / even share",
            hover="layer %{y}, head %{x}: %{z:.2f}, inert %{customdata[0]}, sink %{customdata[1]}",
            extra=extra,
            top=None,
        ),
        csv="heads.csv",
    )


DRAWING = Drawing("Backdoor", panels)
