"""The checkpoint that `doctor` checks: token ids that suit it, passes, generation, its sites."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.attention.statistics import AttentionCall, Tap, observe
from interp.checkpoint import Checkpoint
from interp.data.padding import Side, pad_ids
from interp.interventions.hooks import attach
from interp.model.modules import text_config
from interp.model.sites import HANDED_OVER, Site, site_hook

_ROWS = 4
_LENGTH = 24
# A window is overrun by this many tokens, unless that would make the checks slow.
_OVERRUN = 8
_LONGEST_WINDOW = 64


@dataclass(frozen=True)
class ModelUnderTest:
    """A checkpoint with the token ids that all checks share.

    `tolerance` is that of logits, relative to the largest: 1e-5, or 2e-2 in half precision.
    """

    checkpoint: Checkpoint
    ids: Int[Tensor, "batch length"]
    tolerance: float
    seed: int

    @property
    def length(self) -> int:
        """Tokens in a row without padding."""
        return self.ids.shape[1]

    @property
    def exact(self) -> bool:
        """Whether the precision is at least float32."""
        return torch.finfo(self.checkpoint.dtype).bits >= 32

    def padded(
        self, side: Side, length: int | None = None
    ) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        """Ids and mask of a batch of unequal rows, padded on the `left` or `right` to `length`.

        A padded row is the beginning of the whole one; the first row has no padding.
        """
        length = length or self.length
        kept = [max(1, length - row * max(1, length // 6)) for row in range(len(self.ids))]
        cut = [row[:tokens] for row, tokens in zip(self.ids.tolist(), kept, strict=True)]
        ids, real = (t.to(self.ids.device) for t in pad_ids(cut, int(self.ids[0, 0]), side))
        return ids, real.bool()

    def run(self, ids: Tensor, real: Tensor | None = None, **more: Any) -> Any:
        """One pass over the last tokens `ids` of sequences whose whole mask is `real`.

        Mask and positions are passed wherever the model takes them; `more` goes to the model.
        """
        if real is None:
            real = torch.ones_like(ids, dtype=torch.bool)
        model = self.checkpoint.model
        if "position_ids" in inspect.signature(model.forward).parameters:
            positions = (real.long().cumsum(-1) - 1).clamp_min(0)
            more["position_ids"] = positions[:, -ids.shape[1] :]
        return model(input_ids=ids, attention_mask=real.long(), **more)

    def logits(
        self, ids: Tensor, real: Tensor | None = None
    ) -> Float[Tensor, "batch length vocabulary"]:
        """Logits in float32, without a KV cache."""
        logits: Tensor = self.run(ids, real, use_cache=False).logits
        return logits.float()

    def logits_with_rounding_noise(self) -> Float[Tensor, "batch length vocabulary"]:
        """Logits of `ids` when each embedding entry is off by one unit in its last place."""
        generator = torch.Generator().manual_seed(self.seed)

        def disturb(x: Tensor) -> Tensor:
            signs = torch.randint(0, 2, x.shape, generator=generator).to(x.device) * 2 - 1
            return (x.double() * (1 + torch.finfo(x.dtype).eps * signs)).to(x.dtype)

        hook = site_hook(self.checkpoint, Site("embed"))
        assert hook is not None  # the embedding is a module
        handle = attach(hook, disturb)
        try:
            return self.logits(self.ids)
        finally:
            handle.remove()

    def greedy(
        self, ids: Tensor, real: Tensor, steps: int, cached: bool
    ) -> tuple[Int[Tensor, "batch steps"], Float[Tensor, "batch steps vocabulary"]]:
        """Greedy tokens of a left-padded batch, and the logits that chose them."""
        past, given = None, ids
        chosen, scores = [], []
        for _ in range(steps):
            if cached:
                output = self.run(given, real, use_cache=True, past_key_values=past)
                past = output.past_key_values
            else:
                output = self.run(ids, real, use_cache=False)
            last = output.logits[:, -1].float()
            given = last.argmax(-1, keepdim=True)
            ids = torch.cat([ids, given], 1)
            real = torch.cat([real, torch.ones_like(real[:, :1])], 1)
            chosen.append(given)
            scores.append(last)
        return torch.cat(chosen, 1), torch.stack(scores, 1)

    def push(self) -> tuple[Float[Tensor, " width"], Site]:
        """A random vector as long as the residual stream at a middle layer, and that site."""
        site = Site("resid_post", self.checkpoint.anatomy.n_layers // 2)
        with reading(self.checkpoint, [site]) as found:
            self.logits(self.ids)
        generator = torch.Generator().manual_seed(self.seed)
        vector = torch.randn(self.checkpoint.anatomy.width, generator=generator)
        size = found[site].float().norm(dim=-1).mean().cpu()
        return vector * size / vector.norm(), site


def prepare(checkpoint: Checkpoint, seed: int) -> ModelUnderTest:
    """Choose token ids that suit the checkpoint's vocabulary, context and windows."""
    anatomy = checkpoint.anatomy
    windows = [layer.window for layer in anatomy.layers if layer.window is not None]
    length = max([_LENGTH, *(w + _OVERRUN for w in windows if w <= _LONGEST_WINDOW)])
    length = min(length, anatomy.context or length)
    allowed = ordinary_ids(checkpoint)
    generator = torch.Generator().manual_seed(seed)
    ids = allowed[torch.randint(len(allowed), (_ROWS, length), generator=generator)]
    half = torch.finfo(checkpoint.dtype).bits < 32
    return ModelUnderTest(checkpoint, ids.to(checkpoint.device), 2e-2 if half else 1e-5, seed)


def ordinary_ids(checkpoint: Checkpoint) -> Int[Tensor, " ids"]:
    """Token ids that are not special, or all of them where hardly any other is left."""
    config = text_config(checkpoint.model.config)
    special: set[int] = set()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(config, name, None)
        special.update(value if isinstance(value, list) else [value] if value is not None else [])
    if checkpoint.tokenizer is not None:
        special.update(checkpoint.tokenizer.all_special_ids)
    every = range(checkpoint.anatomy.vocabulary)
    ordinary = [token for token in every if token not in special]
    return torch.tensor(ordinary if len(ordinary) >= 2 else list(every))


def _kept(found: dict[Site, Tensor], site: Site, tensor: Tensor) -> Tensor:
    found[site] = tensor.detach()
    return tensor


@contextmanager
def reading(checkpoint: Checkpoint, sites: Sequence[Site]) -> Iterator[dict[Site, Tensor]]:
    """Keep the tensors of sites from the passes inside the context (the last one wins)."""
    found: dict[Site, Tensor] = {}
    handed_over: dict[int, list[Site]] = {}

    def receive(given: AttentionCall) -> None:
        for site in handed_over[given.layer]:
            tensor: Tensor = getattr(given, HANDED_OVER[site.name].field)
            found[site] = tensor.transpose(1, 2).detach()

    with ExitStack() as stack:
        for site in sites:
            hook = site_hook(checkpoint, site)
            if hook is not None:
                stack.callback(attach(hook, partial(_kept, found, site)).remove)
            elif site.layer is not None:
                handed_over.setdefault(site.layer, []).append(site)
        if handed_over:
            taps = {layer: Tap(receive) for layer in handed_over}
            stack.enter_context(observe(checkpoint.model, checkpoint.anatomy, taps))
        yield found
