"""A policy in the formats of others: GGUF control vectors, EasySteer specs, lm-eval `steered`.

Those formats hold fixed vectors that are added; only the static part of a policy goes into them.
What is lost is returned, and written into the metadata of the file. They number layers by the
block at whose output a vector is added, so the input of block l is the output of block l − 1.
"""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.capture.prompt_states import prompt_states
from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.errors import InputError
from interp.model.sites import Site
from interp.resume.files import replacing, write_atomically
from steering.policy.policy import Policy
from steering.runtime.span import Span

ARCHITECTURE = "controlvector"
LOST = "mechguard.lost"
Static = dict[int, Float[Tensor, " width"]]
"""Block at whose output a vector is added, and the vector."""


def export_policy(
    policy: Policy, to: str, path: Path, *, norms: Sequence[float] | None = None
) -> list[str]:
    """Write the static part of a policy for another tool.

    Args:
        policy: which adds; a rotation and a map have no static part.
        to: `gguf`, `easysteer` or `lm-eval`.
        path: of the file to make. A GGUF file stands beside an EasySteer spec.
        norms: typical norm of a state at each site, for a policy whose strength is relative to it;
            by default those in its metadata under `residual_norms`.

    Returns:
        What the file cannot say, a sentence each.

    Raises:
        InputError: no such format, one that cannot hold this policy, or a path that cannot be
            written.
    """
    if to not in FORMATS:
        raise InputError(f"there is no format {to!r}; policies go to {', '.join(FORMATS)}.")
    vectors = static_part(policy, norms)
    lost = losses(policy, keeps_span=to == "easysteer")
    FORMATS[to](policy, vectors, lost, Path(path))
    return lost


def static_part(policy: Policy, norms: Sequence[float] | None = None) -> Static:
    """What is added at the output of each block when the gate is fully open.

    Args:
        policy: whose operator is `add`, or `relative` where norms are known.
        norms: as for `export_policy`.

    Raises:
        InputError: the operator is no addition, norms are missing, or a site is the embedding.
    """
    sizes = _sizes(policy, norms)
    vectors: Static = {}
    for index in policy.edits:
        block = _block(policy.sites[index])
        scale = policy.strength * policy.weights[index] * sizes[index]
        added = scale * policy.directions[index].detach().float().cpu()
        vectors[block] = vectors.get(block, torch.zeros_like(added)) + added
    if not vectors:
        raise InputError(f"policy {policy.name} edits no site, so there is nothing to export.")
    return vectors


def typical_norms(checkpoint: Checkpoint, policy: Policy, rows: Sequence[Row]) -> list[float]:
    """Mean norm of the unsteered state of the last prompt token at each site of a policy.

    Args:
        checkpoint: that the policy steers.
        policy: whose sites are measured.
        rows: prompts like those that are to be steered.
    """
    norms: dict[Site, float] = {}
    for name in sorted({site.name for site in policy.sites}):
        sites = [site for site in policy.sites if site.name == name]
        layers = [site.layer for site in sites if site.layer is not None]
        states = prompt_states(checkpoint, rows, site=name, layers=layers)
        means = np.linalg.norm(states.at(-1), axis=-1).mean(0)
        norms |= dict(zip(sites, means.tolist(), strict=True))
    return [norms[site] for site in policy.sites]


def losses(policy: Policy, *, keeps_span: bool = False) -> list[str]:
    """What a file of fixed vectors does not say of a policy, a sentence each.

    Args:
        policy: which.
        keeps_span: whether the format says which tokens are edited.
    """
    lost = []
    gate = policy.gate
    if gate.reads:
        read = ", ".join(site.hook_name for site in gate.reads)
        lost.append(
            f"The {gate.kind} gate (it reads {read} at position {gate.position}): every prompt is "
            "steered, harmless ones too."
        )
    if gate.kind == "controller":
        lost.append("Scale and layer weights of each prompt: all sites are steered at scale 1.")
    if policy.span != Span.everything() and not keeps_span:
        lost.append(f"The span ({_spoken(policy.span)}): all tokens are steered, prompt included.")
    if policy.operator == "relative":
        lost.append("The strength relative to each state's norm: it is fixed at a typical norm.")
    if policy.keep_norm:
        lost.append("The norm of a steered state is no longer kept.")
    lost.append("Which weights and chat template it belongs to: nothing refuses another model.")
    return lost


def _sizes(policy: Policy, norms: Sequence[float] | None) -> list[float]:
    """What each direction is multiplied by before strength and weight."""
    if policy.operator == "add":
        return [1.0] * len(policy.sites)
    if policy.operator != "relative":
        raise InputError(
            f"policy {policy.name} does not add a fixed vector (its operator is "
            f"{policy.operator}), so no export can hold it; only policies that add are exported."
        )
    given = policy.meta.get("residual_norms") if norms is None else norms
    if given is None or len(given) != len(policy.sites):
        raise InputError(
            f"the strength of policy {policy.name} is relative to the norm of each state, and the "
            f"file needs a fixed one; give a typical norm for each of its {len(policy.sites)} "
            "sites (norms=typical_norms(checkpoint, policy, rows))."
        )
    lengths = policy.directions.detach().float().norm(dim=-1).tolist()
    return [float(norm) / length for norm, length in zip(given, lengths, strict=True)]


def _block(site: Site) -> int:
    assert site.layer is not None  # a policy edits layers
    block = site.layer if site.name == "resid_post" else site.layer - 1
    if block < 0:
        raise InputError(
            "these formats add at the output of a block, and resid_pre of layer 0 is none; only "
            "sites behind the first block can be exported."
        )
    return block


def _spoken(span: Span) -> str:
    start = "the start" if span.start is None else f"token {span.start}"
    stop = "on" if span.stop is None else f"up to token {span.stop}"
    skipped = f", without the first {span.skip}" if span.skip else ""
    return f"from {start} {stop}, counted from the prompt's end{skipped}"


def _gguf(policy: Policy, vectors: Static, lost: list[str], path: Path) -> None:
    """The control vector of repeng and llama.cpp.

    `direction.i` is added at the output of block i. llama.cpp refuses i = 0 and repeng trains none.
    """
    if 0 in vectors:
        raise InputError(
            "a GGUF control vector begins with the output of block 1, and policy "
            f"{policy.name} adds at that of block 0; llama.cpp refuses such a file."
        )
    writer_of = gguf_module().GGUFWriter
    with replacing(path) as temporary:
        # The writer would not create the folder, and closes its file only at the end.
        writer = writer_of(temporary, ARCHITECTURE)
        hint = str(policy.meta.get("origin", {}).get("model_type", "unknown"))
        writer.add_string(f"{ARCHITECTURE}.model_hint", hint)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
        writer.add_string("mechguard.policy", json.dumps(_described(policy)))
        writer.add_array(LOST, lost)
        for block, vector in sorted(vectors.items()):
            writer.add_tensor(f"direction.{block}", vector.numpy().astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _easysteer(policy: Policy, vectors: Static, lost: list[str], path: Path) -> None:
    """A `SteeringSpec` in JSON, for `--steering-config` or the `steering` field of a request.

    Its vectors lie in a GGUF file beside it, which is named as the spec names it: by its path.
    """
    beside = path.with_suffix(".gguf")
    if beside == path:
        raise InputError(f"{path} is to be an EasySteer spec; name a file that ends in .json.")
    vector = {
        "name": policy.name,
        "source": str(beside.absolute()),
        "algorithm": "direct",
        "scale": 1.0,
        "layers": sorted(vectors),
        "normalize": False,
        "apply": _apply(policy.span),
    }
    spec = {"conflict": "sequential", "vectors": [vector]}
    _gguf(policy, vectors, lost, beside)
    write_atomically(path, json.dumps(spec, indent=1).encode())


def _lm_eval(policy: Policy, vectors: Static, lost: list[str], path: Path) -> None:
    """For the `steered` model of lm-evaluation-harness, `steer_path=FILE.pt`.

    It binds the vector of its last entry to all hooks, so several different ones would be wrong.
    The names of modules are those of the Llama family; other families call them otherwise.
    """
    first = next(iter(vectors.values()))
    if any(not torch.equal(first, other) for other in vectors.values()):
        raise InputError(
            f"policy {policy.name} adds different vectors at {len(vectors)} blocks, and lm-eval's "
            "steered model would add the last of them everywhere; export a policy with one site."
        )
    entries = {
        f"layers.{block}": {
            "steering_vector": vector,
            "steering_coefficient": 1.0,
            "action": "add",
            "bias": None,
            "head_index": None,
            LOST: lost,
        }
        for block, vector in vectors.items()
    }
    buffer = io.BytesIO()
    torch.save(entries, buffer)
    write_atomically(path, buffer.getvalue())


def _described(policy: Policy) -> dict[str, Any]:
    return {
        "name": policy.name,
        "method": policy.method,
        "sites": [site.hook_name for site in policy.sites],
        "span": [policy.span.start, policy.span.stop, policy.span.skip],
        "strength": policy.strength,
        "gate": policy.gate.describe(),
        "origin": policy.meta.get("origin", {}),
    }


def _apply(span: Span) -> dict[str, Any]:
    """The clause that says which tokens, of the prompt and of the reply.

    EasySteer counts prompt tokens from the end where negative, and new tokens from 0, as we do.
    """
    clause: dict[str, Any] = {"phases": []}
    if span.start is None or span.start < 0:
        clause["phases"].append("prompt")
        start = span.skip if span.start is None else span.start
        stop = None if span.stop is None or span.stop >= 0 else span.stop
        if (start, stop) != (0, None):
            clause["prompt_window"] = [start, stop]
        if span.start is not None and span.skip:
            clause["exclude_prompt_window"] = [0, span.skip]
    if span.stop is None or span.stop > 0:
        clause["phases"].append("generation")
        clause["generation_window"] = [max(span.start or 0, 0), span.stop]
        if "prompt" in clause["phases"] and "prompt_window" not in clause:
            clause["prompt_window"] = [0, None]  # else the window alone would leave the prompt out
    return clause


FORMATS: dict[str, Callable[[Policy, Static, list[str], Path], None]] = {
    "gguf": _gguf,
    "easysteer": _easysteer,
    "lm-eval": _lm_eval,
}
"""Format to what writes it."""


def gguf_module() -> Any:
    """The library that writes and reads GGUF files.

    Raises:
        InputError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise InputError(
            "GGUF files need the gguf library, which is not installed here; pip install "
            "'mechguard[serve]'."
        ) from error
    return gguf
