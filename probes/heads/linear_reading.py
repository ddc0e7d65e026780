"""A linear reading of the residual stream behind the final norm, taken apart.

The logit of a probe on the final norm's output is w · N(x) + b, and x is the sum of what the
embedding, every head and every MLP wrote. With the norm's scale of each token held as it was, N is
affine, so the logit is a sum of contributions: direct logit attribution, with the probe in the
place of an unembedding. A norm that closes an attention (Gemma, OLMo-2) is folded in alike.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import UnsupportedModelError
from interp.model.loaded import LoadedModel
from interp.model.modules import attention_end, attention_module, find_projections

_LARGE = 1e3  # beside which the epsilon of a norm vanishes
_TOLERANCE = 1e-3  # of the norm's output, relative; more in half precision


@dataclass(frozen=True)
class FrozenNorm:
    """A norm as an affine map: N(x) = β + s(x) · γ ⊙ (x − centred · mean x).

    Attributes:
        gain: γ.
        bias: β; zero for RMSNorm.
        centred: whether the mean is taken out, as LayerNorm does.
        tolerance: by how much of its length the norm's output may differ from the map's.
    """

    gain: Float[Tensor, " width"]
    bias: Float[Tensor, " width"]
    centred: bool
    tolerance: float

    @classmethod
    def of(cls, norm: nn.Module, width: int) -> "FrozenNorm":
        """Find γ and β by what the module does to three inputs, whatever it calls its weights.

        Raises:
            UnsupportedModelError: it is neither an RMSNorm nor a LayerNorm.
        """
        parameter = next(norm.parameters(), torch.zeros(1))
        flat = torch.full((1, 1, width), _LARGE, device=parameter.device, dtype=parameter.dtype)
        signs = torch.ones(width, device=parameter.device, dtype=parameter.dtype)
        signs[width // 2 :] = -1
        with torch.no_grad():
            bias, ones, waves = (norm(x)[0, 0].double() for x in (flat * 0, flat, flat * signs))
        gain = (waves - bias) * signs.double()
        tolerance = max(_TOLERANCE, 4 * torch.finfo(parameter.dtype).eps)
        return cls(gain, bias, bool((ones - bias).norm() < 0.1 * gain.norm()), tolerance)

    def spread(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """γ ⊙ (x − centred · mean x): linear in x."""
        return self.gain * (x - x.mean(-1, keepdim=True) if self.centred else x)

    def scale(
        self, x: Float[Tensor, "*batch width"], out: Float[Tensor, "*batch width"]
    ) -> Float[Tensor, "*batch 1"]:
        """s(x) of each token, from the norm's own input and output.

        Raises:
            UnsupportedModelError: no scale turns the one into the other.
        """
        spread, wanted = self.spread(x), out - self.bias
        scale = (spread * wanted).sum(-1, keepdim=True) / spread.square().sum(-1, keepdim=True)
        off = (scale * spread - wanted).norm(dim=-1)
        if bool((off > self.tolerance * wanted.norm(dim=-1) + 1e-6).any()):
            raise UnsupportedModelError(
                "a norm of this model is neither an RMSNorm nor a LayerNorm, so what the heads "
                "add to a reading behind it cannot be told; ablation still can."
            )
        return scale

    def pulled_back(
        self, direction: Float[Tensor, "*batch width"]
    ) -> Float[Tensor, "*batch width"]:
        """The direction before the norm that reads what this one reads behind it, at scale 1."""
        weighted = self.gain * direction
        return weighted - weighted.mean(-1, keepdim=True) if self.centred else weighted


def attention_norm(checkpoint: LoadedModel, layer: int) -> nn.Module | None:
    """The norm between the output projection and the residual stream, where there is one."""
    block = checkpoint.layers[layer]
    end = attention_end(block)
    return None if end is attention_module(block) else end


def output_bias(checkpoint: LoadedModel, layer: int) -> Float[Tensor, " width"]:
    """Bias of the output projection, which belongs to no head."""
    out = find_projections(checkpoint.layers[layer]).out
    assert out is not None
    bias: Tensor | None = getattr(out, "bias", None)
    if bias is None:
        return torch.zeros(checkpoint.anatomy.width, dtype=torch.float64)
    return bias.detach().double()
