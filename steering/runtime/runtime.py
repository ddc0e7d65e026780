"""The runtime: policies on a model that generates, switched on and off without a trace.

    with steering.apply(checkpoint, policy):
        checkpoint.model.generate(**inputs)

A gate decides once for each prompt, in the pass that holds its decision token, and the decision
stands until the next prompt; so tokens are the same with and without a KV cache, for a prompt in
one piece or in chunks, and for a row alone or in a batch. Inside of `generate` the prompt is what
it was given; each call decides anew, which is each turn of a conversation. A pass outside of it is
a prompt of its own unless it goes on from a cache, or lengths were told (`Attachment.prompts`). A
prompt that is aborted is forgotten. One thread at a time runs a steered model (`threads`), and
copies of it are not steered (`copies`).
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from interp.checkpoint import Checkpoint
from interp.checks import require_type
from interp.data.rows import Row
from interp.errors import InputError
from interp.generation import Edit
from interp.resolve import load
from steering.runtime.attachment import Attachment, is_steered
from steering.runtime.decisions import Decision
from steering.runtime.generate_hooks import require_uncompiled
from steering.runtime.plan import Policies, planned
from steering.runtime.strengths import Strength


def attach(
    model: Checkpoint | nn.Module,
    policy: Policies,
    strength: Strength = 1.0,
    *,
    allow: Collection[str] = (),
) -> Attachment:
    """Attach policies to a model; `detach` takes them away.

    `copy.deepcopy` of the model gives one without them. The model may be moved or change its type
    between two prompts, and is to be run by one thread at a time: another one is refused meanwhile.

    Args:
        model: a checkpoint or its model. A model that is to be compiled is compiled afterwards.
        policy: one; several that share no site; or a composition (`compose`, `per_row`).
        strength: multiplies the policy: one number, one for each row, or [policies, rows]. Rows of
            strength 0 are left as they are.
        allow: what may differ from the checkpoint that a policy names as its origin
            (`interp.model.origin.require_origin`).

    Raises:
        InputError: the model is compiled or steered already, a policy belongs to another model,
            two policies share a site, or the strength does not fit.
    """
    require_type(model, (Checkpoint, nn.Module), "model", "load one with mechguard.load(source)")
    require_uncompiled(model.model if isinstance(model, Checkpoint) else model)
    checkpoint = model if isinstance(model, Checkpoint) else load(model)
    if is_steered(checkpoint.model):
        raise InputError(
            f"{checkpoint.name} is steered already; detach first, or give all policies at once as "
            "mechguard.compose(first, second)."
        )
    policies = planned(policy)
    for each in policies.policies:
        each.require(checkpoint, allow=allow)
    attachment = Attachment(checkpoint, policies, strength)
    attachment.attach()
    return attachment


@contextmanager
def apply(
    model: Checkpoint | nn.Module,
    policy: Policies,
    strength: Strength = 1.0,
    *,
    allow: Collection[str] = (),
) -> Iterator[Attachment]:
    """Steer a model inside of a `with`; afterwards, also after an exception, it is as it was.

    Args:
        model: as for `attach`.
        policy: the same.
        strength: the same.
        allow: the same.

    Raises:
        InputError: as for `attach`; or the model ran and the policy never came to act.
    """
    attachment = attach(model, policy, strength, allow=allow)
    try:
        yield attachment
    finally:
        attachment.detach()
    attachment.verify()


def as_edit(
    checkpoint: Checkpoint,
    policy: Policies,
    strength: float = 1.0,
    *,
    allow: Collection[str] = (),
    decisions: dict[int, list[Decision]] | None = None,
) -> Edit:
    """A policy as the `edit` of `interp.generation`, which opens it around each batch.

    Args:
        checkpoint: to be steered.
        policy: as for `attach`.
        strength: of all rows.
        allow: as for `attach`.
        decisions: filled with each row's, by its index.
    """

    @contextmanager
    def edit(rows: Sequence[Row]) -> Iterator[None]:
        lengths = [row.segments.get("post_instruction", (0, len(row)))[1] for row in rows]
        with apply(checkpoint, policy, strength, allow=allow) as attachment:
            with attachment.prompts(lengths):
                yield
            if decisions is not None:
                for decision in attachment.decisions:
                    decisions.setdefault(rows[decision.row].index, []).append(decision)

    return edit
