"""A checkpoint written to a folder that transformers and `mechguard.load` read."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from interp.errors import InputError, first_line
from interp.model.loaded import LoadedModel


def save_checkpoint(
    checkpoint: LoadedModel, folder: str | Path, beside: Mapping[str, Any] | None = None
) -> Path:
    """Write weights, configuration and tokenizer; the folder appears whole or not at all.

    Args:
        checkpoint: to be written.
        folder: to be made; it may exist if it is empty.
        beside: further files by name, each JSON-ready.

    Raises:
        InputError: the folder is in use, or cannot be written to.
    """
    target = Path(folder)
    require_unused(target)
    part: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        checkpoint.model.save_pretrained(part)
        if checkpoint.tokenizer is not None:
            checkpoint.tokenizer.save_pretrained(part)
        for name, content in (beside or {}).items():
            text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
            (part / name).write_text(f"{text}\n", encoding="utf-8")
        part.chmod(0o755)
        os.replace(part, target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(
            f"{target} cannot be written ({reason}); free some space or choose another folder."
        ) from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return target


def require_unused(folder: Path) -> None:
    """Check before a long run that a checkpoint can be written to a folder.

    Raises:
        InputError: it exists and is not an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder; name another one.")


def require_trainable(checkpoint: LoadedModel) -> None:
    """Check before a long run that a copy of a checkpoint can be trained.

    Raises:
        InputError: the weights are quantised.
    """
    if not all(p.is_floating_point() for p in checkpoint.model.parameters()):
        raise InputError(
            f"{checkpoint.name} has quantised weights, which cannot be trained; load it in "
            "bfloat16 or float32."
        )
