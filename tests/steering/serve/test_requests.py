"""Odd bodies: each is refused with a sentence, and none with anything else."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from serving import NAME, checkpoint

from steering.serve.errors import RequestError
from steering.serve.requests import Limits, parsed

TEXT = "wash apron"
USER = {"role": "user", "content": TEXT}
HUGE = 10**400


def body(**change: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": [USER]} | change


def raw(text: str) -> bytes:
    """A body with a member written as it stands."""
    return (json.dumps(body())[:-1] + f", {text}}}").encode()


def content(value: Any) -> dict[str, Any]:
    return body(messages=[{"role": "user", "content": value}])


def deep(levels: int, kind: str = "[]") -> str:
    return kind[0] * levels + kind[1] * levels


ODD: dict[str, Any] = {
    # What is no JSON, or JSON that two readers take for two things.
    "nothing": b"",
    "half": b'{"model": ',
    "bytes": b"\xff\xfe\x00\xd8",
    "a list": b"[]",
    "a number": b"1",
    "a text": b'"model"',
    "null": b"null",
    "two objects": b"{} {}",
    "a BOM in the middle": "{}\ufeff{}".encode(),
    "NaN": raw('"temperature": NaN'),
    "Infinity": raw('"temperature": Infinity'),
    "minus infinity": raw('"steering": -Infinity'),
    "NaN in a list": raw('"metadata": {"x": [NaN]}'),
    "a float too large": raw('"temperature": 1e400'),
    "a strength too large": raw('"steering": 1e400'),
    "a float too large to be ignored": raw('"metadata": {"x": 1e999}'),
    "an integer of too many digits": raw('"max_tokens": ' + "9" * 5000),
    "a minus of too many digits": raw('"seed": -' + "9" * 5000),
    "deep lists": raw(f'"metadata": {deep(500)}'),
    "very deep lists": raw(f'"metadata": {deep(100_000)}'),
    "very deep, and never closed": b"[" * 100_000,
    "deep objects": raw('"metadata": ' + '{"a":' * 5000 + "1" + "}" * 5000),
    "deep content": content([[[[[[[["text"]]]]]]]]),
    "a name twice": raw('"model": "gpt-4"'),
    "a role twice": raw('"messages": [{"role": "user", "role": "system", "content": "a"}]'),
    "a name of half a character, twice": raw('"\\ud800": 1, "\\ud800": 2'),
    "a raw NUL": raw('"user": "\0"'),
    # Texts.
    "NUL": content("wash \0 apron"),
    "NUL that would be ignored": body(user="\0"),
    "half a character": raw('"messages": [{"role": "user", "content": "\\ud800"}]'),
    "half a character in a part": content([{"type": "text", "text": "\ud83d"}]),
    "half a character in a stop": body(stop=["\udc00"]),
    "half a character in a name": raw('"\\udfff": 1'),
    "half a character in a model": body(model="\ud800"),
    "half a character, in bytes": raw('"user": "x"').replace(b"x", b"\xed\xa0\x80"),
    # Messages.
    "no messages": body(messages=[]),
    "messages that are null": body(messages=None),
    "messages as an object": body(messages={"0": USER}),
    "messages as a text": body(messages="wash apron"),
    "a message that is a text": body(messages=["wash apron"]),
    "a message that is null": body(messages=[None]),
    "a message that is a list": body(messages=[["user", "wash apron"]]),
    "too many messages": body(messages=[USER] * 2000),
    "a role that is a list": body(messages=[{**USER, "role": ["user"]}]),
    "a role that is an object": body(messages=[{**USER, "role": {"user": 1}}]),
    "a role that is a number": body(messages=[{**USER, "role": HUGE}]),
    "a role that is unknown": body(messages=[{**USER, "role": "tool"}]),
    "no role": body(messages=[{"content": "wash apron"}]),
    "no content": body(messages=[{"role": "user"}]),
    "content that is null": content(None),
    "content that is a number": content(1.5),
    "content that is an object": content({"type": "text", "text": "wash apron"}),
    "content that is empty": content(""),
    "content that is blank": content(" " * 5000),
    "content without parts": content([]),
    "a part that is a text": content(["wash apron"]),
    "a part of an image": content([{"type": "image_url", "image_url": {"url": "x"}}]),
    "a part whose type is a list": content([{"type": ["text"], "text": "wash apron"}]),
    "a part whose text is null": content([{"type": "text", "text": None}]),
    "a part whose text is a list": content([{"type": "text", "text": ["wash"]}]),
    "the model speaks last": body(messages=[USER, {"role": "assistant", "content": "apron"}]),
    "a word that is unknown": content("wash zzzz"),
    # Fields.
    "no model": {"messages": [USER]},
    "a model that is a list": body(model=[NAME]),
    "a model that is deep": raw('"x": 1').replace(json.dumps(NAME).encode(), deep(30).encode()),
    "a model of a million letters": body(model="m" * 1_000_000),
    "a field that is unknown": body(wings=2),
    "a field of a million letters": body(**{"w" * 1_000_000: 2}),
    "n that is true": body(n=True),
    "n that is a list": body(n=[1]),
    "n that is huge": body(n=HUGE),
    "tools that are an object": body(tools={}),
    "a format that is another": body(response_format={"type": "json_object"}),
    "a tiny temperature": body(temperature=1e-320),
    "the smallest temperature": body(temperature=5e-324),
    "a temperature below 0": body(temperature=-1),
    "a huge temperature": body(temperature=HUGE),
    "a temperature that is a text": body(temperature="1"),
    "a temperature that is true": body(temperature=True),
    "a temperature that is a list": body(temperature=[1]),
    "top_p 0": body(top_p=0),
    "a tiny top_p": body(top_p=1e-320),
    "a top_p above 1": body(top_p=1.0000001),
    "a huge top_p": body(top_p=HUGE),
    "max_tokens 0": body(max_tokens=0),
    "max_tokens below 0": body(max_tokens=-1),
    "max_tokens that is a fraction": body(max_tokens=1.5),
    "max_tokens of a huge fraction": body(max_tokens=1e308),
    "max_tokens of 400 digits": body(max_tokens=HUGE),
    "max_tokens that is true": body(max_tokens=True),
    "max_tokens that is a text": body(max_tokens="12"),
    "max_completion_tokens that is an empty list": body(max_completion_tokens=[]),
    "max_completion_tokens 0": body(max_completion_tokens=0, max_tokens=5),
    "lengths that differ": body(max_completion_tokens=4, max_tokens=5),
    "a length beyond the context": body(max_tokens=1000),
    "a seed of 65 bits": body(seed=2**63),
    "a huge seed": body(seed=HUGE),
    "a huge minus seed": body(seed=-HUGE),
    "a seed that is a fraction": body(seed=0.5),
    "a seed that is true": body(seed=True),
    "a strength that is huge": body(steering=HUGE),
    "a strength that is a minus and huge": body(steering=-HUGE),
    "a strength that is true": body(steering=True),
    "a strength that is a list": body(steering=[1]),
    "a strength that is an object": body(steering={"strength": 1}),
    "a strength that is empty": body(steering=""),
    "a strength that is nan": body(steering="nan"),
    "a strength with an underscore": body(steering="1_0"),
    "a strength with a space": body(steering=" 1"),
    "a strength of other digits": body(steering="١"),
    "a strength that is a huge text": body(steering="9" * 10_000),
    "stop that is empty": body(stop=""),
    "stop that is 0": body(stop=0),
    "stop that is false": body(stop=False),
    "stop that is an object": body(stop={}),
    "stop with a number": body(stop=["a", 1]),
    "stop with nothing": body(stop=["a", ""]),
    "stop with a list": body(stop=[["a"]]),
    "too many stops": body(stop=list("abcde")),
    "stop of a million letters": body(stop="a" * 1_000_000),
    "stream that is a number": body(stream=1),
    "stream that is a text": body(stream="true"),
    "stream options without a stream": body(stream_options={"include_usage": True}),
    "stream options that are a list": body(stream=True, stream_options=[]),
    "stream options that are false": body(stream=True, stream_options=False),
    "stream options that are unknown": body(stream=True, stream_options={"wings": 1}),
    "a usage that is a text": body(stream=True, stream_options={"include_usage": "yes"}),
    "metadata that is a list": body(metadata=[1]),
    "metadata that is a text": body(metadata="x"),
    "a user that is an object": body(user={"name": "x"}),
    "a service tier that is a number": body(service_tier=1),
}
HEADERS = [
    "nan",
    "NaN",
    "inf",
    "-inf",
    "1_0",
    "",
    " ",
    "on",
    "0x1",
    "1e400",
    "9" * 400,
    "5",
    "1, 1",
]


def refused(given: Any, headers: dict[str, str] | None = None) -> RequestError:
    content = given if isinstance(given, bytes) else json.dumps(given).encode()
    limits = Limits().on(checkpoint())
    with pytest.raises(RequestError) as error:
        parsed(content, headers or {}, checkpoint(), NAME, limits)
    return error.value


def test_there_are_enough_of_them() -> None:
    assert len(ODD) + len(HEADERS) >= 120


@pytest.mark.parametrize("name", ODD)
def test_an_odd_body_is_refused_with_a_sentence(name: str) -> None:
    error = refused(ODD[name])
    assert 400 <= error.status < 500
    told = error.body()["error"]
    assert told["type"] == "invalid_request_error"
    assert 0 < len(told["message"]) <= 500 and len(told["param"] or "") <= 80
    json.dumps(error.body()).encode("ascii")


@pytest.mark.parametrize("value", HEADERS)
def test_an_odd_strength_in_the_header_is_refused(value: str) -> None:
    assert refused(body(), {"x-mechguard-strength": value}).param == "steering"


def test_the_table_does_not_refuse_because_of_what_is_common_to_it() -> None:
    limits = Limits().on(checkpoint())
    for good in (
        body(),
        body(temperature=1e-6, top_p=1e-6, seed=-(2**63), stop="a", n=1, user="x"),
        body(temperature=0, top_p=1.0, seed=2**63 - 1, stop=[], metadata={"a": "b"}),
        body(max_completion_tokens=5, max_tokens=5, stream=True, stream_options={}),
        body(stream=True, stream_options={"include_usage": True, "include_obfuscation": False}),
        content([{"type": "text", "text": TEXT}]),
    ):
        found = parsed(json.dumps(good).encode(), {}, checkpoint(), NAME, limits)
        assert len(found.row) >= 2
    for text, wanted in (("1.", 1.0), ("-.5", -0.5), ("+2e0", 2.0), ("off", 0.0)):
        headers = {"x-mechguard-strength": text}
        assert parsed(json.dumps(body()).encode(), headers, checkpoint(), NAME, limits)
        found = parsed(json.dumps(body(steering=text)).encode(), {}, checkpoint(), NAME, limits)
        assert found.strength == wanted


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_tokenised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = Limits().on(checkpoint())
    context = checkpoint().anatomy.context
    assert context is not None and limits.max_characters is not None
    assert context < limits.max_characters < 100_000
    assert Limits(max_characters=7).on(checkpoint()).max_characters == 7

    def encode(*_: Any, **__: Any) -> None:
        raise AssertionError("it was tokenised")

    monkeypatch.setattr("steering.serve.requests.chat_row", encode)
    long = json.dumps(content("wash apron " * limits.max_characters)).encode()
    for given in (long, json.dumps(body(messages=[USER] * limits.max_characters)).encode()):
        with pytest.raises(RequestError) as error:
            parsed(given, {}, checkpoint(), NAME, replace(limits, max_messages=10**9))
        assert error.value.code == "context_length_exceeded"


def test_a_prompt_of_the_longest_words_fits() -> None:
    """The limit on characters refuses none that has room."""
    context = checkpoint().anatomy.context
    tokenizer = checkpoint().tokenizer
    assert context is not None and tokenizer is not None
    word = max((w for w in tokenizer.get_vocab() if w.isalpha()), key=len)
    fits = " ".join([word] * (context - 20))
    limits = Limits().on(checkpoint())
    found = parsed(json.dumps(content(fits)).encode(), {}, checkpoint(), NAME, limits)
    assert math.isclose(len(found.row), context, abs_tol=20)


def test_a_tokenizer_that_breaks_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise TypeError("secret")

    monkeypatch.setattr("steering.serve.requests.chat_row", broken)
    error = refused(body())
    assert error.status == 400 and "secret" not in str(error)
