"""Parts of a user's prompts by source, and what is said of it."""

import pytest

from analyses.steering.splits import require_split, split_by_label
from interp.data.prompt_sets import Prompt, PromptSet
from interp.errors import InputError

SHARES = (0.5, 0.2, 0.3)


def _prompts(label: str, counts: dict[str, int]) -> PromptSet:
    return PromptSet(
        tuple(
            Prompt(({"role": "user", "content": f"{label} {name} {i}"},), label, name)
            for name, count in counts.items()
            for i in range(count)
        )
    )


def _sources(parts: tuple[PromptSet, ...]) -> list[set[str]]:
    return [set(part.sources) for part in parts]


@pytest.mark.parametrize("seed", range(5))
def test_whole_sources_are_held_out_and_no_prompt_is_lost(seed: int) -> None:
    given = _prompts("harmless", {"a": 40, "b": 30, "c": 30})
    found = split_by_label(given, SHARES, "source", seed)
    fitted, *held = _sources(found.sets)
    assert fitted and not fitted & (held[0] | held[1]) and held[0] == held[1]
    assert sum(map(len, found.sets)) == len(given)
    assert found.how == {"harmless": f"held out: {', '.join(sorted(held[0]))}"} or len(held[0]) > 1
    # As near to a half as whole sources allow: one or two of three.
    assert 30 <= len(found.sets[0]) <= 70
    chosen, setting = len(found.sets[1]), len(found.sets[2])
    assert chosen / (chosen + setting) == pytest.approx(0.4, abs=0.02)


def test_a_label_of_one_source_is_parted_at_random_and_that_is_told() -> None:
    given = _prompts("harmless", {"a": 50, "b": 50}) + _prompts("alarming", {"c": 40})
    found = split_by_label(given, SHARES, "source", 0)
    assert found.how["alarming"] == "at random within c"
    assert found.how["harmless"].startswith("held out: ")
    assert all("alarming" in part.labels for part in found.sets)
    assert [len(part.of("alarming")) for part in found.sets] == [20, 8, 12]


def test_a_source_of_two_labels_is_held_out_for_both() -> None:
    counts = {"a": 50, "b": 50}
    for seed in range(6):
        told = [split_by_label(_prompts(label, counts), SHARES, "source", seed).how[label]
                for label in ("harmless", "alarming")]  # fmt: skip
        assert told[0] == told[1]


def test_at_random_every_part_knows_every_source() -> None:
    found = split_by_label(_prompts("harmless", {"a": 50, "b": 50}), SHARES, "random", 0)
    assert _sources(found.sets) == [{"a", "b"}] * 3
    assert found.how == {"harmless": "at random within a, b"}
    assert split_by_label(PromptSet(()), SHARES, "source", 0).how == {}
    with pytest.raises(InputError, match="give source or random"):
        require_split("pairs")
