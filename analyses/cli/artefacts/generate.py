"""`mechguard generate`: answers, steered or not, and what the policies decided."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.cli import options
from analyses.cli.options import DtypeChoice

if TYPE_CHECKING:
    from interp.data.prompt_sets import Prompt
    from steering.runtime.decisions import Decision

_NEW_TOKENS = 256
MOST = 1e6
"""Strength of either sign, at most."""


def generate(
    model: options.Model,
    policy: Annotated[
        list[Path] | None,
        typer.Option(
            help="A policy, its folder or file; given again, the next one acts behind it. Left "
            "out, nothing is steered.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What the user says.", show_default=False)
    ] = None,
    messages: Annotated[
        str | None,
        typer.Option(
            help="Many prompts: .csv, .jsonl, .json, .parquet, .txt or the name of a data set, "
            "with a column `messages` or a text.",
            show_default=False,
        ),
    ] = None,
    strength: Annotated[
        float,
        typer.Option(
            help="Multiplies the policies; 0 is off.", callback=options.bounded(-MOST, MOST)
        ),
    ] = 1.0,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help="Of an answer [default: 256, or what the context has room for].",
            min=1,
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a prompt, with the decisions.")
    ] = False,
    allow: options.Allow = None,
    any_model: options.AnyModel = False,
    chat_template: options.ChatTemplate = None,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Print the greedy answer to each prompt; with --json also what every policy decided."""
    from interp.capture.prompt_states import prompt_rows
    from interp.generation import replies
    from steering.policy.composition import compose
    from steering.policy.policy import Policy
    from steering.runtime.runtime import as_edit

    prompts = _prompts(prompt, messages)
    checkpoint = options.load_checkpoint(
        model, dtype, device, revision, trust_remote_code, chat_template
    )
    allowed = options.allowed(allow, any_model)
    policies = [Policy.load(path, checkpoint, allow=allowed) for path in policy or ()]
    decisions: dict[int, list[Decision]] = {}
    edit = None
    if policies:
        edit = as_edit(checkpoint, compose(*policies), strength, allow=allowed, decisions=decisions)
    rows = prompt_rows(checkpoint, prompts)
    if max_new_tokens is None:
        context = checkpoint.anatomy.context or _NEW_TOKENS + max(map(len, rows))
        max_new_tokens = min(_NEW_TOKENS, context - max(map(len, rows)))
    said = replies(checkpoint, rows, max_new_tokens=max_new_tokens, edit=edit)
    for row, asked, reply in zip(rows, prompts, said, strict=True):
        if not as_json:
            options.say(reply.text)
            continue
        line = {
            "prompt": asked.text,
            "answer": reply.text,
            "ended": reply.ended,
            "decisions": [
                {key: value for key, value in asdict(one).items() if key != "row"}
                for one in decisions.get(row.index, ())
            ],
        }
        options.say(json.dumps(line, ensure_ascii=False))


def _prompts(prompt: str | None, messages: str | None) -> "list[Prompt]":
    """What the command line named.

    Raises:
        InputError: neither or both were given.
    """
    from interp.data.prompt_sets import Prompt, read_prompts
    from interp.errors import InputError

    if (prompt is None) == (messages is None):
        raise InputError("give either --prompt TEXT or --messages FILE.")
    if messages is not None:
        return list(read_prompts(messages, "unlabelled"))
    return [Prompt(({"role": "user", "content": prompt},), "unlabelled", "command line")]
