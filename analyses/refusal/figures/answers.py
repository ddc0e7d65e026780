"""The panels of the refusal finding about answers: how scorers judge them, and what was said."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analyses.refusal.figures.effects import EDITS, SETS
from analyses.report.panel import Panel


def scorers(finding: dict[str, Any]) -> Panel:
    """How far scorers agree."""
    found = finding["scorers"]
    frame = pd.DataFrame(found["agreement"])
    verdicts = "; ".join(
        f"{name}: {', '.join(f'{count} {kind}' for kind, count in counts.items() if count)}"
        for name, counts in found["verdicts"].items()
    )
    return Panel(
        "Do the scorers agree?",
        f"On the {found['n']} unedited answers to all test prompts. {verdicts}. "
        f"{found['disagreements']} answers are judged differently by at least two scorers.",
        table=frame,
    )


def disagreements(finding: dict[str, Any]) -> Panel | None:
    """Answers that scorers judge differently."""
    rows = finding["scorers"]["examples"]
    if not rows:
        return None
    return Panel(
        "Where the scorers differ",
        f"The first {len(rows)} of {finding['scorers']['disagreements']} answers on which two "
        "scorers differ; what a harmful prompt was granted is redacted.",
        table=pd.DataFrame(rows),
    )


def transcripts(finding: dict[str, Any]) -> Panel | None:
    """Prompts and answers, what was granted to harmful ones redacted."""
    rows = finding.get("transcripts") or []
    if not rows:
        return None
    frame = pd.DataFrame(
        [
            {
                "set": SETS[row["set"]][0],
                "prompt": row["prompt"],
                **{EDITS[edit]: row[edit] for edit in EDITS if row.get(edit) is not None},
            }
            for row in rows
        ]
    )
    return Panel(
        "Transcripts",
        f"The first {len(rows)} test prompts of the sets, with the answers as they are and under "
        "every edit. What a harmful prompt was granted is redacted.",
        table=frame,
        csv="transcripts.csv",
    )
