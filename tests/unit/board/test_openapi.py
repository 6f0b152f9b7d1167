"""The OpenAPI document is published, complete, and consistent in itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema_rs

from pipeline_processing.board import openapi
from pipeline_processing.board.application import API
from tests.unit.board.asking import ask
from tests.unit.board.conftest import Parts

FOLDER = Path(__file__).parents[3] / "schemas"


def test_the_published_file_is_current() -> None:
    """`pipeline-processing schemas` would change nothing."""
    assert (FOLDER / "board.openapi.json").read_text("utf-8") == openapi.file()


async def test_the_board_serves_it(parts: Parts) -> None:
    assert (await ask(parts.app(), f"{API}/openapi.json")).json == openapi.document()


def test_every_reference_leads_somewhere() -> None:
    """And every schema is used, and valid."""
    text, document = openapi.file(), openapi.document()
    schemas = document["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/(\w+)"', text)) | {"ProgressUpdate"} == set(schemas)
    for schema in schemas.values():
        jsonschema_rs.meta.validate(schema)
        assert schema.get("description")


def test_every_parameter_is_described() -> None:
    """Path parameters are those of the path."""
    for path, item in openapi.document()["paths"].items():
        parameters = item["get"].get("parameters", [])
        assert [each["name"] for each in parameters if each["in"] == "path"] == re.findall(r"{(\w+)}", path)
        for parameter in parameters:
            jsonschema_rs.meta.validate(parameter["schema"])
            assert parameter["in"] == "path" or parameter["description"]
            assert "$ref" not in json.dumps(parameter)
