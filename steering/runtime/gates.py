"""Gates admit: from the states of one token of the prompt to a strength for each row.

A gate reads some sites at its decision token, which is named by its distance from the prompt's end
(−1 is the last prompt token), so that the same gate works on every prompt of a template. Strength 0
means closed, and a closed row is left as it is to the bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import InputError
from interp.interventions.hooks import finite
from interp.model.sites import Site

Squash = Literal["none", "clip01", "sigmoid"]
LAST = -1


@dataclass(frozen=True)
class Opening:
    """What a gate says of each row.

    Attributes:
        score: the read-out that was compared with the threshold; the higher, the more it opens.
        strength: 0 where closed.
        weights: of each site that the policy edits, if the gate chooses them by row.
    """

    score: Float[Tensor, " rows"]
    strength: Float[Tensor, " rows"]
    weights: Float[Tensor, "rows sites"] | None = None


class Gate(nn.Module, ABC):
    """Decides for every row, at one token of the prompt.

    Attributes:
        reads: the sites it reads, in the order of the layers.
        position: of its decision token, counted back from the last prompt token, −1.
    """

    kind: str
    reads: tuple[Site, ...]
    position: int

    def __init__(self, reads: Sequence[Site], position: int) -> None:
        super().__init__()
        if position > LAST:
            raise InputError(
                f"a gate decides at a token of the prompt, counted back from the last, −1; got "
                f"position {position}."
            )
        self.reads, self.position = _in_order(reads), position

    @abstractmethod
    def forward(self, states: Float[Tensor, "rows reads width"]) -> Opening:
        """Decide, in float32."""

    def options(self) -> dict[str, Any]:
        """What the constructor needs beside the tensors, JSON-ready."""
        return {}

    def describe(self) -> dict[str, Any]:
        """All but the tensors, JSON-ready."""
        return {
            "kind": self.kind,
            "reads": [site.hook_name for site in self.reads],
            "position": self.position,
            **self.options(),
        }

    @classmethod
    def _made(cls, given: dict[str, Any], tensors: Mapping[str, Tensor]) -> "Gate":
        """From `describe` and the tensors of the state dictionary."""
        made: Any = cls  # every kind has arguments of its own
        gate: Gate = made(**given, **tensors)
        return gate


class AlwaysOpen(Gate):
    """No gate: every row is steered at strength 1."""

    kind = "open"

    def __init__(self, reads: Sequence[Site] = (), position: int = LAST) -> None:
        super().__init__(reads, position)

    def forward(self, states: Float[Tensor, "rows reads width"]) -> Opening:
        """Open, without looking."""
        ones = torch.ones(len(states), device=states.device)
        return Opening(ones, ones)


class LogisticGate(Gate):
    """Opens where a logistic read-out exceeds a threshold.

    score = bias + Σ_l w_l · h_l, the log-odds; hard strength is 1 where score > threshold and 0
    elsewhere, soft strength σ(score) there and exactly 0 elsewhere.
    """

    kind = "logistic"
    coefficients: Tensor
    bias: Tensor
    threshold: Tensor

    def __init__(
        self,
        reads: Sequence[Site],
        coefficients: Float[Tensor, "reads width"],
        bias: float | Float[Tensor, ""] = 0.0,
        threshold: float | Float[Tensor, ""] = 0.0,
        position: int = LAST,
        hard: bool = True,
    ) -> None:
        """Make the gate.

        Args:
            reads: sites.
            coefficients: on the raw states (fold any standardisation in).
            bias: log-odds at the zero state.
            threshold: on the log-odds.
            position: of the decision token.
            hard: strength 1 when open, instead of the probability.

        Raises:
            InputError: a number is not finite, or there is not one row for each site.
        """
        super().__init__(reads, position)
        self.hard = hard
        self.register_buffer("coefficients", _fitting(coefficients, self.reads, "coefficients"))
        self.register_buffer("bias", _scalar(bias, "the bias"))
        self.register_buffer("threshold", _scalar(threshold, "the threshold"))

    def forward(self, states: Float[Tensor, "rows reads width"]) -> Opening:
        """Decide, in float32."""
        score = (states.float() * self.coefficients).sum((1, 2)) + self.bias
        strength = torch.ones_like(score) if self.hard else score.sigmoid()
        return Opening(score, _above(score, self.threshold, strength))

    def options(self) -> dict[str, Any]:
        """Whether it is hard."""
        return {"hard": self.hard}


class CosineGate(Gate):
    """Opens where a state looks like a condition vector at any of the sites.

    Lee et al. (CAST, arXiv 2409.05907), §3: sim(h, tanh(P h)) with P = c cᵀ / cᵀc and the cosine
    as sim, compared with θ; of several condition layers one suffices. Decided for each row at the
    decision token (the published code decides for a whole batch by its first row, and by default
    on the mean over the prompt). `plain` compares h with c itself.
    """

    kind = "cosine"
    conditions: Tensor
    thresholds: Tensor

    def __init__(
        self,
        reads: Sequence[Site],
        conditions: Float[Tensor, "reads width"],
        thresholds: float | Sequence[float] | Float[Tensor, "..."],
        position: int = LAST,
        above: bool = True,
        plain: bool = False,
    ) -> None:
        """Make the gate.

        Args:
            reads: sites of the condition layers.
            conditions: a vector c for each.
            thresholds: θ of each, or of all.
            position: of the decision token.
            above: open where the similarity exceeds θ; else where it is below.
            plain: cosine of h and c instead of the published similarity.

        Raises:
            InputError: a number is not finite, or there is not one for each site.
        """
        super().__init__(reads, position)
        self.above, self.plain = above, plain
        limits = torch.as_tensor(thresholds, dtype=torch.float32).reshape(-1)
        if len(limits) not in (1, len(self.reads)):
            raise InputError(
                f"the cosine gate reads {len(self.reads)} site(s) and got {len(limits)} "
                "thresholds; give one, or one for each."
            )
        self.register_buffer("conditions", _fitting(conditions, self.reads, "conditions"))
        self.register_buffer(
            "thresholds", finite(limits, "thresholds").expand(len(self.reads)).clone()
        )

    def similarity(self, states: Float[Tensor, "rows reads width"]) -> Float[Tensor, "rows reads"]:
        """Of each state and its condition, −1 to 1."""
        h, c = states.float(), self.conditions
        if self.plain:
            return torch.cosine_similarity(h, c.expand_as(h), dim=-1)
        along = (h * c).sum(-1, keepdim=True) / (c * c).sum(-1, keepdim=True)
        return torch.cosine_similarity(h, torch.tanh(along * c), dim=-1)

    def forward(self, states: Float[Tensor, "rows reads width"]) -> Opening:
        """Decide, in float32; the score is the largest margin over the sites."""
        margin = self.similarity(states) - self.thresholds
        score = (margin if self.above else -margin).amax(-1)
        return Opening(score, (score > 0).float())

    def options(self) -> dict[str, Any]:
        """Which side opens, and which similarity."""
        return {"above": self.above, "plain": self.plain}


class ControllerGate(Gate):
    """A small network that gives every row a scale and a weight for each edited site.

    Hegazy et al. (WAS, arXiv 2505.20309): one hidden layer with ReLU on the states of all read
    sites side by side; of its 1 + sites outputs the first is the scale s, raw as published, and the
    sigmoid of the others are the weights w. A threshold makes s exactly 0 where its raw value does
    not exceed it; published WAS has none. `components` compress the input first (PCA).
    """

    kind = "controller"
    threshold: Tensor
    centre: Tensor
    components: Tensor

    def __init__(
        self,
        reads: Sequence[Site],
        width: int,
        sites: int,
        hidden: int = 1024,
        position: int = LAST,
        squash: str = "none",
        threshold: float | Float[Tensor, ""] | None = None,
        centre: Float[Tensor, " inputs"] | None = None,
        components: Float[Tensor, "kept inputs"] | None = None,
    ) -> None:
        """Make the controller, with fresh weights.

        Args:
            reads: sites whose states are its input.
            width: of the residual stream.
            sites: how many the policy edits.
            hidden: units of the hidden layer.
            position: of the decision token.
            squash: of the scale: `none`, `clip01` or `sigmoid`.
            threshold: on the raw scale; None for no cut-off.
            centre: subtracted from the input before it is compressed.
            components: orthonormal rows that compress the input of reads · width numbers.

        Raises:
            InputError: an unknown squashing, or shapes that do not fit.
        """
        super().__init__(reads, position)
        if squash not in get_args(Squash):
            raise InputError(f"squash {squash!r} is not one of {', '.join(get_args(Squash))}.")
        self.squash = cast(Squash, squash)
        self.width, self.sites, self.units = width, sites, hidden
        inputs = len(self.reads) * width
        if (centre is None) != (components is None):
            raise InputError("a compressed controller needs both centre and components.")
        if components is not None and components.shape[-1] != inputs:
            raise InputError(
                f"the components take {components.shape[-1]} numbers, but {len(self.reads)} "
                f"site(s) of width {width} are {inputs}."
            )
        self.cut = threshold is not None
        self.register_buffer("threshold", _scalar(threshold or 0.0, "the threshold"))
        for name, given in (("centre", centre), ("components", components)):
            kept = torch.zeros(0) if given is None else finite(given, name).float()
            self.register_buffer(name, kept)
        self.hidden = nn.Linear(inputs if components is None else len(components), hidden)
        self.head = nn.Linear(hidden, 1 + sites)

    def forward(self, states: Float[Tensor, "rows reads width"]) -> Opening:
        """Decide, in float32; the score is the raw scale."""
        x = states.float().flatten(1)
        if len(self.components):
            x = (x - self.centre) @ self.components.T
        out = self.head(torch.relu(self.hidden(x)))
        raw = out[:, 0]
        squashed = {"none": raw, "clip01": raw.clamp(0, 1), "sigmoid": raw.sigmoid()}[self.squash]
        strength = _above(raw, self.threshold, squashed) if self.cut else squashed
        return Opening(raw, strength, out[:, 1:].sigmoid())

    def options(self) -> dict[str, Any]:
        """Sizes and squashing."""
        return {
            "width": self.width,
            "sites": self.sites,
            "hidden": self.units,
            "squash": self.squash,
            "cut": self.cut,
        }

    @classmethod
    def _made(cls, given: dict[str, Any], tensors: Mapping[str, Tensor]) -> "ControllerGate":
        compressed = len(tensors["components"]) > 0
        made = cls(
            **{name: value for name, value in given.items() if name != "cut"},
            threshold=tensors["threshold"] if given["cut"] else None,
            centre=tensors["centre"] if compressed else None,
            components=tensors["components"] if compressed else None,
        )
        made.load_state_dict(dict(tensors))
        return made


_KINDS: dict[str, type[Gate]] = {
    gate.kind: gate for gate in (AlwaysOpen, LogisticGate, CosineGate, ControllerGate)
}


def gate_from(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Gate:
    """A gate from what `describe` and its state dictionary gave.

    Raises:
        InputError: the kind is unknown, or the tensors do not fit it.
    """
    given = dict(description)
    kind = given.pop("kind", None)
    if kind not in _KINDS:
        raise InputError(f"there is no gate {kind!r}; there are {', '.join(_KINDS)}.")
    for name, tensor in tensors.items():
        finite(tensor, f"{name} of the gate")
    try:
        given["reads"] = [Site.parse(name) for name in given["reads"]]
        return _KINDS[kind]._made(given, tensors).eval()
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"the {kind} gate of this policy is incomplete or does not fit its tensors; save the "
            "policy anew."
        ) from error


def _above(score: Tensor, threshold: Tensor, strength: Tensor) -> Tensor:
    return torch.where(score > threshold, strength, torch.zeros_like(strength))


def _in_order(reads: Sequence[Site]) -> tuple[Site, ...]:
    if any(site.name not in ("resid_pre", "resid_post") for site in reads):
        raise InputError("a gate reads resid_pre or resid_post of layers.")
    ordered = tuple(sorted(reads, key=depth))
    if tuple(reads) != ordered or len(set(reads)) < len(reads):
        raise InputError("name the sites that a gate reads once each, in the order of the layers.")
    return ordered


def depth(site: Site) -> int:
    """Where a site of the residual stream stands in a pass: resid_pre:l is 2l, resid_post:l 2l+1.

    Raises:
        InputError: it is no site of a layer.
    """
    if site.layer is None:
        raise InputError(f"{site.hook_name} is no site of a layer.")
    return 2 * site.layer + (site.name == "resid_post")


def _fitting(given: Tensor, reads: tuple[Site, ...], what: str) -> Tensor:
    if given.ndim != 2 or len(given) != len(reads) or not len(reads):
        raise InputError(
            f"{what} have shape {list(given.shape)}; {len(reads)} site(s) need "
            f"[{len(reads)}, width]."
        )
    return finite(given, what).float()


def _scalar(given: float | Tensor, what: str) -> Tensor:
    return finite(torch.as_tensor(given, dtype=torch.float32).reshape(()).clone(), what)
