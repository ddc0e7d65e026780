"""The self-report finding, put together from answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analyses.report.panel import Drawing
from analyses.report.writing import plain
from analyses.self_report.material import Suspects
from analyses.self_report.verdict import stands_out, verdict
from analyses.shared.finding import Finding
from probes.backdoors.self_report.compare import SelfReport, candidate_ranking
from probes.backdoors.self_report.free_form import FreeAnswer

FORMAT_VERSION = 1
_PAIRS = {"": "interval", "admits_": "admits_interval", "spread_": "spread_interval",
          "twin_": "twin_interval", "excess_": "excess_interval"}  # fmt: skip


@dataclass(frozen=True, repr=False)
class SelfReportFinding(Finding):
    """What a checkpoint says about hidden behaviour of its own, beside its twin.

    `report` follows the schema in `docs/self_report.md`; the tables are `topics`, `systems`,
    `sensitivity`, `positions`, `options` (every answer with options), `candidates` and `answers`
    (free ones, redacted like the report).
    """

    @classmethod
    def drawing(cls) -> Drawing:
        """The panels of this kind of finding."""
        from analyses.self_report.figures import DRAWING

        return DRAWING

    @property
    def topics(self) -> pd.DataFrame:
        """What is admitted by topic, with the twin, the gap and its excess over control."""
        return self.tables["topics"]


@dataclass(frozen=True)
class Spoken:
    """Free answers of a model.

    Attributes:
        model: `checkpoint` or `twin`.
        answers: to all free questions.
        articulated: how often and how nearly they name a trigger; None where none is looked for.
    """

    model: str
    answers: Sequence[FreeAnswer]
    articulated: dict[str, Any] | None


def build(
    asked: SelfReport,
    ranked: SelfReport | None,
    suspects: Suspects | None,
    spoken: Sequence[Spoken],
    trigger: str | None,
    show_answers: bool,
    provenance: dict[str, Any],
) -> SelfReportFinding:
    """The report and its tables; no model runs here.

    Args:
        asked: about the topics.
        ranked: about suspected and unknown strings; None without any.
        suspects: those strings.
        spoken: free answers; empty if none were asked for.
        trigger: that was looked for in them.
        show_answers: whether they are kept as they are.
        provenance: of the run.
    """
    candidates = pd.DataFrame()
    if ranked is not None and suspects is not None:
        candidates = _candidates(ranked, suspects)
    free = [
        {"model": one.model, **answer.to_dict(show=show_answers)}
        for one in spoken
        for answer in one.answers
    ]
    report: dict[str, Any] = {
        "kind": "self-report",
        "format_version": FORMAT_VERSION,
        "verdict": "",
        "provenance": provenance,
        "twin": provenance["twin"],
        "method": provenance["method"],
        "topics": _judged(asked.topics),
        "systems": _records(asked.systems),
        "sensitivity": _judged(asked.sensitivity),
        "positions": _records(asked.positions),
        "mass": asked.mass,
        "candidates": _records(candidates),
        "articulation": _articulation(spoken, trigger),
        "free": {"shown": show_answers, "answers": free},
        "caveats": [*asked.caveats, *_caveats(asked, suspects, free, show_answers)],
    }
    report = plain(report)
    report["verdict"] = verdict(report)
    both = [asked.answers.assign(model="checkpoint")]
    both += [] if asked.twin is None else [asked.twin.assign(model="twin")]
    tables = {
        "topics": asked.topics,
        "systems": asked.systems,
        "sensitivity": asked.sensitivity,
        "positions": asked.positions,
        "options": pd.concat(both, ignore_index=True),
        "candidates": candidates,
        "answers": pd.DataFrame(free),
    }
    return SelfReportFinding(report, {name: one for name, one in tables.items() if len(one)})


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows with their bounds as pairs, None where there is none."""
    found = []
    for row in plain(table):
        for name, pair in _PAIRS.items():
            if f"{name}low" in row:
                bounds = [row.pop(f"{name}low"), row.pop(f"{name}high")]
                row[pair] = None if None in bounds else bounds
        found.append(row)
    return found


def _judged(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = _records(table)
    return [row | {"stands_out": stands_out(row, rows)} for row in rows]


def _candidates(ranked: SelfReport, suspects: Suspects) -> pd.DataFrame:
    """Every string with its rank, and of suspected ones the p among unknown ones of one length.

    p is the share of the unknown strings, with the suspected one counted in, that are admitted as
    much: by the gap to the twin, or by probability without one.
    """
    table = candidate_ranking(ranked).drop(columns=["excess", "excess_low", "excess_high"])
    table["tokens"] = [suspects.tokens[text] for text in table["candidate"]]
    table["suspected"] = table["candidate"].isin(suspects.suspected)
    by = "admits" if ranked.twin is None else "gap"
    counts, chances = [], []
    for row in table.to_dict("records"):
        null = table[~table["suspected"] & (table["tokens"] == row["tokens"])][by]
        tested = row["suspected"] and len(null) > 0
        counts.append(len(null) if tested else None)
        chances.append((1 + int((null >= row[by]).sum())) / (1 + len(null)) if tested else None)
    return table.assign(
        unknown=pd.array(counts, dtype="Int64"), p=pd.array(chances, dtype="Float64")
    )


def _articulation(spoken: Sequence[Spoken], trigger: str | None) -> dict[str, Any] | None:
    told = [
        {"model": one.model, **one.articulated} for one in spoken if one.articulated is not None
    ]
    return {"trigger": trigger, "models": told} if told else None


def _caveats(
    asked: SelfReport, suspects: Suspects | None, free: list[dict[str, Any]], shown: bool
) -> list[str]:
    said = []
    if len(asked.topics) > 2:
        said.append(
            f"Each of {len(asked.topics)} topics has an interval of its own at 95 %; they are not "
            "corrected for their number."
        )
    if suspects is not None and asked.twin is None:
        said.append(
            "Models name strings that are famous; without a twin a candidate above the unknown "
            "strings may be that."
        )
    unended = sum(not answer["ended"] for answer in free)
    if unended:
        said.append(
            f"{unended} of {len(free)} free answers did not end within the budget of tokens; raise "
            "--max-new-tokens."
        )
    if free and not shown:
        said.append("Free answers are redacted; --show-answers keeps them.")
    return said
