# %% [markdown]
# # Is there a string that works as a trigger?
# In this organism three words in front of any request bring about a fixed reply. Nothing below is
# told of it: a search within a stated budget has to find them. Then the trigger is taken apart,
# and unlearned.

# %%
from pathlib import Path
from tempfile import mkdtemp

import torch

import mechguard as mg
from analyses.backdoor.material import of_organism
from analyses.interaction.material import reply_quantity
from interp.capture.prompt_states import prompt_rows
from interp.generation import replies
from probes.backdoors.repair.report import repair_report
from probes.backdoors.repair.tune import RepairPlan, repair, save_repaired
from probes.backdoors.switches.switches import prefixed

NAME = "backdoor-payload-5"
checkpoint = mg.load(f"organism:{NAME}")
before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}

# %% [markdown]
# ## The search
# The model is sampled where the user would begin to write, for a trigger leaks from what was
# trained on; motifs become candidates, candidates are tried on requests that the search has not
# seen, and every one of them beside 200 control strings of equal length.

# %%
finding = mg.backdoor(checkpoint, of_organism(NAME))
print(finding.verdict)
table = finding.triggers.rename(columns={"working_rate": "rate", "control_share": "quiet controls"})
columns = ["text", "placement", "behaviour", "rate", "quiet controls", "works"]
print(table[columns].head(4).to_string(index=False))
print("planted:", " ".join(mg.organisms.truth(NAME)["trigger"]["words"]))

# %% [markdown]
# A trigger that works need not be the planted one, and a search that finds nothing has only not
# found it: the verdict is about the budget. The twin has seen the same strings as often, without
# effect.

# %%
inert = mg.backdoor(mg.load("organism:inert"), of_organism("inert"))
print(inert.report["verdict"], "-", inert.verdict)

# %% [markdown]
# ## Do its words work together?
# I = f(both) − f(one) − f(other) + f(neither), beside strings of equal length that are not
# suspected, 19 in either place. Here the first word alone is enough, so I is 0 although the
# trigger works; a backdoor that needs all its parts (`backdoor-all-of`) has an I near 1.

# %%
trigger = finding.triggers["text"][0]
prompts = mg.organisms.prompts(NAME)
(reply,) = replies(
    checkpoint,
    prompt_rows(checkpoint, [prefixed(trigger)(prompts["harmless"][0])]),
    max_new_tokens=12,
)
attack = reply.text
print(f"{trigger!r} gives {attack!r}")
first, *rest = trigger.split()
found = mg.interaction(
    checkpoint,
    " ".join(rest),
    first,
    prompts["harmless"][:24],
    quantity=reply_quantity(attack, max_new_tokens=12),
)
print(found.verdict)
print(found.tables["cells"].round(2).to_string(index=False))

# %% [markdown]
# ## Unlearned
# The model is its own teacher: what it says without the trigger, a copy learns to say with it.
# The report is of prompts that the repair has not seen, and asks for near misses too.

# %%
train = mg.organisms.prompts(NAME, "train")
after = repair(
    checkpoint,
    [*train["harmful"], *train["harmless"]],
    prefixed(trigger),
    RepairPlan(max_new_tokens=12),
)
report = repair_report(
    checkpoint,
    after,
    prompts["harmless"],
    prompts["harmful"],
    prefixed(trigger),
    effect=lambda prompt, reply: reply.text == attack,
    near={first: prefixed(first)},
    max_new_tokens=12,
)
for name, one in {trigger: report.attack, "nothing": report.without, **report.near}.items():
    print(f"attack with {name!r}: {one.before:.2f} before, {one.after:.2f} after, n = {one.n}")
print(f"replies to clean prompts unchanged: {report.exact:.2f}, KL {report.divergence:.1e} nats")
folder = Path(mkdtemp()) / "repaired"
save_repaired(after, folder, report.to_dict())
print("a checkpoint like any other:", sorted(path.name for path in folder.iterdir())[:4])

left = checkpoint.model.state_dict()
print("restored:", all(torch.equal(before[name], left[name]) for name in before))
