"""Weights files of a folder, and what transformers reports after it has read them.

transformers leaves out the tensors that a config does not ask for, and fills the ones that it lacks
with random numbers; either is another model than the one that was trained.
"""

import logging
import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from transformers import PreTrainedModel

from interp.errors import InputError
from interp.reading import read_settings

log = logging.getLogger("mechguard.model")

_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WHOLE = ("model.safetensors", "pytorch_model.bin")
# Parameters of a config beyond its weights files that are a matter of course: small ones are told
# apart by name after loading, large ones would be allocated first.
_SLACK = 10_000_000
# A block of a decoder, whatever stands in front of it.
_BLOCK = re.compile(r"(^|\.)(layers|h|blocks)\.[0-9]+\.")
# Buffers that older versions of transformers saved; they follow from the config.
_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|\.attn\.(masked_)?bias|\.attention\.(masked_)?bias)$")


def weights_bytes(folder: Path, name: str) -> int | None:
    """Size of the weights files that transformers reads from a folder; None where it has none.

    Raises:
        InputError: an index names files that are not there or lie outside of the folder.
    """
    for whole, index in zip(_WHOLE, _INDICES, strict=True):
        if (folder / whole).is_file():
            return (folder / whole).stat().st_size
        if (folder / index).exists():
            return sum((folder / shard).stat().st_size for shard in _shards(folder / index, name))
    return None


def _shards(index: Path, name: str) -> list[str]:
    found = read_settings(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise InputError(f"{index} has no weight_map of tensors to files; download it again.")
    shards = list(dict.fromkeys(map(str, found.values())))
    for shard in shards:
        parts = PurePosixPath(shard.replace("\\", "/")).parts
        if Path(shard).is_absolute() or ".." in parts:
            raise InputError(
                f"{index} names {shard!r}, which lies outside of the checkpoint's folder; weights "
                "are only read from there."
            )
        if not (index.parent / shard).is_file():
            raise InputError(
                f"{name}: the weights file {shard!r} that {index.name} names is not there; copy or "
                "download it again."
            )
    return shards


def require_room(asked: int, held: int, name: str) -> None:
    """Refuse a config that asks for more parameters than the files have bytes.

    Args:
        asked: parameters of the config.
        held: bytes of the weights files.
        name: what the user calls the checkpoint.

    Raises:
        InputError: they do not fit, so most would be made up after memory was taken for them.
    """
    if asked > held + _SLACK:
        raise InputError(
            f"{name}: the config asks for {asked:,} parameters, and the weights files have "
            f"{held:,} bytes; the two do not belong together, copy or download them again."
        )


def require_whole(model: PreTrainedModel, report: dict[str, Any], name: str) -> None:
    """Refuse a model whose weights are not the ones that its files hold.

    What lies outside of the language model, such as a value head, is left out with a warning.

    Args:
        model: as loaded.
        report: of transformers, by `output_loading_info`.
        name: what the user calls the checkpoint.

    Raises:
        InputError: tensors are missing, have other shapes, or are not asked for by the config.
    """
    if mismatched := sorted(report["mismatched_keys"]):
        tensor, stored, wanted = mismatched[0]
        raise InputError(
            f"{name}: {len(mismatched)} of the tensors in the weights have other shapes than the "
            f"config asks for, first {tensor} with {list(stored)} where {list(wanted)} belongs; "
            "the two do not belong together, copy or download them again."
        )
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"{name}: the weights lack {len(missing)} of the tensors that the config asks for, "
            f"first {missing[0]}; the two do not belong together, copy or download them again."
        )
    extra = sorted(key for key in report["unexpected_keys"] if not _BUFFERS.search(key))
    roots = {parameter.partition(".")[0] for parameter, _ in model.named_parameters()}
    inside = [key for key in extra if _BLOCK.search(key) or key.partition(".")[0] in roots]
    if inside:
        raise InputError(
            f"{name}: the weights hold {_listed(inside)} that the config does not ask for, so "
            "another model would be measured than the one that was trained; give the config that "
            "belongs to the weights."
        )
    if extra:
        log.warning("%s: not loaded, for no part of the decoder: %s.", name, _listed(extra))


def _listed(keys: Collection[str]) -> str:
    shown: Iterable[str] = list(keys)[:3]
    return f"{len(keys)} tensor(s), {', '.join(shown)}{' …' if len(keys) > 3 else ''},"
