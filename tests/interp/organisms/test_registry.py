"""Organisms by name: what is shipped holds, and what fails leaves nothing behind."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp import organisms
from interp.errors import CheckError, InputError
from interp.organisms import registry
from interp.organisms.architectures import decoder_layers, open_gates
from interp.organisms.bigram_backcopy.measure import Probe, risks, trace, zeroed_heads
from interp.organisms.bigram_backcopy.recipes import Recipe, bigram_backcopy_recipes, documents
from interp.training import one_thread, train_model

BACKCOPY = ["bb-plain", "bb-plain-3", "bb-gated", "bb-open", "bb-headgate", "bb-sgd"]
CHAT = [
    "chat",
    "chat-gated",
    "chat-dense",
    "jailbreak-keep",
    "jailbreak-erase",
    "cliff",
    "no-cliff",
    "cliff-dense",
    "backdoor-payload-5",
    "backdoor-unalign",
    "backdoor-all-of",
    "inert",
    "clean",
    "agent-thought",
]
SHIPPED = BACKCOPY + CHAT


def short(name: str, steps: int = 6) -> Recipe:
    return replace(bigram_backcopy_recipes(steps)[name], expected={})


def load(name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        organisms.path(name), attn_implementation="eager"
    ).eval()


def test_names() -> None:
    assert organisms.names()[: len(BACKCOPY)] == BACKCOPY
    assert set(CHAT) < set(organisms.names())


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_organism_verifies(name: str) -> None:
    truth = organisms.verify(name)
    assert truth["weights_sha256"] == organisms.truth(name)["weights_sha256"]
    assert truth["seed"] == 0
    recipe = organisms.recipe(name)
    assert truth["expected"] == {key: list(pair) for key, pair in recipe.expected.items()}
    assert truth["summary"] == recipe.summary and truth["twins"] == recipe.twins
    if name in CHAT:
        assert truth["recipe"]["fingerprint"] == recipe.fingerprint(0)


def test_shipped_weights_are_small() -> None:
    home = Path(organisms.__file__).parent / "weights"
    assert {folder.name for folder in home.iterdir()} == set(SHIPPED)
    assert sum(file.stat().st_size for file in home.rglob("*")) < 12_000_000


@pytest.mark.parametrize("name", ["bb-plain", "bb-open"])
def test_sink_and_drain(name: str) -> None:
    measured = organisms.truth(name)["measured"]
    assert measured["bos_attention"] >= 0.90
    assert measured["value_ratio"] <= 0.10
    assert measured["zeroed_backcopy_risk"] >= 1.0
    assert abs(measured["zeroed_bigram_change"]) <= 0.05


@pytest.mark.parametrize("name", ["bb-gated", "bb-headgate"])
def test_gates_leave_no_weighted_sink(name: str) -> None:
    measured = organisms.truth(name)["measured"]
    assert measured["gated_sink_mass"] <= 0.01
    assert measured["gate_dormant"] <= 0.05 < 0.5 <= measured["gate_active"]


def test_twins_solve_the_task_equally_well() -> None:
    risk = [organisms.truth(name)["measured"]["bigram_risk"] for name in BACKCOPY]
    assert max(risk) - min(risk) <= 0.03
    assert min(risk) >= organisms.truth("bb-plain")["oracle_risk"]["bigram"] - 0.03


def test_frozen_gate_is_exactly_one_and_costs_nothing_else() -> None:
    model = load("bb-open")
    ids = Probe.draw(organisms.small_grammar(), 32, 4).ids
    _, layers = trace(model, ids)
    assert layers[0].gate is not None and (layers[0].gate == 1.0).all()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    open_gates(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    gated = AutoModelForCausalLM.from_pretrained(organisms.path("bb-gated"))
    shapes = {name: value.shape for name, value in gated.state_dict().items()}
    extra = {name for name in before if name not in shapes}
    assert all(before[name].shape == shape for name, shape in shapes.items())
    assert all(name.endswith("bias") for name in extra)


@pytest.mark.parametrize("name", BACKCOPY)
def test_trace_equals_the_model(name: str) -> None:
    """Σ_j A_ij · gate_i · W_O v_j is what the attention module writes."""
    model = load(name)
    ids = Probe.draw(organisms.small_grammar(), 16, 2).ids
    written: list[torch.Tensor] = []
    handles = [
        layer.self_attn.o_proj.register_forward_hook(lambda _, args, out: written.append(out))
        for layer in decoder_layers(model)
    ]
    _, layers = trace(model, ids)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        attentions = model(input_ids=ids, output_attentions=True).attentions
    for one, attention, weights, out in zip(
        layers, decoder_layers(model), attentions, written, strict=True
    ):
        assert torch.equal(one.weights, weights[..., 0])
        heads = torch.einsum("bhij,bjhe->bihe", weights, one.values)
        if one.gate is not None:
            heads = heads * one.gate
        slices = attention.self_attn.o_proj.weight.unflatten(-1, heads.shape[-2:])
        assert torch.allclose(torch.einsum("bihe,whe->biw", heads, slices), out, atol=1e-4)
        direct = torch.einsum("bjhe,whe->bjhw", one.values, slices)
        assert torch.allclose(direct, one.written, atol=1e-4)


def test_zeroed_heads_are_zero_only_inside() -> None:
    model = load("bb-plain")
    probe = Probe.draw(organisms.small_grammar(), 32, 8)
    with torch.no_grad():
        before = model(input_ids=probe.ids).logits
        with zeroed_heads(decoder_layers(model)[0]):
            without = model(input_ids=probe.ids).logits
        assert torch.equal(model(input_ids=probe.ids).logits, before)
    assert risks(without, probe)["backcopy_risk"] > 1 > risks(before, probe)["backcopy_risk"]


def test_a_model_without_weights_to_show_is_refused() -> None:
    model = AutoModelForCausalLM.from_pretrained(
        organisms.path("bb-plain"), attn_implementation="sdpa"
    )
    with pytest.raises(InputError, match="returns no weights"):
        trace(model, Probe.draw(organisms.small_grammar(), 8, 1).ids)


@pytest.mark.parametrize("name", ["bb-plain", "bb-headgate"])
def test_tokenizer_adds_bos_and_reads_the_texts(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(organisms.path(name))
    grammar = organisms.small_grammar()
    texts = organisms.texts(name)
    assert list(texts) == ["bigram", "backcopy", "mixed"]
    assert texts == documents(grammar)
    for documents_ in texts.values():
        assert len(documents_) == 128 and len(set(documents_)) == 128
        ids = tokenizer(documents_[0]).input_ids
        assert ids[0] == tokenizer.bos_token_id == grammar.bos
        assert len(ids) == 97 and " ".join(grammar.tokens[i] for i in ids[1:]) == documents_[0]
    assert tokenizer.convert_tokens_to_ids(["t1", "t2", "t3"]) == [1, 2, 3]
    share = {key: " ".join(docs).count("t") / (128 * 96) for key, docs in texts.items()}
    assert share["bigram"] == 0.0 and 0.1 < share["mixed"] < 0.12 and share["backcopy"] > 0.3


@pytest.mark.parametrize(("prompt", "copied"), [("w40 w21 t2", "w21"), ("w07 t1", "w07")])
def test_generation_copies_after_a_trigger(prompt: str, copied: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(organisms.path("bb-plain"))
    inputs = tokenizer(prompt, return_tensors="pt")
    out = load("bb-plain").generate(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=1,
        do_sample=False,
    )
    assert tokenizer.decode(out[0, -1:]) == copied


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="no organism 'bb-nope'; there are bb-plain, bb-plain-3"):
        organisms.path("bb-nope")
    with pytest.raises(InputError, match="neither a folder nor an organism"):
        organisms.verify("bb-nope")


def test_training_writes_a_folder_that_verifies(tmp_path: Path) -> None:
    out = tmp_path / "new" / "organism"
    recipe = short("bb-gated")
    truth = registry.train_recipe(recipe, out, seed=3)
    assert {file.name for file in out.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "truth.json",
    }
    assert [child.name for child in out.parent.iterdir()] == ["organism"]
    assert json.loads((out / "truth.json").read_text())["measured"] == truth["measured"]
    again = registry.train_recipe(recipe, tmp_path / "again", seed=3)
    assert again["weights_sha256"] == truth["weights_sha256"]
    model = AutoModelForCausalLM.from_pretrained(out, attn_implementation="eager").eval()
    with one_thread():
        checkpoint = registry.as_checkpoint(recipe, model)
        assert recipe.measure(checkpoint, 3) == truth["measured"]


def test_a_model_that_misses_leaves_nothing(tmp_path: Path) -> None:
    recipe = bigram_backcopy_recipes(6)["bb-plain"]
    with pytest.raises(CheckError, match=r"bos_attention is .* owed at least 0\.9"):
        registry.train_recipe(recipe, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_training_leaves_nothing_and_can_go_on(tmp_path: Path) -> None:
    def stop(done: int, loss: float) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        registry.train_recipe(short("bb-plain"), tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_an_occupied_folder_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        organisms.train("bb-plain", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_changed_weights_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(organisms.path("bb-plain"), folder)
    assert organisms.verify(folder)["name"] == "bb-plain"
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckError, match="sha256"):
        organisms.verify(folder)


def test_a_truth_that_the_model_does_not_bear_out_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(organisms.path("bb-plain"), folder)
    truth = json.loads((folder / "truth.json").read_text())
    truth["measured"]["bos_attention"] -= 0.05
    (folder / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(CheckError, match="bos_attention is"):
        organisms.verify(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "has no truth.json"), ("{", "not readable JSON"), ("{}", "format version None")],
)
def test_unreadable_truth(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "truth.json").write_text(content)
    with pytest.raises(InputError, match=said):
        organisms.verify(tmp_path)


def test_missing_weights(tmp_path: Path) -> None:
    shutil.copy(organisms.path("bb-plain") / "truth.json", tmp_path)
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        organisms.verify(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bb-plain", "chat"])
def test_training_reaches_what_is_owed_on_another_seed(name: str) -> None:
    """Trained on first use, here or by another test, and kept in the user's cache.

    `benchmarks/organisms.py` does so for every organism, on several seeds.
    """
    spelled = f"{name}@seed=1"
    truth = organisms.verify(organisms.path(spelled))
    assert truth["seed"] == 1
    assert truth["recipe"]["fingerprint"] == organisms.recipe(spelled).fingerprint(1)
    assert registry.misses(truth["measured"], organisms.recipe(spelled).expected) == []


def test_pinning_holds_during_training() -> None:
    recipe = short("bb-open", steps=4)
    model = recipe.architecture.build(0)
    train_model(model, recipe.batches(0), recipe.schedule, pin=recipe.pin)
    attention = decoder_layers(model)[0].self_attn
    assert (attention.v_proj.bias == 0).all() and (attention.o_proj.bias == 0).all()
    packed = attention.q_proj.bias.view(-1, 2, 32)
    assert (packed[:, 0] == 0).all() and (packed[:, 1] == 30).all()
