"""What a checkpoint is and what can be measured on it, without its weights."""

from typing import Any

from analyses.registry import every_analysis
from analyses.shared.analysis import Facts
from analyses.shared.data import organism_of
from interp.model.anatomy import Anatomy
from interp.resolve import blueprint, load_tokenizer

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# A capture as `sinks` runs it by default.
_BATCH_TOKENS = 8192


def plan(source: str, *, revision: str | None = None) -> dict[str, Any]:
    """Anatomy, sites, analyses that apply and a memory estimate; no weight is read.

    Args:
        source: a hub id, a local folder, or `organism:NAME`.
        revision: of a hub id.

    Returns:
        `model`, `anatomy`, `dtype`, `analyses` (by kind, whether it applies or the reason why
        not) and `memory` in bytes, ready for JSON.

    Raises:
        InputError: there is no such source, or its config is broken.
        UnsupportedModelError: transformers does not know the model type, or it is no decoder.
    """
    anatomy, config = blueprint(source, revision=revision)
    tokenizer = load_tokenizer(source, revision=revision)
    dtype = str(getattr(config, "dtype", None) or "float32")
    return _described(source, anatomy, dtype, getattr(tokenizer, "chat_template", None))


def _described(
    model: str, anatomy: Anatomy, dtype: str, chat_template: str | None
) -> dict[str, Any]:
    dtype = dtype.removeprefix("torch.")
    weights = anatomy.parameters * _BYTES.get(dtype, 4)
    return {
        "model": model,
        "anatomy": anatomy.to_dict(),
        "dtype": dtype,
        "analyses": _analyses(model, anatomy, chat_template),
        "memory": {
            "weights_bytes": weights,
            "activations_bytes": _activations(anatomy) * _BYTES.get(dtype, 4),
            "batch_tokens": _BATCH_TOKENS,
            "records_bytes_per_sequence": _records(anatomy),
        },
    }


def _analyses(model: str, anatomy: Anatomy, chat_template: str | None) -> dict[str, dict[str, Any]]:
    """Every analysis that has a verb: whether it applies, or why not."""
    facts = Facts(anatomy, chat_template, organism_of(model))
    found: dict[str, dict[str, Any]] = {}
    for one in every_analysis():
        if one.verb is not None:
            why = one.missing(facts)
            found[one.kind] = {"applies": why is None} | ({} if why is None else {"reason": why})
    if found["sinks"]["applies"]:
        found["sinks"]["parts"] = {
            "gates": bool(anatomy.gated_layers),
            "learned_sinks": any(layer.learned_sink for layer in anatomy.layers),
            "logit_gap": anatomy.softcap is None,
            "fused_kernel": anatomy.softcap is None,
        }
    return found


def _activations(anatomy: Anatomy) -> int:
    """Entries alive at the widest point of a batch: stream, projections, statistics of a layer."""
    heads = max((layer.heads * layer.head_dim for layer in anatomy.layers), default=0)
    return _BATCH_TOKENS * (6 * anatomy.width + 6 * heads)


def _records(anatomy: Anatomy) -> int:
    """Bytes that the recorders keep of one sequence of 64 tokens."""
    heads = sum(layer.heads for layer in anatomy.layers)
    return 4 * (heads * (64 + 20) + anatomy.n_layers * 40)
