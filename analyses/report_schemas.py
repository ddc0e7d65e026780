"""JSON Schemas of all kinds of `report.json`, generated from the types of reports.

They lie in `analyses/schemas`, one file a kind, and come with the package:

    python -m analyses.report_schemas     # writes them anew, after a type has changed
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from analyses.registry import analysis, every_analysis
from analyses.shared.reports import DataEntry
from interp.resume.files import write_atomically

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ADDED = {
    "not_measured": {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": "The reason for each null that stands for an absent measurement, by path.",
    },
    "intervals": {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": "What an interval is, by path, where it says so itself.",
    },
}


def kinds() -> tuple[str, ...]:
    """Kinds of reports, the one of several findings last."""
    return (*(one.kind for one in every_analysis()), "report")


def schema(kind: str) -> dict[str, Any]:
    """The shipped JSON Schema of a kind of `report.json`.

    Raises:
        InputError: there is no such kind.
    """
    if kind != "report":
        analysis(kind)
    text = (files("analyses") / "schemas" / f"{kind}.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def generated(kind: str) -> dict[str, Any]:
    """The JSON Schema of a kind, made from its type; needs pydantic."""
    from pydantic import TypeAdapter

    if kind == "report":
        return _of_several()
    found: dict[str, Any] = TypeAdapter(analysis(kind).report()).json_schema(mode="serialization")
    _close(found)
    for part in found.get("$defs", {}).values():
        _close(part)
    found["properties"] |= _ADDED
    found["required"] += list(_ADDED)
    return {"$schema": _DIALECT, **_in_order(found)}


def _in_order(part: Any) -> Any:
    """With the values of every enumeration sorted.

    Python takes two `Literal | None` for one if they hold the same values, so their order depends
    on which of them was imported first.
    """
    if isinstance(part, dict):
        return {
            key: sorted(value, key=str) if key == "enum" else _in_order(value)
            for key, value in part.items()
        }
    return [_in_order(one) for one in part] if isinstance(part, list) else part


def _close(part: dict[str, Any]) -> None:
    """Of an object, all fields are there and no others are."""
    if "properties" in part:
        part["additionalProperties"] = False
        part["required"] = list(part["properties"])


def _of_several() -> dict[str, Any]:
    """A report of several findings; each of them follows the schema of its kind."""
    from pydantic import TypeAdapter

    single = [kind for kind in kinds() if kind != "report"]
    return {
        "$schema": _DIALECT,
        "title": "ModelReport",
        "type": "object",
        "properties": {
            "kind": {"const": "report"},
            "format_version": {"const": 1},
            "verdict": {"type": "string"},
            "provenance": {"type": "object"},
            "data": {"type": "array", "items": TypeAdapter(DataEntry).json_schema()},
            "findings": {
                "type": "object",
                "properties": {kind: {"$ref": f"{kind}.json"} for kind in single},
                "additionalProperties": False,
                "minProperties": 1,
            },
            "not_measured": _ADDED["not_measured"],
            "caveats": {"type": "array", "items": {"type": "string"}},
        },
        "required": [
            "kind",
            "format_version",
            "verdict",
            "provenance",
            "data",
            "findings",
            "not_measured",
            "caveats",
        ],
        "additionalProperties": False,
    }


def written(kind: str) -> str:
    """The text of the file of a kind."""
    return json.dumps(generated(kind), indent=1) + "\n"


def main() -> None:
    """Write the schemas of all kinds."""
    home = Path(__file__).parent / "schemas"
    for kind in kinds():
        write_atomically(home / f"{kind}.json", written(kind).encode())


if __name__ == "__main__":
    main()
