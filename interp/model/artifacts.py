"""Artefacts: tensors and their provenance in one safetensors file.

The description stands as JSON in the file's header, so that a vector cannot be parted from the
model, site and template it belongs to. A checksum covers both. Nothing is ever unpickled.
"""

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.checks import require_type
from interp.errors import InputError, first_line
from interp.model.artifact_schemas import SCHEMAS, require_valid
from interp.reading import exists, require_file
from interp.resume.files import write_atomically
from interp.resume.sealed import acknowledge, warn_unsealed
from interp.resume.sealed_tensors import Container, packed, read_container

FORMAT_VERSION = 1


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
    """Write an artefact with its checksum under a temporary name, then rename it.

    Raises:
        InputError: a tensor or a number of the description is NaN or infinite, or the file cannot
            be written.
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
    tensors = {name: t.detach().cpu() for name, t in artifact.tensors.items()}
    try:
        content = packed(json.dumps(header, allow_nan=False), tensors)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the description of this {artifact.kind} cannot be kept as JSON "
            f"({first_line(error)}); it is not saved."
        ) from error
    write_atomically(path, content)
    return path


def load(path: Path, kind: str | None = None) -> Artifact:
    """Read an artefact, and check it against its checksum and the schema of its kind.

    A file without a checksum is from before there were any; it is read, and a warning is logged.

    Args:
        path: of the file.
        kind: which it must be of.

    Raises:
        InputError: the file is missing, damaged, changed, none of ours, incomplete or
            contradictory, of another kind, or of a format that this version does not know.
    """
    container = _container(path)
    artifact = _validated(path, container, kind)
    if container.checksum is None:
        warn_unsealed(Path(path))
    return artifact


def seal(path: Path, check: Callable[[Path], object] = load) -> bool:
    """Write the checksum into a file of before there were any; nothing else in it changes.

    Args:
        path: of the artefact.
        check: reads the file as its kind is read, and raises if it cannot be.

    Returns:
        Whether the file was rewritten; False if it had its checksum already.

    Raises:
        InputError: as for `load`, or the file cannot be written.
    """
    container = _container(path)
    acknowledge(Path(path))
    check(path)
    if container.checksum is not None:
        return False
    write_atomically(Path(path), packed(container.text, container.tensors))
    return True


def _validated(path: Path, container: Container, kind: str | None) -> Artifact:
    header = container.header
    if header.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {header.get('format_version')!r:.40}; this version of "
            f"mechguard reads {FORMAT_VERSION}."
        )
    found = str(header.get("kind"))[:40]
    if kind is not None and found != kind:
        raise InputError(f"{path} holds a {found}, where a {kind} is needed.")
    if found not in SCHEMAS:
        raise InputError(
            f"{path} holds a {found}, which this version of mechguard does not know; it knows "
            f"{', '.join(SCHEMAS)}."
        )
    if container.checksum is not None and not container.intact:
        raise InputError(
            f"{path} was changed after it was written, for its checksum does not match; copy it "
            "again, or make it anew."
        )
    meta = {name: value for name, value in header.items() if name not in ("format_version", "kind")}
    try:
        require_valid(found, meta, container.tensors)
    except ValueError as error:
        raise InputError(f"{path} is no complete {found}: {error}; make it anew.") from error
    return Artifact(found, container.tensors, meta)


def _container(path: Path) -> Container:
    require_type(path, (str, Path), "path")
    path = Path(path)
    if not exists(path):
        raise InputError(f"{path} does not exist; give the file that mechguard wrote with --out.")
    require_file(path)
    try:
        container = read_container(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is damaged or no safetensors file ({first_line(error)}); copy it again, or "
            "make it anew."
        ) from error
    if container is None:
        raise InputError(f"{path} is a safetensors file, but mechguard did not write it.")
    return container
