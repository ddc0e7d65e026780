"""Where in a rendered conversation each part stands, by rendering and never by offsets.

A chat template is rendered twice: with the real messages, and with a marker in the place of each
content. What stands around the markers is the template's own; the rest must be the contents. So the
spans are exact for any template, and one that drops or rewrites an instruction is found out.

Segments: `bos`, `system` (the system message), `instruction` (the last user message),
`post_instruction` (what the template puts behind it, up to where the model begins), `thinking` and
`answer` where they are given. Earlier turns belong to none. `t_inst` is the last token of the
instruction and `t_post_inst` the last of `post_instruction` (Zhao et al., arXiv 2507.11878, §2).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from jinja2 import TemplateSyntaxError

from interp.checks import named, require_type
from interp.data.prompt_sets import Message
from interp.data.rows import Row, bos_prefix, require_embedded
from interp.errors import InputError, first_line, one_line
from interp.model.loaded import LoadedModel

Conversation = str | Sequence[Message]
"""A text, which is the user's one message, or messages with `role` and `content`."""
Span = tuple[int, int]
_HOW = (
    "give a text, a list of messages such as {'role': 'user', 'content': 'Hello'}, or a list of "
    "texts and of such lists"
)
_Model = TypeVar("_Model", bound=LoadedModel)
_WORDS_ALONE = (
    "{% for message in messages %}{{ message.content }}{{ '' if loop.last else '\n' }}{% endfor %}"
)


def chat_row(
    checkpoint: LoadedModel,
    messages: Sequence[Message],
    *,
    thinking: str | None = None,
    answer: str | None = None,
    index: int = 0,
    domain: str = "",
    **template: Any,
) -> Row:
    """Token ids of a conversation with the generation prompt, and where its segments are.

    Args:
        checkpoint: whose tokenizer and chat template are used.
        messages: `role` and `content`; the last one is the user's.
        thinking: words of the model put behind the prompt.
        answer: the same, behind the thinking; the template's own closing marker stands between them
            only if it is part of one of the two.
        index: of the row.
        domain: of the row.
        **template: further arguments of the chat template, such as `enable_thinking`.

    Raises:
        InputError: no tokenizer, no chat template, messages that the template refuses, swallows or
            rewrites, an empty instruction, or BOS twice.
    """
    tokenizer = _tokenizer(checkpoint)
    _require_messages(messages)
    prompt = _rendered(tokenizer, messages, template)
    spans = _content_spans(tokenizer, messages, prompt, template, checkpoint.name)
    parts = {"instruction": spans[-1]}
    if messages[0]["role"] == "system":
        parts["system"] = spans[0]
    parts["post_instruction"] = (spans[-1][1], len(prompt))
    text = prompt
    for name, words in (("thinking", thinking), ("answer", answer)):
        if words:
            parts[name] = (len(text), len(text) + len(words))
            text += words
    ids, offsets = _encoded(tokenizer, text)
    _require_one_bos(tokenizer, ids, checkpoint.name)
    require_embedded(checkpoint, ids)
    segments = _token_spans(parts, offsets, text)
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:1] == [bos]:
        segments["bos"] = (0, 1)
    return Row(index, tuple(ids), domain, segments)


def conversations(given: Conversation | Sequence[Conversation]) -> list[Sequence[Message]]:
    """What a user gives as one or several conversations, each as a sequence of messages.

    Args:
        given: a text; one conversation; or a sequence of texts and conversations.

    Raises:
        InputError: nothing was given, or something that is neither text nor messages.
    """
    if isinstance(given, str):
        return [_only(given)]
    if not _is_filled(given):
        raise InputError(f"what is to be read is {_shown(given)}; {_HOW}.")
    if all(isinstance(entry, Mapping) for entry in given):
        return [_messages(given)]
    return [_only(entry) if isinstance(entry, str) else _messages(entry) for entry in given]


def _only(text: str) -> Sequence[Message]:
    return ({"role": "user", "content": text},)


def _messages(given: Any) -> Sequence[Message]:
    if not _is_filled(given):
        raise InputError(f"a conversation is {_shown(given)}; {_HOW}.")
    for message in given:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise InputError(f"a message is {_shown(message)} without role and content; {_HOW}.")
    return list(given)


def _is_filled(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str | bytes) and len(given) > 0


def _shown(given: Any) -> str:
    return "empty" if given is not None and given in ([], ()) else named(given)


def with_chat_template(checkpoint: _Model, template: str | None) -> _Model:
    """The same checkpoint with another chat template; the user's tokenizer is left as it is.

    Args:
        checkpoint: with a tokenizer.
        template: Jinja source; None for the words of the messages alone, parted by line ends,
            behind what the tokenizer puts before a text by itself. Nothing stands behind the
            instruction then.

    Raises:
        InputError: the checkpoint has no tokenizer, or the template is no text.
    """
    if checkpoint.tokenizer is None:
        raise InputError(f"{checkpoint.name} has no tokenizer, so it can have no chat template.")
    if template is not None:
        require_type(template, str, "the chat template", "give its text, or None")
        template = template.removeprefix("\ufeff")  # some editors begin a file with it
    tokenizer: Any = copy.deepcopy(checkpoint.tokenizer)
    if template is None:
        prefix = tokenizer.decode(bos_prefix(checkpoint, None))
        template = f"{{{{ {prefix!r} }}}}" + _WORDS_ALONE
    tokenizer.chat_template = template
    return replace(checkpoint, tokenizer=tokenizer)


def t_inst(row: Row) -> int:
    """Index of the last token of the instruction."""
    return row.segments["instruction"][1] - 1


def t_post_inst(row: Row) -> int:
    """Index of the last token of the prompt.

    Raises:
        InputError: the template puts nothing behind the instruction, so the two are one token.
    """
    if "post_instruction" not in row.segments:
        raise InputError(
            "the chat template puts no token behind the instruction, so there is no t_post_inst "
            "apart from t_inst; use t_inst."
        )
    return row.segments["post_instruction"][1] - 1


def _tokenizer(checkpoint: LoadedModel) -> Any:
    tokenizer: Any = checkpoint.tokenizer
    if tokenizer is None:
        raise InputError(f"{checkpoint.name} has no tokenizer, so no conversation can be rendered.")
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{checkpoint.name} has no chat template; it is a base model. Name the template that "
            "it was tuned with, or `plain` for the words alone (on the command line "
            "--chat-template, in Python interp.data.with_chat_template)."
        )
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer of {checkpoint.name} is a slow one and tells no character offsets; "
            "load it with use_fast=True."
        )
    return tokenizer


def _require_messages(messages: Sequence[Message]) -> None:
    if not messages or messages[-1]["role"] != "user":
        raise InputError(
            "a conversation must end with the user's turn; it may begin with a system."
        )
    for message in messages:
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise InputError(
                f"a {message['role']} message has the content {message['content']!r}; give text."
            )


def _rendered(tokenizer: Any, messages: Sequence[Message], template: Mapping[str, Any]) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, **template
        )
    except TemplateSyntaxError as error:
        raise InputError(
            f"the chat template is no valid Jinja (line {error.lineno}: {one_line(error)}); give "
            "another (on the command line --chat-template, in Python "
            "interp.data.with_chat_template)."
        ) from error
    except Exception as error:
        # Templates raise jinja2 errors of their own wording, such as that no system is allowed.
        raise InputError(f"the chat template refuses these messages: {one_line(error)}.") from error
    return text


def _content_spans(
    tokenizer: Any,
    messages: Sequence[Message],
    text: str,
    template: Mapping[str, Any],
    name: str,
) -> list[Span]:
    """Character span of each message's content, stripped as the template strips it."""
    markers = [f"mechguard{number}marker" for number in range(len(messages))]
    hollow = [{**m, "content": marker} for m, marker in zip(messages, markers, strict=True)]
    frame = _rendered(tokenizer, hollow, template)
    spans: list[Span] = []
    at = 0
    for message, marker in zip(messages, markers, strict=True):
        if frame.count(marker) != 1:
            raise InputError(
                f"the chat template of {name} renders the {message['role']} message "
                f"{frame.count(marker)} times; spans would be ambiguous."
            )
        before, frame = frame.split(marker)
        at = _matched(text, at, before, name)
        content = message["content"]
        kept = next((c for c in (content, content.strip()) if text.startswith(c, at)), None)
        if kept is None:
            raise InputError(
                f"the chat template of {name} rewrites or swallows the {message['role']} message "
                f"{content[:40]!r}; no position in it can be named."
            )
        start = at + (len(kept) - len(kept.lstrip()))
        spans.append((start, start + len(kept.strip())))
        at += len(kept)
    if text[at:] != frame:
        raise InputError(
            f"the chat template of {name} changes what stands behind the instruction with its "
            "content; no position behind it can be named."
        )
    return spans


def _matched(text: str, at: int, expected: str, name: str) -> int:
    if not text.startswith(expected, at):
        raise InputError(
            f"the chat template of {name} changes the text around a message with its content; no "
            "position can be named."
        )
    return at + len(expected)


def _encoded(tokenizer: Any, text: str) -> tuple[list[int], list[Span]]:
    try:
        encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    except Exception as error:
        # A word-level vocabulary without an unknown token raises a bare Exception from Rust.
        raise InputError(
            f"the tokenizer cannot encode {text[:60]!r} ({first_line(error)}); an organism reads "
            "only words of its own grammar."
        ) from error
    return list(encoding["input_ids"]), [tuple(pair) for pair in encoding["offset_mapping"]]


def _require_one_bos(tokenizer: Any, ids: Sequence[int], name: str) -> None:
    bos = tokenizer.bos_token_id
    if bos is not None and list(ids[:2]) == [bos, bos]:
        raise InputError(
            f"the rendered conversation of {name} begins with BOS twice; take it out of the "
            "messages, or out of the chat template."
        )


def _token_spans(parts: Mapping[str, Span], offsets: Sequence[Span], text: str) -> dict[str, Span]:
    """Tokens of each part, in order of the text.

    A token belongs to the part in which its first character stands that is no white space: a space
    in front of a word is often part of the word's token. So segments never overlap.
    """
    begins = [low + len(text[low:high]) - len(text[low:high].lstrip()) for low, high in offsets]
    begins = [low if at >= high else at for at, (low, high) in zip(begins, offsets, strict=True)]
    spans: dict[str, Span] = {}
    for name, (begin, end) in parts.items():
        inside = [i for i, at in enumerate(begins) if begin <= at < end]
        if inside:
            spans[name] = (inside[0], inside[-1] + 1)
    if "instruction" not in spans:
        raise InputError("the instruction has no token of its own in the rendered conversation.")
    return spans
