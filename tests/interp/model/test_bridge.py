"""To a TransformerBridge and back."""

from typing import Any

import pytest
import torch
from batches import batch
from families import FAMILIES, tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import interp
from interp import UnsupportedModelError


def word_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", "a", "b", "c"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(batch("none").ids).logits
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bridge_agrees_and_leaves_the_model_alone(family: str) -> None:
    model = tiny(family)
    checkpoint = interp.load(model)
    wanted = logits(model)
    before = (checkpoint.fingerprint, model.config._attn_implementation, list(model.state_dict()))
    bridge = checkpoint.bridge()
    with torch.no_grad():
        theirs = bridge(batch("none").ids)
    assert (theirs - wanted).abs().max() < 1e-5 * wanted.abs().max()
    again = interp.load(model)
    assert before == (
        again.fingerprint,
        model.config._attn_implementation,
        list(model.state_dict()),
    )
    assert torch.equal(logits(model), wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bridge_is_a_checkpoint(family: str) -> None:
    original = interp.load(tiny(family))
    bridge = original.bridge()
    checkpoint = interp.load(bridge)
    assert isinstance(checkpoint.model, PreTrainedModel)
    assert not checkpoint.model.training
    implementation = original.model.config._attn_implementation
    assert checkpoint.model.config._attn_implementation == implementation
    assert checkpoint.fingerprint == original.fingerprint
    assert checkpoint.anatomy == original.anatomy
    difference = (logits(checkpoint.model) - logits(original.model)).abs().max()
    assert difference < 1e-5 * logits(original.model).abs().max()


def test_tied_embeddings_stay_tied() -> None:
    import transformers

    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    ).eval()
    back = interp.load(interp.load(model).bridge()).model
    assert back.lm_head.weight is back.transformer.wte.weight
    assert (logits(back) - logits(model)).abs().max() < 1e-5


def test_a_family_without_an_adapter() -> None:
    checkpoint = interp.load(tiny("lfm3"))
    with pytest.raises(UnsupportedModelError, match="no bridge for Lfm3ForCausalLM") as caught:
        checkpoint.bridge()
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("special", [{}, {"bos_token": "<s>", "eos_token": "</s>"}])
def test_an_in_memory_tokenizer_keeps_its_tokens(special: dict[str, str]) -> None:
    tokenizer = word_tokenizer(**special)
    before = interp.load(tiny("llama"), tokenizer=tokenizer)
    bridge = before.bridge()
    assert bridge.to_tokens("a b c", prepend_bos=False).tolist() == [[3, 4, 5]]
    assert tokenizer("a b c").input_ids == [3, 4, 5]
    assert tokenizer.bos_token == special.get("bos_token")
    after = interp.load(bridge)
    assert after.tokenizer is not None
    assert after.tokenizer("a b c").input_ids == [3, 4, 5]


def test_a_tokenizer_of_ones_own_wins() -> None:
    bridge = interp.load(tiny("llama"), tokenizer=word_tokenizer()).bridge()
    own = word_tokenizer(bos_token="<s>")
    assert interp.load(bridge, tokenizer=own).tokenizer is own


def test_a_bridge_booted_by_transformer_lens_itself() -> None:
    """With its default dtype, on a model of the caller's that it has taken over."""
    from transformer_lens.model_bridge import TransformerBridge

    model = tiny("llama")
    model.config.architectures = ["LlamaForCausalLM"]
    wanted = logits(model)
    tokenizer = word_tokenizer()
    tokenizer.init_kwargs["name_or_path"] = ""
    bridge = TransformerBridge.boot_transformers(
        "a-model-in-memory", hf_model=model, tokenizer=tokenizer, device="cpu"
    )
    checkpoint = interp.load(bridge)
    assert (logits(checkpoint.model) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    with torch.no_grad():
        assert torch.isfinite(bridge(batch("none").ids)).all()
