"""Policies: directions × layer weights × a gate × where they apply; what steers at inference.

A policy says what is done to which tokens at which sites; `steering.runtime`, which knows no more
of it than `steering.runtime.plan.PolicyLike`, does it. The
constructors of `steering.training.methods` and `steering.policy.methods` make the published ones.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.checkpoint import Checkpoint
from interp.checks import require_type
from interp.errors import InputError
from interp.generation import Edit
from interp.interventions.hooks import finite
from interp.model import artifacts
from interp.model.artifacts import Artifact
from interp.model.origin import origin, require_named, require_origin
from interp.model.sites import Site, layer_ranges
from steering.policy.gate_file import require_gate
from steering.runtime.gates import AlwaysOpen, Gate, depth, gate_from
from steering.runtime.operators import Operator, require_operator
from steering.runtime.runtime import as_edit
from steering.runtime.span import Span

KIND = "policy"
FILE = "policy.safetensors"


@dataclass(frozen=True, eq=False)
class Policy:
    """What steers, where, how much, and whom.

    The scale at site l of a row is strength · strength of the row · gate · weight of l, the latter
    times the weight that the gate gives l in this row, if it does.

    Attributes:
        name: for logs.
        method: how it was made, such as `actadd`, `cast`, `was`.
        sites: `resid_pre` or `resid_post` of layers, in their order.
        directions: one for each site.
        weights: of the sites; a site of weight 0 costs nothing.
        gate: decides for every row.
        span: which tokens.
        operator: what is done to them (`steering.runtime.operators.operate`).
        strength: α.
        readers: one for each site, for the operator `map`.
        keep_norm: rescale an edited state to the norm that it had.
        meta: JSON-ready provenance; `origin` names the checkpoint that it belongs to.
    """

    name: str
    method: str
    sites: tuple[Site, ...]
    directions: Float[Tensor, "sites width"]
    weights: tuple[float, ...]
    gate: Gate = field(default_factory=AlwaysOpen)
    span: Span = field(default_factory=Span.onward)
    operator: Operator = "add"
    strength: float = 1.0
    readers: Float[Tensor, "sites width"] | None = None
    keep_norm: bool = False
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_operator(self.operator)
        _require_sites(self.sites)
        if not len(self.sites) == len(self.directions) == len(self.weights):
            raise InputError(
                f"policy {self.name} has {len(self.sites)} sites, {len(self.directions)} "
                f"directions and {len(self.weights)} weights; give one of each for every site."
            )
        finite(self.directions, f"the directions of policy {self.name}")
        finite(torch.tensor([*self.weights, self.strength]), f"a weight of policy {self.name}")
        if (self.operator == "map") != (self.readers is not None):
            raise InputError(
                f"policy {self.name}: readers go with the operator map, and only with it."
            )
        if self.readers is not None:
            finite(self.readers, f"the readers of policy {self.name}")
        if self.operator in ("relative", "rotate") and bool(
            (self.directions.norm(dim=-1) == 0).any()
        ):
            raise InputError(f"policy {self.name} has a direction of length 0, pointing nowhere.")
        self._require_causal()

    def _require_causal(self) -> None:
        """Refuse a gated policy that would edit tokens before its decision is known."""
        decides = self.gate.position
        if self.gate.reads and (self.span.start is None or self.span.start < decides):
            raise InputError(
                f"policy {self.name} decides at position {decides}, so it cannot edit what stands "
                f"before; let its span start at {decides} or later, or use no gate."
            )
        sites = getattr(self.gate, "sites", len(self.sites))
        if sites != len(self.sites):
            raise InputError(
                f"the controller of policy {self.name} weighs {sites} sites, but the policy edits "
                f"{len(self.sites)}."
            )

    def __repr__(self) -> str:
        names = " and ".join(dict.fromkeys(site.name for site in self.sites))
        origin = self.meta.get("origin", {}).get("model", "no checkpoint")
        return (
            f"Policy({self.name}: {self.operator} at {names} of layers "
            f"{layer_ranges(site.layer for site in self.sites)}, {self.gate.kind} gate, "
            f"strength {self.strength:.4g}, width {self.width}, bound to {origin})"
        )

    @property
    def width(self) -> int:
        """Of the residual stream."""
        return self.directions.shape[1]

    @property
    def edits(self) -> tuple[int, ...]:
        """Indices of the sites whose weight is not 0."""
        return tuple(i for i, weight in enumerate(self.weights) if weight != 0)

    @property
    def late(self) -> bool:
        """Whether it edits a site that a pass reaches before the gate has read its last one."""
        if not self.gate.reads or not self.edits:
            return False
        return min(depth(self.sites[i]) for i in self.edits) < depth(self.gate.reads[-1])

    def bound(self, checkpoint: Checkpoint, **meta: Any) -> "Policy":
        """The same policy with its checkpoint and further provenance written into it."""
        return replace(self, meta={**self.meta, **meta, "origin": origin(checkpoint)})

    def require(self, checkpoint: Checkpoint, *, allow: Collection[str] = ()) -> None:
        """Check that the policy suits a checkpoint, and belongs to it if it names its origin.

        Args:
            checkpoint: to be steered.
            allow: what may differ all the same (`interp.model.origin.require_origin`).

        Raises:
            InputError: another model or template, another width, or a site that does not exist.
        """
        if "origin" in self.meta:
            require_origin(KIND, self.meta, checkpoint, allow=allow)
        if self.width != checkpoint.anatomy.width:
            raise InputError(
                f"policy {self.name} is {self.width} wide, but the residual stream of "
                f"{checkpoint.name} is {checkpoint.anatomy.width}."
            )
        for site in (*self.sites, *self.gate.reads):
            checkpoint.require(site)

    def as_edit(self, checkpoint: Checkpoint) -> Edit:
        """The policy as what `interp.generation` opens around each batch, so that it is steered.

        Raises:
            InputError: once it is opened, as for `steering.attach`.
        """
        return as_edit(checkpoint, self)

    def save(self, path: Path) -> Path:
        """Write the policy as an artefact.

        Args:
            path: a file that ends in `.safetensors`, or a folder, which gets one.

        Raises:
            InputError: the policy is not bound to a checkpoint, or the file cannot be written.
        """
        if "origin" not in self.meta:
            raise InputError(
                f"policy {self.name} does not say which model it belongs to; save "
                "policy.bound(checkpoint)."
            )
        return artifacts.save(_file(path), self._artifact())

    @classmethod
    def load(
        cls, path: Path, checkpoint: Checkpoint | None = None, *, allow: Collection[str] = ()
    ) -> "Policy":
        """Read a policy.

        Args:
            path: the file, or the folder that holds it.
            checkpoint: when given, the policy must be its own.
            allow: what may differ all the same (`interp.model.origin.require_origin`).

        Raises:
            InputError: the file is damaged, incomplete or of another kind, names no origin, or the
                policy belongs to another checkpoint.
        """
        artifact = artifacts.load(_file(path), KIND)
        try:
            policy = cls._from(artifact)
        except InputError as error:
            raise InputError(f"{_file(path)} is no complete policy: {error}") from error
        require_named(KIND, policy.meta, allow)
        if checkpoint is not None:
            policy.require(checkpoint, allow=allow)
        return policy

    def _artifact(self) -> Artifact:
        tensors = {"directions": self.directions, "weights": torch.tensor(self.weights)}
        if self.readers is not None:
            tensors["readers"] = self.readers
        tensors |= {f"gate.{name}": tensor for name, tensor in self.gate.state_dict().items()}
        meta = {
            **self.meta,
            "name": self.name,
            "method": self.method,
            "sites": [site.hook_name for site in self.sites],
            "span": [self.span.start, self.span.stop, self.span.skip],
            "operator": self.operator,
            "strength": self.strength,
            "keep_norm": self.keep_norm,
            "gate": self.gate.describe(),
        }
        return Artifact(KIND, tensors, meta)

    @classmethod
    def _from(cls, artifact: Artifact) -> "Policy":
        meta, tensors = dict(artifact.meta), artifact.tensors
        gate = {
            name.removeprefix("gate."): tensor
            for name, tensor in tensors.items()
            if name.startswith("gate.")
        }
        directions = tensors["directions"]
        require_gate(meta["gate"], gate, directions.shape[1], meta.get("origin", {}))
        own = {each.name for each in fields(cls)}
        return cls(
            name=meta["name"],
            method=meta["method"],
            sites=tuple(Site.parse(name) for name in meta["sites"]),
            directions=directions,
            weights=tuple(tensors["weights"].tolist()),
            gate=gate_from(meta["gate"], gate),
            span=Span(*meta["span"]),
            operator=require_operator(meta["operator"]),
            strength=float(meta["strength"]),
            readers=tensors.get("readers"),
            keep_norm=meta["keep_norm"],
            meta={k: v for k, v in meta.items() if k not in own and k != "versions"},
        )


def _file(path: Path) -> Path:
    require_type(path, (str, Path), "path", "name the folder or the file of the policy")
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / FILE


def _require_sites(sites: tuple[Site, ...]) -> None:
    if not sites:
        raise InputError("a policy needs at least one site to edit.")
    if any(site.name not in ("resid_pre", "resid_post") for site in sites):
        raise InputError("a policy edits resid_pre or resid_post of layers.")
    if list(sites) != sorted(set(sites), key=depth):
        raise InputError("name the sites of a policy once each, in the order of the layers.")
