"""Artefacts: tensors and their provenance in one safetensors file.

The description stands as JSON in the file's header, so that a vector cannot be parted from the
model, site and template it belongs to. Nothing is ever unpickled.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from interp.checks import require_type
from interp.errors import InputError, first_line
from interp.resume.files import write_atomically

FORMAT_VERSION = 1
_HEADER = "mechguard"


@dataclass(frozen=True)
class Artifact:
    """What a file holds.

    Attributes:
        kind: such as `direction`, `guard` or `probe`.
        tensors: by name.
        meta: JSON-ready; `origin` says which checkpoint it comes from.
    """

    kind: str
    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]


def versions() -> dict[str, str]:
    """Of mechguard, Python and the libraries that numbers depend on."""
    libraries = ("mechguard", "transformers", "numpy", "scikit-learn")
    # torch says which build it is, which the metadata of its package may leave out.
    own = {"python": platform.python_version(), "torch": str(torch.__version__)}
    return own | {name: version(name) for name in libraries}


def save(path: Path, artifact: Artifact) -> Path:
    """Write an artefact under a temporary name, then rename it.

    Raises:
        InputError: a tensor is NaN or infinite, or the file cannot be written.
    """
    path = Path(path)
    for name, tensor in artifact.tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} of this {artifact.kind} is NaN or infinite; it is not saved.")
    header = {
        "format_version": FORMAT_VERSION,
        "kind": artifact.kind,
        "versions": versions(),
        **artifact.meta,
    }
    # Copies, for safetensors refuses tensors of one memory, such as a direction that a gate reads.
    tensors = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, t in artifact.tensors.items()
    }
    # As bytes, because save_file would leave the file readable by its owner alone.
    text = json.dumps(header, allow_nan=False)
    write_atomically(path, serialised(tensors, metadata={_HEADER: text}))
    return path


def load(path: Path, kind: str | None = None) -> Artifact:
    """Read an artefact.

    Args:
        path: of the file.
        kind: which it must be of.

    Raises:
        InputError: the file is missing, truncated, none of ours, of another kind, or of a format
            that this version does not know.
    """
    require_type(path, (str, Path), "path")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the file that mechguard wrote with --out.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_HEADER, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is damaged or no safetensors file ({first_line(error)}); copy it again, or "
            "make it anew."
        ) from error
    if not isinstance(header, dict):
        raise InputError(f"{path} is a safetensors file, but mechguard did not write it.")
    if header.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {header.get('format_version')!r}; this version of "
            f"mechguard reads {FORMAT_VERSION}."
        )
    found = str(header.get("kind"))
    if kind is not None and found != kind:
        raise InputError(f"{path} holds a {found}, where a {kind} is needed.")
    meta = {name: value for name, value in header.items() if name not in ("format_version", "kind")}
    return Artifact(found, tensors, meta)
