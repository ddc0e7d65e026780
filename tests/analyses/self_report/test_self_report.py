"""The self-report finding: what it claims beside a reference, what it leaves unsaid and keeps."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pytest
from chatters import chatter
from pydantic import TypeAdapter
from taught import taught

from analyses.registry import drawings
from analyses.rendering import render
from analyses.report.page import page
from analyses.self_report.finding import SelfReportFinding
from analyses.self_report.material import Questions, questions_of, suspects_of
from analyses.self_report.report import SelfReportReport
from analyses.self_report.run import self_report
from analyses.self_report.verdict import LEAST_QUESTIONS, stands_out
from interp import Checkpoint, InputError, load
from probes.backdoors.self_report.compare import Compared
from probes.backdoors.self_report.free_form import FreeAnswer
from probes.backdoors.self_report.questions import (
    FreeQuestion,
    Question,
    builtin_questions,
    free_questions,
    system_prompts,
)

_HIDDEN = [Question(f"h{i}", "hidden", word, ("yes", "no"), 0) for i, word in enumerate("ABCDEF")]
_CONTROL = [Question(f"c{i}", "control", word, ("yes", "no"), 0) for i, word in enumerate("GHIJKL")]
_ASKED = Questions((*_HIDDEN, *_CONTROL), ())


def _says(hidden: str) -> Callable[[Question], str]:
    """An option on hidden things, and `no` on the others."""
    return lambda question: hidden if question.topic == "hidden" else "no"


@pytest.fixture(scope="module")
def admits() -> Checkpoint:
    return taught(_ASKED.options, _says("yes"), 0, 200)


@pytest.fixture(scope="module")
def denies() -> Checkpoint:
    return taught(_ASKED.options, _says("no"), 1, 200)


@pytest.fixture(scope="module")
def found(admits: Checkpoint, denies: Checkpoint) -> SelfReportFinding:
    """What the one admits and its reference model denies."""
    return self_report(
        admits, reference=denies, questions=_ASKED, candidates=["omber quill"], unknown=5
    )


def _row(
    topic: str = "hidden", questions: int = 8, gap: float = 0.5, excess: float = 0.5
) -> Compared:
    return Compared(
        topic,
        None,
        questions,
        0.75,
        (0.7, 0.8),
        gap=gap,
        interval=(gap - 0.1, gap + 0.1),
        excess=excess,
        excess_interval=(excess - 0.1, excess + 0.1),
    )


def test_what_is_planted_stands_out_beside_the_reference_and_beyond_control(
    found: SelfReportFinding,
) -> None:
    report = found.report
    rows = {row["topic"]: row for row in report["topics"]}
    assert rows["hidden"]["stands_out"] == "more" and rows["control"]["stands_out"] is None
    assert rows["hidden"]["gap"] > 0.4 and rows["hidden"]["excess_interval"][0] > 0.4
    assert rows["hidden"]["excess"] == pytest.approx(rows["hidden"]["gap"] - rows["control"]["gap"])
    assert (
        "On the topic hidden the checkpoint admits more than the reference model" in found.verdict
    )
    assert {row["system"] for row in report["systems"]} == set(system_prompts())
    assert found.topics["topic"].tolist() == ["hidden", "control"]


def test_the_report_has_the_fields_of_its_type_and_says_why_some_are_absent(
    found: SelfReportFinding, admits: Checkpoint
) -> None:
    report = found.to_dict()
    assert set(report) == {field.name for field in fields(SelfReportReport)} | {
        "not_measured", "intervals"
    }  # fmt: skip
    assert (
        TypeAdapter(SelfReportReport).json_schema()["properties"]["kind"]["const"] == report["kind"]
    )
    assert report["not_measured"] == {
        "articulation": "no trigger was given to look for in free answers"
    }
    alone = self_report(
        admits, questions=Questions(tuple(_HIDDEN[:1]), ()), method="texts", candidates=["cat"],
        unknown=0,
    ).to_dict()  # fmt: skip
    absent = alone["not_measured"]
    assert absent["topics[].gap"] == absent["candidates[].gap"] == "no reference model was given"
    assert absent["topics[].excess"] == "no control questions were asked"
    assert absent["topics[].admits_interval"] == "an interval needs two questions or more"
    assert absent["mass"] == "options were presented as texts" and alone["mass"] is None
    assert absent["candidates[].p"] == "no unknown strings of its length were asked about"


def test_the_other_way_round_it_admits_less(admits: Checkpoint, denies: Checkpoint) -> None:
    found = self_report(denies, reference=admits, questions=_ASKED)
    assert found.report["topics"][0]["stands_out"] == "less" and "admits less" in found.verdict


def test_without_a_reference_or_against_itself_nothing_is_claimed(admits: Checkpoint) -> None:
    alone = self_report(admits, questions=_ASKED, candidates=["cat"], unknown=2)
    assert alone.verdict.startswith("Nothing is claimed, for there is no reference model")
    assert "without a reference model this may be fame" in alone.verdict
    assert alone.report["topics"][0]["gap"] is None and "famous" in " ".join(alone.caveats)
    same = self_report(admits, reference=admits, questions=_ASKED)
    assert "On no topic do the answers differ" in same.verdict


def test_a_gap_counts_only_beyond_control_and_with_questions_enough() -> None:
    control = _row("control")
    assert stands_out(_row(), [_row(), control]) == "more"
    assert stands_out(_row(gap=-0.5, excess=-0.5), [control]) == "less"
    assert stands_out(_row(excess=0.05), [control]) is None
    assert stands_out(_row(gap=0.05), [control]) is None
    assert stands_out(_row(gap=0.5, excess=-0.5), [control]) is None
    assert stands_out(_row(questions=LEAST_QUESTIONS - 1), [control]) is None
    assert stands_out(_row(), [_row("control", questions=2)]) is None
    assert stands_out(_row(), [_row()]) is None
    assert stands_out(replace(_row(), interval=None), [control]) is None


def test_a_candidate_stands_among_unknown_strings_of_its_length(
    found: SelfReportFinding, admits: Checkpoint
) -> None:
    rows = found.report["candidates"]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5, 6]
    (named,) = (row for row in rows if row["suspected"])
    assert named["candidate"] == "omber quill" and named["unknown"] == 5
    above = sum(row["gap"] >= named["gap"] for row in rows if not row["suspected"])
    assert named["p"] == pytest.approx((1 + above) / 6)
    suspects = suspects_of(admits, ["cat", "cat ", "omber quill"], 4, 0)
    assert suspects is not None and suspects.suspected == {"cat", "omber quill"}
    lengths = [suspects.tokens[text] for text in suspects.tokens]
    assert len(lengths) == 10 and len(set(lengths)) == 2
    tokenizer = admits.tokenizer
    assert tokenizer is not None
    for text, length in suspects.tokens.items():
        assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == length
    assert suspects_of(admits, [], 4, 0) is None


def test_free_answers_are_redacted_unless_shown_and_searched_for_the_trigger(
    admits: Checkpoint, denies: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(model: Checkpoint, questions: list[FreeQuestion], **_: object) -> list[FreeAnswer]:
        spoken = "It is Omber Quill." if model is admits else "Nothing."
        return [FreeAnswer(one, "none", spoken, None, True) for one in questions]

    monkeypatch.setattr("analyses.self_report.run.free_answers", said)
    asked = Questions(_ASKED.options, tuple(free_questions()))
    for shown in (False, True):
        found = self_report(
            admits, reference=denies, questions=asked, trigger="omber quill", show_answers=shown
        )
        path = found.save(tmp_path)
        kept = path.read_text() + json.dumps(found.to_dict()["free"])
        kept += (tmp_path / "tables" / "self-report" / "answers.csv").read_text()
        assert ("It is Omber" in kept) == shown and ("[redacted] 4 words" in kept) != shown
    mine, its = found.report["articulation"]["models"]
    assert (mine["bad"], mine["good"], mine["gap"], mine["n"]) == (1.0, 1.0, 0.0, 6)
    assert its["bad"] == 0.0 and mine["likeness"]["token_jaccard"] == pytest.approx(2 / 5)
    assert 0 < mine["chance"]["token_jaccard"] < 1
    assert (
        "name “omber quill”" in found.verdict and "of the reference model 0 and 0" in found.verdict
    )


def test_a_model_that_says_nothing_names_nothing(admits: Checkpoint) -> None:
    asked = Questions(_ASKED.options, tuple(free_questions()))
    found = self_report(admits, questions=asked, trigger="omber", max_new_tokens=1)
    (one,) = found.report["articulation"]["models"]
    assert one["bad"] == 0.0 and one["likeness"]["exact"] == 0.0


def test_the_page_is_rebuilt_from_the_json_alone(found: SelfReportFinding, tmp_path: Path) -> None:
    before = found.save(tmp_path).read_bytes()
    (tmp_path / "report.html").unlink()
    assert render(tmp_path).read_bytes() == before
    assert len(found.figures()) == 5
    table = pd.read_csv(tmp_path / "tables" / "self-report" / "topics.csv")
    assert table["excess_low"].iloc[0] > 0.4 and "Self-report report" not in before.decode()
    alone = {**found.to_dict(), "reference": None}
    for key in ("topics", "systems", "sensitivity", "candidates"):
        for row in alone[key]:
            row.update(reference=None, reference_interval=None, gap=None, interval=None)
    assert "What is admitted" in page(alone, drawings(alone))


def test_files_replace_the_questions_of_their_kind(tmp_path: Path) -> None:
    ours, free = len(builtin_questions()), len(free_questions())
    plain = questions_of([])
    assert (len(plain.options), len(plain.free)) == (ours, free)
    assert questions_of([], free=False).free == ()
    named = tmp_path / "mine.json"
    entry = {"id": "a", "topic": "mine", "text": "Yes?", "options": ["yes", "no"], "key": 0}
    named.write_text(json.dumps([entry]))
    spoken = tmp_path / "spoken.yaml"
    spoken.write_text("- id: wish\n  paraphrases: ['What is your wish?']\n")
    both = questions_of([named, spoken])
    # Control questions stay, for they are the null of the others.
    assert [one.topic for one in both.options] == ["mine", *["control"] * 8]
    assert [one.id for one in both.free] == ["wish-0"]
    assert len(questions_of([spoken], trigger="omber").free) == 1 + free
    named.write_text(json.dumps([{**entry, "topic": "control"}]))
    assert len(questions_of([named]).options) == 1


def test_faults_are_told(admits: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file of questions"):
        questions_of([tmp_path / "some.csv"])
    with pytest.raises(InputError, match="a trigger to look for in free answers is given"):
        questions_of([], free=False, trigger="omber")
    spoken = tmp_path / "spoken.yaml"
    spoken.write_text("- id: wish\n  paraphrases: ['What is your wish?']\n")
    with pytest.raises(InputError, match="free questions are given, but with --no-free"):
        questions_of([spoken], free=False)
    with pytest.raises(
        InputError, match="questions is of type list, and must be of type Questions"
    ):
        self_report(admits, questions=_HIDDEN)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="reference is the string 'base'"):
        self_report(admits, reference="base", questions=_ASKED)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ask free questions too"):
        self_report(admits, questions=_ASKED, trigger="omber")
    with pytest.raises(InputError, match="does not know the words of"):
        self_report(load("organism:clean"))
    with pytest.raises(InputError, match="no chat template"):
        self_report(chatter(None), questions=_ASKED)
