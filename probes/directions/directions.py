"""Directions: differences in means, at every layer and position, with their provenance."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.capture.prompt_states import PromptStates
from interp.checkpoint import Checkpoint
from interp.errors import InputError, NumericalError, first_line
from interp.fields import BACKWARD, COUNT, require_fields
from interp.model.artifacts import Artifact, load, save
from interp.model.origin import require_origin
from interp.model.sites import layer_ranges
from interp.resume.sealed import strict_json

KIND = "direction"


@dataclass(frozen=True)
class Direction:
    """A vector with its place and provenance.

    Attributes:
        vector: of its raw length, in units of the residual stream.
        site: `resid_pre` for the input of a block.
        layer: of the site.
        position: counted back from the last prompt token, −1; where it was read.
        segment: `instruction` at t_inst, else `post_instruction`.
        method: how it was made.
        residual_norm: mean norm of the states it was made of, at its place.
        meta: JSON-ready: `origin` of the checkpoint, numbers of prompts, hashes of the data.
    """

    vector: Float[Tensor, " width"]
    site: str
    layer: int
    position: int
    segment: str
    method: str
    residual_norm: float
    meta: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"Direction({self.method}, {self.site} of layer {self.layer} at position "
            f"{self.position}, width {len(self.vector)}, length {self.norm:.4g})"
        )

    @property
    def norm(self) -> float:
        """Length of the vector."""
        return float(self.vector.norm())

    @property
    def unit(self) -> Float[Tensor, " width"]:
        """The vector at length 1.

        Raises:
            InputError: it is the zero vector.
        """
        if self.norm == 0:
            raise InputError("the direction is the zero vector, which points nowhere.")
        return self.vector / self.norm

    def describe(self) -> dict[str, Any]:
        """All but the vector, JSON-ready."""
        return {
            "site": self.site,
            "layer": self.layer,
            "position": self.position,
            "segment": self.segment,
            "method": self.method,
            "norm": self.norm,
            "residual_norm": self.residual_norm,
            **self.meta,
        }

    def save(self, path: Path) -> Path:
        """Write the direction as an artefact.

        Raises:
            InputError: it is not finite, or the file cannot be written.
        """
        return save(path, Artifact(KIND, {"vector": self.vector}, self.describe()))

    @classmethod
    def load(
        cls, path: Path, checkpoint: Checkpoint | None = None, *, allow: Collection[str] = ()
    ) -> "Direction":
        """Read a direction.

        Args:
            path: of the artefact.
            checkpoint: when given, the direction must be its own.
            allow: what may differ all the same (`interp.model.origin.require_origin`).

        Raises:
            InputError: the file is damaged or of another kind, or belongs to another checkpoint.
        """
        artifact = load(path, KIND)
        if checkpoint is not None:
            require_origin(KIND, artifact.meta, checkpoint, allow=allow)
        named = {"site", "layer", "position", "segment", "method", "residual_norm"}
        rest = {k: v for k, v in artifact.meta.items() if k not in (*named, "norm", "versions")}
        given = {name: artifact.meta[name] for name in named}
        return cls(vector=artifact.tensors["vector"], meta=rest, **given)


@dataclass(frozen=True)
class Directions:
    """A vector for every layer and position.

    Attributes:
        vectors: raw differences, in float64.
        residual_norms: mean norm of the states.
        layers: of the first axis.
        positions: of the second, counted back from the last prompt token, −1.
        site: of all.
        method: how they were made.
        t_inst: which position is the last of the instruction; None if none is.
        meta: JSON-ready provenance.
    """

    vectors: Float[np.ndarray, "layers positions width"]
    residual_norms: Float[np.ndarray, "layers positions"]
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    site: str
    method: str
    t_inst: int | None
    meta: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"Directions({self.method}, {self.site} of layers {layer_ranges(self.layers)} at "
            f"positions {', '.join(map(str, self.positions))}, width {self.vectors.shape[2]})"
        )

    def at(self, layer: int, position: int) -> Direction:
        """One of them.

        Raises:
            InputError: there is none there.
        """
        if layer not in self.layers or position not in self.positions:
            raise InputError(
                f"there is no direction at layer {layer}, position {position}; layers are "
                f"{', '.join(map(str, self.layers))}, positions "
                f"{', '.join(map(str, self.positions))}."
            )
        place = self.layers.index(layer), self.positions.index(position)
        return Direction(
            vector=torch.tensor(self.vectors[place], dtype=torch.float32),
            site=self.site,
            layer=layer,
            position=position,
            segment="instruction" if position == self.t_inst else "post_instruction",
            method=self.method,
            residual_norm=float(self.residual_norms[place]),
            meta=self.meta,
        )

    @property
    def norms(self) -> Float[np.ndarray, "layers positions"]:
        """Lengths."""
        return np.asarray(np.linalg.norm(self.vectors, axis=-1))

    def frame(self) -> pd.DataFrame:
        """A row for each: layer, position, norm, and norm relative to the residual's."""
        return pd.DataFrame(
            [
                {
                    "layer": layer,
                    "position": position,
                    "norm": self.norms[i, j],
                    "relative_norm": self.norms[i, j] / max(self.residual_norms[i, j], 1e-30),
                }
                for i, layer in enumerate(self.layers)
                for j, position in enumerate(self.positions)
            ]
        )


def difference_in_means(positive: PromptStates, negative: PromptStates, **meta: Any) -> Directions:
    """Mean of one class minus mean of the other, at every layer and position, in float64.

    Arditi et al. (arXiv 2406.11717), §2.3: not normalised.

    Args:
        positive: states of the class the direction points to.
        negative: states of the other.
        **meta: JSON-ready provenance to keep, such as `origin`.

    Raises:
        InputError: a class is empty, or the two were not captured at the same places.
        NumericalError: a state is NaN or infinite.
    """
    return directions_between([positive], [negative], **meta)


def directions_between(
    positive: list[PromptStates], negative: list[PromptStates], **meta: Any
) -> Directions:
    """The mean of some groups' means minus that of others', so that each group counts alike.

    With the four cells of harmful or harmless, refused or accepted, this takes the one attribute
    out of the direction of the other.

    Raises:
        InputError: a group is empty, or they were not captured at the same places.
        NumericalError: a state is NaN or infinite.
    """
    groups = [*positive, *negative]
    if not positive or not negative or any(len(group) == 0 for group in groups):
        raise InputError("a class holds no prompt, so it has no mean; give prompts of both.")
    places = {(group.layers, group.positions, group.site) for group in groups}
    if len(places) != 1:
        raise InputError("the classes were captured at different sites, layers or positions.")
    if not all(np.isfinite(group.values).all() for group in groups):
        raise NumericalError(
            "a state is NaN or infinite, so the means are; load the model in float32 or bfloat16."
        )
    means = [
        np.mean([group.values.mean(0, dtype=np.float64) for group in side], 0)
        for side in (positive, negative)
    ]
    norms = [np.linalg.norm(group.values, axis=-1).mean(0, dtype=np.float64) for group in groups]
    layers, positions, site = places.pop()
    return Directions(
        vectors=means[0] - means[1],
        residual_norms=np.mean(norms, 0),
        layers=layers,
        positions=positions,
        site=site,
        method="difference in means",
        t_inst=positions[0],
        meta={
            "positive": sum(map(len, positive)),
            "negative": sum(map(len, negative)),
            **meta,
        },
    )


@dataclass(frozen=True)
class Cells:
    """Prompts by what they are and what the model does with them.

    Attributes:
        harmful: whether a prompt is harmful.
        refused: whether the model refuses it.
    """

    harmful: Bool[np.ndarray, " n"]
    refused: Bool[np.ndarray, " n"]

    def __getitem__(self, cell: tuple[bool, bool]) -> Bool[np.ndarray, " n"]:
        """The mask of a cell (harmful, refused)."""
        return np.asarray((self.harmful == cell[0]) & (self.refused == cell[1]))

    def counts(self) -> dict[str, int]:
        """Prompts in each cell."""
        return {
            f"{'refused' if refused else 'accepted'}_{'harmful' if harmful else 'harmless'}": int(
                self[harmful, refused].sum()
            )
            for refused in (True, False)
            for harmful in (True, False)
        }


def harmfulness_directions(
    states: PromptStates,
    positive: Bool[np.ndarray, " n"],
    negative: Bool[np.ndarray, " n"],
    **meta: Any,
) -> Directions:
    """Harmfulness: refused harmful minus accepted harmless prompts, to be read at t_inst.

    Zhao et al. (arXiv 2507.11878), Eq. 5. The paper names its clusters by one attribute only, so
    the sets are arguments; `Cells` gives `cells[True, True]` and `cells[False, False]`.

    Raises:
        InputError: a set is empty.
    """
    return difference_in_means(states[positive], states[negative], **meta)


def refusal_directions(states: PromptStates, cells: Cells, **meta: Any) -> Directions:
    """Refusal: refused minus accepted prompts, to be read at the last prompt token.

    Zhao et al. (arXiv 2507.11878), Eq. 5. A harmfulness that is present in both cells of a row
    cancels where the cells of both rows are there, each counted alike; where one is empty, the two
    sides are compared as they are.

    Raises:
        InputError: nothing was refused, or nothing accepted.
    """
    for refused, word in ((True, "refused"), (False, "accepted")):
        if not (cells.refused == refused).any():
            raise InputError(
                f"the model {word} no prompt, so there is no refusal direction to find; give "
                "prompts of both kinds."
            )
    if all((cells[h, r]).any() for h in (True, False) for r in (True, False)):
        refused_cells, accepted_cells = (
            [states[cells[harmful, refused]] for harmful in (True, False)]
            for refused in (True, False)
        )
        return directions_between(refused_cells, accepted_cells, **meta)
    return difference_in_means(states[cells.refused], states[~cells.refused], **meta)


def cosine(one: Float[np.ndarray, " d"], other: Float[np.ndarray, " d"]) -> float:
    """Cosine of two vectors; 0 where one has no length."""
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / size if size else 0.0


def read_published(folder: Path) -> tuple[Directions, Direction]:
    """The candidates and the chosen direction as `refusal_direction` releases them.

    `mean_diffs.pt` is [positions, layers, width] over the post-instruction tokens, `direction.pt`
    [width], and `direction_metadata.json` names `pos` (negative) and `layer` (input of the block).
    Files are read with `weights_only=True` and never unpickled otherwise.

    Raises:
        InputError: a file is missing or damaged, or the chosen direction is not among the
            candidates.
    """
    folder = Path(folder)
    try:
        raw, vector = (
            torch.load(folder / name, weights_only=True, map_location="cpu")
            for name in ("mean_diffs.pt", "direction.pt")
        )
        named = strict_json((folder / "direction_metadata.json").read_bytes())
        _require_published(raw, vector, named)
    except Exception as error:
        # torch.load raises its own types for files that are cut or hold more than tensors.
        raise InputError(
            f"{folder} does not hold the three files of a published direction as tensors "
            f"({first_line(error)})."
        ) from error
    candidates = raw.double().numpy().transpose(1, 0, 2)
    layer, position = named["layer"], named["pos"]
    layers, positions = range(candidates.shape[0]), range(-candidates.shape[1], 0)
    found = Directions(
        vectors=candidates,
        residual_norms=np.full(candidates.shape[:2], np.nan),
        layers=tuple(layers),
        positions=tuple(positions),
        site="resid_pre",
        method="difference in means, published",
        t_inst=None,
        meta={"folder": folder.name},
    )
    chosen = found.at(layer, position)
    if not torch.allclose(chosen.vector, vector.float(), rtol=1e-4, atol=1e-6):
        raise InputError(
            f"{folder}: direction.pt is not the candidate at layer {layer}, position {position} "
            "that its metadata names."
        )
    return found, chosen


def _require_published(raw: Any, vector: Any, named: Any) -> None:
    """Check the contents of the three files against each other."""
    if not isinstance(named, dict):
        raise ValueError("the metadata are no JSON object")
    require_fields(named, {"layer": COUNT, "pos": BACKWARD})
    for tensor, axes, name in ((raw, 3, "mean_diffs.pt"), (vector, 1, "direction.pt")):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.ndim != axes:
            raise ValueError(f"{name} is no tensor of floats with {axes} axes")
        if not tensor.numel() or not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} is empty, NaN or infinite")
    if raw.shape[2] != vector.shape[0]:
        raise ValueError(
            f"direction.pt is {vector.shape[0]} wide, and mean_diffs.pt {raw.shape[2]}"
        )
