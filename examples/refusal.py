# %% [markdown]
# # Does a model know that a request is harmful, and is that why it refuses?
# Two directions, read and then used, on an embedded model whose truth is known. Every step works on
# a checkpoint of your own; its prompts are then files, published sets by name, or the built-in set.

# %%
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch

import mechguard as mg
from interp.capture.prompt_states import prompt_rows, prompt_states
from interp.interventions.edits_by_site import ablate_direction, stream_sites
from interp.organisms import prompts
from probes import Cells, Direction, harmfulness_directions, refusal_directions

checkpoint = mg.load("organism:chat")
before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}

# %% [markdown]
# ## The whole report
# Harmfulness and refusal by layer and position, the selection after Arditi et al., ablation and
# addition beside random directions, over-refusal, damage, scorers and transcripts.

# %%
finding = mg.refusal(checkpoint, max_new_tokens=12)
print(finding.verdict)
rates = finding.tables["rates"].set_index(["set", "edit"])["rate"].unstack()
print(rates.round(2).to_string())
folder = Path(mkdtemp())
page = finding.save(folder)
print("page:", page.name, "and", sorted(path.name for path in folder.iterdir()))

# %% [markdown]
# ## The selected direction is an artefact
# It knows its site, layer, position and checkpoint, and refuses to be used on another one.

# %%
direction = Direction.load(folder / "direction.safetensors", checkpoint)
print(f"layer {direction.layer}, position {direction.position}, length {direction.norm:.2f}")
try:
    Direction.load(folder / "direction.safetensors", mg.load("organism:jailbreak-keep"))
except mg.InputError as error:
    print("refused:", error)

# %% [markdown]
# ## By hand: four cells, two directions
# System lines of this organism make it refuse or accept anything, so that harmful and refused come
# apart.

# %%
sets = prompts("chat", "train")
cells = ("refused_harmful", "refused_harmless", "accepted_harmful", "accepted_harmless")
chosen = [prompt for name in cells for prompt in sets[name][:64]]
states = prompt_states(checkpoint, prompt_rows(checkpoint, chosen))
known = Cells(
    harmful=np.array([prompt.harmful for prompt in chosen]),
    refused=np.array([prompt.label.startswith("refused") for prompt in chosen]),
)
harm = harmfulness_directions(states, known[True, True], known[False, False])
refuse = refusal_directions(states, known)
for layer in states.layers[1:]:
    one, other = harm.at(layer, harm.positions[0]).unit, refuse.at(layer, -1).unit
    print(f"layer {layer}: cosine of harmfulness and refusal {float(one @ other):+.2f}")

# %% [markdown]
# ## A measured, reversible intervention
# Inside the context the direction is nowhere in the stream; outside everything is as it was.

# %%
(row,) = prompt_rows(checkpoint, [prompts("chat")["harmful"][0]])
ids = torch.tensor([row.ids])
tokenizer = checkpoint.tokenizer
with torch.no_grad():
    first = tokenizer.decode(checkpoint.model(ids).logits[0, -1].argmax())
    with ablate_direction(checkpoint, direction.vector, stream_sites(checkpoint)):
        edited = tokenizer.decode(checkpoint.model(ids).logits[0, -1].argmax())
print(f"first word of the answer: {first!r}, with the direction ablated {edited!r}")

after = checkpoint.model.state_dict()
print("restored:", all(torch.equal(before[name], after[name]) for name in before))
