"""A loaded model: model, tokenizer and anatomy, and what follows from these alone.

`interp.checkpoint.Checkpoint` is one that can be talked to. What lies below generation takes
a `LoadedModel`, so that a checkpoint may import it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from interp.errors import InputError, UnsupportedModelError
from interp.model.anatomy import Anatomy
from interp.model.identity import Identity, identity_of, tokenizer_hash
from interp.model.modules import decoder_layers, final_norm, text_config
from interp.model.sites import Site


@dataclass(frozen=True, repr=False)
class LoadedModel:
    """Model + tokenizer + anatomy.

    `name` is what the user asked for; `revision` the hub commit, if any. The model is the user's
    own object: nothing in it is renamed or replaced.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    anatomy: Anatomy
    name: str
    revision: str | None = None

    def __repr__(self) -> str:
        anatomy = self.anatomy
        parts = [
            self.name,
            anatomy.model_type,
            f"{anatomy.n_layers} layers x {anatomy.width}",
            f"{_counted(anatomy.parameters)} parameters",
            str(self.dtype).removeprefix("torch."),
            str(self.device),
        ]
        return f"{type(self).__name__}({', '.join(parts)})"

    @cached_property
    def layers(self) -> nn.ModuleList:
        """The decoder layers."""
        return decoder_layers(self.model)

    @cached_property
    def decoder(self) -> nn.Module:
        """The module that embeds ids and runs the layers, without the unembedding."""
        return next(m for m in self.model.modules() if any(c is self.layers for c in m.children()))

    @property
    def embedding(self) -> nn.Module:
        """The token embedding."""
        module: nn.Module = self.model.get_input_embeddings()
        return module

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last layer.

        Raises:
            UnsupportedModelError: there is none.
        """
        module = final_norm(self.model)
        if module is None:
            raise UnsupportedModelError(
                f"{self.anatomy.architecture} has no norm after its last layer that mechguard knows"
            )
        return module

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return self._embedded.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the embedding's weights."""
        return self._embedded.dtype

    @property
    def _embedded(self) -> Tensor:
        # An adapter of single tokens makes it anew, so that it may be no parameter.
        embedding: Any = self.embedding
        weight: Tensor = embedding.weight
        return weight

    def require(self, site: Site) -> None:
        """Check that the checkpoint has a site.

        Raises:
            InputError: naming what was asked for and what exists.
        """
        if site.layer is None:
            return
        if not 0 <= site.layer < self.anatomy.n_layers:
            raise InputError(
                f"there is no layer {site.layer}: {self.name} has layers 0 to "
                f"{self.anatomy.n_layers - 1}."
            )
        here = self.anatomy.layers[site.layer]
        if site.name not in here.sites:
            raise InputError(
                f"layer {site.layer} of {self.name} ({here.attention} attention) has no site "
                f"{site.name!r}; it has {', '.join(here.sites)}."
            )

    @property
    def identity(self) -> Identity:
        """What the checkpoint is, as it is now: weights that changed since are hashed anew.

        Raises:
            InputError: a weight lies on the meta device and has no values.
        """
        dtype = str(self.dtype).removeprefix("torch.")
        return identity_of(self.model, self.tokenizer, dtype)

    @property
    def measured_on(self) -> dict[str, Any]:
        """The identity and the kind of device, JSON-ready: what numbers of a run depend on."""
        return {**self.identity.as_json(), "device": self.device.type}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the whole `identity`, 16 hex digits."""
        return self.identity.digest

    @property
    def tokenizer_hash(self) -> str | None:
        """SHA-256 over the tokenizer and the chat template, 16 hex digits."""
        return tokenizer_hash(self.tokenizer)

    def bridge(self) -> Any:
        """A `TransformerBridge` on a copy of this model, for circuits work.

        The bridge renames parameters and forces eager attention, so it gets weights of its own.
        """
        from interp.model.bridge import to_bridge

        return to_bridge(self.model, self.tokenizer, self.name)


def _counted(parameters: int) -> str:
    """A number of parameters to one decimal, in thousands (k), millions (M) or billions (B)."""
    if parameters < 1e3:
        return str(parameters)
    if parameters < 1e5:
        return f"{parameters / 1e3:.1f} k"
    if parameters < 1e9:
        return f"{parameters / 1e6:.1f} M"
    return f"{parameters / 1e9:.1f} B"


def vocabulary_size(checkpoint: LoadedModel) -> int:
    """Rows of the embedding."""
    return int(text_config(checkpoint.model.config).vocab_size)
