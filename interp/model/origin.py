"""The origin of an artefact: which checkpoint it was made on, and whether this is the one."""

import hashlib
import logging
from collections.abc import Collection, Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor

from interp.errors import InputError
from interp.model.identity import Identity, differences
from interp.model.loaded import LoadedModel

log = logging.getLogger("mechguard")

ANY_MODEL = "origin"
"""Allowed where an artefact may come without the origin that it names."""

_OF_MODEL = ("weights", "config", "dtype", "adapter")
_OF_TOKENIZER = ("tokenizer", "template")
GROUPS = {"fingerprint": _OF_MODEL, "tokenizer_hash": _OF_TOKENIZER}
ALLOWED = (*GROUPS, *_OF_MODEL, *_OF_TOKENIZER, ANY_MODEL)
"""What may be allowed to differ: parts of an identity, or all of the model's or the tokenizer's."""


class Origin(TypedDict):
    """Which checkpoint something comes from."""

    model: str
    revision: str | None
    fingerprint: str
    identity: Mapping[str, Any]
    tokenizer_hash: str | None
    model_type: str
    dtype: str
    width: int
    layers: int


def origin(checkpoint: LoadedModel) -> Origin:
    """Which checkpoint something comes from; JSON-ready."""
    identity = checkpoint.identity
    return {
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "fingerprint": identity.digest,
        "identity": identity.as_json(),
        "tokenizer_hash": identity.tokenizer_hash,
        "model_type": checkpoint.anatomy.model_type,
        "dtype": identity.dtype,
        "width": checkpoint.anatomy.width,
        "layers": checkpoint.anatomy.n_layers,
    }


def require_origin(
    kind: str,
    meta: Mapping[str, Any],
    checkpoint: LoadedModel | Mapping[str, Any],
    *,
    allow: Collection[str] = (),
) -> None:
    """Refuse an artefact that comes from another checkpoint.

    Args:
        kind: of the artefact, as it is called in a sentence.
        meta: of the artefact, with its `origin`.
        checkpoint: it is to be used on, or the `origin` of what was captured from it.
        allow: what may differ all the same, of `ALLOWED`: a part of the identity; `fingerprint` for
            all parts of the model; `tokenizer_hash` for tokenizer and template; `origin` for an
            artefact that names none. The width never may differ.

    Raises:
        InputError: naming what differs and how to override it.
    """
    _require_known(allow)
    made = meta.get("origin")
    if not made:
        require_named(kind, meta, allow)
        return
    name, found = compared(made, checkpoint)
    allowed = {part for word in allow for part in GROUPS.get(word, (word,))}
    left = {part: how for part, how in found.items() if part not in allowed}
    if left:
        words = _words(left)
        python = ", ".join(f'"{word}"' for word in words)
        line = " ".join(f"--allow {word}" for word in words)
        raise InputError(
            f"this {kind} belongs to {made.get('model')}, and {name} is not the same: "
            f"{'; '.join(_said(part, how) for part, how in left.items())}. {_remedy(left, made)}, "
            f"or allow it to differ (in Python allow={{{python}}}, on the command line {line})."
        )
    width = checkpoint.anatomy.width if isinstance(checkpoint, LoadedModel) else checkpoint["width"]
    if made.get("width") not in (None, width):
        raise InputError(
            f"this {kind} is {made['width']} wide, but the residual stream of {name} is {width}."
        )


def _require_known(allow: Collection[str]) -> None:
    for word in allow:
        if word not in ALLOWED:
            raise InputError(
                f"{word!r} cannot be allowed to differ; of {', '.join(ALLOWED)} each can."
            )


def require_named(kind: str, meta: Mapping[str, Any], allow: Collection[str] = ()) -> None:
    """Refuse an artefact that names no origin.

    Raises:
        InputError: it does not, and `allow` does not hold `origin`.
    """
    if not meta.get("origin") and ANY_MODEL not in allow:
        raise InputError(
            f"this {kind} does not say which model it comes from, so nothing shows that it fits; "
            "make it anew on this model, or, if you know that it fits, say --any-model (in Python "
            f'allow={{"{ANY_MODEL}"}}).'
        )


def compared(
    made: Mapping[str, Any], checkpoint: LoadedModel | Mapping[str, Any]
) -> tuple[str, dict[str, str]]:
    """The name of a checkpoint, and what differs from an origin, by part of the identity.

    Args:
        made: an `origin`.
        checkpoint: a checkpoint, or the `origin` of what was captured from it.
    """
    there = made.get("identity")
    if isinstance(checkpoint, LoadedModel):
        if there is not None:
            found = differences(Identity.from_json(there), checkpoint.identity)
            return checkpoint.name, found
        return checkpoint.name, _since_first_format(made, checkpoint)
    name = str(checkpoint["model"])
    here = checkpoint.get("identity")
    if there is not None and here is not None:
        return name, differences(Identity.from_json(there), Identity.from_json(here))
    return name, _digests_differ(made, checkpoint["fingerprint"], checkpoint["tokenizer_hash"])


def _digests_differ(made: Mapping[str, Any], weights: str, tokenizer: Any) -> dict[str, str]:
    found = {}
    if made.get("fingerprint") != weights:
        found["weights"] = f"weights {weights} here, {made.get('fingerprint')} there"
    if made.get("tokenizer_hash") != tokenizer:
        found["tokenizer"] = (
            f"another tokenizer or chat template ({tokenizer} here, {made.get('tokenizer_hash')} "
            "there)"
        )
    return found


def _since_first_format(made: Mapping[str, Any], checkpoint: LoadedModel) -> dict[str, str]:
    """What differs from an origin that has no identity yet: weights and tokenizer alone."""
    log.warning(
        "this artefact was written before artefacts named config, dtype and adapter of their "
        "model; its weights and tokenizer alone are compared."
    )
    return _digests_differ(made, _sampled_weights(checkpoint), _first_tokenizer_hash(checkpoint))


def _sampled_weights(checkpoint: LoadedModel) -> str:
    """The digest of the weights in origins without an identity: an even sample and its sum."""
    digest = hashlib.sha256()
    for name, tensor in sorted(checkpoint.model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(_sampled(tensor))
    return digest.hexdigest()[:16]


def _sampled(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    if flat.numel() > 65536:
        step = flat.numel() // 65536
        total = flat.double().sum() if flat.is_floating_point() else flat.sum()
        flat = torch.cat([flat[::step].double(), total.double()[None]])
    data: bytes = flat.cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return data


def _first_tokenizer_hash(checkpoint: LoadedModel) -> str | None:
    if checkpoint.tokenizer is None:
        return None
    backend = getattr(checkpoint.tokenizer, "backend_tokenizer", None)
    vocabulary = checkpoint.tokenizer.get_vocab()
    text = backend.to_str() if backend is not None else str(sorted(vocabulary))
    template = getattr(checkpoint.tokenizer, "chat_template", None)
    return hashlib.sha256(f"{text}{template}".encode()).hexdigest()[:16]


def _said(part: str, how: str) -> str:
    return f"dtype {how}" if part == "dtype" and not how.startswith("the same") else how


def _remedy(left: Mapping[str, str], made: Mapping[str, Any]) -> str:
    if set(left) == {"dtype"} and made.get("dtype"):
        dtype = made["dtype"]
        return f"Load it with --dtype {dtype} (in Python dtype={dtype!r})"
    return "Make it for this checkpoint"


def _words(left: Mapping[str, str]) -> list[str]:
    """The fewest words that allow these parts to differ."""
    words = []
    for group, parts in GROUPS.items():
        here = [part for part in parts if part in left]
        words += [group] if "weights" in here or len(here) > 1 else here
    return words
