"""Files of texts, prompts, questions and traces that cannot be read."""

import json
from pathlib import Path

from faults.table import DEEP, Fault, Make, both, device, file, instead, pipe, sock, sparse

SINKS = "sinks {dir}/model --out {dir}/out --length 8 --texts {dir}/"
COLLECT = "collect {dir}/model --site resid_pre --at last --out {dir}/out --data {dir}/"
TRACES = "traces --out {dir}/out {dir}/"
ASK = "self-report {dir}/model --out {dir}/out --questions {dir}/"
CHAT = " --chat-template plain"


def _deep(key: str) -> str:
    return f'{{"{key}": {DEEP}}}'


_TRACE = {"id": "a", "query": "q", "steps": [], "success": True}

TEXTS = (
    Fault("no texts", SINKS + "gone.txt", "does not exist"),
    Fault("texts are a folder", SINKS + "x.txt", "it is a folder", instead("x.txt", Path.mkdir)),
    Fault("texts are a pipe", SINKS + "x.txt", "it is a named pipe", instead("x.txt", pipe)),
    Fault("texts are a device", SINKS + "x.txt", "it is a device", instead("x.txt", device)),
    Fault("texts are a socket", SINKS + "x.json", "it is a socket", instead("x.json", sock)),
    Fault("parquet is a pipe", SINKS + "x.parquet", "it is a named pipe",
          instead("x.parquet", pipe)),
    Fault("texts of 3 GB", SINKS + "x.txt", "3,000,000,000 bytes",
          instead("x.txt", sparse(3_000_000_000))),
    Fault("texts in UTF-16", SINKS + "x.txt", "it is UTF-16",
          file("x.txt", "w5 w6".encode("utf-16"))),
    Fault("binary texts", SINKS + "x.txt", "line 2 holds the byte 0xfe", file("x.txt", b"a\n\xfe")),
    Fault("no text", SINKS + "x.txt", "holds no text", file("x.txt", "\n \n")),
    Fault("deep JSON", SINKS + "x.json", "nested more deeply", file("x.json", DEEP)),
    Fault("deep JSONL", SINKS + "x.jsonl", "line 3: brackets are nested more deeply",
          file("x.jsonl", '{"text": "w5"}\n\n' + _deep("text"))),
    Fault("bad line of JSONL", SINKS + "x.jsonl", "line 4, column",
          file("x.jsonl", '\ufeff{"text": "w5"}\r\n\r\n{"text": "w6"}\r\n{"text": \r\n')),
    Fault("line without text", SINKS + "x.jsonl", "line 2 has no string `text`",
          file("x.jsonl", '{"text": "w5"}\n{"body": "w5"}\n')),
    Fault("object as texts", SINKS + "x.json", "the top level is no list",
          file("x.json", '{"text": "w5"}')),
    Fault("commas that shift columns", SINKS + "x.csv", "line 4 has 3 cells and there are 2",
          file("x.csv", 'text,n\n"w5\nw6",1\nw5, please,2\n')),
    Fault("open quote", SINKS + "x.csv", "the record that begins in line 2",
          file("x.csv", 'text,n\n"w5,1\n')),
    Fault("column twice", SINKS + "x.csv", "two columns have the same name",
          file("x.csv", "text,text\na,b\n")),
    Fault("no parquet", SINKS + "x.parquet", "not readable as .parquet",
          file("x.parquet", "PAR1")),
    Fault("half a surrogate", SINKS + "x.json", "not readable as .json",
          file("x.json", '["\\ud800"]')),
    Fault("a name too long", "sinks {dir}/model --out {dir}/out --texts " + "a" * 300,
          "neither a file nor a data set"),
)  # fmt: skip

PROMPTS = (
    Fault("no prompts", COLLECT + "gone.csv" + CHAT, "does not exist"),
    Fault("prompts are a pipe", COLLECT + "x.jsonl", "it is a named pipe",
          instead("x.jsonl", pipe)),
    Fault("deep prompts", COLLECT + "x.jsonl", "line 1: brackets are nested",
          file("x.jsonl", _deep("prompt"))),
    Fault("deep list of prompts", COLLECT + "x.json", "nested more deeply", file("x.json", DEEP)),
    Fault("object as prompts", COLLECT + "x.json", "the top level is no list",
          file("x.json", '{"a": "w5"}')),
    Fault("messages that are a number", COLLECT + "x.jsonl", "line 2 of",
          file("x.jsonl", '{"messages": [{"role": "user", "content": "a"}]}\n{"messages": 3}\n')),
    Fault("messages that are null", COLLECT + "x.jsonl", "no list of objects",
          file("x.jsonl", '{"messages": null}\n')),
    Fault("messages that are no JSON", COLLECT + "x.csv", "line 2 of",
          file("x.csv", "messages\nhello\n")),
    Fault("message without a role", COLLECT + "x.jsonl", "no list of objects with role",
          file("x.jsonl", '{"messages": [{"content": "a"}]}\n')),
    Fault("content that is a number", COLLECT + "x.jsonl", "line 1 of",
          file("x.jsonl", '{"messages": [{"role": "user", "content": 3}]}\n')),
    Fault("content of half a surrogate", COLLECT + "x.jsonl", "surrogates not allowed",
          file("x.jsonl", '{"prompt": "\\ud800"}\n')),
    Fault("line that is a list", COLLECT + "x.jsonl", "line 1 holds no object",
          file("x.jsonl", "[1]\n")),
    Fault("blank prompt", COLLECT + "x.csv", "line 4 of",
          file("x.csv", 'prompt\n"a\nb"\n" "\n')),
    Fault("unquoted commas", COLLECT + "x.csv", "line 2 has 3 cells",
          file("x.csv", "prompt,label\nBake bread, please,harmless\n")),
    Fault("prompts of a strange type", COLLECT + "x.docx", "prompts come as .csv",
          file("x.docx", "a")),
    Fault("pipe for refusal", "refusal {dir}/model --out {dir}/out --harmful {dir}/x.txt",
          "it is a named pipe", instead("x.txt", pipe)),
    Fault("deep texts for refusal", "refusal {dir}/model --out {dir}/out --texts {dir}/x.json",
          "nested more deeply", file("x.json", DEEP)),
    Fault("pipe for cliff", "cliff {dir}/model --out {dir}/out --harmful {dir}/x.txt "
          "--harmless {dir}/prompts.jsonl", "it is a named pipe", instead("x.txt", pipe)),
    Fault("binary file for backdoor", "backdoor {dir}/model --out {dir}/out --harmless {dir}/x.txt",
          "line 1 holds the byte 0xff", file("x.txt", b"\xff")),
    Fault("candidates are a device",
          "backdoor {dir}/model --out {dir}/out --candidates {dir}/x", "it is a device",
          instead("x", device)),
    Fault("candidates of the null device",
          "backdoor {dir}/model --out {dir}/out --candidates /dev/null", "it is a device"),
    Fault("candidates of no line", "backdoor {dir}/model --out {dir}/out --candidates {dir}/x",
          "holds no string", file("x", "\n")),
    Fault("distractors are a folder", "interaction {dir}/model --out {dir}/out --first a "
          "--second b --distractors {dir}/x", "it is a folder", instead("x", Path.mkdir)),
    Fault("deep prompts for interaction", "interaction {dir}/model --out {dir}/out --first a "
          "--second b --prompts {dir}/x.jsonl", "nested more deeply",
          file("x.jsonl", _deep("prompt"))),
    Fault("pipe for generate", "generate {dir}/model --messages {dir}/x.jsonl",
          "it is a named pipe", instead("x.jsonl", pipe)),
    Fault("deep messages for generate", "generate {dir}/model --messages {dir}/x.jsonl",
          "nested more deeply", file("x.jsonl", _deep("messages"))),
    Fault("local set that is a pipe", "refusal {dir}/model --out {dir}/out "
          "--harmful advbench={dir}/x.json", "it is a named pipe", instead("x.json", pipe)),
    Fault("deep local set", "refusal {dir}/model --out {dir}/out "
          "--harmful advbench={dir}/x.json", "nested more deeply", file("x.json", DEEP)),
    Fault("pipe for guard fit", "guard fit {dir}/model --out {dir}/g.safetensors --harmful "
          "{dir}/x.txt --harmless {dir}/x.txt", "it is a named pipe", instead("x.txt", pipe)),
    Fault("one class for guard fit", "guard fit {dir}/model --out {dir}/g.safetensors --harmful "
          "{dir}/prompts.jsonl", "give both --harmful and --harmless"),
    Fault("pipe for guard score", "guard score {dir}/g {dir}/model --messages {dir}/x.txt",
          "it is a named pipe", instead("x.txt", pipe)),
    Fault("pipe for steer train", "steer train {dir}/model --out {dir}/out --harmful {dir}/x.txt "
          "--harmless {dir}/prompts.jsonl" + CHAT, "it is a named pipe", instead("x.txt", pipe)),
    Fault("pipe for steer eval", "steer eval {dir}/model --policy {dir}/p --out {dir}/out "
          "--harmful {dir}/x.txt --harmless {dir}/prompts.jsonl", "it is a named pipe",
          instead("x.txt", pipe)),
)  # fmt: skip


def _trace(**fields: object) -> Make:
    return file("x.jsonl", json.dumps({**_TRACE, **fields}))


OTHERS = (
    Fault("no traces", TRACES + "gone.jsonl", "does not exist"),
    Fault("traces are a pipe", TRACES + "x.jsonl", "it is a named pipe",
          instead("x.jsonl", pipe)),
    Fault("deep traces", TRACES + "x.jsonl", "line 2: brackets are nested",
          file("x.jsonl", json.dumps(_TRACE) + "\n" + DEEP)),
    Fault("trace without steps", TRACES + "x.jsonl", "has no 'steps' of type list",
          _trace(steps=3)),
    Fault("bad line of traces", TRACES + "x.jsonl", "line 3, column",
          file("x.jsonl", json.dumps(_TRACE) + "\n\n{\n")),
    Fault("trace that is a list", TRACES + "x.jsonl", "line 3 of",
          file("x.jsonl", json.dumps(_TRACE) + "\n\n[]\n")),
    Fault("reference is a device", TRACES + "x.jsonl --reference {dir}/y.jsonl", "it is a device",
          both(_trace(), instead("y.jsonl", device))),
    Fault("no questions", ASK + "gone.json", "does not exist"),
    Fault("questions are a pipe", ASK + "x.yaml", "it is a named pipe", instead("x.yaml", pipe)),
    Fault("deep questions", ASK + "x.json", "nested more deeply", file("x.json", DEEP)),
    Fault("deep YAML", ASK + "x.yaml", "nested too deeply", file("x.yaml", "[" * 3000)),
    Fault("questions that are a number", ASK + "x.json", "holds no list", file("x.json", "3")),
    Fault("no report", "render {dir}", "There is no"),
    Fault("deep report", "render {dir}", "nested more deeply", file("report.json", DEEP)),
    Fault("report is a pipe", "render {dir}", "it is a named pipe", instead("report.json", pipe)),
    Fault("report is a list", "render {dir}", "is not a report", file("report.json", "[]")),
    Fault("report of a later version", "render {dir}", "format version 99",
          file("report.json", '{"kind": "sinks", "format_version": 99}')),
    Fault("report of an unknown kind", "render {dir}", "there is no analysis 'nope'",
          file("report.json", '{"kind": "nope", "format_version": 1}')),
    Fault("report in the way", SINKS + "texts.txt", "nested more deeply",
          file("out/report.json", DEEP)),
)  # fmt: skip

FAULTS = (*TEXTS, *PROMPTS, *OTHERS)
