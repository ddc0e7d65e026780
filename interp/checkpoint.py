"""A checkpoint: what users load, measure, and talk to."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from interp.checks import require_type
from interp.data.rows import Row
from interp.data.segments import Conversation, chat_row, conversations
from interp.errors import InputError
from interp.generation import Edit, Reply, replies
from interp.model.loaded import LoadedModel


@runtime_checkable
class SteeringPolicy(Protocol):
    """What may steer a checkpoint that generates, such as a `steering.Policy` or a composition."""

    def as_edit(self, checkpoint: "Checkpoint") -> Edit:
        """What `interp.generation` opens around each batch, so that it is steered."""


class Checkpoint(LoadedModel):
    """Model + tokenizer + anatomy.

    `name` is what the user asked for; `revision` the hub commit, if any. The model is the user's
    own object: nothing in it is renamed or replaced.
    """

    @classmethod
    def of(cls, loaded: LoadedModel) -> "Checkpoint":
        """A loaded model as what it is to users: the same objects, and it can be talked to."""
        return cls(loaded.model, loaded.tokenizer, loaded.anatomy, loaded.name, loaded.revision)

    def rows(self, messages: Conversation | Sequence[Conversation], **template: Any) -> list[Row]:
        """Conversations as this checkpoint reads them: token ids and segments, in order.

        Args:
            messages: a text; one conversation, as messages with `role` and `content` that end with
                the user's; or a sequence of texts and conversations.
            **template: further arguments of the chat template, such as `enable_thinking`.

        Raises:
            InputError: nothing or no conversation was given, the checkpoint has no tokenizer or no
                chat template, or the template refuses or rewrites a message.
        """
        given = conversations(messages)
        return [chat_row(self, one, index=i, **template) for i, one in enumerate(given)]

    def chat(
        self,
        messages: Conversation,
        *,
        max_new_tokens: int = 64,
        policy: SteeringPolicy | None = None,
        **template: Any,
    ) -> Reply:
        """The greedy reply to one conversation.

        Args:
            messages: a text, or messages with `role` and `content` that end with the user's.
            max_new_tokens: most tokens of the reply.
            policy: steers the reply, such as a `steering.Policy` or what `mechguard.compose` gives.
            **template: further arguments of the chat template, such as `enable_thinking`.

        Returns:
            What the model says, a thought included as it stands; `interp.data.thoughts` separates
            it from the answer.

        Raises:
            InputError: as for `rows`; several conversations, no budget, something that is no
                policy or does not suit this checkpoint, or a reply that does not fit the context.
        """
        require_type(max_new_tokens, int, "max_new_tokens")
        if policy is not None:
            require_type(policy, SteeringPolicy, "policy", "read one with mechguard.Policy.load")
        rows = self.rows(messages, **template)
        if len(rows) != 1:
            raise InputError(
                f"chat was given {len(rows)} conversations and answers one; for several call "
                "interp.generation.replies(checkpoint, checkpoint.rows(conversations))."
            )
        edit = None if policy is None else policy.as_edit(self)
        return replies(self, rows, max_new_tokens=max_new_tokens, edit=edit)[0]
