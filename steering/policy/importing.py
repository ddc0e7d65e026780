"""Vectors of others: GGUF control vectors, `.svec` of CAST, and published refusal directions.

Control vectors (repeng, llama.cpp) and `.svec` files hold a vector for the output of each block; a
folder that `refusal_direction` released holds one for the input of one block. None says which
weights it belongs to; an imported policy is bound to the checkpoint that the caller names. None
carries a checksum either: what can be checked is (sizes, counts, layers, widths, finiteness), and
`ImportedVectors.unchecked` says what cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from interp.checkpoint import Checkpoint
from interp.errors import InputError, first_line
from interp.fields import NAME, OBJECT, POSITIVE, is_number, require_fields
from interp.interventions.hooks import finite
from interp.model.sites import Site
from interp.resume.sealed import strict_json
from probes.directions.directions import read_published
from steering.policy.export import ARCHITECTURE
from steering.policy.gguf_file import read_gguf
from steering.policy.policy import Policy
from steering.runtime.span import Span

_PREFIX, _HINT, _COUNT = "direction.", f"{ARCHITECTURE}.model_hint", f"{ARCHITECTURE}.layer_count"


@dataclass(frozen=True, eq=False)
class ImportedVectors:
    """What such a file or folder holds.

    Attributes:
        model_type: as the file names it, such as `llama`; None where it names none.
        layers: blocks that the vectors belong to, in order.
        vectors: one for each.
        path: of the file.
        site: `resid_post` for vectors of the output of a block, `resid_pre` for its input.
    """

    model_type: str | None
    layers: tuple[int, ...]
    vectors: Float[Tensor, "layers width"]
    path: Path
    site: str = "resid_post"

    @property
    def unchecked(self) -> tuple[str, str]:
        """What nothing in the file lets us check."""
        lacks = {
            ".gguf": "GGUF carries no checksum, so that a changed number would not be noticed",
            ".svec": ".svec carries no checksum, so that a changed number would not be noticed",
        }
        pair = "the .pt files carry no checksum, and were only compared with each other"
        made_on = "the vectors do not say which weights they were made on"
        return lacks.get(self.path.suffix, pair), made_on

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the vectors belong."""
        return tuple(Site(self.site, layer) for layer in self.layers)

    def policy(
        self,
        checkpoint: Checkpoint,
        strength: float = 1.0,
        *,
        layers: Sequence[int] | None = None,
        span: Span | None = None,
    ) -> Policy:
        """Plain addition at all tokens, as the tools that made these files do.

        Args:
            checkpoint: to be steered; the policy is bound to it.
            strength: α.
            layers: of the file's, to be edited; all by default.
            span: which tokens; all by default.

        Raises:
            InputError: the file is of another model type or width, or lacks a layer.
        """
        if self.model_type not in (None, checkpoint.anatomy.model_type):
            raise InputError(
                f"{self.path} was made for a {self.model_type}, and {checkpoint.name} is a "
                f"{checkpoint.anatomy.model_type}."
            )
        chosen = self.layers if layers is None else tuple(sorted(layers))
        if missing := [layer for layer in chosen if layer not in self.layers]:
            raise InputError(
                f"{self.path} has no vector for layer {missing[0]}; it has "
                f"{', '.join(map(str, self.layers))}."
            )
        policy = Policy(
            "actadd",
            "actadd",
            tuple(Site(self.site, layer) for layer in chosen),
            self.vectors[[self.layers.index(layer) for layer in chosen]],
            (1.0,) * len(chosen),
            span=Span.everything() if span is None else span,
            strength=strength,
        )
        policy.require(checkpoint)
        return policy.bound(checkpoint, imported=str(self.path))


def read_vectors(path: Path) -> ImportedVectors:
    """Read a `.gguf` control vector, a `.svec` file, or the folder of a published direction.

    Args:
        path: of the file; or of a folder as `probes.directions.directions.read_published` takes.

    Raises:
        InputError: the file is missing, damaged, of another kind, or holds NaN or unequal widths.
    """
    path = Path(path)
    if path.is_dir():
        return _published(path)
    readers = {".gguf": _gguf, ".svec": _svec}
    if path.suffix not in readers:
        raise InputError(
            f"{path}: vectors come as {' or '.join(readers)}, or as a folder with direction.pt, "
            f"not {path.suffix!r}."
        )
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    try:
        model_type, directions = readers[path.suffix](path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is damaged or no {path.suffix} file of vectors ({first_line(error)}); copy it "
            "again."
        ) from error
    layers = tuple(sorted(directions))
    if not layers or len({len(v) for v in directions.values()}) != 1:
        raise InputError(f"{path} holds no vectors of one width for layers from 0 on.")
    vectors = torch.stack([directions[layer] for layer in layers])
    return ImportedVectors(model_type, layers, finite(vectors, f"a vector of {path}"), path)


def _published(folder: Path) -> ImportedVectors:
    """A direction of Arditi et al. (arXiv 2406.11717), which is added at the input of its block."""
    chosen = read_published(folder)[1]
    vector = finite(chosen.vector, f"the direction of {folder}")
    return ImportedVectors(None, (chosen.layer,), vector[None], folder, chosen.site)


def _gguf(path: Path) -> tuple[str, dict[int, Tensor]]:
    found = read_gguf(path)
    architecture = found.fields.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise InputError(f"{path} is a GGUF file of {architecture!r:.40}, not of a control vector.")
    require_fields(found.fields, {_HINT: NAME, _COUNT: POSITIVE.optional()})
    if found.fields.get(_COUNT, len(found.tensors)) != len(found.tensors):
        raise ValueError(
            f"it states {found.fields[_COUNT]} vectors, and holds {len(found.tensors)}"
        )
    if strange := [name for name in found.tensors if not name.startswith(_PREFIX)]:
        raise ValueError(f"it holds a tensor {strange[0][:40]!r}, which is no direction")
    directions = {
        _layer(name.removeprefix(_PREFIX)): tensor for name, tensor in found.tensors.items()
    }
    if any(vector.ndim != 1 for vector in directions.values()):
        raise ValueError("a direction is no list of numbers")
    return found.fields[_HINT], directions


def _svec(path: Path) -> tuple[str, dict[int, Tensor]]:
    """JSON with `model_type`, `directions` of layers, and `explained_variances`."""
    content = strict_json(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    require_fields(content, {"model_type": NAME, "directions": OBJECT})
    directions = {}
    for layer, vector in content["directions"].items():
        if not isinstance(vector, list) or not all(map(is_number, vector)):
            raise ValueError("a direction is no list of finite numbers")
        directions[_layer(layer)] = torch.tensor(vector, dtype=torch.float64).float()
    return content["model_type"], directions


def _layer(text: str) -> int:
    """The layer that a key names, in one spelling only, so that no layer is there twice."""
    if not text.isascii() or not text.isdigit() or str(int(text[:9])) != text:
        raise ValueError(f"{text[:20]!r} is no number of a layer")
    return int(text)
