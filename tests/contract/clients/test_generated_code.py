"""Code that other teams generate from the published schemas, with AsyncAPI's own generator and with ajv."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.contract.clients.node import packages, run

# A new machine downloads 200 MB of packages for these. Run them after a change of the schemas.
pytestmark = pytest.mark.long

SCHEMAS = Path(__file__).parents[3] / "schemas"


class Generated(NamedTuple):
    folder: Path
    faults: dict[str, list[str]]

    def fields(self, name: str) -> dict[str, str]:
        """The types of a Java class's fields, by name."""
        text = (self.folder / "java" / f"{name}.java").read_text("utf-8")
        return {field: type_ for type_, field in re.findall(r"^  private ([\w.<>, ]+?) (\w+)(?: =.*)?;", text, re.M)}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    folder = tmp_path_factory.mktemp("generated")
    return Generated(folder, json.loads(run(Path(__file__).with_name("generate.mjs"), packages(), SCHEMAS, folder)))


@pytest.mark.parametrize("language", ["java", "ts"])
def test_every_class_has_a_name_of_ours(generated: Generated, language: str) -> None:
    """No AnonymousSchema_69, and no class that only says that a value may be one of several."""
    names = {path.stem for path in (generated.folder / language).iterdir()} - {"client", "DeadLetterValue"}

    assert names == {
        "Bill",
        "CloudEventJobRequest",
        "JobRequest",
        "RunCompletion",
        "RunCompletionState",
        "RunFailure",
        "RunProgress",
        "RunState",
    }


def test_java_counts_have_64_bits_and_texts_may_be_null(generated: Generated) -> None:
    """An int would overflow, and an Object needs a cast at each use."""
    request, completion, progress = map(generated.fields, ("JobRequest", "RunCompletion", "RunProgress"))

    assert {request["agencyId"], completion["agencyId"], completion["rowsRead"], progress["bytesWritten"]} == {"long"}
    assert {request["runId"], request["format"], completion["manifest"], progress["dataset"]} == {"String"}
    assert {completion["startedAt"], completion["finishedAt"], request["since"]} == {"java.time.OffsetDateTime"}
    assert (request["priority"], request["datasets"], request["labels"]) == (
        "Integer",
        "List<String>",
        "Map<String, String>",
    )
    assert (completion["state"], completion["error"], completion["bill"]) == (
        "RunCompletionState",
        "RunFailure",
        "Bill",
    )
    assert not [name for fields in (request, completion, progress) for name in fields if fields[name] == "Object"]


def test_a_client_in_typescript_compiles(generated: Generated) -> None:
    """`client.ts`, in strict mode."""
    assert generated.faults["typescript"] == []


def test_the_document_is_valid_asyncapi(generated: Generated) -> None:
    """AsyncAPI's parser only knows a later version."""
    assert [fault for fault in generated.faults["asyncapi"] if "asyncapi-latest-version" not in fault] == []


def test_json_schemas_compile_in_ajvs_strict_mode(generated: Generated) -> None:
    """It refuses keywords and formats that it doesn't know, lists of types, and parts that can never matter."""
    assert generated.faults["JSON Schema"] == []
