"""The types of the report make a JSON Schema that names every field."""

from dataclasses import fields

from pydantic import TypeAdapter

from analyses.refusal.report import RefusalReport


def test_the_schema_names_every_field_and_no_other() -> None:
    schema = TypeAdapter(RefusalReport).json_schema()
    assert list(schema["properties"]) == [field.name for field in fields(RefusalReport)]
    assert schema["properties"]["kind"]["const"] == "refusal"
