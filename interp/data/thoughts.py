"""A reply parted into what the model thinks and what it answers.

Known are the markers that models put around a thought: `<think>` … `</think>` (Qwen3, DeepSeek-R1,
and the chat organisms), `[THINK]` … `[/THINK]` (Magistral), and the channels of gpt-oss, whose
`analysis` is thinking and whose `final` is the answer. A template may open the thought at the end
of the prompt; then the closing marker stands alone in the reply.
"""

import re
from dataclasses import dataclass

_PAIRS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
_SPECIAL = r"<[|｜][^<>\n]*[|｜]>|</?s>|<(?:bos|eos|pad|end|start_of_turn|end_of_turn)>"
_AT_START = re.compile(rf"^(?:\s|{_SPECIAL})+")
_AT_END = re.compile(rf"(?:\s|{_SPECIAL})+$")
_CHANNEL = "<|channel|>"
_HEADER = re.compile(r"<\|channel\|>(?P<name>\w+)(?P<to>[^<]*)(?:<\|constrain\|>\w*)?<\|message\|>")
_MESSAGE_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_MARKER = re.compile(r"<[|｜/]?\w[^<>\n]*>|\[/?[A-Z_]+\]")


@dataclass(frozen=True)
class Spoken:
    """The two parts of a reply.

    Attributes:
        thinking: without its markers; None if there was no thought, "" if it was an empty one.
        answer: what follows, without special tokens at its ends.
        closed: False if a thought was begun and never ended, so that there is no answer.
    """

    thinking: str | None
    answer: str
    closed: bool


def split_thought(text: str, *, opened: bool = False) -> Spoken:
    """Part a reply into thinking and answer.

    A thought is recognised where the reply begins. One that follows straight on belongs to it; a
    marker inside the answer is the answer's own. A closing marker that no opening one precedes ends
    a thought that began with the reply.

    Args:
        text: as decoded with its special tokens.
        opened: the prompt ends inside an open thought; see `ends_in_thought`.
    """
    if _CHANNEL in text:
        return _by_channel(text, opened)
    for begin, end in _PAIRS:
        if _begins_with(text, begin) or (end in text and begin not in text.split(end)[0]):
            return _between(text, begin, end)
    if opened:
        return Spoken(_bare(text), "", closed=False)
    return Spoken(None, _bare(text), closed=True)


def may_think(template: str) -> bool:
    """Whether a chat template knows thoughts: a switch for them, or the markers around one.

    Args:
        template: as text, before rendering.
    """
    marks = ("enable_thinking", _CHANNEL, *(mark for pair in _PAIRS for mark in pair))
    return any(mark in template for mark in marks)


def ends_in_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends inside an open thought.

    The last opening marker must have no other marker behind it: neither the one that closes it, nor
    any of the template, which would mean that the user wrote it.
    """
    heads = [(prompt.rfind(begin), len(begin)) for begin, _ in _PAIRS]
    heads += [(m.start(), m.end() - m.start()) for m in _HEADER.finditer(prompt) if _thinks(m)]
    at, length = max(heads)
    return at >= 0 and _MARKER.search(prompt, at + length) is None


def _between(text: str, begin: str, end: str) -> Spoken:
    thoughts: list[str] = []
    rest = text
    while not thoughts or _begins_with(rest, begin):
        thought, found, rest = rest.partition(end)
        thoughts.append(_bare(_bare(thought).removeprefix(begin)))
        if not found:
            return Spoken("\n\n".join(thoughts), "", closed=False)
    return Spoken("\n\n".join(thoughts), _bare(rest), closed=True)


def _by_channel(text: str, opened: bool) -> Spoken:
    """Channels in order; `commentary` without an addressee is said to the user."""
    thoughts: list[str] = []
    said: list[str] = []
    closed = True
    if opened:
        thoughts.append(_bare(text[: _end(text, 0)]))
    for header in _HEADER.finditer(text):
        stop = _end(text, header.end())
        content = _bare(text[header.end() : stop])
        if _thinks(header):
            thoughts.append(content)
            closed = stop < len(text)
        elif "to=" not in header["to"]:
            said.append(content)
    thinking = "\n\n".join(thoughts) if thoughts else None
    return Spoken(thinking, "\n\n".join(said), closed)


def _end(text: str, begin: int) -> int:
    found = _MESSAGE_END.search(text, begin)
    return found.start() if found else len(text)


def _thinks(header: re.Match[str]) -> bool:
    return header["name"] == "analysis"


def _begins_with(text: str, marker: str) -> bool:
    return _AT_START.sub("", text).startswith(marker)


def _bare(text: str) -> str:
    """Without white space and special tokens at the ends."""
    return _AT_END.sub("", _AT_START.sub("", text))
