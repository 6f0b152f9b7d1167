"""The documentation is held to the code."""

import ast
import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pipeline_processing.agency_data_job.checking import faults_without_servers
from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.loading import load_job_config
from pipeline_processing.app.doctor import GROUPS
from pipeline_processing.cli.main import program
from pipeline_processing.http.signatures import signature_headers
from pipeline_processing.messaging.service_topics import service_topics
from pipeline_processing.model import JobRequest
from pipeline_processing.options.yaml_documents import load_yaml
from pipeline_processing.plugins import BUILT_IN, DESTINATIONS, SOURCES, STEPS, plugin
from pipeline_processing.published.schemas import error_kinds
from pipeline_processing.runs.completions import RunCompletion, RunProgress
from pipeline_processing.settings.settings import KafkaSettings
from pipeline_processing.terminal.render import HISTORY_COLUMNS
from pipeline_processing.triggers.config import Triggers
from pipeline_processing.triggers.describing import example_records, tried
from pipeline_processing.triggers.loading import load_triggers
from pipeline_processing.triggers.topics import triggers_topics
from tests.docs.tables import DOCS, TABLES, page_with_table
from tests.docs.traces import documented_spans

ROOT = DOCS.parent
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
ALL_PAGES = sorted(
    page for folder in (".", "docs", "docs/decisions", "deploy", "deploy/sql") for page in (ROOT / folder).glob("*.md")
)


def blocks(page: Path, language: str) -> list[str]:
    """The page's code blocks in one language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def shell_lines(page: Path) -> list[str]:
    """The page's shell commands, without their comments."""
    return [line for block in blocks(page, "sh") for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_the_code(name: str) -> None:
    """`tests/docs/tables.py` would change nothing."""
    assert (DOCS / name).read_text("utf-8") == page_with_table(name)


def test_the_spans_listed_are_those_that_the_code_makes() -> None:
    """By their names in calls. tests/acceptance/test_traces.py compares kinds and attributes with real spans."""
    made = set()
    for module in (ROOT / "service").rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(module.read_text("utf-8"))) if isinstance(node, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if name not in ("child", "child_span", "start_span", "start_as_current_span") or not call.args:
                continue
            match call.args[0]:
                case ast.Constant(value=str(text)):
                    made.add(text)
                case ast.JoinedStr(values=parts):
                    made.add("".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in parts))
    assert made == {row.shape for row in documented_spans()}


def test_every_built_in_is_documented() -> None:
    """Each step has a row in the table of steps; each source and destination has a part of its page."""
    table = (DOCS / "steps.md").read_text("utf-8").split("\n\n", 3)[2]
    assert set(BUILT_IN[STEPS]) == set(re.findall(r"`(\w+)`\]\(#", table))
    for group, page in ((SOURCES, "sources.md"), (DESTINATIONS, "destinations.md")):
        headings = re.findall(r"^## (\w+)$", (DOCS / page).read_text("utf-8"), re.MULTILINE)
        assert set(BUILT_IN[group]) == set(headings)


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file or folder that is there."""
    links = re.findall(r"\]\(([^)#]+)", page.read_text("utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_heading(page: Path) -> None:
    """Every link to a part of a page names a heading of it."""
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text("utf-8")):
        text = (page.parent / target if target else page).read_text("utf-8")
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings], (target, anchor)


def test_groups_of_doctor_are_documented() -> None:
    """One row each, in their order."""
    section = (DOCS / "operations.md").read_text("utf-8").partition("\n## Doctor\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [*GROUPS]


def test_retention_of_topics_is_documented() -> None:
    """One row for each kind, as the topics are created."""
    section = (DOCS / "operations.md").read_text("utf-8").partition("\n## Topics\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| ([^|]+) \| (\d+ days?|compacted) \|", section, re.MULTILINE))
    for topic in (*service_topics(KafkaSettings()), *triggers_topics(KafkaSettings())):
        (kept,) = (kept for content, kept in rows.items() if topic.content.split()[0] in content)
        days = topic.retention.days if topic.retention is not None else 0
        assert kept == ("compacted" if topic.compacted else f"{days} day{'s' * (days > 1)}"), topic


def test_every_page_is_listed() -> None:
    """In README.md, decisions by their folder."""
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text("utf-8"))
    listed = {(ROOT / link).resolve() for link in links if "://" not in link} | {ROOT / "README.md"}
    assert [page for page in ALL_PAGES if page not in listed and page.parent not in listed] == []


def test_every_page_is_in_llms_txt() -> None:
    """And what it links to is there."""
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "llms.txt").read_text("utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert [page for page in PAGES if str(page.relative_to(ROOT)) not in links] == []


def test_the_signature_of_a_webhook_can_be_verified_as_documented() -> None:
    """With the function of messages.md. Another key, another body and an old message are refused."""
    (code,) = [block for block in blocks(DOCS / "messages.md", "python") if "def verify" in block]
    names: dict[str, Any] = {}
    exec(code, names)
    verify, key, body = names["verify"], b"0123456789abcdef", b'{"run_id": "r"}'
    headers = signature_headers("r:failed", body, key=key, at=datetime.now(UTC))

    verify(headers, body, key)
    for wrong in ((headers, body + b" ", key), (headers, body, key + b"0")):
        with pytest.raises(ValueError, match="not signed"):
            verify(*wrong)
    with pytest.raises(ValueError, match="old"):
        verify(signature_headers("r:failed", body, key=key, at=datetime(2026, 1, 18, tzinfo=UTC)), body, key)


def test_messages_are_valid_and_whole() -> None:
    """Every request of messages.md can be used. The completion and the progress event have every key, in order."""
    shown = [json.loads(block) for block in blocks(DOCS / "messages.md", "json")]
    (completion,) = (each for each in shown if "finished_at" in each)
    (progress,) = (each for each in shown if "stage" in each)
    requests = [each for each in shown if "state" not in each]
    assert requests
    for model, document in [(RunCompletion, completion), (RunProgress, progress), *((JobRequest, r) for r in requests)]:
        model.model_validate_json(json.dumps(document))
    assert list(completion) == list(RunCompletion.model_fields)
    assert list(progress) == list(RunProgress.model_fields)


@pytest.mark.parametrize(
    ("heading", "model"),
    [("A request", JobRequest), ("A completion event", RunCompletion), ("A progress event", RunProgress)],
)
def test_fields_of_messages_are_documented(heading: str, model: type[BaseModel]) -> None:
    """Each key has a row of its own or with others."""
    section = (DOCS / "messages.md").read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`[\w.]+`(?:, )?)+) \|", section, re.MULTILINE)
    assert set(model.model_fields) <= set(re.findall(r"`([\w.]+)`", " ".join(rows)))


def test_the_python_client_is_valid() -> None:
    """The client of messages.md compiles."""
    (code,) = [block for block in blocks(DOCS / "messages.md", "python") if "Consumer" in block]
    compile(code, "messages.md", "exec")


def test_the_first_output_is_that_of_the_tutorial() -> None:
    """Which tests/acceptance/test_tutorial.py compares with that of the commands."""
    (shown,) = blocks(ROOT / "README.md", "console")
    tutorial = (DOCS / "tutorial.md").read_text("utf-8").splitlines()
    assert [line for line in shown.splitlines() if line.removeprefix("$ ") not in tutorial] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page: Path) -> None:
    """Every `pipeline-processing …` of a page parses, with all of its options."""
    command = program()
    for line in shell_lines(page):
        words = shlex.split(line.partition(" 2> ")[0], comments=True)
        if words[:1] != ["pipeline-processing"]:
            continue
        here, rest = command, words[1:]
        while hasattr(here, "commands"):
            if here.invoke_without_command and (not rest or rest[0].startswith("-")):
                break
            assert rest, f"{line}: which command?"
            assert rest[0] in here.commands, line
            here, rest = here.commands[rest[0]], rest[1:]
        here.make_context(here.name, list(rest))  # raises a usage error for what isn't there


def test_the_page_of_the_history_has_every_column_in_order() -> None:
    """As `history -o json` prints them."""
    table = (DOCS / "history.md").read_text("utf-8").partition("## Columns")[2].partition("\n\nWith `--run-id`")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]

    assert tuple(name for row in rows for name in re.findall(r"`(\w+)`", row)) == HISTORY_COLUMNS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    """Every `make …` of a page is a target of the Makefile."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    named = re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)
    assert not [name for name in named if name not in targets]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_job_configs_are_valid(page: Path) -> None:
    """Every part of a job config on a page can be used, and a whole one passes `config check`."""
    for block in blocks(page, "yaml"):
        document = load_yaml(block)
        if "triggers" in document:
            Triggers.model_validate(document)
            continue
        config = AgencyJobConfig.model_validate(whole(document))
        if "datasets" in document:
            assert list(faults_without_servers(config, secrets=None)) == []


def test_the_example_of_triggers_fits_its_job_config() -> None:
    """And the example event asks for a run."""
    examples = DOCS / "examples"
    config = load_job_config(examples / "warehouse-increments.yaml")
    triggers = load_triggers(examples / "triggers.yaml", job_config=config, kafka=KafkaSettings())
    now = datetime(2026, 1, 18, 12, tzinfo=UTC)
    (record,) = example_records((examples / "payment-made.json").read_text("utf-8"), triggers.events, now=now)
    request = tried(record, triggers.events[0], now=now).request
    assert request is not None
    assert config.for_request(request).datasets
    assert (request.agency_id, request.since) == (123, None)


def whole(document: Any) -> Any:
    """A job config around a part of one: a source, a list of steps, options of a dataset, or destinations."""
    if "datasets" in document:
        return document
    source = {"postgres": {"query": "SELECT 1 AS id"}}
    dataset, others = {"name": "records", "source": source}, {}
    if isinstance(document, list):
        dataset |= {"steps": document}
    elif "destinations" in document:
        others = document
    else:
        dataset |= document
    return {"datasets": [dataset], **others}


def test_the_guarantees_are_those_that_are_told() -> None:
    """The table of destinations says what `config check` says."""
    page = (DOCS / "destinations.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (exactly once.*) \|$", page, re.MULTILINE))
    assert told == {name: plugin(DESTINATIONS, name).options.guarantee for name in BUILT_IN[DESTINATIONS]}


def test_exit_codes_are_all_explained() -> None:
    """The first table of errors.md has every exit code that an error can have."""
    listed = re.findall(r"^\| (\d+) \|", (DOCS / "errors.md").read_text("utf-8"), re.MULTILINE)
    assert {str(error["exit_code"]) for error in error_kinds().values()} <= set(listed)


def test_the_tree_is_the_code() -> None:
    """Every file and folder in the architecture's tree is there."""
    (tree,) = blocks(DOCS / "architecture.md", "")
    names = [name for line in tree.splitlines()[1:] for name in re.findall(r"[\w*]+(?:/|\.py)", line[:21])]
    package = ROOT / "service/pipeline_processing"
    assert len(names) > 15
    assert not [name for name in names if not list(package.glob(name.rstrip("/")))]
