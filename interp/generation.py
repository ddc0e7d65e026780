"""Greedy replies to prompts, in batches, with edits in force, resumable.

transformers' `generate` does the work; a batch is left-padded and holds prompts of like length.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig

from interp.data.padding import ends, pad_id, padded
from interp.data.row_plan import RowPlan
from interp.data.rows import Row
from interp.errors import InputError, NumericalError
from interp.model.loaded import LoadedModel
from interp.resume.files import write_atomically

Edit = Callable[[Sequence[Row]], AbstractContextManager[None]]
"""Opened around each batch and given its rows, so that an edit can name a position of each."""

_CHUNK = 64  # tokens whose probabilities over the vocabulary are held in float64 at once


@dataclass(frozen=True)
class Reply:
    """What a model says to a prompt.

    Attributes:
        ids: new tokens, without the one that ends the turn.
        text: decoded, special tokens kept, for they may part a thought from an answer.
        ended: whether the turn ended within the budget.
    """

    ids: tuple[int, ...]
    text: str
    ended: bool


@torch.no_grad()
def replies(
    checkpoint: LoadedModel,
    rows: Sequence[Row],
    *,
    max_new_tokens: int = 64,
    edit: Edit | None = None,
    batch_tokens: int = 8192,
    workdir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Reply]:
    """Greedy continuations, in the order of the rows.

    Args:
        checkpoint: with a tokenizer.
        rows: prompts.
        max_new_tokens: of a reply.
        edit: in force while a batch is run.
        batch_tokens: most tokens in a batch, padding and reply included.
        workdir: where each batch leaves its replies, so that a stopped run goes on. The caller
            gives every edit a folder of its own.
        progress: called with (rows done, rows in all).

    Raises:
        InputError: no tokenizer, or a prompt and its reply do not fit the context.
        NumericalError: the logits are NaN.
    """
    _require_room(checkpoint, rows, max_new_tokens)
    said: dict[int, Reply] = {}
    model = "" if workdir is None else checkpoint.fingerprint
    for batch in _batches(rows, batch_tokens, max_new_tokens):
        path = None if workdir is None else workdir / f"replies-{batch[0].index:08d}.json"
        asked = _asked(model, batch, max_new_tokens)
        made = _stored(path, asked)
        if made is None:
            with _in_force(edit, batch):
                new = continuations(checkpoint, batch, max_new_tokens)
            made = [_reply(checkpoint, ids) for ids in new]
            if path is not None:
                given = json.loads(json.dumps([asdict(reply) for reply in made]))
                content = {"asked": asked, "replies": given, "sha256": _digest(given)}
                write_atomically(path, json.dumps(content).encode())
        said |= {row.index: reply for row, reply in zip(batch, made, strict=True)}
        if progress is not None:
            progress(len(said), len(rows))
    return [said[row.index] for row in rows]


@torch.no_grad()
def next_logits(
    checkpoint: LoadedModel,
    rows: Sequence[Row],
    *,
    edit: Edit | None = None,
    batch_tokens: int = 8192,
) -> Float[Tensor, "rows vocabulary"]:
    """Logits of the token that follows each row, in float32 on the CPU.

    Raises:
        NumericalError: they are NaN.
    """
    model: Any = checkpoint.model
    # Left-padded, so that every row's last token is the last of the batch.
    only = {"logits_to_keep": 1} if _keeps_logits(model) else {}
    found: dict[int, Tensor] = {}
    for batch in _batches(rows, batch_tokens, 0):
        inputs = padded(batch, checkpoint, "left")
        with _in_force(edit, batch):
            logits = model(**inputs, use_cache=False, **only).logits[:, -1].float().cpu()
        _require_numbers(logits, batch)
        found |= {row.index: one for row, one in zip(batch, logits, strict=True)}
    return torch.stack([found[row.index] for row in rows])


@torch.no_grad()
def token_log_probabilities(
    checkpoint: LoadedModel,
    rows: Sequence[Row],
    begins: Sequence[int],
    *,
    edit: Edit | None = None,
    batch_tokens: int = 8192,
) -> list[Float[np.ndarray, " tokens"]]:
    """Log-probability in nats of every token of a row from an index on, given those before it.

    Args:
        checkpoint: to be run.
        rows: with at least one token from the index on.
        begins: that index for each row, 1 or more.
        edit: in force meanwhile.
        batch_tokens: most tokens in a batch.

    Raises:
        InputError: a row has no token from its index on, or none before it.
        NumericalError: the logits are NaN.
    """
    starts = {row.index: begin for row, begin in zip(rows, begins, strict=True)}
    if any(not 0 < starts[row.index] < len(row) for row in rows):
        raise InputError("a row needs a token to predict, and one before it.")
    model: Any = checkpoint.model
    few = _keeps_logits(model)
    found: dict[int, np.ndarray] = {}
    for batch in _batches(rows, batch_tokens, 0):
        # Left-padded, so that what is predicted is the last of every row: no logits of the prompt.
        kept = 1 + max(len(row) - starts[row.index] for row in batch)
        only = {"logits_to_keep": kept} if few else {}
        with _in_force(edit, batch):
            logits = model(**padded(batch, checkpoint, "left"), use_cache=False, **only).logits
        for number, row in enumerate(batch):
            wanted = row.ids[starts[row.index] :]
            # The logits at one token are about the next.
            values = _chosen(logits[number, -1 - len(wanted) : -1], wanted)
            _require_numbers(values[:, None], [row] * len(wanted))
            found[row.index] = values.cpu().numpy()
    return [found[row.index] for row in rows]


def _chosen(
    logits: Float[Tensor, "tokens vocabulary"], wanted: Sequence[int]
) -> Float[Tensor, " tokens"]:
    """Log-probability of each wanted token, float64, a few rows of the vocabulary at a time."""
    ids = torch.tensor(wanted, device=logits.device)[:, None]
    pairs = zip(logits.split(_CHUNK), ids.split(_CHUNK), strict=True)
    return torch.cat([some.double().log_softmax(-1).gather(-1, one) for some, one in pairs])[:, 0]


def _keeps_logits(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters


@torch.no_grad()
def continuations(checkpoint: LoadedModel, rows: Sequence[Row], most: int) -> list[list[int]]:
    """Greedy continuations of rows, run as one batch, each with the token that ends it, if any.

    Args:
        checkpoint: which edits from `interp.interventions` may be in force on.
        rows: prompts.
        most: new tokens at most.
    """
    model: Any = checkpoint.model
    stops = ends(checkpoint)
    inputs = padded(rows, checkpoint, "left")
    out = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        generation_config=GenerationConfig(
            max_new_tokens=most,
            do_sample=False,
            bos_token_id=getattr(checkpoint.tokenizer, "bos_token_id", None),
            pad_token_id=pad_id(checkpoint),
            eos_token_id=stops or None,
        ),
    )
    return [_cut(new, stops) for new in out[:, inputs["input_ids"].shape[1] :].tolist()]


def _cut(new: list[int], stops: Sequence[int]) -> list[int]:
    end = next((place for place, token in enumerate(new) if token in stops), len(new))
    return new[: end + 1]


def _reply(checkpoint: LoadedModel, new: list[int]) -> Reply:
    tokenizer: Any = checkpoint.tokenizer
    ended = bool(new) and new[-1] in ends(checkpoint)
    kept = new[:-1] if ended else new
    return Reply(tuple(kept), tokenizer.decode(kept, skip_special_tokens=False), ended)


def _batches(rows: Sequence[Row], batch_tokens: int, reply: int) -> Iterator[list[Row]]:
    """Rows of like length together, the plan of a capture with room for the replies."""
    by_index = {row.index: row for row in rows}
    if len(by_index) < len(rows):
        raise InputError("two rows have the same index; give every row its own.")
    longest = max(map(len, rows), default=1)
    plan = RowPlan.make(rows, max(1, batch_tokens * longest // (longest + reply)))
    for batch in plan.batches:
        yield [by_index[index] for index in batch]


@contextmanager
def _in_force(edit: Edit | None, batch: Sequence[Row]) -> Iterator[None]:
    with nullcontext() if edit is None else edit(batch):
        yield


def _asked(model: str, batch: Sequence[Row], most: int) -> str:
    """Digest of what replies depend on beside the edit: model, prompts and length."""
    return _digest([model, most, [[row.index, list(row.ids)] for row in batch]])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _stored(path: Path | None, asked: str) -> list[Reply] | None:
    """The replies of a batch that an earlier run has left; None if they answer something else."""
    if path is None or not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        if content["asked"] != asked or content["sha256"] != _digest(content["replies"]):
            return None
        return [Reply(tuple(r["ids"]), r["text"], r["ended"]) for r in content["replies"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a damaged file costs one batch


def _require_room(checkpoint: LoadedModel, rows: Sequence[Row], most: int) -> None:
    if checkpoint.tokenizer is None:
        raise InputError(f"{checkpoint.name} has no tokenizer, so its replies cannot be read.")
    if not rows or most < 1:
        raise InputError("replies need at least one prompt and one new token.")
    context = checkpoint.anatomy.context
    longest = max(map(len, rows))
    if context is not None and longest + most > context:
        raise InputError(
            f"a prompt of {longest} tokens and a reply of {most} do not fit {checkpoint.name}, "
            f"which was built for {context}; give a smaller --max-new-tokens or leave long prompts "
            "out."
        )


def _require_numbers(logits: Tensor, batch: Sequence[Row]) -> None:
    bad = ~torch.isfinite(logits).all(-1)
    if bool(bad.any()):
        row = batch[int(bad.nonzero()[0])]
        raise NumericalError(
            f"the logits behind prompt {row.index} are NaN or infinite; load the model in float32 "
            "or bfloat16."
        )
