"""The punctuation confound on published prompts: a model of random weights tells them apart."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer

import interp
from interp.capture.prompt_states import prompt_rows, prompt_states
from interp.checkpoint import Checkpoint
from interp.data.named_sets import named
from interp.data.prompt_sets import (
    PromptSet,
    equalise,
    read_prompts,
    split_at_random,
    without_duplicates,
)
from interp.data.segments import t_inst
from probes.estimators.mass_mean import MassMean
from probes.statistics.floors import last_token_floor, surface_caveats
from probes.statistics.metrics import auroc
from probes.statistics.nulls import shuffled_label_null

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture
def ignorant(reference: Callable[[str], Path]) -> Checkpoint:
    """A GPT-2 of random weights with the real tokenizer."""
    folder = reference("models/gpt2-tokenizer")
    core = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core._tokenizer, eos_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=64, n_layer=3, n_head=4, n_positions=512
    )
    torch.manual_seed(0)
    return interp.load(transformers.GPT2LMHeadModel(config), tokenizer=tokenizer)


@dataclass(frozen=True)
class Sets:
    advbench: PromptSet
    strongreject: PromptSet
    tasks: PromptSet
    xstest: PromptSet


@pytest.fixture
def sets(reference: Callable[[str], Path]) -> Sets:
    tasks = reference("prompts/seed_tasks/seed_tasks.jsonl")
    xstest = named("xstest", reference("prompts/xstest/xstest_prompts.csv")).of("alarming")
    return Sets(
        named("advbench", reference("prompts/advbench/advbench.csv")),
        named("strongreject", reference("prompts/strongreject/strongreject.csv")),
        read_prompts(tasks, "harmless", source="seed_tasks"),
        PromptSet(tuple(replace(prompt, label="harmless") for prompt in xstest)),
    )


def read(
    checkpoint: Checkpoint, train: PromptSet, test: PromptSet
) -> tuple[list[float], float, float]:
    """AUROC at t_inst by layer, of the last token's id alone, and the null of the best layer."""
    rows = [prompt_rows(checkpoint, side) for side in (train, test)]
    y, held = (np.array([p.label == "harmful" for p in side]) for side in (train, test))
    x, z = (prompt_states(checkpoint, some).t_inst for some in rows)
    probes = [
        auroc(MassMean().fit(x[:, layer], y).decision_function(z[:, layer]), held).value
        for layer in range(x.shape[1])
    ]
    tokens = [np.array([row.ids[t_inst(row)] for row in some]) for some in rows]
    floor = last_token_floor(tokens[0], y, tokens[1], held)
    return probes, floor.value, shuffled_label_null(x, y, z, held, permutations=199).q95


def test_a_random_model_reads_the_mark_and_equalising_takes_it_away(
    ignorant: Checkpoint, sets: Sets
) -> None:
    published = sets.advbench + sets.tasks
    probes, floor, null = read(ignorant, *split_at_random(published, (0.5, 0.5)))
    # Random weights tell harmful from harmless nearly perfectly, far above shuffled labels. Only
    # the last-token floor shows that nothing was understood.
    assert min(probes) > 0.9 > null + 0.25
    assert floor > max(probes) > floor - 0.06
    (caveat,) = surface_caveats(published, "harmful", "harmless")
    assert "AUROC 0.99" in caveat and "100 % of the harmful ones end in a letter" in caveat

    equal = equalise(published)
    assert equal.mark_auroc[0] > 0.95 and equal.mark_auroc[1] < 0.51
    assert surface_caveats(equal.prompts, "harmful", "harmless") == []
    after, floor_after, _ = read(ignorant, *split_at_random(equal.prompts, (0.5, 0.5)))
    # What is left is the last word, and the floor of the last token has it all.
    assert max(after) < min(probes) - 0.15
    assert max(after) < floor_after + 0.05 and floor_after < floor - 0.15


def test_from_one_source_to_another_the_mark_turns_the_probe_around(
    ignorant: Checkpoint, sets: Sets
) -> None:
    """Trained where harmless prompts end in a mark, tested where the harmful ones do."""
    train, test = sets.advbench + sets.tasks, sets.strongreject + sets.xstest
    probes, floor, _ = read(ignorant, train, test)
    assert max(probes) < 0.35 and floor < 0.4
    held, fit = without_duplicates(
        equalise(test, length=False).prompts, equalise(train, length=False).prompts
    )
    stripped, _, _ = read(ignorant, fit, held)
    assert all(0.45 < value < 0.62 for value in stripped)
