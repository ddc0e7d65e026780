"""The punctuation confound on published prompts: what a probe reads in a model that knows nothing.

    python benchmarks/punctuation.py --out runs/punctuation.json --doc docs/nulls.md

A GPT-2 built from its config has random weights, so whatever a probe finds at the last token of an
instruction is the prompts' surface. The files come from the folder that MECHGUARD_REFERENCE names.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from shared import rewrite, write
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
from probes import MassMean, auroc
from probes.statistics.floors import last_token_floor, length_floor, lexical_floor, surface_caveats
from probes.statistics.nulls import shuffled_label_null

SEEDS = (0, 1, 2)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
FORMS: dict[str, Callable[[PromptSet], PromptSet]] = {
    "as published": lambda prompts: prompts,
    "marks stripped": lambda prompts: equalise(prompts, length=False).prompts,
    "and lengths matched": lambda prompts: equalise(prompts).prompts,
}


def ignorant(reference: Path, seed: int) -> Checkpoint:
    """A GPT-2 of random weights (6 layers of width 128) with the real tokenizer and ChatML."""
    files = [
        str(reference / "models/gpt2-tokenizer" / name) for name in ("vocab.json", "merges.txt")
    ]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=ByteLevelBPETokenizer(*files)._tokenizer, eos_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=128, n_layer=6, n_head=4, n_positions=512
    )
    return interp.load(transformers.GPT2LMHeadModel(config), tokenizer=tokenizer)


def pairs(reference: Path) -> dict[tuple[str, str], tuple[PromptSet, PromptSet | None]]:
    """Train and test prompts; without a test side the one source is split in halves."""
    folder = reference / "prompts"
    advbench = named("advbench", folder / "advbench/advbench.csv")
    strongreject = named("strongreject", folder / "strongreject/strongreject.csv")
    tasks = read_prompts(folder / "seed_tasks/seed_tasks.jsonl", "harmless", source="seed_tasks")
    xstest = named("xstest", folder / "xstest/xstest_prompts.csv").of("alarming")
    safe = PromptSet(tuple(replace(prompt, label="harmless") for prompt in xstest))
    return {
        ("AdvBench, seed tasks", "other half"): (advbench + tasks, None),
        ("AdvBench, seed tasks", "StrongREJECT, XSTest safe"): (
            advbench + tasks,
            strongreject + safe,
        ),
        ("StrongREJECT, seed tasks", "AdvBench, XSTest safe"): (
            strongreject + tasks,
            advbench + safe,
        ),
        ("StrongREJECT, XSTest safe", "AdvBench, seed tasks"): (
            strongreject + safe,
            advbench + tasks,
        ),
    }


def measure(checkpoints: list[Checkpoint], train: PromptSet, test: PromptSet) -> dict[str, Any]:
    """Mass-mean probes at t_inst in every layer, their null, and the floors."""
    sides = (train, test)
    fit, held = (np.array([p.label == "harmful" for p in side]) for side in sides)
    rows = [prompt_rows(checkpoints[0], side) for side in sides]
    probes, nulls = [], []
    for checkpoint in checkpoints:
        x, z = (prompt_states(checkpoint, some).t_inst for some in rows)
        for layer in range(x.shape[1]):
            scores = MassMean().fit(x[:, layer], fit).decision_function(z[:, layer])
            probes.append(auroc(scores, held).value)
        nulls.append(shuffled_label_null(x, fit, z, held).q95)
    tokens = [np.array([row.ids[t_inst(row)] for row in some]) for some in rows]
    words = [np.array([len(p.text.split()) for p in side]) for side in sides]
    texts = [[p.text for p in side] for side in sides]
    return {
        "train": [int(fit.sum()), int((~fit).sum())],
        "test": [int(held.sum()), int((~held).sum())],
        "probe": [min(probes), max(probes)],
        "null_q95": max(nulls),
        "last_token": asdict(last_token_floor(tokens[0], fit, tokens[1], held)),
        "words": asdict(lexical_floor(texts[0], fit, texts[1], held)),
        "length": asdict(length_floor(words[0], fit, words[1], held)),
        "caveats": surface_caveats(train, "harmful", "harmless"),
    }


def document(results: list[dict[str, Any]]) -> str:
    """The section of the documentation."""
    lines = [
        "Held-out AUROC of harmful against harmless at the last token of the instruction, in a "
        f"GPT-2 of **random weights** (6 layers of width 128; {len(SEEDS)} seeds) with the GPT-2 "
        "tokenizer and ChatML. Probe: mass-mean, lowest to highest over layers and seeds. Null: "
        "95th percentile of the best layer under shuffled labels, the highest of the seeds. "
        "Floors: logistic regression on the last token's id alone, on the words, and the number "
        "of words.",
        "",
        "| trained on | tested on | prompts | n harmful, harmless | probe | null "
        "| last token alone | words | length |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        low, high = one["last_token"]["interval"]
        lines.append(
            f"| {one['trained_on']} | {one['tested_on']} | {one['form']} | {one['test'][0]}, "
            f"{one['test'][1]} | {one['probe'][0]:.3f} to {one['probe'][1]:.3f} | "
            f"{one['null_q95']:.3f} | {one['last_token']['value']:.3f} ({low:.3f} to {high:.3f}) | "
            f"{one['words']['value']:.3f} | {one['length']['value']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure all pairs in all forms and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--reference",
        type=Path,
        default=os.environ.get("MECHGUARD_REFERENCE", "../shared/reference"),
        help="folder of the published prompts and the tokenizer",
    )
    parser.add_argument("--doc", type=Path, help="rewrite this document's section")
    arguments = parser.parse_args()
    checkpoints = [ignorant(arguments.reference, seed) for seed in SEEDS]
    results = []
    for (trained_on, tested_on), (train, test) in pairs(arguments.reference).items():
        for form, prepare in FORMS.items():
            if test is None:
                fit, held = split_at_random(prepare(train), (0.5, 0.5))
            else:
                held, fit = without_duplicates(prepare(test), prepare(train))
            found = measure(checkpoints, fit, held)
            results.append(
                {"trained_on": trained_on, "tested_on": tested_on, "form": form, **found}
            )
            print(trained_on, "→", tested_on, form, found["probe"], flush=True)
    write(arguments.out, json.dumps(results, indent=1) + "\n")
    print(document(results))
    if arguments.doc:
        rewrite(arguments.doc, "The punctuation confound", document(results))


if __name__ == "__main__":
    main()
