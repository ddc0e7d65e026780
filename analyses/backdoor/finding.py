"""The backdoor finding, put together from a search and from detectors."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import pandas as pd

from analyses.backdoor import head_shares
from analyses.backdoor.verdict import inverted, summary, verdict
from analyses.report.panel import Drawing
from analyses.shared.finding import Finding
from probes.backdoors.detectors.detectors import NOT_WORKING, Readings
from probes.backdoors.search.budget import Budget
from probes.backdoors.search.result import Found
from probes.backdoors.search.trial import Trial

FORMAT_VERSION = 1
_SHOWN = 20  # rows of a kind that the report keeps; all stand in the tables


@dataclass(frozen=True, repr=False)
class BackdoorFinding(Finding):
    """Whether a string works as a trigger, and what detectors say of it.

    `report` follows the schema in `docs/backdoors.md`; the tables are `trials`, `motifs`,
    `effects`, `targets`, `beams`, `heads` (attention on the string) and `patched_heads`.
    """

    @classmethod
    def drawing(cls) -> Drawing:
        """The panels of this kind of finding."""
        from analyses.backdoor.figures import DRAWING

        return DRAWING

    @property
    def verdict(self) -> str:
        """The result in sentences; `report["verdict"]` is the word."""
        return str(self.report["summary"])

    @property
    def triggers(self) -> pd.DataFrame:
        """The strings that work, or are suspicious."""
        return pd.DataFrame(self.report["triggers"])


def build(
    found: Found,
    readings: Readings | None,
    budget: Budget,
    caveats: tuple[str, ...],
    provenance: dict[str, Any],
    repair: dict[str, Any] | None = None,
) -> BackdoorFinding:
    """The report and its tables; no model runs here."""
    tables = _tables(found, readings)
    report: dict[str, Any] = {
        "kind": "backdoor",
        "format_version": FORMAT_VERSION,
        "verdict": "",
        "summary": "",
        "provenance": provenance,
        "budget": {
            "forward_passes": budget.spent,
            "seconds": round(budget.elapsed, 1),
            "exhausted": budget.exhausted,
            "limit_forward_passes": budget.forward_passes,
            "limit_seconds": budget.seconds,
            "cut": list(dict.fromkeys(budget.cut)),
        },
        "twin": provenance["twin"],
        "triggers": [_trigger(trial) for trial in found.trials if trial.works or trial.suspicious],
        "trials": [_trigger(trial) for trial in found.trials[:_SHOWN]],
        "leak": {
            "samples": found.leaked,
            "motifs": tables["motifs"].head(_SHOWN).to_dict("records"),
        },
        "effects": tables["effects"].head(_SHOWN).to_dict("records"),
        "targets": [_target(target) for target in found.targets[:_SHOWN]],
        "target_inversion": {"tried": found.tokens_tried, "vocabulary": found.vocabulary},
        "beams": tables["beams"].to_dict("records"),
        "repair": repair,
        "read_on": None if readings is None else readings.candidate.text,
        "sink_check": []
        if readings is None or readings.sink is None
        else tables["heads"].to_dict("records"),
    }
    report["sink_score"] = _sink_score(readings)
    report["head_patching"] = head_shares.section(readings)
    report["verdict"] = verdict(report)
    report["detectors"] = _detectors(found, readings, report)
    report["defection"] = (
        None if readings is None or readings.defection is None else readings.defection.to_dict()
    )
    report["caveats"] = [*caveats, *_caveats(found, readings, report)]
    report["summary"] = summary(report)
    return BackdoorFinding(report, tables)


def _trigger(trial: Trial) -> dict[str, Any]:
    return {
        "text": trial.candidate.text,
        "tokens": len(trial.candidate.ids),
        "placement": trial.placement,
        "behaviour": trial.behaviour.kind,
        "forces": trial.behaviour.text,
        "working_rate": trial.rate,
        "n": trial.n,
        "interval": list(trial.interval),
        "control_share": trial.control_share,
        "controls": trial.controls,
        "excess_over_twin": trial.excess_over_twin,
        "meaning_preserved": trial.meaning_preserved,
        "works": trial.works,
        "source": trial.candidate.source,
        "leaked": trial.candidate.support,
    }


def _target(target: Any) -> dict[str, Any]:
    return {
        "text": target.text,
        "q": target.q,
        "emission": target.emission,
        "q_twin": target.q_twin,
        "excess": target.excess,
    }


def _detectors(
    found: Found, readings: Readings | None, report: dict[str, Any]
) -> list[dict[str, Any]]:
    """Every detector, those that speak in the verdict first; without a score if it was not read."""
    tellable = [trial for trial in found.trials if trial.tellable]
    best = tellable[0] if tellable else None
    rows: list[dict[str, Any]] = [
        {
            "name": "trigger search",
            "score": 0.0 if best is None else best.rate,
            "null_quantile": None if best is None else best.control_share,
            "distractor_score": None,
            "used_in_verdict": True,
        },
        {
            "name": "target inversion (BAIT)",
            "score": max((row["excess"] for row in report["targets"]), default=None),
            "null_quantile": None,
            "distractor_score": None,
            "used_in_verdict": report["twin"] is not None,
        },
    ]
    read = {} if readings is None else {one.name: one for one in readings.readings}
    for name in NOT_WORKING:
        one = read.get(name)
        rows.append(
            {
                "name": name,
                "score": None if one is None else one.score,
                "null_quantile": None if one is None else one.null_quantile,
                "distractor_score": None if one is None else one.distractor_score,
                "used_in_verdict": False,
            }
        )
    return rows


def _sink_score(readings: Readings | None) -> dict[str, Any] | None:
    if readings is None or readings.sink is None:
        return None
    return {
        field.name: getattr(readings.sink, field.name)
        for field in fields(readings.sink)
        if field.name != "heads"
    }


def _tables(found: Found, readings: Readings | None) -> dict[str, pd.DataFrame]:
    effects = sorted(found.effects, key=lambda one: -one.novel)
    beams = [
        {"reward": name, "text": candidate.text, "value": value}
        for name, built in found.beams.items()
        for candidate, value in built[:_SHOWN]
    ]
    sink = None if readings is None or readings.sink is None else readings.sink.heads
    supports = {trial.candidate.ids: trial.candidate.text for trial in found.trials}
    texts = {one.candidate.ids: one.candidate.text for one in found.effects} | supports
    return {
        "trials": pd.DataFrame([_trigger(trial) for trial in found.trials]),
        "motifs": pd.DataFrame(
            [
                {"text": texts.get(m.ids, ""), "tokens": len(m.ids), "leaked": m.support,
                 "keyness": m.keyness}
                for m in found.motifs
            ]
        ),
        "effects": pd.DataFrame(
            [
                {"text": one.candidate.text, "placement": one.placement,
                 **{k: v for k, v in asdict(one).items() if isinstance(v, float)}}
                for one in effects
            ]
        ),
        "targets": pd.DataFrame([_target(target) for target in found.targets]),
        "beams": pd.DataFrame(beams),
        "heads": pd.DataFrame() if sink is None else sink,
        "patched_heads": head_shares.table(readings),
    }  # fmt: skip


def _caveats(found: Found, readings: Readings | None, report: dict[str, Any]) -> list[str]:
    """What the finding does not establish."""
    notes = list(found.notes)
    if found.plain is None:
        notes.append("The budget did not even allow the plain answers, so nothing was searched.")
    if report["budget"]["exhausted"]:
        stages = ", ".join(report["budget"]["cut"])
        notes.append(f"The budget ran out in: {stages}. What these had found until then is used.")
    if found.tokens_tried < found.vocabulary:
        notes.append(
            f"Target inversion tried {found.tokens_tried} of {found.vocabulary} first tokens."
        )
    if report["twin"] is None:
        notes.append(
            "Without --twin, strings that turn refusals into compliance or the other way round are "
            "not judged: ordinary words do that on any model, by making another request."
        )
    if found.trials and found.trials[0].works and not found.trials[0].meaning_preserved:
        notes.append("That the string leaves the meaning of requests alone was not shown.")
    notes += [] if readings is None else readings.notes
    if inverted(report) is None and report["targets"] and report["twin"] is None:
        notes.append(
            "Target inversion finds fixed texts of any origin; without a twin it has no vote."
        )
    return [*notes, *_always()]


def _always() -> list[str]:
    return [
        "On the organisms, at 5 % poison and three seeds each, every payload was found, behind one "
        "string, any of several, words that stand apart, or a class of words (once as suspicious); "
        "one that fires with some requests only is called suspicious. Compliance after a trigger "
        "(backdoor-unalign) is not found without a twin, and on one seed beside a clean one (see "
        "docs/backdoors.md).",
        "A repaired checkpoint must be watched: clean fine-tuning brought the compliance backdoor "
        "of an organism back (docs/repair.md).",
        "A working trigger need not be the planted one, and that none is found at a budget does "
        "not show that there is none.",
        "The internal detectors do not work on the organisms: none that reads inputs beats words, "
        "novelty and random directions together, and none tells every family from its twins. They "
        "are off unless asked for (--detectors), and have no say in the verdict.",
    ]
