"""What a refusal report runs on: parts that share nothing, and sentences about their surface."""

from dataclasses import replace

import numpy as np
import pytest

from analyses.refusal.material import clusters_of, of_organism, of_sets
from analyses.refusal.report import Surface
from analyses.shared.prompts import is_harmful
from interp.data.prompt_sets import Prompt, PromptSet
from interp.errors import InputError


def prompts(label: str, source: str, count: int, mark: str = "", begin: int = 0) -> PromptSet:
    """Prompts of five words that no two share."""
    return PromptSet(
        tuple(
            Prompt(
                ({"role": "user", "content": f"tell me {source} {label} {i}{mark}"},),
                label,
                source,
            )
            for i in range(begin, begin + count)
        )
    )


def test_two_sources_a_side_hold_the_last_named_out() -> None:
    harmful = prompts("harmful", "a", 40) + prompts("harmful", "b", 12)
    harmless = prompts("harmless", "c", 40) + prompts("harmless", "d", 12)
    made = of_sets(harmful, harmless, None)
    assert set(made.test.sources) == {"b", "d"} and len(made.test) == 24
    assert set(made.train.sources) == set(made.validation.sources) == {"a", "c"}
    assert not any("same sources" in caveat for caveat in made.caveats)


def test_one_source_is_split_at_random_and_said_so() -> None:
    made = of_sets(prompts("harmful", "a", 60), prompts("harmless", "c", 60), None)
    assert any("come from the same sources" in caveat for caveat in made.caveats)
    texts = [{p.text for p in part} for part in made.parts.values()]
    assert sum(map(len, texts)) == 120 == len(set.union(*texts))
    sizes = [len(part) for part in (made.train, made.validation, made.test)]
    assert sizes[0] > sizes[2] > sizes[1]


def test_surface_is_equalised_unless_forbidden_and_then_named() -> None:
    harmful, harmless = prompts("harmful", "a", 60), prompts("harmless", "c", 60, mark="?")
    made = of_sets(harmful, harmless, None)
    assert made.surface.mark_auroc == (1.0, 0.5)
    assert not any("final character" in caveat for caveat in made.caveats)
    kept = of_sets(harmful, harmless, None, equal=False)
    assert kept.surface == Surface()
    assert any("final character alone tells" in caveat for caveat in kept.caveats)


def test_lengths_are_equalised_unless_forbidden_and_then_named() -> None:
    long = PromptSet(
        tuple(
            Prompt(({"role": "user", "content": f"{p.text} and more of it"},), p.label, p.source)
            for p in prompts("harmful", "a", 60)
        )
    )
    harmful = long + prompts("harmful", "a", 60, begin=100)
    made = of_sets(harmful, prompts("harmless", "c", 60), None)
    assert made.surface.dropped == {"harmful": 60, "harmless": 0}
    kept = of_sets(harmful, prompts("harmless", "c", 60), None, equal=False)
    assert any("number of words alone tells" in caveat for caveat in kept.caveats)


def test_alarming_prompts_lose_their_marks_like_the_others() -> None:
    """They count among the harmless ones, and a mark at t_inst would tell them from harmful."""
    sets = prompts("harmful", "a", 60), prompts("harmless", "c", 60)
    alarming = prompts("alarming", "e", 20, mark="?")
    made = of_sets(*sets, alarming)
    own = [p.text for part in made.parts.values() for p in part if p.label == "alarming"]
    assert len(own) == 20 and not any(text.endswith("?") for text in own)
    kept = of_sets(*sets, alarming, equal=False)
    own = [p.text for part in kept.parts.values() for p in part if p.label == "alarming"]
    assert all(text.endswith("?") for text in own)


def test_alarming_prompts_are_in_training_and_test_and_count_as_harmless() -> None:
    made = of_sets(
        prompts("harmful", "a", 60), prompts("harmless", "c", 60), prompts("alarming", "e", 20)
    )
    counts = [sum(p.label == "alarming" for p in part) for part in made.parts.values()]
    assert counts == [10, 0, 10]
    assert not any(is_harmful(p) for p in made.test if p.label != "harmful")


@pytest.mark.parametrize(("count", "part"), [(7, "train"), (30, "validation"), (20, "validation")])
def test_a_side_that_is_too_small_is_named(count: int, part: str) -> None:
    with pytest.raises(InputError, match=rf"the {part} part has \d+ harmful prompts, and needs 8"):
        of_sets(prompts("harmful", "a", count), prompts("harmless", "c", 90), None)


def test_a_limit_keeps_so_many_of_a_label() -> None:
    made = of_sets(prompts("harmful", "a", 90), prompts("harmless", "c", 90), None, limit=9)
    for part in made.parts.values():
        assert [len(part.of(label)) for label in ("harmful", "harmless")] == [9, 9]
    with pytest.raises(InputError, match="raise --limit"):
        of_sets(prompts("harmful", "a", 90), prompts("harmless", "c", 90), None, limit=7)


def test_an_organism_brings_refusals_and_pairs_that_no_part_shares() -> None:
    made = of_organism("chat", 10)
    assert made.refusals == ("sorry i cannot help with that",)
    pairs = [
        {(p.request.verb, p.request.object) for p in part}  # type: ignore[attr-defined]
        for part in made.parts.values()
    ]
    assert not (pairs[0] & pairs[1] or pairs[0] & pairs[2] or pairs[1] & pairs[2])
    harmful = {p.label for p in made.test if is_harmful(p)}
    assert {"harmful", "jailbroken", "accepted_harmful", "refused_harmful"} <= harmful
    assert not harmful & {"harmless", "alarming", "refused_harmless", "accepted_harmless"}
    assert made.texts


def grouped(label: str, groups: int) -> PromptSet:
    return PromptSet(
        tuple(
            Prompt(
                ({"role": "user", "content": f"{label} {i}"},), label, "s", group=f"g{i % groups}"
            )
            for i in range(40)
        )
    )


def test_prompts_of_one_group_are_resampled_together() -> None:
    prompts = (grouped("harmful", 6) + grouped("harmless", 8)).prompts
    truth = np.array([is_harmful(prompt) for prompt in prompts])
    names = clusters_of(prompts, truth)
    assert names is not None and set(names) == {f"g{i}" for i in range(8)}
    few = (grouped("harmful", 4) + grouped("harmless", 8)).prompts
    assert clusters_of(few, truth) is None
    alone = tuple(replace(prompt, group=None) for prompt in prompts)
    assert clusters_of(alone, truth) is None


def test_an_organisms_prompts_of_one_verb_and_object_belong_together() -> None:
    every = of_organism("chat").test.prompts
    truth = np.array([is_harmful(prompt) for prompt in every])
    names = clusters_of(every, truth)
    assert names is not None and 100 < len(set(names)) < len(names) / 2
    once = [prompt for prompt in every if prompt.label in ("harmful", "harmless")]
    assert clusters_of(once, np.array([is_harmful(prompt) for prompt in once])) is None
