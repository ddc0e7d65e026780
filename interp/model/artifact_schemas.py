"""What a file of each kind of artefact holds, and the check that one does.

A description is checked against itself and against its tensors: numbers of sites, layers and
widths, and which checkpoint they can come from. What only the class of a kind knows, such as which
gates there are, it checks when it is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp.errors import InputError
from interp.fields import (
    BACKWARD,
    COUNT,
    FLAG,
    LAYER,
    NAME,
    NUMBER,
    OBJECT,
    POSITIVE,
    RATE,
    SIZE,
    TEXT,
    Field,
    Fields,
    is_span,
    list_of,
    record,
    require_fields,
)
from interp.model.sites import Site

_RESIDUAL = {"resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "embed", "final_norm"}
_LONGEST = 80
_NORM_TOLERANCE = 0.02  # a length may have been taken in bfloat16


def is_site(value: Any) -> bool:
    """Whether it names a site, as `Site.parse` reads it."""
    try:
        return isinstance(value, str) and len(value) <= _LONGEST and bool(Site.parse(value))
    except InputError:
        return False


SITE = Field("the name of a site, such as blocks.3.hook_resid_post", is_site)
ORIGIN = record(
    "an object that describes a checkpoint",
    model=TEXT.or_null(),
    revision=TEXT.or_null().optional(),
    fingerprint=TEXT,
    tokenizer_hash=TEXT.or_null(),
    model_type=TEXT.optional(),
    dtype=TEXT.optional(),
    width=POSITIVE.optional(),
    layers=POSITIVE.optional(),
    identity=record(
        "an object that describes weights, config and tokenizer",
        weights=TEXT,
        rounded=OBJECT,
        config=OBJECT,
        tokenizer=TEXT.or_null(),
        template=TEXT.or_null(),
        dtype=TEXT,
        adapter=TEXT.or_null(),
    )
    .or_null()
    .optional(),
)
VERSIONS = Field(
    "an object of versions",
    lambda v: isinstance(v, dict) and all(isinstance(one, str) for one in v.values()),
).optional()


@dataclass(frozen=True)
class Schema:
    """What a kind of artefact holds.

    Attributes:
        fields: of the description; others may stand beside them.
        tensors: name to axes. Axes of one name are equally long in all tensors; one that is named
            after a list of the description is as long as that; `width` is that of the origin
            where the sites are of the residual stream.
        more: the same for tensors that may be absent.
        whole: tensors of integers; all others hold floating-point numbers.
        part: what the names of further tensors begin with, which the class of the kind checks.
    """

    fields: Fields
    tensors: Mapping[str, tuple[str, ...]]
    more: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    part: str | None = None


SCHEMAS: Mapping[str, Schema] = {
    "direction": Schema(
        {
            "site": NAME,
            "layer": COUNT,
            "position": BACKWARD,
            "segment": NAME,
            "method": TEXT,
            "residual_norm": SIZE,
            "norm": SIZE.optional(),
            "origin": ORIGIN.optional(),
        },
        {"vector": ("width",)},
    ),
    "probe": Schema(
        {
            "site": NAME,
            "segment": NAME,
            "layers": list_of(LAYER, 1),
            "label": TEXT,
            "positive": TEXT,
            "threshold": NUMBER,
            "aggregation": record("an object that names an aggregation", name=NAME),
            "origin": ORIGIN.optional(),
        },
        {"coef": ("layers", "width", "channels"), "intercept": ("channels",), "trained": ("n",)},
        whole=frozenset({"trained"}),
    ),
    "guard": Schema(
        {
            "site": NAME,
            "segment": NAME,
            "method": TEXT,
            "layers": list_of(COUNT, 1),
            "cosine": FLAG,
            "bias": NUMBER,
            "threshold": record(
                "an object that describes a threshold",
                value=NUMBER,
                wanted_fpr=RATE.or_null(),
                fpr=RATE.or_null(),
                fpr_interval=list_of(RATE, 2, 2).or_null(),
                benign=COUNT,
            ),
            "template": OBJECT,
            "platt": record("an object", slope=NUMBER, intercept=NUMBER).or_null(),
            "record": OBJECT,
            "evaluation": OBJECT.or_null().optional(),
            "origin": ORIGIN.optional(),
        },
        {"weights": ("layers", "width"), "centres": ("layers", "width")},
    ),
    "policy": Schema(
        {
            "name": TEXT,
            "method": TEXT,
            "sites": list_of(SITE, 1),
            "span": Field("a list of a start, a stop and a number to skip", is_span),
            "operator": NAME,
            "strength": NUMBER,
            "keep_norm": FLAG,
            "gate": record("an object that describes a gate", kind=NAME, reads=list_of(SITE)),
            "residual_norms": list_of(SIZE).optional(),
            "origin": ORIGIN.optional(),
        },
        {"directions": ("sites", "width"), "weights": ("sites",)},
        {"readers": ("sites", "width")},
        part="gate.",
    ),
}
"""Kind to what a file of it holds."""


def require_valid(kind: str, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Check an artefact of a known kind.

    Args:
        kind: one of `SCHEMAS`.
        meta: its description.
        tensors: by name.

    Raises:
        ValueError: a field or a tensor is absent, of another type, or contradicts another one; the
            message says which, and goes behind "it is no complete …".
    """
    require_fields(meta, {"versions": VERSIONS})
    lengths = require_schema(SCHEMAS[kind], meta, tensors)
    require_place(meta, _sites(meta), lengths.get("width"))
    if "norm" in meta:
        _require_norm(meta["norm"], tensors["vector"])


def require_schema(
    schema: Schema, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> dict[str, int]:
    """Check a description and its tensors against a schema.

    Returns:
        How long each axis is.

    Raises:
        ValueError: as for `require_valid`.
    """
    require_fields(meta, schema.fields)
    _require_tensors(schema, tensors)
    return _lengths(schema, meta, tensors)


def require_place(meta: Mapping[str, Any], sites: list[Site], width: int | None) -> None:
    """Check that sites and a width can be those of the checkpoint that a description names.

    Raises:
        ValueError: a layer is not below the checkpoint's number, or the width is another.
    """
    origin = meta.get("origin", {})
    layers = origin.get("layers")
    for site in sites:
        if layers is not None and site.layer is not None and site.layer >= layers:
            raise ValueError(f"it names layer {site.layer} of a model of {layers} layers")
    residual = bool(sites) and all(site.name in _RESIDUAL for site in sites)
    if residual and width is not None and origin.get("width") not in (None, width):
        raise ValueError(
            f"its tensors are {width} wide, and the model that it names {origin['width']}"
        )


def _require_tensors(schema: Schema, tensors: Mapping[str, Tensor]) -> None:
    known = {**schema.tensors, **schema.more}
    if missing := [name for name in schema.tensors if name not in tensors]:
        raise ValueError(f"it lacks the tensor {missing[0]}")
    for name, tensor in tensors.items():
        if name not in known and not (schema.part and name.startswith(schema.part)):
            raise ValueError(f"it has a tensor {name[:40]!r}, which the kind does not have")
        if name in schema.whole:
            if tensor.dtype != torch.int64:
                raise ValueError(f"{name} is of {tensor.dtype}, where integers are needed")
        elif not tensor.is_floating_point():
            raise ValueError(
                f"{name} is of {tensor.dtype}, where floating-point numbers are needed"
            )
        elif not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} holds NaN or infinity")


def _lengths(
    schema: Schema, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> dict[str, int]:
    """How long each axis is; the same in every tensor that has it, and in the description."""
    lengths: dict[str, int] = {}
    for name, axes in {**schema.tensors, **schema.more}.items():
        if name not in tensors:
            continue
        shape = list(tensors[name].shape)
        if len(shape) != len(axes):
            raise ValueError(f"{name} has the shape {shape}, where [{', '.join(axes)}] is needed")
        for axis, length in zip(axes, shape, strict=True):
            listed = meta.get(axis)
            wanted = lengths.setdefault(axis, len(listed) if isinstance(listed, list) else length)
            if length != wanted or (length == 0 and name not in schema.whole):
                need = wanted or "at least 1"
                raise ValueError(f"{name} has the shape {shape}, where {need} {axis} are needed")
    return lengths


def _sites(meta: Mapping[str, Any]) -> list[Site]:
    try:
        if "sites" in meta:
            return [Site.parse(name) for name in meta["sites"]]
        layers = meta["layers"] if "layers" in meta else [meta["layer"]]
        return [Site(meta["site"], layer) for layer in layers]
    except InputError as error:
        raise ValueError(str(error).removesuffix(".")) from None


def _require_norm(norm: float, vector: Tensor) -> None:
    found = float(vector.double().norm())
    if abs(found - norm) > _NORM_TOLERANCE * max(found, norm):
        raise ValueError(f"its vector has the length {found:.4g}, and its header says {norm:.4g}")
