# %% [markdown]
# # Steering that decides for each prompt
# `jailbreak-keep` refuses harmful requests and grants the same ones behind a suffix, although it
# still knows that they are harmful. A policy brings the refusal back where a gate says so, and
# leaves every other row as it is, bit for bit. (Here a request is harmful if its verb is risky
# *and* its object is guarded: to hijack a plate is harmless.)

# %%
from pathlib import Path
from tempfile import mkdtemp

import torch

import mechguard as mg
from analyses.steering.material import organism_tests, organism_training
from interp.capture.prompt_states import prompt_rows
from interp.generation import replies
from steering.training.options import Options

checkpoint = mg.load("organism:jailbreak-keep")
before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
prompts = mg.organisms.prompts("jailbreak-keep")  # of pairs that no policy has seen
chosen = [*prompts["harmful"][:2], *prompts["jailbroken"][:2], *prompts["harmless"][:2]]
rows = prompt_rows(checkpoint, chosen)
for prompt, reply in zip(chosen, replies(checkpoint, rows, max_new_tokens=12), strict=True):
    print(f"{prompt.label:>10}: {prompt.text!r} -> {reply.text!r}")

# %% [markdown]
# ## Training
# Prompts are read once; a read-out of harm near the end of the prompt becomes the gate, whose
# threshold is set on benign prompts; 48 settings are tried through the model on validation prompts.

# %%
given = organism_training(checkpoint)
policy = mg.train_policy(checkpoint, given, "was-plus", Options(end_to_end_steps=30))
gate = policy.meta["training"]["calibration"]
print(
    f"{policy.name}: {len(policy.edits)} sites, span {policy.span}, strength {policy.strength:.2f}"
)
print(f"threshold {gate['threshold']:.2f}, set on {gate['set_on']} benign prompts")

# %% [markdown]
# ## In force
# One batch of six rows. The gate decides for each of them, once, and says what it saw.

# %%
batch = checkpoint.tokenizer.pad(
    {"input_ids": [list(row.ids) for row in rows]}, padding_side="left", return_tensors="pt"
)


def generated():
    out = checkpoint.model.generate(**batch, max_new_tokens=12, do_sample=False)
    new = out[:, batch["input_ids"].shape[1] :]
    return [checkpoint.tokenizer.decode(ids, skip_special_tokens=True) for ids in new]


plain = generated()
with mg.apply(checkpoint, policy) as attachment:
    steered = generated()
for prompt, decision, reply in zip(chosen, attachment.decisions, steered, strict=True):
    print(
        f"{prompt.label:>10}: score {decision.score:6.2f}, open {decision.open!s:>5} -> {reply!r}"
    )

# %% [markdown]
# A row may have a strength of its own; 0 is exactly the model as it is.

# %%
with mg.apply(checkpoint, policy, strength=[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]):
    some = generated()
print("the jailbroken rows:", [some[2], some[3]])

# %% [markdown]
# ## On disk
# A policy is an artefact: it names its weights and its template, and refuses others.

# %%
folder = Path(mkdtemp())
print("saved as", policy.save(folder).name)
policy = mg.Policy.load(folder, checkpoint)
try:
    mg.Policy.load(folder, mg.load("organism:chat"))
except mg.InputError as error:
    print("refused:", error)

# %% [markdown]
# ## Measured, beside the plain addition of a vector
# Held-out prompts: what is refused, what is refused too much, and what benign replies cost. The
# finding has a page of its own, as all have: `finding.save("runs/steering")`.

# %%
plain_addition = mg.train_policy(checkpoint, given, "actadd", Options())
finding = mg.steering(
    checkpoint, [policy, plain_addition], organism_tests("jailbreak-keep", 40), max_new_tokens=12
)
print(finding.verdict)
columns = ["policy", "jailbroken", "harmful", "harmless", "over_refusal", "benign_kl", "gate_auroc"]
print(finding.policies[columns].round(3).to_string(index=False))

# %% [markdown]
# ## For other tools
# They add fixed vectors; an export says what it loses. (GGUF needs `pip install
# 'mechguard[serve]'`.)

# %%
from steering.policy.export import export_policy, typical_norms

norms = typical_norms(checkpoint, policy, rows)
for lost in export_policy(policy, "gguf", folder / "vector.gguf", norms=norms):
    print("lost:", lost)

# %%
after = checkpoint.model.state_dict()
same = all(torch.equal(before[name], after[name]) for name in before)
print("restored:", same and generated() == plain)
