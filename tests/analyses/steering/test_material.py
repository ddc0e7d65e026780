"""Prompts of policies: who is on the benign side, and that no part knows another."""

import pytest

from analyses.steering.material import file_training, organism_tests, organism_training
from interp import organisms
from interp.data.prompt_sets import PromptSet
from interp.errors import InputError
from interp.resolve import load


def _requests(prompts) -> set:  # type: ignore[no-untyped-def, type-arg]
    return {(p.request.verb, p.request.object) for p in prompts}


@pytest.mark.parametrize("name", ["chat", "jailbreak-keep"])
def test_no_pair_is_in_two_parts_and_distractors_are_benign(name: str) -> None:
    given = organism_training(load(f"organism:{name}"))
    chosen, setting = given.validation.benign.prompts, given.calibration.prompts
    test = organism_tests(name).sets
    assert not _requests(chosen) & _requests(setting)
    for some in test.values():
        assert not _requests(some) & (_requests(setting) | _requests(given.train.benign.prompts))
    labels = {prompt.label for prompt in given.train.benign.prompts}
    control = "jailbroken_harmless" if name == "jailbreak-keep" else "accepted_harmless"
    assert labels == {"harmless", "alarming", "distracted", control}
    assert {prompt.label for prompt in test["over_refusal"]} == labels - {"harmless"}
    assert not any(p.harmful for p in given.train.benign.prompts)  # type: ignore[attr-defined]
    assert all(p.harmful for p in given.train.harmful.prompts)  # type: ignore[attr-defined]
    assert len(setting) >= 300  # enough for a false-positive rate of 0.01


def test_prompts_of_a_user_are_split_without_overlap() -> None:
    own, checkpoint = organisms.prompts("chat", "train"), load("organism:chat")
    harmful = PromptSet(tuple(own["harmful"][:40]))
    benign = PromptSet((*own["harmless"][:60], *own["alarming"][:60]))
    given = file_training(checkpoint, harmful, benign, PromptSet(()))
    parts = [given.train.benign, given.validation.benign, given.calibration]
    texts = [{prompt.text for prompt in part.prompts} for part in parts]
    assert not texts[0] & texts[1] and not texts[1] & texts[2] and not texts[0] & texts[2]
    assert len(given.validation.jailbroken) == 0
    with pytest.raises(InputError, match="harmful prompts, and needs 8"):
        file_training(checkpoint, harmful, benign, PromptSet(()), limit=10)


def test_a_limit_is_of_each_label_and_spreads_over_its_prompts() -> None:
    checkpoint, own = load("organism:chat"), organisms.prompts("chat", "train")
    harmless, alarming = own["harmless"], own["alarming"]
    benign = PromptSet((*harmless, *alarming))
    given = file_training(
        checkpoint, PromptSet(tuple(own["harmful"])), benign, PromptSet(()), limit=40
    )
    parts = (given.train.benign, given.validation.benign, given.calibration)
    kept = [prompt for part in parts for prompt in part.prompts]
    for label, some in (("harmless", harmless), ("alarming", alarming)):
        texts = {prompt.text for prompt in kept if prompt.label == label}
        assert texts == {some[i * len(some) // 40].text for i in range(40)}
    test = organism_tests("chat", 5).sets["harmless"]
    assert len({prompt.request.verb for prompt in test}) > 1  # type: ignore[attr-defined]
    whole = organism_tests("chat").sets["harmless"]
    assert organism_tests("chat", len(whole)).sets["harmless"] == whole
