"""The shipped schemas are those of the types, and reports follow them."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

import mechguard as mg
from analyses import report_schemas
from analyses.report_schemas import generated, kinds, schema
from interp.errors import InputError

HOME = Path(report_schemas.__file__).parent / "schemas"


def _validator(kind: str) -> jsonschema.Draft202012Validator:
    known = [(f"{one}.json", Resource.from_contents(schema(one))) for one in kinds()]
    return jsonschema.Draft202012Validator(schema(kind), registry=Registry().with_resources(known))


@pytest.mark.parametrize("kind", kinds())
def test_shipped_schemas_are_those_of_the_types(kind: str) -> None:
    text = (HOME / f"{kind}.json").read_text("utf-8")
    assert json.loads(text) == generated(kind), "run `python -m analyses.report_schemas`"
    jsonschema.Draft202012Validator.check_schema(schema(kind))


def test_every_file_is_of_a_kind() -> None:
    assert {path.stem for path in HOME.iterdir()} == set(kinds())
    with pytest.raises(InputError, match="there is no analysis 'sink'"):
        schema("sink")


def test_a_misspelt_field_or_a_lost_one_is_found() -> None:
    report: dict[str, Any] = {"kind": "sinks", "format_version": 1}
    wrong = {error.message for error in _validator("sinks").iter_errors({**report, "verdikt": ""})}
    assert any("'verdikt' was unexpected" in message for message in wrong)
    assert "'verdict' is a required property" in wrong


def test_a_sink_report_follows_its_schema() -> None:
    checkpoint = mg.load("organism:bb-gated")
    found = mg.sinks(checkpoint, max_sequences=8, causal_sequences=0)
    _validator("sinks").validate(found.to_dict())
    assert found.to_dict()["not_measured"]["causal"]


def test_a_report_of_several_findings_follows_its_schema() -> None:
    whole = mg.report(
        mg.load("organism:bb-plain-3"),
        settings={"sinks": {"max_sequences": 8, "causal_sequences": 0}},
    )
    _validator("report").validate(whole.to_dict())
    assert "no chat template" in whole.to_dict()["not_measured"]["refusal"]
