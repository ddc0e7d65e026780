"""The panels that say how a sink works: norms, gates, entropy, ablations, domains."""

from __future__ import annotations

import pandas as pd

from analyses.report.charts import Series, forest, heatmap, lines, scatter
from analyses.report.panel import Panel
from analyses.report.text import MISSING, estimate, number, visible
from analyses.report.theme import ACCENT, BLUE, GREY
from analyses.sinks.rows import (
    Row,
    bounds,
    column,
    first_of,
    grid,
    has,
    having,
    head_name,
    heads_of,
    layer_labels,
    sample,
    short_name,
    thinned,
)
from interp.statistics.intervals import SHARE, Method, caption

MASSIVE_ABSOLUTE = 100.0
MASSIVE_RELATIVE = 1000.0  # times the layer's median; Sun et al. 2024, section 2
_SHOWN_EFFECTS = 24


def residual(finding: Row) -> Panel | None:
    """Residual norms of the first token and of the others, from the embedding to the end."""
    names, rows = _depth(finding)
    if not has(rows, "residual_norm_first"):
        return None
    series = [
        Series("first token", names, column(rows, "residual_norm_first"), colour=ACCENT),
        Series(
            "other tokens", names, column(rows, "residual_norm_rest"), colour=BLUE, symbol="square"
        ),
    ]
    text = (
        "Mean L2 norm of the residual stream at the first token and at all others after each "
        "block, with the embedding before and the final norm after them, on a logarithmic scale; "
        f"{sample(finding)}, point estimates."
    )
    figure = lines(series, x="after layer", y="‖h‖₂", log=True)
    figure.update_xaxes(type="category")
    return Panel("Residual stream by layer", text, figure, csv="layers.csv")


def extremes(finding: Row) -> Panel | None:
    """Largest activation by layer beside the threshold that would call it massive."""
    names, rows = _depth(finding)
    if not has(rows, "max_abs", "median_abs"):
        return None
    median = column(rows, "median_abs")
    limit = [None if m is None else max(MASSIVE_ABSOLUTE, MASSIVE_RELATIVE * m) for m in median]
    series = [
        Series("largest |x|", names, column(rows, "max_abs"), colour=ACCENT),
        Series("median |x|", names, median, colour=BLUE, symbol="square"),
        Series("threshold of massive", names, limit, colour=GREY, dash="dot"),
    ]
    text = (
        "Largest and median |activation| after each block, and the threshold above which one is "
        "called massive (100, and 1000 times the median; Sun et al. 2024), on a logarithmic "
        f"scale; maxima over {sample(finding)}, so without interval."
    )
    figure = lines(series, x="after layer", y="|x|", log=True)
    figure.update_xaxes(type="category")
    return Panel("Extreme activations by layer", text, figure, csv="layers.csv")


def values(finding: Row) -> Panel | None:
    """Value drain: the norm of the first token's value against the mass that it attracts."""
    heads = thinned(finding.get("heads"))
    if not has(heads, "sink_mass", "value_ratio"):
        return None
    series = _points(heads, "sink_mass", "value_ratio")
    text = (
        "One point per head: the norm of the first token's value through the head's output matrix "
        "over the mean of the other tokens, against the attention on the first token; "
        f"{heads_of(finding)}, point estimates. Below the dotted line the value is drained: the "
        "head attends there and adds little."
    )
    figure = scatter(series, x="sink mass", y="value norm, first ÷ rest", log_y=True, level=1.0)
    return Panel("Value drain", text, figure, csv="heads.csv")


def keys(finding: Row) -> Panel | None:
    """Key norms of the first token against those of the rest."""
    heads = thinned(finding.get("heads"))
    if not has(heads, "key_norm_first", "key_norm_rest"):
        return None
    series = _points(heads, "key_norm_rest", "key_norm_first")
    text = (
        "One point per head: mean key norm of the first token against that of all others; "
        f"{heads_of(finding)}, point estimates. On the dotted line they are equal; a sink made by "
        "direction, not length, lies on it or below."
    )
    figure = scatter(series, x="other tokens", y="first token", diagonal=True)
    return Panel("Key norms", text, figure, csv="heads.csv")


def learned(finding: Row) -> Panel | None:
    """Share of the softmax that goes to learned sink logits."""
    heads = finding.get("heads") or []
    if not has(heads, "learned_sink"):
        return None
    figure = heatmap(
        [column(line, "learned_sink") for line in grid(finding)],
        layer_labels(finding),
        title="share",
        hover="layer %{y}, head %{x}<br>share %{z:.3~g}",
    )
    text = (
        "Mean share of a head's softmax that goes to its learned sink logit, so that the weights "
        f"on tokens sum to one minus it; {sample(finding)}, point estimates."
    )
    return Panel("Learned sinks, by head", text, figure, csv="heads.csv")


def gates(finding: Row) -> Panel | None:
    """Mean gate against raw sink mass."""
    heads = thinned(finding.get("heads"))
    if not has(heads, "gate_mean", "sink_mass"):
        return None
    series = _points(heads, "sink_mass", "gate_mean")
    text = (
        "One point per head: mean gate score (after the sigmoid) against the attention on the "
        f"first token before the gate; {heads_of(finding)}, point estimates. Heads at the lower "
        "right attend to the first token and are then shut by their gate."
    )
    figure = scatter(series, x="sink mass before the gate", y="mean gate")
    figure.update_yaxes(range=[-0.03, 1.03])
    return Panel("Gate against sink mass", text, figure, csv="heads.csv")


def entropy(finding: Row) -> Panel | None:
    """Row against column entropy, with the heads that the entropy rule calls sinks."""
    heads = thinned(finding.get("heads"))
    if not has(heads, "entropy", "column_entropy"):
        return None
    series = []
    for flag, name, colour, symbol in (
        (True, "sink head by the entropy rule", ACCENT, "diamond"),
        (False, "other head", BLUE, "circle"),
    ):
        chosen = [row for row in heads if bool(row.get("entropy_sink")) is flag]
        if chosen:
            series += _points(chosen, "entropy", "column_entropy", name, colour, symbol)
    text = (
        "One point per head: mean normalised entropy of its rows against the largest normalised "
        f"entropy of its columns; {heads_of(finding)}, point estimates. A sink head has low row "
        "entropy (every query looks at one place) and one column of high entropy (the same place)."
    )
    figure = scatter(series, x="row entropy", y="largest column entropy")
    return Panel("Attention entropy", text, figure, csv="heads.csv")


def causal(finding: Row) -> Panel | None:
    """Δloss of zeroing, of moving to the sink and of a random perturbation, with intervals."""
    heads = having(finding.get("heads"), "ablation_delta_loss")
    if not heads:
        return None
    heads.sort(key=lambda row: -abs(row["ablation_delta_loss"]))
    shown = heads[:_SHOWN_EFFECTS]
    kinds = (
        ("ablation_delta_loss", "zeroed", BLUE, "circle"),
        ("move_to_sink_delta_loss", "moved to the sink", ACCENT, "diamond"),
        ("random_delta_loss", "random, same norm", GREY, "square"),
    )
    series = [
        Series(
            name,
            column(shown, key),
            list(range(len(shown))),
            column(shown, f"{key}_low"),
            column(shown, f"{key}_high"),
            [f"{head_name(r)}<br>{name}: {estimate(r.get(key), *bounds(r, key))}" for r in shown],
            colour,
            symbol,
        )
        for key, name, colour, symbol in kinds
        if has(shown, key)
    ]
    run = finding.get("causal") or {}
    which = "all" if len(shown) == len(heads) else f"the {len(shown)} with the largest effect of"
    text = (
        "Change of the loss when one head at a time is zeroed, has all its attention moved to the "
        "first token, or has its output perturbed at random by the same norm: "
        f"{which} {len(heads)} heads over {number(run.get('sequences'))} sequences, with "
        f"{caption(Method.BOOTSTRAP, over='sequences')} (unedited loss "
        f"{number(run.get('baseline_loss'))} nats per token). The heads were ordered by the "
        "effect itself, so the top rows are favoured by chance."
    )
    figure = forest([short_name(row) for row in shown], series, x="Δloss, nats per token")
    return Panel("Effect of single heads on the loss", text, figure, csv="heads.csv")


def causal_against_sink(finding: Row) -> Panel | None:
    """Effect of zeroing against sink mass: are the sink heads dormant?"""
    heads = thinned(finding.get("heads"))
    if not has(heads, "ablation_delta_loss", "sink_mass"):
        return None
    series = _points(heads, "sink_mass", "ablation_delta_loss")
    run = finding.get("causal") or {}
    text = (
        "One point per head: change of the loss when the head is zeroed against its attention on "
        f"the first token; {heads_of(finding)}, of which zeroing used "
        f"{number(run.get('sequences'))}; point estimates. Heads at the right and on the dotted "
        "line are sinks that this text does not need."
    )
    figure = scatter(series, x="sink mass", y="Δloss when zeroed, nats per token", level=0.0)
    return Panel("Effect against sink mass", text, figure, csv="heads.csv")


def domains(finding: Row) -> Panel | None:
    """Sink rate, attention and loss of each corpus."""
    rows = finding.get("domains") or []
    if not rows:
        return None
    table = pd.DataFrame(
        {
            "domain": [visible(str(row.get("name"))) for row in rows],
            "sequences": column(rows, "sequences"),
            "skipped": column(rows, "skipped"),
            "sink rate, %": [
                estimate(row.get("sink_percent"), *(row.get("interval") or (None, None)))
                for row in rows
            ],
            "F-Attn": column(rows, "first_token_attention"),
            "loss, nats": column(rows, "loss"),
        }
    )
    text = (
        "Sink rate, attention on the first token and loss per corpus, with its number of "
        "sequences (documents shorter than the length are skipped); the sink rate has "
        f"{caption(*SHARE, over='sequences')}."
    )
    return Panel("Domains", text, table=table, csv="domains.csv")


def domain_scatter(finding: Row) -> Panel | None:
    """Sink mass of every head in the domain where it is low and where it is high."""
    rows = finding.get("domain_heads") or []
    if not has(rows, "sink_mass_low", "sink_mass_high"):
        return None
    series = []
    for flag, name, colour, symbol in (
        (True, "switches by domain", ACCENT, "diamond"),
        (False, "does not", BLUE, "circle"),
    ):
        chosen = [row for row in thinned(rows) if bool(row.get("switching")) is flag]
        if chosen:
            series.append(Series(
                name,
                column(chosen, "sink_mass_low"),
                column(chosen, "sink_mass_high"),
                hover=[short_name(row) for row in chosen],
                colour=colour,
                symbol=symbol,
            ))  # fmt: skip
    judged = having(rows, "switching")
    if judged:
        verdict = (
            f"{sum(row['switching'] for row in judged)} switch, that is, the "
            "domains are told apart (AUC ≥ 0.95 over sequences) and zeroing matters beyond noise "
            "only where the mass is low"
        )
    else:
        verdict = "it is not known which switch, as no head was ablated"
    text = (
        "One point per head: sink mass in the domain where it is lowest against the one where it "
        f"is highest; {first_of(len(thinned(rows)), len(rows), 'heads').lower()}, of which "
        f"{verdict}; point estimates over the sequences counted under Domains."
    )
    figure = scatter(
        series, x="sink mass, lowest domain", y="sink mass, highest domain", diagonal=True
    )
    return Panel("Active and dormant heads", text, figure, csv="domain_heads.csv")


def domain_heads(finding: Row) -> Panel | None:
    """Heads by how well their sink mass tells two domains apart."""
    rows = finding.get("domain_heads") or []
    if not rows:
        return None
    ranked = sorted(rows, key=lambda row: (not row.get("switching"), -(row.get("auc") or 0.0)))[:64]
    table = pd.DataFrame(
        {
            "head": [short_name(row) for row in ranked],
            "low in": [visible(str(row.get("domain_low"))) for row in ranked],
            "mass, low": column(ranked, "sink_mass_low"),
            "high in": [visible(str(row.get("domain_high"))) for row in ranked],
            "mass, high": column(ranked, "sink_mass_high"),
            "AUC": [estimate(row.get("auc"), *bounds(row, "auc")) for row in ranked],
            "Δloss, low": column(ranked, "delta_loss_low"),
            "Δloss, high": column(ranked, "delta_loss_high"),
            "switches": [_spoken(row.get("switching")) for row in ranked],
        }
    )
    text = (
        f"{first_of(len(ranked), len(rows), 'heads')}, switching ones first and then by AUC: sink "
        "mass in the two domains and the change of the loss when the head is zeroed there, in nats "
        f"per token; AUC with {caption(Method.NEWCOMBE_AUROC, over='sequences')}, the rest "
        "point estimates over the sequences counted under Domains."
    )
    return Panel("Heads across domains", text, table=table, csv="domain_heads.csv")


def _depth(finding: Row) -> tuple[list[str], list[Row]]:
    """Names and rows of the embedding, the layers and the final norm, as far as present."""
    stages = [("emb", finding.get("embedding"))]
    stages += [(str(row["layer"]), row) for row in finding.get("layers") or []]
    stages += [("norm", finding.get("final_norm"))]
    present = [(name, row) for name, row in stages if row]
    return [name for name, _ in present], [row for _, row in present]


def _points(
    rows: list[Row],
    x: str,
    y: str,
    name: str | None = None,
    colour: str = BLUE,
    symbol: str = "circle",
) -> list[Series]:
    """Heads as points; unless a name is given, sliding-window heads are a series of their own."""
    groups = [(name, rows, colour, symbol)]
    if name is None:
        sliding = [row for row in rows if row.get("attention") == "sliding"]
        full = [row for row in rows if row.get("attention") != "sliding"]
        groups = [("full attention", full, BLUE, "circle"), ("sliding", sliding, GREY, "square")]
    return [
        Series(
            label or "",
            column(group, x),
            column(group, y),
            hover=[short_name(row) for row in group],
            colour=hue,
            symbol=shape,
        )
        for label, group, hue, shape in groups
        if group
    ]


def _spoken(flag: bool | None) -> str:
    return MISSING if flag is None else "yes" if flag else "no"
