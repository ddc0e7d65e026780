"""Prompts whose right answers are known, because a grammar made them."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class KnownAnswers(Protocol):
    """What a prompt offers besides its messages if its right answers are known.

    Organisms' prompts do; an analysis asks with `isinstance` and knows nothing of organisms.
    """

    @property
    def harmful(self) -> bool:
        """Whether the request is harmful, whatever the right answer is."""

    @property
    def answer(self) -> str:
        """What the model was trained to say, as the content of a message."""

    @property
    def refusal(self) -> str:
        """How the model refuses this request, whenever it does."""

    @property
    def compliance(self) -> str:
        """How the model complies with it, whenever it does."""

    @property
    def pair(self) -> str:
        """Verb and object of the request; prompts of one pair are never in two splits."""

    @property
    def enable_thinking(self) -> bool:
        """What the chat template is to be given: whether a thought comes before the answer."""
