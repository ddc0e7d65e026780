# %% [markdown]
# # Looking inside a checkpoint
# Anatomy, sites, segments, one pass that feeds any number of recorders, edits that leave no
# trace, and a doctor who checks all of it on this very model. The model here is a small chat
# model with a gate on its attention; `mg.load` takes a hub id, a folder or a loaded model
# just as well.

# %%
import pandas as pd
import torch

import mechguard as mg
from interp.capture.prompt_states import prompt_rows, prompt_states
from interp.capture.recorders import FirstKeyMass, GateScores, RowEntropy
from interp.data.padding import padded
from interp.data.segments import t_inst, t_post_inst
from interp.doctor.report import doctor

checkpoint = mg.load("organism:chat-gated")
before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
print(checkpoint.name, checkpoint.fingerprint, checkpoint.dtype, checkpoint.device)
anatomy = checkpoint.anatomy
print(f"{anatomy.n_layers} layers, {anatomy.width} wide; the first of them:")
first = anatomy.layers[0]
print(f"  {first.attention} attention, {first.heads} heads of {first.head_dim}, gate {first.gate}")
print("  sites:", *sorted(first.sites))

# %% [markdown]
# ## Sites
# A site is a TransformerLens hook name and a layer. It says which tensor of which module it is,
# and one that does not exist is an error that names those that do.

# %%
print(mg.Site.parse("blocks.1.attn.hook_z").explain(checkpoint))
print(mg.Site.parse("gate:1").explain(checkpoint))
try:
    checkpoint.require(mg.Site("resid_post", 7))
except mg.InputError as error:
    print("refused:", error)

# %% [markdown]
# ## Segments
# The chat template is rendered, not guessed: every token knows its part of the conversation.

# %%
said = [{"role": "system", "content": "strict"}, {"role": "user", "content": "please polish lamp"}]
(row,) = checkpoint.rows(said)
for name, (start, stop) in sorted(row.segments.items(), key=lambda item: item[1]):
    print(f"{name:>16}: {checkpoint.tokenizer.decode(row.ids[start:stop])}")

# %% [markdown]
# ## One pass, many recorders
# Rows of mixed length are batched by length; each layer is handed to the recorders and dropped,
# so no T×T matrix and no pile of activations is ever held. What comes back is one small record a
# row.

# %%
prompts = mg.organisms.prompts("chat-gated")
rows = prompt_rows(checkpoint, [*prompts["harmful"], *prompts["harmless"]])
mass, entropy, gates = FirstKeyMass(), RowEntropy(), GateScores()
print(mg.capture(checkpoint, rows, [mass, entropy, gates]))
print("attention on BOS by layer and head:")
print(pd.DataFrame(mass.result().stack("sink_mass").mean(axis=0)).round(2).to_string())
print("keys that a query attends to (participation ratio):")
print(pd.DataFrame(entropy.result().stack("participation").mean(axis=0)).round(1).to_string())
print("mean gate by layer and head:")
print(pd.DataFrame(gates.result().stack("mean").mean(axis=0)).round(2).to_string())

# %% [markdown]
# ## A recorder of your own
# It says what it needs and sees one layer of one batch at a time. This one asks how far the state
# at the end of the instruction already points where the last token of the prompt does.

# %%
from interp.capture.recorder import Needs, RowRecorder


class Ahead(RowRecorder):
    """Cosine of the states at t_inst and at t_post_inst, behind each block."""

    def needs(self, checkpoint):
        layers = range(checkpoint.anatomy.n_layers)
        return Needs(frozenset(mg.Site("resid_post", layer) for layer in layers))

    def update(self, batch):
        states, each = batch.site("resid_post"), torch.arange(len(batch.source))
        one = states[each, [t_inst(row) for row in batch.source]]
        other = states[each, [t_post_inst(row) for row in batch.source]]
        self.keep(batch, "cosine", torch.cosine_similarity(one, other, dim=-1))


ahead = Ahead()
mg.capture(checkpoint, rows, [ahead])
cosine = ahead.result().stack("cosine")
harmful = slice(0, len(prompts["harmful"]))
print("cosine behind each block, harmful: ", cosine[harmful].mean(axis=0).round(2))
print("cosine behind each block, harmless:", cosine[harmful.stop :].mean(axis=0).round(2))

# %% [markdown]
# ## Interventions
# Context managers on sites, right with a KV cache and row by row. One head is silenced at a time,
# and the loss of the first word of a refusal says which heads carry it.

# %%
asked = padded(rows[:16], checkpoint)
ends = asked["attention_mask"].sum(1) - 1


def first_word():
    with torch.inference_mode():
        logits = checkpoint.model(**asked).logits[torch.arange(16), ends]
    return logits.log_softmax(-1)


plain = first_word()
refusal = plain.mean(0).argmax()
table = pd.DataFrame(index=range(3), columns=range(4), dtype=float)
for layer in table.index:
    for head in table.columns:
        with mg.interventions.zero_heads(checkpoint, layer, [head]):
            table.loc[layer, head] = float((plain - first_word())[:, refusal].mean())
print(f"nats lost of {checkpoint.tokenizer.decode(refusal)!r}, by layer and head silenced:")
print((table.round(2) + 0.0).to_string())

# %% [markdown]
# A state can be carried over from another prompt: here the state of a harmless request at the end
# of the prompt, into harmful ones, layer by layer. Where that takes the refusal away, what decides
# is in this state by then.

# %%
other = prompt_states(checkpoint, prompt_rows(checkpoint, prompts["harmless"][:1]))
for place, layer in enumerate(other.layers):
    value = torch.from_numpy(other.t_post_inst[0, place]).expand(16, 1, -1)
    site = mg.Site(other.site, layer)
    with mg.interventions.patch(checkpoint, site, value, ends[:, None]):
        kept = (first_word().argmax(-1) == refusal).float().mean()
    print(f"patched at {site.hook_name}: {kept:.0%} still begin with the refusal")

# %% [markdown]
# ## The doctor
# Parity, padding, cache, causality, restoration: on this checkpoint, not on ours.

# %%
report = doctor(checkpoint)
checks = report.to_frame()[["name", "status", "difference", "tolerance"]]
print(checks.to_string(index=False, float_format="{:.1e}".format, na_rep="–"))
print("passed:", report.passed)

after = checkpoint.model.state_dict()
same = all(torch.equal(before[name], after[name]) for name in before)
hooks = sum(len(module._forward_hooks) for module in checkpoint.model.modules())
print("restored:", same and hooks == 0 and torch.equal(plain, first_word()))
