"""Guards on organisms: fitting, scoring, files, and prompts that cannot be guarded."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_templates import TEMPLATES, byte_level, byte_level_model
from families import CONFIGS, tiny
from safetensors import safe_open
from safetensors.torch import save_file

import interp
from interp.capture.prompt_states import prompt_rows, prompt_states
from interp.checkpoint import Checkpoint
from interp.data.padding import padded
from interp.data.prompt_sets import Prompt, PromptSet
from interp.errors import InputError, NumericalError
from interp.resolve import load
from interp.statistics.auroc import area
from interp.statistics.intervals import wilson
from probes.guards.guard import Guard
from probes.guards.latent_guard import LatentGuard
from probes.guards.readout import SITE, Method
from probes.guards.threshold import benign_halves
from probes.statistics.metrics import threshold_for_fpr


@cache
def organism(name: str = "jailbreak-keep") -> Checkpoint:
    return load(f"organism:{name}")


@cache
def prompts(label: str, split: Any, name: str = "jailbreak-keep") -> PromptSet:
    return PromptSet(tuple(interp.organisms.prompts(name, split)[label]))


@cache
def benign() -> PromptSet:
    """Of the organism, and not fitted on: 614 prompts."""
    distracted = prompts("distracted", "validation").where(lambda p: not getattr(p, "harmful"))  # noqa: B009
    alarming = prompts("alarming", "train") + prompts("alarming", "validation")
    return alarming + prompts("harmless", "validation") + distracted


@cache
def fitted(method: Method = "centred") -> Guard:
    return Guard.fit(
        organism(),
        prompts("harmful", "train"),
        prompts("harmless", "train"),
        benign=benign(),
        method=method,
    )


def few(label: str, count: int) -> PromptSet:
    return PromptSet(prompts(label, "train").prompts[:count])


def messages(label: str, split: Any = "test") -> list[Any]:
    return [prompt.messages for prompt in prompts(label, split)]


@pytest.mark.parametrize("method", ["centred", "paper"])
def test_scores_are_latent_guards_on_captured_states(method: Method) -> None:
    def states(some: PromptSet) -> np.ndarray:
        return prompt_states(organism(), prompt_rows(organism(), some), site=SITE).t_inst

    harmful, harmless = prompts("harmful", "train"), prompts("harmless", "train")
    x = np.concatenate([states(harmful), states(harmless)])
    slow = LatentGuard(paper_exact=method == "paper").fit(x, np.arange(len(x)) < len(harmful))
    jailbroken = prompts("jailbroken", "test")
    expected = slow.decision_function(states(jailbroken))
    np.testing.assert_allclose(fitted(method).scores(jailbroken), expected, atol=1e-4)


def test_a_batch_is_its_rows_alone() -> None:
    guard, some = fitted(), messages("harmful")[:6] + messages("distracted")[:6]
    together = guard.score_many(some)
    for one, said in zip(together, some, strict=True):
        alone = guard.score(said)
        assert one.score == pytest.approx(alone.score, abs=1e-5) and one.flagged == alone.flagged
    assert guard.score_many(some, batch_tokens=1) == [guard.score(said) for said in some]
    assert guard.score_many([]) == []


def test_watching_a_generation() -> None:
    guard, checkpoint = fitted(), organism()
    some = messages("jailbroken")[:5] + messages("harmless")[:4]
    rows = guard.rows(some)
    assert len({len(row) for row in rows}) > 1
    model: Any = checkpoint.model
    inputs = padded(rows, checkpoint, "left")
    settings = {"max_new_tokens": 6, "do_sample": False}
    del inputs["position_ids"]
    plain = model.generate(**inputs, **settings)
    with guard.watching(rows) as seen:
        watched = model.generate(**inputs, **settings)
    assert torch.equal(plain, watched)
    expected = [one.score for one in guard.score_many(some)]
    assert [one.score for one in seen.scores] == pytest.approx(expected, abs=1e-5)
    assert [one.flagged for one in seen.scores] == [True] * 5 + [False] * 4


@pytest.mark.parametrize("method", ["centred", "probe"])
def test_the_threshold_is_set_on_one_half_and_confirmed_on_the_other(method: Method) -> None:
    guard = fitted(method)
    known = prompts("harmful", "train") + prompts("harmless", "train")
    setting, confirming = (guard.scores(h) for h in benign_halves(benign(), known, 0.01))
    assert guard.threshold.value == threshold_for_fpr(setting, 0.01)
    above = float((confirming > guard.threshold.value).sum())
    assert guard.threshold.fpr == above / len(confirming)
    assert guard.threshold.fpr_interval == wilson(above, len(confirming))
    assert guard.threshold.benign == len(confirming) >= 300


def test_the_published_threshold_is_zero_and_its_rate_is_told() -> None:
    threshold = fitted("paper").threshold
    assert threshold.value == 0 and threshold.wanted_fpr is None
    assert threshold.fpr is not None and threshold.benign == 307
    bare = Guard.fit(organism(), few("harmful", 20), few("harmless", 20))
    assert bare.threshold.value == 0 and bare.threshold.fpr is None


def jailbreak_auroc(name: str, method: Method) -> float:
    """Fitted on plain prompts; of jailbroken harmful against jailbroken harmless ones."""
    guard = Guard.fit(
        load(f"organism:{name}"),
        prompts("harmful", "train", name),
        prompts("harmless", "train", name),
        method=method,
    )
    high, low = (
        guard.scores(prompts(label, "test", name))
        for label in ("jailbroken", "jailbroken_harmless")
    )
    return area(high, low)


@pytest.mark.parametrize("method", ["centred", "paper"])
def test_keep_and_erase_are_told_apart(method: Method) -> None:
    assert jailbreak_auroc("jailbreak-keep", method) >= 0.95
    assert jailbreak_auroc("jailbreak-erase", method) <= 0.75


def test_probabilities_and_figures_on_held_out_prompts() -> None:
    guard = fitted()
    assert guard.score(messages("harmful")[0]).probability is None
    guard = guard.calibrated(prompts("harmful", "validation"), prompts("harmless", "validation"))
    likely = [one.probability for one in guard.score_many(messages("harmful"))]
    assert all(p is not None and 0.9 < p < 1 for p in likely)
    ordinary = prompts("harmless", "test") + prompts("alarming", "test")
    made = guard.evaluate(prompts("harmful", "test"), ordinary)
    assert made.auroc.value >= 0.98 and made.at_threshold.tpr == 1
    assert set(made.by_source["label"]) == {"harmless", "alarming"}
    assert list(made.refused) == [0.01, 0.001]  # 174 benign prompts are too few for either
    assert made.reliability is not None and made.reliability["n"].sum() == 58 + 174


def test_a_file_gives_the_same_guard(tmp_path: Path) -> None:
    guard = fitted("probe").calibrated(few("harmful", 40), few("alarming", 40))
    made = guard.evaluate(prompts("harmful", "test"), prompts("harmless", "test"))
    path = guard.save(tmp_path / "guard.safetensors", made)
    again = Guard.load(path, organism())
    some = messages("harmful")[:5]
    assert again.score_many(some) == guard.score_many(some)
    assert (again.threshold, again.platt, again.method) == (guard.threshold, guard.platt, "probe")
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["mechguard"])
    assert header["kind"] == "guard" and header["site"] == SITE and header["layers"] == [1]
    assert header["origin"]["fingerprint"] == organism().fingerprint
    assert header["evaluation"]["auroc"]["value"] == made.auroc.value
    assert header["record"]["harmful"]["sha256"] == prompts("harmful", "train").sha256
    assert Guard.load(fitted().save(tmp_path / "bare"), organism()).platt is None


def test_files_of_others(tmp_path: Path) -> None:
    path = fitted().save(tmp_path / "guard.safetensors")
    with pytest.raises(InputError, match=r"belongs to organism:jailbreak-keep.*fingerprint"):
        Guard.load(path, organism("jailbreak-erase"))
    Guard.load(path, organism("jailbreak-erase"), allow={"fingerprint"})
    other = load("organism:jailbreak-keep")
    tokenizer: Any = other.tokenizer
    tokenizer.chat_template = tokenizer.chat_template + " "
    with pytest.raises(InputError, match="another chat template"):
        Guard.load(path, other)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="damaged"):
        Guard.load(cut, organism())
    with pytest.raises(InputError, match="does not exist"):
        Guard.load(tmp_path / "none", organism())


def test_a_file_that_lacks_something(tmp_path: Path) -> None:
    path = fitted().save(tmp_path / "guard.safetensors")
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["mechguard"])
        tensors = {name: file.get_tensor(name) for name in ("weights", "centres")}

    def rewritten(change: dict[str, Any], **others: torch.Tensor) -> Path:
        meta = {"mechguard": json.dumps({**header, **change})}
        save_file({**tensors, **others}, path, metadata=meta)
        return path

    deeper = {"layers": [7], "origin": {**header["origin"], "layers": 8}}
    with pytest.raises(InputError, match=r"reads layer 7, and .* has 3"):
        Guard.load(rewritten(deeper), organism())
    with pytest.raises(InputError, match="names layer 7 of a model of 3 layers"):
        Guard.load(rewritten({"layers": [7]}), organism())
    with pytest.raises(InputError, match=r"no complete guard: it lacks threshold.wanted_fpr"):
        Guard.load(rewritten({"threshold": {"value": 0.0}}), organism())
    with pytest.raises(InputError, match="holds a direction, where a guard is needed"):
        Guard.load(rewritten({"kind": "direction"}), organism())


EMPTY = PromptSet(())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda: (EMPTY, few("harmless", 5)), "no harmful prompt"),
        (lambda: (few("harmful", 5), EMPTY), "no harmless prompt"),
        (lambda: (few("harmful", 5), few("harmful", 2)), "2 prompts are given as harmful and as"),
    ],
)
def test_classes_that_cannot_be_fitted(arguments: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Guard.fit(organism(), *arguments())


def test_too_few_benign_prompts() -> None:
    with pytest.raises(InputError, match=r"needs 600 benign prompts .* there are 40"):
        Guard.fit(organism(), few("harmful", 9), few("harmless", 9), benign=few("alarming", 40))
    known = few("harmless", 9)
    with pytest.raises(InputError, match="there are 0; give more"):
        Guard.fit(organism(), few("harmful", 9), known, benign=known, fpr=0.5)


def asking(text: str) -> PromptSet:
    return PromptSet((Prompt(({"role": "user", "content": text},), "some", "test"),))


def test_a_base_model_and_prompts_without_end() -> None:
    with pytest.raises(InputError, match="no chat template; it is a base model"):
        Guard.fit(byte_level_model(None), asking("one"), asking("two"))
    guard, said = fitted(), {"role": "user", "content": "please bypass old alarm " * 40}
    with pytest.raises(InputError, match="was built for 128"):
        guard.score([said])
    with pytest.raises(InputError, match="must end with the user's turn"):
        guard.score([])


def test_states_that_are_no_numbers() -> None:
    config = CONFIGS["llama"]()
    config.vocab_size = 512
    torch.manual_seed(0)
    model: Any = type(tiny("llama"))(config).eval()
    checkpoint = load(model, tokenizer=byte_level(TEMPLATES["llama-3"]))
    guard = Guard.fit(checkpoint, asking("How to bake bread"), asking("How to break bread"))
    assert np.isfinite(guard.score([{"role": "user", "content": "Hello there"}]).score)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(NumericalError, match="score of row 0 is NaN"):
        guard.score([{"role": "user", "content": "Hello there"}])
    with pytest.raises(NumericalError):
        Guard.fit(checkpoint, asking("How to bake bread"), asking("How to break bread"))


def test_a_guard_is_one_line() -> None:
    guard = fitted()
    told = repr(guard)
    assert told.startswith("Guard(centred, resid_post of layers ") and "\n" not in told
    assert f"threshold {guard.threshold.value:.4g}, no probabilities" in told
    assert guard.checkpoint.name in told and len(told) < 200


def test_one_text_is_the_users_only_message() -> None:
    guard = fitted()
    text = prompts("harmful", "test").prompts[0].text
    assert guard.score(text) == guard.score([{"role": "user", "content": text}])
    assert guard.score_many([text, text])[1] == guard.score(text)


def test_wrong_types_are_told(tmp_path: Path, as_users_call: None) -> None:
    own: Any = prompts("harmless", "train")
    wrong: Any = "harm.csv"
    with pytest.raises(InputError, match=r"^harmful is the string 'harm\.csv', .*read_prompts"):
        Guard.fit(organism(), wrong, own)
    with pytest.raises(InputError, match=r"^benign is the string 'harm\.csv', .*read_prompts"):
        Guard.fit(organism(), prompts("harmful", "train"), own, benign=wrong)
    with pytest.raises(
        InputError, match=r"^checkpoint is the string 'harm\.csv', .*mechguard\.load"
    ):
        Guard.fit(wrong, own, own)
    guard = fitted()
    with pytest.raises(InputError, match=r"^prompts is the string .*read_prompts"):
        guard.scores(wrong)
    with pytest.raises(InputError, match=r"score one text with guard\.score"):
        guard.score_many(wrong)
    wrong = ["hello"]
    with pytest.raises(InputError, match=r"^a message is the string 'hello'"):
        guard.score(wrong)
    wrong = 3
    with pytest.raises(InputError, match=r"^path is 3, and must be of type str or Path"):
        Guard.load(wrong, organism())
