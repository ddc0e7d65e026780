"""Conversations that guards score: messages, or the text of a user's only one."""

from collections.abc import Mapping, Sequence

from interp.checks import require_type
from interp.data.prompt_sets import Message, Prompt

Conversation = str | Sequence[Message]
"""Messages; or a text, which is the user's only message."""


def prompts_of(conversations: Sequence[Conversation]) -> list[Prompt]:
    """Conversations as prompts without label and source.

    Raises:
        InputError: a bare text stands for the sequence, or a message is no mapping.
    """
    if isinstance(conversations, str):
        require_type(conversations, list, "conversations", "score one text with guard.score(text)")
    return [Prompt(_messages(one), "", "") for one in conversations]


def _messages(conversation: Conversation) -> tuple[Message, ...]:
    if isinstance(conversation, str):
        return ({"role": "user", "content": conversation},)
    for message in conversation:
        require_type(message, Mapping, "a message", "give its role and content")
    return tuple(conversation)
