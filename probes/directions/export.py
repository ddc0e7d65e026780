"""A direction in the formats of others.

What such a file cannot say (tokenizer, template, fingerprint, nulls) stays in the artefact that
the direction comes from; keep it beside the export.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from interp.errors import InputError
from interp.resume.files import write_atomically
from probes.directions.directions import Direction

_STRENGTH = 1.0  # times the raw difference in means


def export(direction: Direction, to: str, path: Path) -> Path:
    """Write a direction for another tool.

    Args:
        direction: at `resid_pre`.
        to: `lm-eval`, `neuronpedia` or `npy`.
        path: of the file to make.

    Returns:
        The path.

    Raises:
        InputError: no such format, one that cannot hold this direction, or a path that cannot be
            written.
    """
    if to not in FORMATS:
        raise InputError(f"there is no format {to!r}; there are {', '.join(FORMATS)}.")
    write_atomically(Path(path), FORMATS[to](direction))
    return Path(path)


def _lm_eval(direction: Direction) -> bytes:
    """For the `steered` model of lm-evaluation-harness, `steer_path=FILE.pt`.

    It adds at the output of a module, at all tokens, so the input of block l becomes the output of
    block l − 1. The name is that of the Llama family; other families call it otherwise.
    """
    if direction.site != "resid_pre" or direction.layer == 0:
        raise InputError(
            f"lm-eval adds to the output of a block, and {direction.site} of layer "
            f"{direction.layer} is none; only resid_pre from layer 1 on is."
        )
    entry = {
        "steering_vector": direction.vector,
        "steering_coefficient": _STRENGTH,
        "action": "add",
        "bias": None,
        "head_index": None,
    }
    buffer = io.BytesIO()
    torch.save({f"layers.{direction.layer - 1}": entry}, buffer)
    return buffer.getvalue()


def _neuronpedia(direction: Direction) -> bytes:
    """The body of a request for a new vector."""
    if direction.site != "resid_pre":
        raise InputError(f"Neuronpedia takes vectors of resid_pre, not of {direction.site}.")
    body = {
        "modelId": direction.meta.get("origin", {}).get("model"),
        "layerNumber": direction.layer,
        "hookType": "hook_resid_pre",
        "vector": direction.vector.tolist(),
        "vectorDefaultSteerStrength": _STRENGTH,
        "vectorLabel": f"{direction.method}, position {direction.position}",
    }
    return json.dumps(body).encode()


def _npy(direction: Direction) -> bytes:
    """A float32 array [width]."""
    buffer = io.BytesIO()
    np.save(buffer, direction.vector.numpy(), allow_pickle=False)
    return buffer.getvalue()


FORMATS: dict[str, Callable[[Direction], bytes]] = {
    "lm-eval": _lm_eval,
    "neuronpedia": _neuronpedia,
    "npy": _npy,
}
"""Format to what writes it."""
