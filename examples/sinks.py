# %% [markdown]
# # Attention sinks of a checkpoint
# Any Hugging Face causal language model does; an organism needs no download and its truth is known.

# %%
import mechguard as mg

checkpoint = mg.load("organism:bb-plain")
print(checkpoint.anatomy.layers[0])
print(mg.Site.parse("resid_post:0").explain(checkpoint))

# %% [markdown]
# ## The finding
# Two domains: texts without triggers, on which the heads rest on BOS, and texts full of them.

# %%
texts = mg.organisms.texts("bb-plain")
finding = mg.sinks(checkpoint, texts, max_sequences=32, causal_sequences=8)
print(finding.verdict)
print(finding.heads[["layer", "head", "sink_mass", "value_ratio", "ablation_delta_loss"]])
print(finding.tables["domain_heads"][["head", "domain_low", "domain_high", "auc", "switching"]])

# %% [markdown]
# ## Your own quantity
# A recorder sees one layer of one batch at a time; the model never holds a T×T matrix.

# %%
from interp.capture.recorders import RowEntropy
from interp.capture.run import capture
from interp.data.rows import as_texts, text_rows

domains = [as_texts(name, documents) for name, documents in texts.items()]
rows = text_rows(checkpoint, domains, length=64)
recorder = RowEntropy()
capture(checkpoint, rows, [recorder])
print(recorder.result().stack("participation").mean(axis=0))

# %% [markdown]
# ## An intervention, reversible
# Silence every head of layer 0 and look at the logits again.

# %%
import torch

from interp.data.padding import padded
from interp.interventions.edits_by_site import zero_heads

inputs = padded(rows.rows[:4], checkpoint)
with torch.inference_mode():
    plain = checkpoint.model(**inputs).logits
    with zero_heads(checkpoint, layer=0, heads=[0, 1]):
        silenced = checkpoint.model(**inputs).logits
    again = checkpoint.model(**inputs).logits
print(f"changed by {(silenced - plain).abs().max():.3g}, restored: {torch.equal(plain, again)}")
