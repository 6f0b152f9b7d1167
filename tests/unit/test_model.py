"""The uploads that a plan names."""

import pytest

from pipeline_processing.model import (
    Artifact,
    Compression,
    FormatName,
    InlineContent,
    MultipartUpload,
    Plan,
    Staged,
    StagedFile,
    StagedTable,
)


def artifact(key: str, staged: Staged) -> Artifact:
    return Artifact(
        key=key,
        dataset="records",
        format=FormatName.CSV,
        compression=Compression.NONE,
        rows=0,
        size=0,
        sha256="0" * 64,
        staged=staged,
    )


def plan(*staged: Staged) -> Plan:
    artifacts = tuple(artifact(f"key-{number}", each) for number, each in enumerate(staged))
    return Plan(destination="memory://", artifacts=artifacts, metadata={}, manifest_key="m", manifest="{}")


@pytest.mark.parametrize(
    ("staged", "handle"),
    [
        (MultipartUpload(upload_id="u-1", parts=()), "u-1"),
        (StagedFile(path=".staging/f-1"), ".staging/f-1"),
        (StagedTable(table="_load_1"), "_load_1"),
    ],
)
def test_each_kind_of_upload_has_a_handle(staged: Staged, handle: str):
    """By it the history knows which uploads a plan needs."""
    assert plan(staged).uploads == [("key-0", handle)]


def test_inline_content_is_no_upload():
    """It stands in the plan itself."""
    inline = InlineContent(content="")
    found = plan(inline, MultipartUpload(upload_id="u", parts=()), inline, StagedTable(table="t"))

    assert found.uploads == [("key-1", "u"), ("key-3", "t")]
    assert plan(inline).uploads == []
