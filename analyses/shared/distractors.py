"""Strings that are not suspected, to stand beside one that is."""

from collections.abc import Collection, Sequence

from interp.checkpoint import Checkpoint
from probes.backdoors.search.budget import Budget
from probes.backdoors.search.requests import Candidate, decode, encode, typable
from probes.backdoors.search.subject import Subject
from probes.backdoors.search.trial import control_strings

_VOCABULARY = 512  # tokens that strings are drawn from, as in the trigger search
_DRAWN = 8  # times as many as are wanted, for some change when they are typed


def tokens_of(checkpoint: Checkpoint, text: str) -> tuple[int, ...]:
    """The tokens of a string as it stands in a prompt.

    Raises:
        InputError: it is empty, or holds what the tokenizer does not know.
    """
    return encode(_subject(checkpoint), text)


def distractors(
    checkpoint: Checkpoint,
    text: str,
    count: int,
    *,
    besides: Sequence[str] = (),
    natural: Sequence[Sequence[int]] = (),
    seed: int = 0,
) -> list[str]:
    """Strings with as many tokens as another, drawn as the controls of the trigger search are.

    Only strings that have this length when they are typed are taken, and none that then holds a
    token of a suspected string.

    Args:
        checkpoint: whose tokens are drawn.
        text: a suspected string.
        count: of strings; there are fewer where no more can be drawn.
        besides: other suspected strings.
        natural: tokens of plain requests, out of which half of the strings are cut; empty to draw
            all of them from the vocabulary.
        seed: of the draw.

    Raises:
        InputError: a suspected string has no tokens.
    """
    subject = _subject(checkpoint)
    own, *others = (encode(subject, one) for one in (text, *besides))
    vocabulary = typable(subject, _VOCABULARY, seed)
    taken = {token for ids in (own, *others) for token in ids}
    found: dict[str, None] = {}
    # Tokens that were drawn side by side may be other ones when they are typed. The beginning of a
    # longer string, parted as it is typed, is more often what it was.
    for times in (1, 2):
        longer = Candidate(text, own * times, "given")
        drawn = control_strings(longer, vocabulary, natural, _DRAWN * count, seed, others)
        for ids in drawn:
            typed = _typed(subject, ids, len(own), taken)
            if typed is not None and len(found) < count:
                found[typed] = None
    return list(found)


def _typed(subject: Subject, ids: Sequence[int], length: int, taken: Collection[int]) -> str | None:
    """The beginning of a string if it has a length when it is typed, and no token of some."""
    said = decode(subject, ids)
    text = decode(subject, encode(subject, said)[:length]) if said else ""
    whole = text and "\ufffd" not in text  # bytes that are no character cannot be typed
    again = encode(subject, text) if whole else ()
    return text if len(again) == length and not {*taken} & {*again} else None


def _subject(checkpoint: Checkpoint) -> Subject:
    """The checkpoint as searches take it; nothing here runs it, so nothing is paid."""
    return Subject(checkpoint, Budget(1, 1.0))
