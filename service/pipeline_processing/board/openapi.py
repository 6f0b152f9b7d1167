"""The OpenAPI document of the JSON API, made from the endpoints and their models."""

import json
import re
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from pipeline_processing.board import models as m
from pipeline_processing.board.api import ENDPOINTS, Endpoint
from pipeline_processing.board.problems import MEDIA_TYPE

_SCHEMAS = "#/components/schemas/{model}"
_PATH_PARAMETERS = {
    "run_id": {"type": "string"},
    "agency_id": {"type": "string"},
}
_LIVE = (
    "Server-sent events, each with one line of JSON: `overview` (Overview), `run` (RunView, a changed run), `progress` "
    "(ProgressUpdate), and `refetch` (an empty object: too much has changed; fetch the lists again). A comment comes "
    "every 15 seconds. After a reconnect, fetch the lists again."
)


@cache
def file() -> str:
    """Return the document as a file, as it is published and served."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    models: list[type[BaseModel]] = [*(each.answer for each in ENDPOINTS), m.ProgressUpdate, m.Problem]
    _, schemas = models_json_schema(
        [(model, "serialization") for model in dict.fromkeys(models)], ref_template=_SCHEMAS
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pipeline-processing board",
            "version": "1",
            "description": "Read-only. Everything on the board's page comes from here. Times are UTC; ids are text.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/api/v1"}],
        "security": [{}, {"token": []}],
        "paths": {each.path: {"get": _operation(each)} for each in ENDPOINTS}
        | {
            "/live": {
                "get": {
                    "operationId": "live",
                    "summary": "What happens, live",
                    "description": _LIVE,
                    "responses": {
                        "200": {
                            "description": "A stream without end.",
                            "content": {"text/event-stream": {"schema": {"type": "string"}}},
                        },
                        "default": _problem(),
                    },
                }
            }
        },
        "components": {
            "schemas": dict(sorted(schemas["$defs"].items())),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "PIPELINE_BOARD__TOKEN, where it is set.",
                }
            },
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    fields = endpoint.parameters.model_json_schema()
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_PARAMETERS[name]}
        for name in re.findall(r"{(\w+)}", endpoint.path)
    ]
    for name, schema in fields["properties"].items():
        described = {key: value for key, value in schema.items() if key not in ("title", "description")}
        parameters.append(
            {
                "name": name,
                "in": "query",
                "required": name in fields.get("required", ()),
                "description": schema["description"],
                "schema": _inlined(_present(described), fields.get("$defs", {})),
            }
        )
    return {
        "operationId": endpoint.respond.__name__,
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": {
            "200": {
                "description": (endpoint.answer.__doc__ or "").strip(),
                "content": {"application/json": {"schema": {"$ref": _SCHEMAS.format(model=endpoint.answer.__name__)}}},
            },
            "default": _problem(),
        },
    }


def _problem() -> dict[str, Any]:
    return {
        "description": "400: invalid parameters. 401: the token is needed. 404: unknown run. 503: a server is away.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": _SCHEMAS.format(model="Problem")}}},
    }


def _present(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a given parameter: an optional one is absent, never null."""
    others = {key: value for key, value in schema.items() if key != "anyOf" and value is not None}
    choices = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    return others | choices[0] if choices else others


def _inlined(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    reference = schema.pop("$ref", None)
    if reference is None:
        return schema
    definition = definitions[reference.rpartition("/")[2]]
    return schema | {key: value for key, value in definition.items() if key in ("type", "enum")}
