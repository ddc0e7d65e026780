"""The tokenizer of a folder or a hub id, checked against the embedding that its ids go to."""

import os
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from interp.errors import InputError, one_line
from interp.reading import require_file

_BOM = "\ufeff"


def load_tokenizer(
    path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a folder or a hub id; None where it brings none (a model of token ids).

    Raises:
        InputError: it cannot be read, knows no token, or its chat template is no text.
    """
    folder = Path(path)
    if folder.is_dir():
        if not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab*")):
            return None
        for name in ("tokenizer.json", "vocab.json"):
            if (folder / name).exists():
                _require_object(folder / name)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code
        )
        size = len(tokenizer)
    except Exception as error:
        # The tokenizers library raises bare exceptions from Rust; all mean the same here.
        raise InputError(f"{path}: the tokenizer cannot be read ({one_line(error)}).") from error
    if not size:
        raise InputError(f"{path}: the tokenizer knows no token; copy or download it again.")
    template = getattr(tokenizer, "chat_template", None)
    named = list(template.values()) if isinstance(template, dict) else [template]
    if not all(one is None or isinstance(one, str) for one in named):
        raise InputError(
            f"{path}: the chat template is a {type(template).__name__}; it is a text in Jinja."
        )
    if isinstance(template, str):  # some editors begin a file with a mark that is no text
        tokenizer.chat_template = template.removeprefix(_BOM)
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def require_known_ids(tokenizer: PreTrainedTokenizerBase | None, rows: int, name: str) -> None:
    """Refuse a tokenizer whose ordinary tokens have ids that the embedding lacks.

    Tokens that were added to it, such as a `[PAD]`, may lie outside: what is padded is masked.

    Args:
        tokenizer: None for a model of token ids.
        rows: of the embedding.
        name: what the user calls the checkpoint.

    Raises:
        InputError: there are such tokens.
    """
    if tokenizer is None or len(tokenizer) <= rows:
        return
    added = set(tokenizer.get_added_vocab())
    outside = {
        token: number
        for token, number in tokenizer.get_vocab().items()
        if number >= rows and token not in added
    }
    if outside:
        token, number = max(outside.items(), key=lambda item: item[1])
        raise InputError(
            f"{name}: {len(outside)} tokens of the tokenizer have ids up to {number} ({token!r}), "
            f"and the embedding has {rows} rows, 0 to {rows - 1}; give the tokenizer that belongs "
            "to the weights."
        )


def _require_object(path: Path) -> None:
    """Check that a JSON file of any size is an object from its first to its last character."""
    size = require_file(path)
    with path.open("rb") as file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
        file.seek(max(0, size - 64), os.SEEK_SET)
        tail = file.read().rstrip()
    if not head.startswith(b"{") or not tail.endswith(b"}"):
        shown = head[:20].decode(errors="replace") or "nothing"
        raise InputError(
            f"{path}: the tokenizer cannot be read: an object in JSON belongs there, and it begins "
            f"with {shown!r} or is cut off; copy or download it again."
        )
