"""States of prompts at the tokens that matter: the end of the instruction and all behind it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from interp.capture.recorder import LayerBatch, Needs, RowRecorder
from interp.capture.run import capture
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.data.segments import chat_row, t_inst
from interp.errors import InputError
from interp.model.loaded import LoadedModel
from interp.model.sites import Site


@dataclass(frozen=True)
class PromptStates:
    """What a site holds of every prompt, layer by layer, at t_inst and the tokens behind it.

    Attributes:
        values: in float32.
        layers: of the second axis. At `resid_pre`, layer l is the input of block l.
        positions: of the third axis, counted back from the last prompt token, which is −1. The
            first is t_inst, the others are the post-instruction tokens.
        site: which.
    """

    values: Float[np.ndarray, "rows layers positions width"]
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    site: str

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> "PromptStates":
        """Some of the rows, by index array, mask or slice."""
        return PromptStates(self.values[rows], self.layers, self.positions, self.site)

    def at(self, position: int) -> Float[np.ndarray, "rows layers width"]:
        """The states at one position.

        Raises:
            InputError: it was not captured.
        """
        if position not in self.positions:
            raise InputError(
                f"position {position} was not captured; captured are "
                f"{', '.join(map(str, self.positions))}."
            )
        return self.values[:, :, self.positions.index(position)]

    @property
    def t_inst(self) -> Float[np.ndarray, "rows layers width"]:
        """The states at the last token of the instruction."""
        return self.values[:, :, 0]

    @property
    def t_post_inst(self) -> Float[np.ndarray, "rows layers width"]:
        """The states at the last token of the prompt."""
        return self.values[:, :, -1]


def prompt_rows(checkpoint: LoadedModel, prompts: Iterable[Prompt], **template: Any) -> list[Row]:
    """The chat row of every prompt; its index is its place.

    Args:
        checkpoint: whose tokenizer and chat template are used.
        prompts: to be rendered.
        **template: further arguments of the chat template, such as `enable_thinking`.

    Raises:
        InputError: a prompt cannot be rendered, or is longer than the context.
    """
    rows = [
        chat_row(checkpoint, prompt.messages, index=i, domain=prompt.label, **template)
        for i, prompt in enumerate(prompts)
    ]
    context = checkpoint.anatomy.context
    for row in rows:
        if context is not None and len(row) >= context:
            raise InputError(
                f"prompt {row.index} has {len(row)} tokens with its chat template, and "
                f"{checkpoint.name} was built for {context}; leave it out or shorten it."
            )
    return rows


def post_instruction_tokens(rows: Sequence[Row]) -> int:
    """How many tokens the template puts behind every instruction.

    Raises:
        InputError: not the same number for all rows.
    """
    counts = {_behind(row) for row in rows}
    if len(counts) != 1:
        raise InputError(
            f"the template puts {min(counts)} to {max(counts)} tokens behind the instruction, so "
            "positions behind it cannot be compared between prompts; use prompts of one form."
        )
    return counts.pop()


def prompt_states(
    checkpoint: LoadedModel,
    rows: Sequence[Row],
    *,
    site: str = "resid_pre",
    layers: Sequence[int] | None = None,
    batch_tokens: int = 8192,
    workdir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PromptStates:
    """Capture a site at t_inst and at every post-instruction token.

    Args:
        checkpoint: what to run.
        rows: of `prompt_rows`; they end with the prompt.
        site: a site that has one vector of the residual's width for each token.
        layers: which; all that have the site if None.
        batch_tokens: most tokens in a batch.
        workdir: where a stopped run goes on from.
        progress: called with (rows done, rows in all).

    Raises:
        InputError: no such site, or templates with unequal tails.
        NumericalError: a state is NaN or infinite.
    """
    if layers is None:
        every = checkpoint.anatomy.layers
        layers = [i for i, layer in enumerate(every) if site in layer.sites]
    count = post_instruction_tokens(rows)
    recorder = _Tail(site, tuple(layers), count)
    capture(
        checkpoint, rows, [recorder], batch_tokens=batch_tokens, workdir=workdir, progress=progress
    )
    found = recorder.result()
    # [rows, layers, positions, width], in the order of the row indices
    values = found.stack("state")
    order = {index: place for place, index in enumerate(found.rows.tolist())}
    values = values[[order[row.index] for row in rows]]
    return PromptStates(values, tuple(found.layers("state")), tuple(range(-count - 1, 0)), site)


class _Tail(RowRecorder):
    """The states at t_inst and at the tokens behind it."""

    def __init__(self, site: str, layers: tuple[int, ...], behind: int) -> None:
        super().__init__()
        self.site, self.layers, self.behind = site, layers, behind

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """The site at the chosen layers."""
        return Needs(frozenset(Site(self.site, layer) for layer in self.layers))

    def update(self, batch: LayerBatch) -> None:
        """Pick the tokens of each row."""
        values = batch.site(self.site)
        where = [[t_inst(row), *range(len(row) - self.behind, len(row))] for row in batch.source]
        index = torch.tensor(where, device=values.device)
        rows = torch.arange(len(index), device=values.device)[:, None]
        self.keep(batch, "state", values[rows, index])


def _behind(row: Row) -> int:
    begin, end = row.segments.get("post_instruction", (len(row), len(row)))
    if end != len(row):
        raise InputError(f"row {row.index} goes on behind its prompt; give prompts alone.")
    return end - begin
