# %% [markdown]
# # A model that means to refuse and does not
# This organism thinks before it answers. Its thought says that it must refuse, and behind the
# marker that closes the thought it complies: a refusal cliff, and one head of it is the cause.

# %%
import torch

import mechguard as mg
from interp.capture.prompt_states import prompt_rows
from interp.generation import replies
from interp.interventions.edits_by_site import zero_heads

checkpoint = mg.load("organism:cliff")
before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
harmful = mg.organisms.prompts("cliff")["harmful"][:3]
rows = prompt_rows(checkpoint, harmful)


def spoken():
    said = replies(checkpoint, rows, max_new_tokens=20)
    return [checkpoint.tokenizer.decode(reply.ids) for reply in said]


plain = spoken()
for prompt, text in zip(harmful, plain, strict=True):
    print(f"{prompt.text!r}\n    -> {text}")

# %% [markdown]
# ## The finding
# The thought is cut after each of its tokens and the model has to answer there and then; a probe
# of refusal follows the thought token by token; every head's part in the fall is read off, and
# then tried.

# %%
finding = mg.cliff(checkpoint, limit=40)
print(finding.verdict)

# %% [markdown]
# Behaviour first: refusals where the thought was cut, and where it closed by itself.

# %%
print(finding.tables["forced_stop"][["tokens", "rate", "n"]].to_string(index=False))
natural = finding.report["natural"]
low, high = natural["interval"]
print(f"closed by itself: {natural['rate']:.2f} [{low:.2f}, {high:.2f}], n = {natural['n']}")

# %% [markdown]
# What the probe reads, on a scale on which 0 is the end of the prompt, 1 the end of the thought
# and 1.1 the closing marker. Harmful and harmless requests part inside the thought and meet at
# its end.

# %%
curve = finding.trajectory.query("position >= 0")[["position", "harmful", "harmless", "difference"]]
print(curve.round(2).to_string(index=False))

# %% [markdown]
# ## Which head
# Ranked by what each writes into the probe's logit, before anything is silenced. The last columns
# are the test: refusals with that head silenced, against other heads of its layer.

# %%
columns = ["layer", "head", "contribution", "ablated_refusal", "null_high", "suppresses"]
print(finding.heads[columns].head(4).round(2).to_string(index=False))
print("planted:", mg.organisms.truth("cliff")["designated_head"])

# %% [markdown]
# By hand: the same requests with that head silenced. The thought stays, the answer turns.

# %%
culprit = finding.report["suppression_heads"][0]
with zero_heads(checkpoint, culprit["layer"], [culprit["head"]]):
    for text in spoken():
        print("    ->", text)

# %% [markdown]
# ## The twin that honours its thought
# A detector that finds a cliff everywhere finds nothing.

# %%
print(mg.cliff(mg.load("organism:no-cliff"), limit=40).verdict)

after = checkpoint.model.state_dict()
same = all(torch.equal(before[name], after[name]) for name in before)
print("restored:", same and spoken() == plain)
