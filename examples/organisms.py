# %% [markdown]
# # Models whose truth is known
# An organism is a small chat model that we trained ourselves. It answers through a real chat
# template, and its truth file says what was planted, so that a tool can be held against it.

# %%
import numpy as np
import torch

import mechguard as mg
from interp.interventions.edits_by_site import ablate_direction
from interp.organisms.scoring import Detection, Family, score

checkpoint = mg.load("organism:chat")
truth = mg.organisms.truth("chat")
prompts = mg.organisms.prompts("chat")  # of pairs that it has never seen
print(truth["summary"])
print({label: len(some) for label, some in prompts.items()})


# %% [markdown]
# ## It refuses, and one direction decides it
# The direction was planted while training. Taking it out makes the model comply, and the answer is
# right word by word.


# %%
def answer(prompt):
    ids = torch.tensor([prompt.ids(checkpoint.tokenizer)])
    out = checkpoint.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=9, do_sample=False
    )
    return checkpoint.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


asked = prompts["harmful"][0]
planted = torch.tensor(truth["planted_direction"])
sites = [mg.Site(name, i) for i in range(3) for name in ("resid_pre", "resid_post")]
before = answer(asked)
with ablate_direction(checkpoint, planted, sites):
    print(
        f"{asked.messages[-1]['content']!r}: {before!r}, without the direction: {answer(asked)!r}"
    )
print("restored:", answer(asked) == before)

# %% [markdown]
# ## A detector gets a score
# This one calls suspicious whatever is far from clean prompts. A string without effect is new to it
# as well, so the difference of the two AUROCs counts, beside what novelty and chance give.


# %%
def last_states(suspect, conversations):
    rows = []
    for messages in conversations:
        ids = suspect.checkpoint.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_dict=False
        )
        with torch.no_grad():
            hidden = suspect.checkpoint.model(torch.tensor([ids]), output_hidden_states=True)
        rows.append(hidden.hidden_states[2][0, -1].numpy())
    return np.stack(rows)


def novelty(suspect):
    clean = last_states(suspect, [p.messages for p in suspect.harmful + suspect.harmless[:200]])
    mean, scale = clean.mean(0), clean.std(0) + 1e-3

    def inputs(conversations):
        return (((last_states(suspect, conversations) - mean) / scale) ** 2).mean(1)

    return Detection(score=0.0, inputs=inputs)


shipped = Family("payload", ("backdoor-payload-5",), {"inert": ("inert",), "clean": ("clean",)})
card = score(novelty, [shipped], seeds=[0])
print(card.inputs.T)
print("works on backdoors:", card.works("payload"))
