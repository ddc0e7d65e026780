"""Which prompts a guard is fitted on, and that none of them is used twice."""

from pathlib import Path

import pytest

from analyses.cli.guard_prompts import GuardPrompts, guard_prompts
from interp.data.prompt_sets import PromptSet, builtin
from interp.errors import InputError


def chosen(model: str = "some/model", **changes: object) -> GuardPrompts:
    settings = {"fpr": 0.01, "insist": False, "seed": 0, "limit": None}
    files = {name: changes.pop(name, None) for name in ("harmful", "harmless", "benign")}
    return guard_prompts(model, *files.values(), **(settings | changes))  # type: ignore[arg-type]


def assert_apart(made: GuardPrompts) -> None:
    uses = [
        made.harmful + made.harmless,
        made.calibrating_harmful + made.calibrating_harmless,
        made.test_harmful + made.test_benign,
    ]
    texts = [{prompt.text for prompt in some} for some in uses]
    assert sum(map(len, texts)) == len(set.union(*texts))
    assert all(texts)


def labels(prompts: PromptSet) -> set[str]:
    return set(prompts.labels)


@pytest.mark.parametrize("model", ["organism:jailbreak-keep", "organism:cliff", "some/model"])
def test_no_prompt_has_two_uses(model: str) -> None:
    made = chosen(model)
    assert_apart(made)
    assert labels(made.harmful) == labels(made.test_harmful) == {"harmful"}
    assert labels(made.harmless) == {"harmless"}
    assert "jailbroken_harmless" not in labels(made.test_benign)


def test_an_organism_brings_its_splits_and_its_template() -> None:
    made = chosen("organism:jailbreak-keep")
    assert made.benign is not None and len(made.benign) == 614 and not made.caveats
    assert labels(made.test_benign) == {"harmless", "alarming", "distracted"}
    assert all(not getattr(prompt, "harmful", False) for prompt in made.test_benign)
    assert made.template == {"enable_thinking": False}
    assert chosen("organism:cliff").template == {"enable_thinking": True}
    # 440 benign prompts of its own are not enough for 1 %, and are for 2 %.
    assert chosen("organism:cliff").benign is None
    assert chosen("organism:cliff", fpr=0.02).benign is not None
    with pytest.raises(InputError, match="there are 440"):
        chosen("organism:cliff", insist=True)


def test_the_built_in_set() -> None:
    made = chosen()
    parts = (made.harmful, made.calibrating_harmful, made.test_harmful)
    assert [len(part) for part in parts] == [65, 26, 39]
    assert sum(map(len, parts)) == len(builtin().of("harmful"))
    assert made.benign is None and len(made.caveats) == 2
    assert chosen(seed=1).harmful != made.harmful
    with pytest.raises(InputError, match=r"--fpr 0.01 needs benign prompts"):
        chosen(insist=True)


def test_traffic_that_confirms_is_tested_on(tmp_path: Path) -> None:
    traffic = tmp_path / "traffic.txt"
    traffic.write_text("\n".join(f"question {i}" for i in range(70)))
    made = chosen(benign=[str(traffic)], fpr=0.1)
    assert_apart(made)
    assert sum(prompt.source == "traffic" for prompt in made.test_benign) == 35
    assert made.benign is not None and len(made.benign) == 70


def test_a_surface_that_tells_the_classes_is_told(tmp_path: Path) -> None:
    marked, bare = tmp_path / "marked.txt", tmp_path / "bare.txt"
    marked.write_text("\n".join(f"What is the number {i}?" for i in range(20)))
    bare.write_text("\n".join(f"Name all of number {i}" for i in range(20, 40)))
    made = chosen(harmful=[str(bare)], harmless=[str(marked)], equal=False)
    assert made.surface == {} and any(prompt.text.endswith("?") for prompt in made.harmless)
    assert any("A final mark alone tells" in said and "1.00" in said for said in made.caveats)
    assert not any("Length alone" in said for said in made.caveats)


def test_files_are_equalised_and_what_was_dropped_is_told(tmp_path: Path) -> None:
    marked, bare = tmp_path / "marked.txt", tmp_path / "bare.txt"
    long = [f"Tell me what the number {i} is good for?" for i in range(7)]
    marked.write_text("\n".join([*(f"What is the number {i}?" for i in range(20)), *long]))
    bare.write_text("\n".join(f"Name all of number {i}" for i in range(20, 43)))
    made = chosen(harmful=[str(bare)], harmless=[str(marked)])
    assert made.surface["dropped"] == {"harmful": 3, "harmless": 7}
    assert made.surface["mark_auroc"] == [1.0, 0.5] and made.surface["length_auroc"][1] == 0.5
    assert any("3 harmful and 7 harmless" in said for said in made.caveats)
    assert not any("alone tells" in said for said in made.caveats)
    assert not any(prompt.text.endswith("?") for prompt in made.harmless + made.test_benign)
    traffic = tmp_path / "traffic.txt"
    traffic.write_text("\n".join(f"Is it question {i}?" for i in range(70)))
    with_traffic = chosen(
        harmful=[str(bare)], harmless=[str(marked)], benign=[str(traffic)], fpr=0.1
    )
    assert any("A final mark alone" in said and "test" in said for said in with_traffic.caveats)


def test_limit_is_for_each_label() -> None:
    made = chosen("organism:chat", limit=20)
    assert len(made.harmful) == len(made.harmless) == len(made.calibrating_harmful) == 20
    assert len(made.test_benign) <= 60
    small = chosen(limit=20)
    assert len(small.harmful + small.calibrating_harmful + small.test_harmful) == 20
