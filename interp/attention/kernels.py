"""Exact statistics of softmax attention without the T×T matrix.

Every flash kernel yields the log-sum-exp of each row beside its output. Since
A_ij = exp(s_ij − LSE_i), the statistics that sink analyses need follow from it in O(T·block)
memory (`docs/attention.md` derives each):

* mass on chosen keys: exp(q_i·k_j − LSE_i), O(T) for each key;
* on CPU everything else in one pass over small tiles of scores (`interp.tiles`);
* on CUDA, where scores should not leave the kernel, by further flash calls. Mass on every key
  c_j = Σ_i A_ij: queries and keys exchanged and both reversed in time, the log-sum-exp is log c_j;
  with values := its keys, the entropy of each column comes out of the same call. Row entropy:
  LSE_i − q_i·(Σ_j A_ij k_j), the bracket being flash with values := keys. Σ_j A_ij²:
  exp(LSE_i at twice the scale − 2·LSE_i).

`blocked` computes the same from explicit scores without any flash kernel; it serves where none
applies (score soft-capping, unequal head sizes) and is the slow reference of the tests.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.attention.flash import causal, flash
from interp.attention.tiles import Scores, Sums, sweep

# Rows of explicit scores held at a time.
BLOCK = 128
# Log-weight of queries that must not count. Finite, because −inf − −inf is NaN inside a kernel.
_NO_WEIGHT = -1e4


@dataclass(frozen=True)
class Demand:
    """Which statistics of a layer's attention are wanted; all need the log-sum-exp."""

    chosen: bool = False
    column: bool = False
    column_entropy: bool = False
    entropy: bool = False
    square: bool = False
    learned_sink: bool = False

    def __or__(self, other: "Demand") -> "Demand":
        """What either side wants."""
        return Demand(
            self.chosen or other.chosen,
            self.column or other.column,
            self.column_entropy or other.column_entropy,
            self.entropy or other.entropy,
            self.square or other.square,
            self.learned_sink or other.learned_sink,
        )

    def __bool__(self) -> bool:
        """Whether anything is wanted."""
        return self != Demand()


@dataclass(frozen=True)
class AttentionInputs:
    """One layer's attention as transformers hands it over (post-RoPE).

    `mask` is True where a query may look; None means causal within `window`. `real` marks tokens
    that are no padding: other queries count for nothing. `keys` are the positions, for each row,
    whose mass `chosen` reports. `sinks` are learned sink logits (gpt-oss). `softcap` is Gemma-2's.
    """

    query: Float[Tensor, "batch heads length dim"]
    key: Float[Tensor, "batch kv_heads length dim"]
    value: Float[Tensor, "batch kv_heads length value_dim"]
    scale: float
    real: Bool[Tensor, "batch length"]
    mask: Bool[Tensor, "#batch 1 length length"] | None = None
    window: int | None = None
    softcap: float | None = None
    sinks: Float[Tensor, " heads"] | None = None
    keys: Int[Tensor, "batch keys"] | None = None

    @property
    def flash_applies(self) -> bool:
        """Whether a flash kernel can compute this attention."""
        return self.softcap is None and self.query.shape[-1] == self.value.shape[-1]


@dataclass(frozen=True)
class AttentionStatistics:
    """Statistics of one layer on one batch; float32, zero at queries that are padding.

    `lse` is the log-sum-exp over token keys in nats. `chosen` and `column` count a learned sink as
    attention that goes to no token, so rows may sum to less than 1; `entropy` (nats), `square`
    (Σ A², the inverse of the participation ratio) and the rows behind `column_entropy` describe
    the distribution over tokens alone.
    """

    lse: Float[Tensor, "batch heads length"]
    chosen: Float[Tensor, "batch heads length keys"] | None = None
    column: Float[Tensor, "batch heads length"] | None = None
    column_entropy: Float[Tensor, "batch heads length"] | None = None
    entropy: Float[Tensor, "batch heads length"] | None = None
    square: Float[Tensor, "batch heads length"] | None = None
    learned_sink: Float[Tensor, "batch heads length"] | None = None


def attend(
    inputs: AttentionInputs, demand: Demand
) -> tuple[Float[Tensor, "batch heads length value_dim"], AttentionStatistics | None]:
    """The attention output and the statistics asked for, by the fastest exact way."""
    if not inputs.flash_applies:
        return blocked(inputs, demand)
    output, lse = _flash(inputs.query, inputs.key, inputs.value, inputs)
    statistics = None
    if demand:
        on_cpu = inputs.query.device.type == "cpu"
        statistics = (by_tiles if on_cpu else by_recipes)(inputs, lse, demand)
    if inputs.sinks is not None:
        share = torch.sigmoid(lse - inputs.sinks.float()[:, None])
        output = (output.float() * share[..., None]).to(output.dtype)
    return output, statistics


def by_tiles(
    inputs: AttentionInputs, lse: Float[Tensor, "batch heads length"], demand: Demand
) -> AttentionStatistics:
    """Statistics from the rows' log-sum-exp and one sweep over the scores in tiles."""
    real = inputs.real[:, None, :]
    total = _with_sinks(inputs, lse)
    sums = Sums(None, None, None, None)
    if demand.column or demand.column_entropy or demand.entropy or demand.square:
        weight = torch.exp(lse - total) * real
        scores = Scores(
            inputs.query, inputs.key, lse, weight, inputs.scale, inputs.mask, inputs.window
        )
        sums = sweep(
            scores,
            entropy=demand.entropy,
            square=demand.square,
            column=demand.column or demand.column_entropy,
            column_log=demand.column_entropy,
        )

    def at_tokens(sum_: Tensor | None) -> Tensor | None:
        return None if sum_ is None else sum_.float().masked_fill(~real, 0.0)

    return _complete(
        inputs,
        lse,
        demand,
        column=at_tokens(sums.column),
        column_entropy=at_tokens(sums.column_entropy() if demand.column_entropy else None),
        entropy=at_tokens(sums.entropy),
        square=at_tokens(sums.square),
    )


def by_recipes(
    inputs: AttentionInputs, lse: Float[Tensor, "batch heads length"], demand: Demand
) -> AttentionStatistics:
    """Statistics from the rows' log-sum-exp and, where needed, further flash calls."""
    real = inputs.real[:, None, :]
    column, column_entropy, entropy, square = None, None, None, None
    if demand.column or demand.column_entropy:
        column, column_entropy = _columns(inputs, _with_sinks(inputs, lse))
    if demand.entropy:
        mean_key, _ = _flash(inputs.query, inputs.key, inputs.key, inputs)
        dot = (inputs.query.float() * mean_key.float()).sum(-1) * inputs.scale
        entropy = (lse - dot).clamp_min(0.0).masked_fill(~real, 0.0)
    if demand.square:
        _, doubled = _flash(inputs.query, inputs.key, inputs.value, inputs, 2 * inputs.scale)
        square = torch.exp(doubled - 2 * lse).masked_fill(~real, 0.0)
    return _complete(
        inputs,
        lse,
        demand,
        column=column,
        column_entropy=column_entropy,
        entropy=entropy,
        square=square,
    )


def _with_sinks(inputs: AttentionInputs, lse: Tensor) -> Tensor:
    """Log-sum-exp over tokens and the learned sink, if there is one."""
    if inputs.sinks is None:
        return lse
    return torch.logaddexp(lse, inputs.sinks.float()[:, None])


def _complete(
    inputs: AttentionInputs,
    lse: Tensor,
    demand: Demand,
    *,
    column: Tensor | None,
    column_entropy: Tensor | None,
    entropy: Tensor | None,
    square: Tensor | None,
) -> AttentionStatistics:
    """Add what follows from the log-sum-exp alone, and leave out what nobody asked for."""
    real = inputs.real[:, None, :]
    learned = None
    if demand.learned_sink and inputs.sinks is not None:
        learned = torch.sigmoid(inputs.sinks.float()[:, None] - lse).masked_fill(~real, 0.0)
    return AttentionStatistics(
        lse=lse.masked_fill(~real, 0.0),
        chosen=_chosen(inputs, _with_sinks(inputs, lse)) if demand.chosen else None,
        column=column if demand.column else None,
        column_entropy=column_entropy if demand.column_entropy else None,
        entropy=entropy,
        square=square,
        learned_sink=learned,
    )


def _flash(
    query: Tensor, key: Tensor, value: Tensor, inputs: AttentionInputs, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Flash attention under the mask or window of `inputs`; LSE is float32 [batch heads length]."""
    scale = inputs.scale if scale is None else scale
    return flash(query, key, value, inputs.mask, scale, inputs.window)


def _chosen(inputs: AttentionInputs, total: Tensor) -> Float[Tensor, "batch heads length keys"]:
    """A_ij at the chosen keys: exp(q_i·k_j·scale − LSE_i), zero where the query cannot look."""
    if inputs.keys is None:
        raise ValueError("chosen keys are wanted, but no positions were given")
    batch, heads, length, _ = inputs.query.shape
    index = inputs.keys[:, None, :, None].expand(-1, inputs.key.shape[1], -1, inputs.key.shape[3])
    picked = inputs.key.gather(2, index).float()
    grouped = inputs.query.float().unflatten(1, (inputs.key.shape[1], -1))
    scores = torch.einsum("bgrnd,bgkd->bgrnk", grouped, picked).flatten(1, 2) * inputs.scale
    seen = _seen(inputs, inputs.keys) & inputs.real[:, None, :, None]
    weights = torch.exp(scores - total[..., None])
    return weights.masked_fill(~seen.expand(batch, heads, length, -1), 0.0)


def _seen(
    inputs: AttentionInputs, keys: Int[Tensor, "batch keys"]
) -> Bool[Tensor, "batch 1 length keys"]:
    """Whether each query may look at the given key positions."""
    batch, _, length, _ = inputs.query.shape
    if inputs.mask is not None:
        index = keys[:, None, None, :].expand(-1, 1, length, -1)
        return inputs.mask.expand(batch, 1, length, length).gather(3, index)
    query = torch.arange(length, device=keys.device)[None, :, None]
    seen = keys[:, None, :] <= query
    if inputs.window is not None:
        seen &= keys[:, None, :] > query - inputs.window
    return seen[:, None]


def _columns(inputs: AttentionInputs, total: Tensor) -> tuple[Tensor, Tensor]:
    """Mass and entropy of every column, by flash attention from keys to queries.

    Reversing time turns "keys up to mine" into "queries from mine on", so the causal kernel and the
    window serve unchanged. −LSE_i rides along as two extra features (high and low part, since one
    bfloat16 feature would lose 3 %).
    """
    query, key = inputs.query, inputs.key
    heads, dim = query.shape[1], query.shape[3]
    bias = torch.where(inputs.real[:, None, :], -total, torch.full_like(total, _NO_WEIGHT))
    high = bias.to(query.dtype)
    low = (bias - high.float()).to(query.dtype)
    padding = -(dim + 2) % 8
    ones = torch.ones_like(high)
    zeros = query.new_zeros((*query.shape[:3], padding))
    scaled = (key.float() * inputs.scale).to(key.dtype).repeat_interleave(heads // key.shape[1], 1)
    from_keys = torch.cat([scaled, ones[..., None], ones[..., None], zeros], -1).flip(2)
    to_queries = torch.cat([query, high[..., None], low[..., None], zeros], -1).flip(2)
    mask = None if inputs.mask is None else inputs.mask.flip(2, 3).transpose(2, 3).contiguous()
    reverse = AttentionInputs(
        from_keys, to_queries, to_queries, 1.0, inputs.real.flip(1), mask, inputs.window
    )
    mean_query, log_mass = _flash(from_keys, to_queries, to_queries, reverse)
    entropy = log_mass - (from_keys.float() * mean_query.float()).sum(-1)
    log_mass, entropy = log_mass.flip(2), entropy.flip(2)
    mass = torch.exp(log_mass)
    # A key that no counted query sees (padding, or outside every mask) has no mass to distribute.
    unseen = ~inputs.real[:, None, :] | (log_mass < _NO_WEIGHT / 2) | log_mass.isnan()
    return mass.masked_fill(unseen, 0.0), entropy.clamp_min(0.0).masked_fill(unseen, 0.0)


def blocked(
    inputs: AttentionInputs, demand: Demand, block: int = BLOCK
) -> tuple[Float[Tensor, "batch heads length value_dim"], AttentionStatistics | None]:
    """The same from explicit scores in float32, `block` queries at a time.

    Holds batch × heads × block × length scores; exact for every score modification.
    """
    sums = _Sums(inputs, demand)
    length = inputs.query.shape[2]
    pieces = [sums.add(start, min(start + block, length)) for start in range(0, length, block)]
    output = torch.cat(pieces, 2).to(inputs.value.dtype)
    return output, sums.statistics() if demand else None


class _Sums:
    """What `blocked` gathers from one block of rows after another."""

    def __init__(self, inputs: AttentionInputs, demand: Demand) -> None:
        self.inputs, self.demand = inputs, demand
        batch, heads, length, _ = inputs.query.shape
        device = inputs.query.device
        self.rows: dict[str, list[Tensor]] = {}
        self.mass = torch.zeros(batch, heads, length, dtype=torch.float64, device=device)
        self.mass_log = torch.zeros_like(self.mass)
        self.groups = heads // inputs.key.shape[1]
        self.key = inputs.key.float().repeat_interleave(self.groups, 1)
        self.value = inputs.value.float().repeat_interleave(self.groups, 1)

    def add(self, start: int, stop: int) -> Tensor:
        """Take the rows [start, stop) and return their attention output."""
        inputs, demand = self.inputs, self.demand
        length = self.key.shape[2]
        query = inputs.query[:, :, start:stop].float()
        scores = query @ self.key.transpose(2, 3) * inputs.scale
        if inputs.softcap is not None:
            scores = torch.tanh(scores / inputs.softcap) * inputs.softcap
        if inputs.mask is not None:
            seen = inputs.mask[:, :, start:stop]
        else:
            seen = causal(start, stop, 0, length, inputs.window, query.device)
        real = inputs.real[:, None, start:stop, None]
        scores = scores.masked_fill(~seen, -math.inf)
        lse = torch.logsumexp(scores, -1)
        total = lse
        if inputs.sinks is not None:
            total = torch.logaddexp(lse, inputs.sinks.float()[:, None])
        empty = lse.isneginf()
        weights = torch.exp(scores - total.masked_fill(empty, 0.0)[..., None])
        if demand:
            self._keep_rows(scores, lse, weights, seen & real)
            counted = (weights * real).double()
            self.mass += counted.sum(2)
            self.mass_log += torch.special.xlogy(counted, counted).sum(2)
        return weights @ self.value

    def _keep_rows(self, scores: Tensor, lse: Tensor, weights: Tensor, counted: Tensor) -> None:
        rows = {"lse": lse.masked_fill(~counted.any(-1), 0.0)}
        over_tokens = torch.exp(scores - rows["lse"][..., None]).masked_fill(~counted, 0.0)
        if self.demand.entropy:
            rows["entropy"] = -torch.special.xlogy(over_tokens, over_tokens).sum(-1)
        if self.demand.square:
            rows["square"] = over_tokens.square().sum(-1)
        if self.demand.chosen and self.inputs.keys is not None:
            shape = (-1, *weights.shape[1:3], -1)
            index = self.inputs.keys[:, None, None, :].expand(shape)
            rows["chosen"] = weights.masked_fill(~counted, 0.0).gather(3, index)
        if self.demand.learned_sink and self.inputs.sinks is not None:
            share = torch.sigmoid(self.inputs.sinks.float()[:, None] - lse)
            rows["learned_sink"] = share.masked_fill(~counted.any(-1), 0.0)
        for name, value in rows.items():
            self.rows.setdefault(name, []).append(value)

    def statistics(self) -> AttentionStatistics:
        """All rows together."""
        rows = {name: torch.cat(pieces, 2) for name, pieces in self.rows.items()}
        mass = self.mass.masked_fill(~self.inputs.real[:, None, :], 0.0)
        entropy = torch.where(mass > 0, mass.log() - self.mass_log / mass, torch.zeros_like(mass))
        return AttentionStatistics(
            **rows,
            column=mass.float() if self.demand.column else None,
            column_entropy=entropy.float() if self.demand.column_entropy else None,
        )
