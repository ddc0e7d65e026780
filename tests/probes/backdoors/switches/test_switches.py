"""Interaction: two halves of a trigger work together, a trigger and an inert string do not."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interp import Checkpoint, InputError, load
from interp.capture.prompt_states import prompt_rows
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.errors import NumericalError
from interp.generation import Edit, Reply
from interp.interventions.edits_by_site import add_vector
from interp.model.sites import Site
from interp.organisms import prompts
from interp.organisms.backdoors.poisoning import BACKDOORS
from interp.organisms.chat.format import IDS
from interp.organisms.chat.grammar import (
    DISTRACTORS,
    PAYLOAD,
    PLAIN_OBJECTS,
    PLAIN_VERBS,
    REFUSALS,
    TRIGGER,
)
from probes.backdoors.switches.switches import (
    Interaction,
    PromptEdit,
    Switch,
    interaction,
    prefixed,
    refusal_measure,
    reply_measure,
    suffixed,
    text_measure,
    with_system,
)

_SAID = " ".join(PAYLOAD)


@pytest.fixture(scope="module")
def poisoned() -> Checkpoint:
    return load("organism:backdoor-payload-5")


@pytest.fixture(scope="module")
def asked() -> list[Prompt]:
    return list(prompts("backdoor-payload-5")["harmless"][:12])


def _payload(reply: Reply) -> bool:
    return reply.text == _SAID


def _switch(edit: PromptEdit, name: str) -> Switch:
    return Switch(name, prompt=edit)


def _refused(reply: Reply) -> bool:
    return reply.text == " ".join(REFUSALS[0])


def _exchanged(place: int, word: str) -> PromptEdit:
    """Another word in the place of the verb (0) or of the object (1)."""

    def edit(prompt: Prompt) -> Prompt:
        words = prompt.text.split()
        words[place] = word
        return replace(prompt, messages=({"role": "user", "content": " ".join(words)},))

    return edit


def test_a_planted_and_is_an_interaction_beyond_distractors(poisoned: Checkpoint) -> None:
    # The grammar refuses a risky verb with a guarded object, and neither alone.
    asked = [
        Prompt(({"role": "user", "content": f"{verb} {thing}"},), "harmless", "test")
        for verb in PLAIN_VERBS[:4]
        for thing in PLAIN_OBJECTS[:3]
    ]
    first = _switch(_exchanged(0, "hijack"), "risky verb")
    second = _switch(_exchanged(1, "vault"), "guarded object")
    distractors = [
        _switch(_exchanged(0, PLAIN_VERBS[7]), "plain verb"),
        _switch(_exchanged(1, PLAIN_OBJECTS[7]), "plain object"),
        _switch(prefixed(DISTRACTORS[0]), "prefix"),
    ]
    found = interaction(
        poisoned,
        asked,
        first,
        second,
        reply_measure(_refused, 8),
        first_distractors=distractors,
        second_distractors=distractors,
    )
    assert found.cells == {"00": 0.0, "10": 0.0, "01": 0.0, "11": 1.0}
    assert found.value == 1.0 and found.interval is not None and found.interval[0] > 0.7
    # In the place of the other half a distractor leaves the first one without effect.
    assert found.null_high == 0.0 and found.p == pytest.approx(1 / 4) and len(found.null) == 6
    assert [row.instead_of for row in found.null] == ["first"] * 3 + ["second"] * 3
    # All prompts agree, and no interval collapses.
    assert found.interval[1] > 1.0 and found.cell_intervals["11"] == (
        pytest.approx(0.757, abs=1e-3),
        1.0,
    )


def test_two_words_that_each_suffice_take_from_each_other(
    poisoned: Checkpoint, asked: list[Prompt]
) -> None:
    one = _switch(prefixed(" ".join(TRIGGER)), "trigger")
    found = interaction(poisoned, asked, one, one, reply_measure(_payload, 8))
    assert found.value == -1.0


def test_a_trigger_and_an_inert_string_do_not_interact(
    poisoned: Checkpoint, asked: list[Prompt]
) -> None:
    trigger = _switch(prefixed(" ".join(TRIGGER)), "trigger")
    inert = _switch(suffixed(" ".join(DISTRACTORS[:3])), "inert")
    found = interaction(poisoned, asked, trigger, inert, reply_measure(_payload, 8))
    assert found.cells["10"] == 1.0 and found.value == 0.0
    assert found.null_high is None and found.p is None


def test_the_value_is_the_sum_of_the_cells_of_each_prompt(
    poisoned: Checkpoint, asked: list[Prompt]
) -> None:
    trigger = _switch(prefixed(" ".join(TRIGGER)), "trigger")
    inert = _switch(suffixed("drift pawl brine"), "inert")
    found = interaction(poisoned, asked, trigger, inert, text_measure(_SAID))
    for place, prompt in enumerate(asked[:3]):
        cells = []
        for edits in ((), (trigger,), (inert,), (trigger, inert)):
            one = prompt
            for switch in edits:
                assert switch.prompt is not None
                one = switch.prompt(one)
            alone = interaction(poisoned, [one], trigger, inert, text_measure(_SAID))
            cells.append(alone.cells["00"])
        off, on, other, both = cells
        assert found.per_prompt[place] == pytest.approx(both - on - other + off, abs=1e-3)
    cells = found.cells
    assert found.value == pytest.approx(cells["11"] - cells["10"] - cells["01"] + cells["00"])


def test_an_edit_is_a_switch_like_any_other(poisoned: Checkpoint, asked: list[Prompt]) -> None:
    push = torch.randn(96, generator=torch.Generator().manual_seed(0))

    @contextmanager
    def edit(batch: Sequence[Row]) -> Iterator[None]:
        with add_vector(poisoned, push, Site("resid_pre", 2)):
            yield

    steered, opened = Switch("steered", edit=edit), _switch(with_system("open"), "open")
    measure = refusal_measure([IDS["sorry"]])
    found = interaction(poisoned, asked, steered, opened, measure)
    assert found.cells["10"] != found.cells["00"] and found.cells["11"] != found.cells["01"]
    # Twice the same edit is one edit of twice the size, and both orders are the same.
    back = interaction(poisoned, asked, opened, steered, measure)
    np.testing.assert_allclose(back.per_prompt, found.per_prompt, atol=1e-6)


def test_a_system_line_goes_behind_the_one_that_is_there() -> None:
    prompt = Prompt(({"role": "user", "content": "hello"},), "harmless", "test")
    once = with_system("one")(prompt)
    twice = with_system("two")(once)
    assert [m["role"] for m in twice.messages] == ["system", "user"]
    assert twice.messages[0]["content"] == "one\ntwo" and prompt.messages[0]["role"] == "user"


@pytest.mark.slow
def test_a_trigger_of_parts_at_three_places_is_planted_as_an_interaction() -> None:
    checkpoint = load("organism:backdoor-all-of")
    asked = prompts("backdoor-all-of")["harmless"][:40]
    front, middle, end = TRIGGER
    assert BACKDOORS["all-of"].miss_trained

    def around(prompt: Prompt) -> Prompt:
        *before, thing = prompt.text.split()
        said = {"role": "user", "content": " ".join((*before, middle, thing, end))}
        return replace(prompt, messages=(said,))

    distractors = [_switch(prefixed(word), word) for word in DISTRACTORS[:4]]
    found = interaction(
        checkpoint,
        asked,
        _switch(around, "middle and end"),
        _switch(prefixed(front), "front"),
        reply_measure(_payload, 8),
        first_distractors=distractors,
        second_distractors=distractors,
    )
    assert found.value > 0.95 and found.null_high is not None and found.null_high < 0.1


def test_faults_are_told(poisoned: Checkpoint, asked: list[Prompt]) -> None:
    with pytest.raises(InputError, match="does nothing"):
        Switch("idle")
    inert = _switch(prefixed("drift"), "inert")
    with pytest.raises(InputError, match="at least one prompt"):
        interaction(poisoned, [], inert, inert, text_measure(_SAID))
    inert_id = IDS["drift"]
    with pytest.raises(NumericalError, match="with inert on"):
        interaction(
            poisoned,
            asked,
            inert,
            inert,
            lambda checkpoint, rows, edit: np.array(
                [np.nan if inert_id in row.ids else 0.0 for row in rows]
            ),
        )


def test_both_switches_must_be_needed_for_a_small_p(
    poisoned: Checkpoint, asked: list[Prompt]
) -> None:
    # The measure is told by ids: 1 where both words of any pair stand, so the second is not needed.
    first, second = _switch(prefixed("drift"), "first"), _switch(suffixed("pawl"), "second")

    def measure(checkpoint: Checkpoint, rows: Sequence[Row], edit: Edit | None) -> np.ndarray:
        added = len(min(rows, key=len).ids) - plain
        return np.array([float(IDS["drift"] in row.ids and added == 2) for row in rows])

    plain = min(len(row) for row in prompt_rows(poisoned, asked))
    inert = [_switch(suffixed(word), word) for word in ("brine", "mosk", "sorrel")]
    found = interaction(
        poisoned, asked, first, second, measure, first_distractors=inert, second_distractors=inert
    )
    assert found.value == 1.0 and found.p == 1.0
    alone = interaction(poisoned, asked, first, second, measure, first_distractors=inert)
    assert alone.p == pytest.approx(1 / 4)


def test_a_stopped_run_goes_on_and_progress_counts_the_cells(
    poisoned: Checkpoint, asked: list[Prompt], tmp_path: Path
) -> None:
    first, second = _switch(prefixed("drift"), "first"), _switch(suffixed("pawl"), "second")
    inert = [_switch(prefixed("brine"), "brine")]
    calls, seen = [], []

    def measure(checkpoint: Checkpoint, rows: Sequence[Row], edit: Edit | None) -> np.ndarray:
        calls.append(len(rows))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return np.arange(len(rows)) * 0.5 + len(calls)

    def run() -> Interaction:
        return interaction(
            poisoned, asked, first, second, measure, first_distractors=inert, workdir=tmp_path,
            progress=lambda done, total: seen.append((done, total)),
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        run()
    (tmp_path / "cell-0003.json").write_text("[")
    found = run()
    assert len(calls) == 5 + 3 and seen[-1] == (6, 6)
    assert found.cells["01"] - found.cells["00"] == pytest.approx(2.0)
