"""The recorders: each quantity of a sink analysis, reduced to one record a row.

Those of attention, values and gates are here; those of the residual stream in `interp.residual`.
Formulas and sources: sink rate, Gu et al. (arXiv 2410.10781); gates, Qiu et al. (2505.06708);
value drain, Guo et al. (2410.13835).
"""

import torch

from interp.attention.kernels import Demand
from interp.capture.heads import gate_scores, projected_norms, score_scale
from interp.capture.recorder import LayerBatch, Needs, RowRecorder
from interp.capture.residual import MassiveActivations, MedianMagnitude, ResidualNorms
from interp.model.loaded import LoadedModel
from interp.model.sites import Site

__all__ = [
    "ChosenKeyMass",
    "ColumnMass",
    "FirstKeyMass",
    "GateScores",
    "HeadOutputs",
    "KeyNorms",
    "LearnedSinkShare",
    "LogitGap",
    "MassiveActivations",
    "MedianMagnitude",
    "ResidualNorms",
    "RowEntropy",
    "ValueNorms",
]


class FirstKeyMass(RowRecorder):
    """Attention on the first token.

    Records, for each head: `alpha` = (1/T) Σ_i A_i1 over all queries (Gu et al., α_1), and
    `sink_mass` = the mean of A_i1 over the queries after the first.
    """

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """First-key mass on every softmax layer."""
        wanted = {layer: Demand(chosen=True) for layer in checkpoint.anatomy.softmax_layers}
        return Needs(demands=wanted, keys=(0,))

    def update(self, batch: LayerBatch) -> None:
        """Average over queries."""
        mass = batch.mass_on(0)
        self.keep(batch, "alpha", batch.mean(mass))
        self.keep(batch, "sink_mass", batch.mean(mass, 1))


class ChosenKeyMass(RowRecorder):
    """Mean attention that chosen positions receive from the queries from them on.

    Records `mass` [heads, keys] in the order of `positions`; NaN where a row is too short to have
    the position.
    """

    def __init__(self, positions: tuple[int, ...]) -> None:
        super().__init__()
        self.positions = positions

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """Mass on the chosen keys."""
        wanted = {layer: Demand(chosen=True) for layer in checkpoint.anatomy.softmax_layers}
        return Needs(demands=wanted, keys=self.positions)

    def update(self, batch: LayerBatch) -> None:
        """Average over the queries that may look there."""
        means = [batch.mean(batch.mass_on(key), key) for key in self.positions]
        mass = torch.stack(means, -1)
        positions = torch.tensor(self.positions, device=mass.device)
        beyond = positions >= batch.lengths[:, None, None].to(mass.device)
        self.keep(batch, "mass", mass, missing=beyond.expand_as(mass))


class ColumnMass(RowRecorder):
    """Attention on every key.

    Records `alpha` [heads, length]: α_k = (T−k+1)^{-1} Σ_{i≥k} A_ik (k 1-based), and
    `column_entropy`: the largest entropy of a column over its queries, divided by log(T−k+1)
    (Guo et al., code; the last column has one query and counts 0).
    """

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """Column mass and entropy on every softmax layer."""
        wanted = Demand(column=True, column_entropy=True)
        return Needs(demands=dict.fromkeys(checkpoint.anatomy.softmax_layers, wanted))

    def update(self, batch: LayerBatch) -> None:
        """Divide by the number of queries that could look."""
        statistics = batch.attention
        assert statistics.column is not None and statistics.column_entropy is not None
        lengths = batch.lengths[:, None].to(statistics.column.device)
        position = torch.arange(batch.real.shape[1], device=lengths.device)
        viewers = (lengths - position)[:, None].clamp_min(1)
        alpha = statistics.column / viewers
        unused = ~batch.real.to(lengths.device)[:, None].expand_as(alpha)
        # The column kernel takes NaN for a key that nobody sees, so its scores are asked.
        batch.require_finite("attention", statistics.lse)
        self.keep(batch, "alpha", alpha, missing=unused)
        share = statistics.column_entropy / viewers.float().log().clamp_min(1e-9)
        share = share.masked_fill(unused | (viewers == 1), 0.0)
        self.keep(batch, "column_entropy", share.amax(-1))


class RowEntropy(RowRecorder):
    """Concentration of the rows.

    Records `entropy` = mean_i of the row entropy divided by the log of the keys in view (0 for a
    single key; Guo et al., code), `nats` = the mean entropy itself, and `participation` = the mean
    of 1/Σ_j A_ij², the effective number of keys.
    """

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """Row entropy and Σ A² on every softmax layer."""
        wanted = Demand(entropy=True, square=True)
        return Needs(demands=dict.fromkeys(checkpoint.anatomy.softmax_layers, wanted))

    def update(self, batch: LayerBatch) -> None:
        """Average over queries."""
        statistics = batch.attention
        assert statistics.entropy is not None and statistics.square is not None
        visible = torch.arange(1, batch.real.shape[1] + 1, device=statistics.entropy.device)
        window = batch.checkpoint.anatomy.layers[batch.layer_index].window
        if window is not None:
            visible = visible.clamp_max(window)
        scale = visible.float().log()
        share = torch.where(scale > 0, statistics.entropy / scale.clamp_min(1e-9), 0.0)
        self.keep(batch, "entropy", batch.mean(share))
        self.keep(batch, "nats", batch.mean(statistics.entropy))
        effective = 1 / statistics.square.clamp_min(1e-12)
        self.keep(batch, "participation", batch.mean(effective))


class LearnedSinkShare(RowRecorder):
    """Share of attention on a learned sink logit: the mean over queries of σ(sink_h − LSE_i)."""

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """Only layers that have learned sinks."""
        layers = checkpoint.anatomy.layers
        wanted = Demand(learned_sink=True)
        return Needs(demands={i: wanted for i, layer in enumerate(layers) if layer.learned_sink})

    def update(self, batch: LayerBatch) -> None:
        """Average over queries."""
        share = batch.attention.learned_sink
        assert share is not None
        self.keep(batch, "learned_sink", batch.mean(share))


class LogitGap(RowRecorder):
    """Δlogit = s_i1 − mean_{j=2..i−1} s_ij: keys in view without the first and the query itself.

    Guo et al., code (BBM). The mean is linear in the keys, so prefix sums give it without scores;
    soft-capped scores are not linear and are left out. Averaged over the queries that see the
    first token and at least one other; `logit_gap` is NaN where there is none.
    """

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """Queries and keys as they meet."""
        anatomy = checkpoint.anatomy
        names = ("rot_q", "rot_k") if anatomy.rotary else ("q", "k")
        if anatomy.softcap is not None or not anatomy.interface:
            return Needs()
        layers = anatomy.softmax_layers
        return Needs(frozenset(Site(name, layer) for name in names for layer in layers))

    def update(self, batch: LayerBatch) -> None:
        """Compare the first score with the mean of the others."""
        rotary = batch.checkpoint.anatomy.rotary
        query = batch.site("rot_q" if rotary else "q")
        key = batch.site("rot_k" if rotary else "k")
        layer = batch.checkpoint.anatomy.layers[batch.layer_index]
        key = key.repeat_interleave(query.shape[2] // key.shape[2], 2)
        others = key.double().cumsum(1) - key[:, :1].double() - key.double()
        length = query.shape[1]
        position = torch.arange(length, device=query.device)
        counts = (position - 1).clamp_min(1).double()
        mean = (others / counts[:, None, None]).float()
        gap = (query * (key[:, :1] - mean)).sum(-1) * score_scale(batch)
        defined = batch.real & (position >= 2)
        if layer.window is not None:
            # Beyond the window the first token is out of sight, and earlier keys drop out too.
            defined &= position < layer.window
        total = gap.transpose(1, 2).double().masked_fill(~defined[:, None], 0.0).sum(-1)
        count = defined.sum(-1)[:, None].expand_as(total)
        self.keep(batch, "logit_gap", total / count.clamp_min(1), missing=count == 0)


class ValueNorms(RowRecorder):
    """Value states at the first token and elsewhere.

    `raw_first`, `raw_rest` are ‖v_j‖ for each KV head; `first`, `rest` are ‖W_O^h v_j‖ for each
    query head, the value through the head's own slice of the output projection (query heads that
    share a KV head differ). `rest` is a mean over the other tokens.
    """

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """Values of every softmax layer that shows them."""
        return Needs(_sites(checkpoint, "v"))

    def update(self, batch: LayerBatch) -> None:
        """Norms at the first token, and their mean over the rest."""
        value = batch.site("v")
        self.keep_first_and_rest(batch, "raw_", value.norm(dim=-1).transpose(1, 2))
        heads = batch.checkpoint.anatomy.layers[batch.layer_index].heads
        value = value.repeat_interleave(heads // value.shape[2], 2)
        self.keep_first_and_rest(batch, "", projected_norms(batch, value))


class KeyNorms(RowRecorder):
    """‖k_j‖ of the keys as they meet the queries: `first`, and `rest` as a mean; per KV head."""

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """Keys of every softmax layer."""
        return Needs(_sites(checkpoint, "rot_k" if checkpoint.anatomy.rotary else "k"))

    def update(self, batch: LayerBatch) -> None:
        """Norms at the first token, and their mean over the rest."""
        key = batch.site("rot_k" if batch.checkpoint.anatomy.rotary else "k")
        self.keep_first_and_rest(batch, "", key.norm(dim=-1).transpose(1, 2))


class HeadOutputs(RowRecorder):
    """What each head writes: mean_i ‖W_O^h o_i‖ before (`before`) and after (`after`) its gate.

    `sink_share` = mean_i ‖W_O^h (g_i ⊙ A_i1 v_1)‖ / ‖W_O^h (g_i ⊙ Σ_j A_ij v_j)‖ over the queries
    after the first: the part of the head's output that comes from the first token. A uniformly
    small gate cancels in it.
    """

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """Head outputs, values, gates and first-key mass."""
        anatomy = checkpoint.anatomy
        if not anatomy.interface:
            return Needs(_sites(checkpoint, "z"))
        sites = _sites(checkpoint, "z") | _sites(checkpoint, "z_pre_gate")
        sites |= _sites(checkpoint, "v") | _sites(checkpoint, "gate")
        wanted = dict.fromkeys(anatomy.softmax_layers, Demand(chosen=True))
        return Needs(sites, wanted, (0,))

    def update(self, batch: LayerBatch) -> None:
        """Norms through the output projection."""
        after = projected_norms(batch, batch.site("z"))
        self.keep(batch, "after", batch.mean(after))
        if "z_pre_gate" not in batch.tensors:
            return
        before = projected_norms(batch, batch.site("z_pre_gate"))
        self.keep(batch, "before", batch.mean(before))
        heads = after.shape[1]
        first = batch.site("v")[:, :1]
        first = first.repeat_interleave(heads // first.shape[2], 2)
        part = batch.mass_on(0).transpose(1, 2)[..., None] * first
        if "gate" in batch.tensors:
            part = part * gate_scores(batch).reshape(*part.shape[:3], -1)
        share = projected_norms(batch, part) / after.clamp_min(1e-30)
        self.keep(batch, "sink_share", batch.mean(share, 1))


class GateScores(RowRecorder):
    """Output gates after their activation (Qiu et al. §4.2).

    Records for each head `mean`, and the shares `below_0_01` and `below_0_1` of its scores; and
    `gated_sink_mass` = mean over the queries after the first of ḡ_i·A_i1, with ḡ the head's gate
    score, averaged over the head dimension where the gate is element-wise.
    """

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """Gates and first-key mass on gated layers."""
        gated = checkpoint.anatomy.gated_layers
        chosen = checkpoint.anatomy.interface
        wanted = dict.fromkeys(gated, Demand(chosen=True)) if chosen else {}
        return Needs(_sites(checkpoint, "gate"), wanted, (0,))

    def update(self, batch: LayerBatch) -> None:
        """Average over tokens, and over the head dimension."""
        scores = gate_scores(batch)
        scores = scores[..., None] if scores.ndim == 3 else scores
        by_head = {
            "mean": scores.mean(-1),
            "below_0_01": (scores < 0.01).float().mean(-1),
            "below_0_1": (scores < 0.1).float().mean(-1),
        }
        for name, values in by_head.items():
            self.keep(batch, name, batch.mean(values.transpose(1, 2)))
        mass = batch.mass_on(0) * by_head["mean"].transpose(1, 2)
        self.keep(batch, "gated_sink_mass", batch.mean(mass, 1))


def _sites(checkpoint: LoadedModel, name: str) -> frozenset[Site]:
    layers = checkpoint.anatomy.layers
    return frozenset(Site(name, i) for i, layer in enumerate(layers) if name in layer.sites)
