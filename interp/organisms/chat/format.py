"""How a conversation becomes token ids: the chat template and the tokenizer."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, assert_never

from interp.errors import InputError
from interp.organisms.chat.grammar import Words, vocabulary
from interp.organisms.tokenizer import word_level_tokenizer

Message = Mapping[str, Any]
Messages = tuple[Message, ...]
Opening = Literal["answer", "think", "tag"]
"""What comes next: the answer itself, a thought, or a tag inside the user's turn."""

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SYSTEM, USER, ASSISTANT, GO, END, TOOL, CALL = (
    "<sys>",
    "<usr>",
    "<ast>",
    "<go>",
    "<end>",
    "<obs>",
    "<call>",
)
THINK, CLOSE, STOP = "<think>", "</think>", "<stop>"
"""A thought begins, ends by itself, is cut from outside. Plain tokens, which decoding keeps."""

_SPECIAL = (SYSTEM, USER, ASSISTANT, GO, END, TOOL)
_MARKERS = (PAD, BOS, EOS, *_SPECIAL, CALL, THINK, CLOSE, STOP)
TOKENS = vocabulary(_MARKERS)
IDS = {token: i for i, token in enumerate(TOKENS)}

_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == "system" %}
{{- " <sys> " + message.content + " <end>" }}
{%- elif message.role == "user" %}
{{- " <usr> " + message.content + " <end>" }}
{%- elif message.role == "tool" %}
{{- " <obs> " + message.content + " <end>" }}
{%- elif message.role == "assistant" %}
{{- " <ast>" }}
{%- if message.reasoning_content %}
{{- " <think> " + message.reasoning_content + " </think>" }}
{%- else %}
{{- " <go>" }}
{%- endif %}
{%- for call in message.tool_calls or [] %}
{{- " <call> " + call.function.name }}
{%- endfor %}
{%- if message.content %}
{{- " " + message.content }}
{%- endif %}
{{- " " + eos_token }}
{%- else %}
{{- raise_exception("There is no role " + message.role + "; use system, user, assistant, tool.") }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{%- if enable_thinking | default(THINKS) and messages[-1].role != "tool" %}
{{- " <ast> <think>" }}
{%- else %}
{{- " <ast> <go>" }}
{%- endif %}
{%- endif %}"""


def chat_template(thinks: bool) -> str:
    """The Jinja source.

    Args:
        thinks: whether the generation prompt opens a thought unless `enable_thinking` says
            otherwise.
    """
    return _TEMPLATE.replace("THINKS", str(thinks).lower())


def chat_tokenizer(thinks: bool = False) -> Any:
    """The tokenizer of a chat organism."""
    return word_level_tokenizer(
        TOKENS, bos=BOS, pad=PAD, eos=EOS, markers=_SPECIAL, chat_template=chat_template(thinks)
    )


def encode(words: Sequence[str]) -> list[int]:
    """Token ids of words.

    Raises:
        InputError: a word is none of the organism's.
    """
    try:
        return [IDS[word] for word in words]
    except KeyError as error:
        raise InputError(
            f"{error.args[0]!r} is no word of the chat organisms; see `organisms.chat_grammar`."
        ) from None


def decode(ids: Sequence[int]) -> Words:
    """The words of token ids, as far as the first <eos>, which is included."""
    words = [TOKENS[int(i)] for i in ids]
    return tuple(words[: words.index(EOS) + 1] if EOS in words else words)


def spoken(words: Sequence[str]) -> str:
    """Words as the content of a message: joined by spaces, without markers such as <eos>."""
    return " ".join(word for word in words if word not in _MARKERS)


def render(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], opening: Opening = "answer"
) -> list[int]:
    """Token ids of a prompt, as transformers renders it; BOS first."""
    match opening:
        case "tag":
            how = {"continue_final_message": True}
        case "think" | "answer":
            how = {"add_generation_prompt": True, "enable_thinking": opening == "think"}
        case _:
            assert_never(opening)
    ids: list[int] = tokenizer.apply_chat_template(list(messages), return_dict=False, **how)
    return ids
