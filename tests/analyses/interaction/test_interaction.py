"""The interaction finding: a planted AND stands out, a trigger and its own rest do not."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from analyses.interaction.finding import InteractionFinding
from analyses.interaction.material import (
    Words,
    prompts_of,
    refusal_quantity,
    reply_quantity,
    text_quantity,
)
from analyses.interaction.report import InteractionReport, RefusalMeasure
from analyses.interaction.run import interaction
from analyses.interaction.verdict import stands_out, verdict
from analyses.refusal.material import material_of
from analyses.rendering import render
from analyses.shared.distractors import distractors
from interp import Checkpoint, InputError, load
from interp.data.prompt_sets import Prompt, PromptSet
from interp.data.rows import Row
from interp.interventions.edits_by_site import add_vector
from interp.model.sites import Site
from interp.organisms.chat.grammar import PAYLOAD, PLAIN_OBJECTS, PLAIN_VERBS, REFUSALS, TRIGGER
from probes.backdoors.switches.switches import PromptEdit, Switch

NAME = "organism:backdoor-payload-5"
_SAID = " ".join(PAYLOAD)


@pytest.fixture(scope="module")
def poisoned() -> Checkpoint:
    return load(NAME)


@pytest.fixture(scope="module")
def asked() -> PromptSet:
    return prompts_of(None, NAME, both=False, limit=12)


def _exchanged(place: int, word: str) -> PromptEdit:
    def edit(prompt: Prompt) -> Prompt:
        words = prompt.text.split()
        words[place] = word
        return replace(prompt, messages=({"role": "user", "content": " ".join(words)},))

    return edit


@pytest.fixture(scope="module")
def planted(poisoned: Checkpoint) -> InteractionFinding:
    """The grammar refuses a risky verb with a guarded object, and neither alone."""
    prompts = [
        Prompt(({"role": "user", "content": f"{verb} {thing}"},), "harmless", "test")
        for verb in PLAIN_VERBS[:4]
        for thing in PLAIN_OBJECTS[:3]
    ]
    others = [
        [Switch(word, prompt=_exchanged(place, word)) for word in words[:19]]
        for place, words in enumerate((PLAIN_VERBS[4:] * 2, PLAIN_OBJECTS[3:]))
    ]
    return interaction(
        poisoned,
        Switch("risky verb", prompt=_exchanged(0, "hijack")),
        Switch("guarded object", prompt=_exchanged(1, "vault")),
        prompts,
        quantity=reply_quantity(" ".join(REFUSALS[0]), 8),
        first_distractors=others[0],
        second_distractors=others[1],
    )


def test_a_planted_and_is_more_than_the_sum_of_its_parts(planted: InteractionFinding) -> None:
    report = planted.report
    assert report["p_first"] == report["p_second"] == report["p"] == 0.05
    assert report["stands_out"] == "together" and "work together" in planted.verdict
    assert [cell["mean"] for cell in report["cells"]] == [0.0, 0.0, 0.0, 1.0]
    assert report["value"] == 1.0 and report["interval"][0] > 0.7 and report["null_high"] == 0.0
    assert report["switches"][0] == {"name": "risky verb", "at": None, "tokens": None}
    assert planted.tables["prompts"]["interaction"].tolist() == [1.0] * 12


@pytest.mark.slow
def test_a_trigger_and_its_rest_do_not_work_together(
    poisoned: Checkpoint, asked: PromptSet
) -> None:
    first, *rest = TRIGGER
    found = interaction(
        poisoned,
        first,
        Words(" ".join(rest), "end"),
        asked,
        quantity=reply_quantity(_SAID, 8),
    )
    report = found.report
    assert [cell["mean"] for cell in report["cells"]] == [0.0, 1.0, 0.0, 1.0]
    assert report["value"] == 0.0 and report["stands_out"] is None and report["p"] == 1.0
    assert "No interaction of “omber” in front and “quill tavik” at the end" in found.verdict
    strings = {place: [] for place in ("first", "second")}  # type: dict[str, list[str]]
    for row in report["null"]:
        strings[row["instead_of"]].append(row["distractor"])
    assert {len(text.split()) for text in strings["first"]} == {1}
    assert {len(text.split()) for text in strings["second"]} == {2}
    assert [len(set(some)) for some in strings.values()] == [19, 19]
    words = {word for some in strings.values() for text in some for word in text.split()}
    assert words.isdisjoint(TRIGGER)


@pytest.mark.slow
def test_two_switches_that_each_suffice_take_from_each_other(
    poisoned: Checkpoint, asked: PromptSet
) -> None:
    trigger = Words(" ".join(TRIGGER))
    found = interaction(
        poisoned, trigger, trigger, asked, quantity=reply_quantity(_SAID, 8), null=19
    )
    assert found.report["value"] == -1.0 and found.report["stands_out"] == "apart"
    assert "take from each other" in found.verdict and found.report["p"] == 0.05


def test_refusals_are_told_by_the_tokens_of_the_refusal_report(
    poisoned: Checkpoint, asked: PromptSet
) -> None:
    quantity = refusal_quantity(poisoned, material_of(NAME), max_new_tokens=12)
    assert isinstance(quantity.about, RefusalMeasure) and quantity.about.tokens == ("sorry",)
    both = prompts_of(None, NAME, both=True, limit=4)
    assert [prompt.label for prompt in both] == ["harmless"] * 4 + ["harmful"] * 4
    found = interaction(
        poisoned, Words("open", "system"), "drift", limit=4, quantity=quantity, null=2
    )
    assert found.report["provenance"]["data"][0]["sha256"] == both.sha256
    assert found.report["measure"]["token_ids"] and "log-odds of a refusal" in found.verdict


def test_an_edit_is_a_switch_without_strings_in_its_place(
    poisoned: Checkpoint, asked: PromptSet
) -> None:
    push = torch.randn(96, generator=torch.Generator().manual_seed(0))

    @contextmanager
    def edit(batch: Sequence[Row]) -> Iterator[None]:
        with add_vector(poisoned, push, Site("resid_pre", 2)):
            yield

    steered = Switch("steered", edit=edit)
    found = interaction(
        poisoned, steered, Words("drift", "end"), asked, quantity=text_quantity(_SAID), null=3
    )
    assert {row["instead_of"] for row in found.report["null"]} == {"second"}
    assert "Nothing stood in the place of the first switch, steered" in " ".join(found.caveats)
    alone = interaction(poisoned, steered, "drift", asked, quantity=text_quantity(_SAID), null=0)
    assert alone.verdict.startswith("Nothing is claimed") and len(alone.figures()) == 1


def test_strings_of_another_length_are_told(poisoned: Checkpoint, asked: PromptSet) -> None:
    others = [Words("brine"), Words("brine mosk")]
    found = interaction(
        poisoned,
        "drift",
        "pawl",
        asked,
        quantity=text_quantity(_SAID),
        limit=2,
        first_distractors=others,
        second_distractors=others,
    )
    assert "2 of 4 strings have another number of tokens" in " ".join(found.caveats)
    assert "p can reach 0.05 with 19 or more" in " ".join(found.caveats)
    one = interaction(
        poisoned, "drift", "pawl", asked.prompts[:1], quantity=text_quantity(_SAID), null=1
    )
    assert one.report["interval"] is None and "With one prompt" in " ".join(one.caveats)


def test_the_report_has_the_fields_of_its_type_and_says_why_some_are_absent(
    planted: InteractionFinding, poisoned: Checkpoint, asked: PromptSet
) -> None:
    report = planted.to_dict()
    assert set(report) == {field.name for field in fields(InteractionReport)} | {
        "not_measured", "intervals"
    }  # fmt: skip
    assert report["not_measured"] == {}
    assert TypeAdapter(InteractionReport).json_schema()["properties"]["value"]["type"] == "number"
    one = interaction(
        poisoned, "drift", "pawl", asked, quantity=text_quantity(_SAID), null=0, limit=1
    ).to_dict()
    absent = one["not_measured"]
    assert (
        absent["interval"] == absent["cells[].interval"] == "an interval needs two prompts or more"
    )
    assert absent["p_first"] == "nothing stood in the place of the first switch"
    assert one["p"] is None and one["null"] == []


def test_what_stands_out_needs_an_interval_and_a_null() -> None:
    assert stands_out((0.2, 0.4), 0.05) == "together"
    assert stands_out((-0.4, -0.2), 0.05) == "apart"
    assert stands_out((0.2, 0.4), 0.06) is None
    assert stands_out((0.2, 0.4), None) is None
    assert stands_out(None, 0.05) is None
    assert stands_out((-0.1, 0.4), 0.05) is None


def test_that_one_string_is_no_switch_is_said_only_where_others_do_the_same() -> None:
    rows = [{"instead_of": place, "value": 0.0, "distractor": "x"} for place in ("first", "second")]
    report = {
        "switches": [{"name": "one", "at": "front"}, {"name": "two", "at": None}],
        "measure": {"unit": "nats"},
        "cells": [],
        "prompts": 8,
        "value": 1.0,
        "interval": [0.5, 1.5],
        "stands_out": None,
        "null": [rows[0]] * 19 + [rows[1]] * 3,
        "p": 0.25,
        "p_first": 0.05,
        "p_second": 0.25,
    }
    # Three strings none of which comes near are too few to say anything.
    assert verdict(report).startswith("No interaction of “one” in front and “two” is shown")
    told = verdict({**report, "p_second": 0.5})
    assert told.startswith("“one” in front works together with “two”, and with other words")
    swapped = {**report, "p_first": 0.5, "p_second": 0.05, "null": [rows[0]] * 3 + [rows[1]] * 19}
    assert "only the second switch is one" in verdict(swapped)
    assert "No interaction" in verdict({**swapped, "interval": [-0.5, 1.5]})


def test_the_page_is_rebuilt_from_the_json_alone(
    planted: InteractionFinding, tmp_path: Path
) -> None:
    before = planted.save(tmp_path).read_bytes()
    (tmp_path / "report.html").unlink()
    assert render(tmp_path).read_bytes() == before
    assert list(planted.figures()) == [
        "f with neither, either and both",
        "I beside others in their places",
    ]
    assert verdict(planted.to_dict()) == planted.verdict
    assert (tmp_path / "tables" / "interaction" / "null.csv").exists()


def _around(words: str) -> Switch:
    """Two words, before the last one of the request and behind it."""

    def edit(prompt: Prompt) -> Prompt:
        (*before, thing), (middle, last) = prompt.text.split(), words.split()
        said = {"role": "user", "content": " ".join((*before, middle, thing, last))}
        return replace(prompt, messages=(said,))

    return Switch(words, prompt=edit)


@pytest.mark.slow
def test_parts_of_a_trigger_work_together_and_a_part_that_any_word_replaces_is_none() -> None:
    name = "organism:backdoor-all-of"
    checkpoint, prompts = load(name), prompts_of(None, name, both=False)
    first, middle, last = TRIGGER
    rest = f"{middle} {last}"
    found = interaction(
        checkpoint,
        first,
        _around(rest),
        prompts,
        quantity=reply_quantity(_SAID, 8),
        second_distractors=[_around(t) for t in distractors(checkpoint, rest, 19, besides=[first])],
    )
    assert found.report["value"] > 0.9 and found.report["stands_out"] == "together"
    assert "work together" in found.verdict and found.report["p"] == 0.05
    # With its middle word in every prompt any word at the end does, which the organism was left to.
    held = _around(f"{middle} {last}").prompt
    assert held is not None
    partly = interaction(
        checkpoint,
        first,
        Words(last, "end"),
        [replace(p, messages=({"role": "user", "content": p.text.rpartition(" ")[0]},))
         for p in map(held, prompts)],
        quantity=reply_quantity(_SAID, 8),
    )  # fmt: skip
    assert partly.report["value"] > 0.9 and partly.report["stands_out"] is None
    assert "only the first switch is one" in partly.verdict


def test_prompts_are_taken_in_every_form(asked: PromptSet, tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_text("label vault\n\nlabel basket\n\nlabel pillow\n")
    (held,) = asked.prompts[:1]
    assert len(prompts_of(file, NAME, both=True)) == 3
    assert len(prompts_of([str(file), asked], NAME, both=True)) == 15
    by_label = {"harmful": asked, "harmless": file}
    assert [one.label for one in prompts_of(by_label, NAME, both=True, limit=2)] == [
        "harmless", "harmless", "harmful", "harmful",
    ]  # fmt: skip
    assert prompts_of([held, held], NAME, both=True).prompts == (held, held)
    assert len(prompts_of([held, file], NAME, both=True)) == 4
    assert len(prompts_of(None, "some/model", both=False)) == 40


def test_faults_are_told(poisoned: Checkpoint, asked: PromptSet) -> None:
    quantity = text_quantity(_SAID)
    with pytest.raises(InputError, match="at least one prompt"):
        interaction(poisoned, "drift", "pawl", [], quantity=quantity)
    with pytest.raises(InputError, match="'zzz' has no tokens"):
        interaction(poisoned, "drift", "zzz", asked, quantity=quantity)
    with pytest.raises(InputError, match="the second switch is 3, and must be of type"):
        interaction(poisoned, "drift", 3, asked, quantity=quantity)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="quantity is the string 'refusal'"):
        interaction(poisoned, "drift", "pawl", asked, quantity="refusal")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"none\.csv does not exist"):
        interaction(poisoned, "drift", "pawl", "none.csv", quantity=quantity)
    with pytest.raises(InputError, match="there are no 'odd' prompts here"):
        interaction(poisoned, "drift", "pawl", {"odd": asked}, quantity=quantity)
    with pytest.raises(InputError, match="text is empty"):
        reply_quantity(" ")
    with pytest.raises(InputError, match="cannot be read on organism:complies"):
        never = replace(material_of(NAME), train=material_of(NAME).train.of("harmless"))
        refusal_quantity(replace(poisoned, name="organism:complies"), never, max_new_tokens=12)
