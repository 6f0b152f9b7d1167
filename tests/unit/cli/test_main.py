"""The command line's frame: how a command ended is its exit code, and what went wrong is one message on stderr."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from pipeline_processing import errors
from pipeline_processing.cli import main as main_module
from pipeline_processing.cli.context import log_to_stderr
from pipeline_processing.cli.main import main
from pipeline_processing.history.postgres.migrate import MIGRATIONS
from pipeline_processing.signals import Terminated
from pipeline_processing.terminal.event_loop import run_async

PROGRAM = [sys.executable, "-m", "pipeline_processing.cli.main"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], int]:
    """Run a function as if it were the program's only command."""

    def run_as_command(function: Callable[..., Any]) -> int:
        app = typer.Typer(rich_markup_mode=None)
        app.command()(function)
        monkeypatch.setattr(main_module, "program", lambda *_: app)
        return main([])

    return run_as_command


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(("PIPELINE_", "OTEL_"))}
    return kept | variables


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


# -- codes ---------------------------------------------------------------------------------------


def test_a_command_that_returns_is_a_success(run: Callable[..., int]) -> None:
    assert run(lambda: None) == 0


def test_a_command_may_choose_its_code(run: Callable[..., int]) -> None:
    assert run(raising(typer.Exit(79))) == 79


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.StepFailed("Step 'mask' failed."), 1),
        (errors.QueryInvalid("No such table."), 65),
        (errors.SourceUnavailable("Can't reach the source."), 69),
        (errors.Throttled("Slow down."), 75),
        (errors.AccessDenied("No."), 77),
        (errors.SettingsError("No destination."), 78),
    ],
)
def test_an_error_is_its_message_and_its_code(
    error: errors.PipelineError, code: int, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a traceback: the message says what to do."""
    assert run(raising(error)) == code
    assert capsys.readouterr() == ("", f"Error: {error}\n")


def test_the_one_error_of_a_task_group_counts(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.SourceUnavailable("Can't reach the source.")

    assert run(raising(ExceptionGroup("unhandled", [ExceptionGroup("inner", [error])]))) == 69
    assert capsys.readouterr().err == "Error: Can't reach the source.\n"


def test_anything_else_is_a_bug_with_its_traceback(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """The one place where a traceback helps. Secrets are masked even there."""
    dsn = "postgresql://app:{}@db".format("tops3cret")

    assert run(raising(KeyError(dsn))) == 70

    out, err = capsys.readouterr()
    first, *rest = err.splitlines()
    assert out == ""
    assert first == "Error: KeyError: 'postgresql://app:***@db'. This is a bug: please report it with the lines below."
    assert rest[0] == "Traceback (most recent call last):"
    assert "tops3cret" not in err


def test_an_error_never_tells_a_password(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    run(raising(errors.SourceUnavailable("Can't reach postgresql://app:tops3cret@db: refused.")))

    assert "postgresql://app:***@db: refused" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (Terminated(), 143), (typer.Abort(), 130)])
def test_a_signal_is_128_and_its_number(error: BaseException, code: int, run: Callable[..., int]) -> None:
    assert run(raising(error)) == code


# -- usage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["--nonsense"], ["config", "check", "--nonsense"], ["config", "check", "x"], ["run", "--quiet"]],
)
def test_wrong_usage_is_64(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 64

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert "--help" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words", [[], ["config"], ["dead-letters"], ["run"], ["submit"], ["replay"], ["cancel"], ["webhooks", "redeliver"]]
)
def test_a_command_that_lacks_everything_shows_its_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, and with the code of wrong usage, so that a script notices."""
    assert main(words) == 64

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"Usage: {' '.join(['pipeline-processing', *words])} ")
    assert "-h, --help" in err


@pytest.mark.parametrize("words", [["-h"], ["config", "-h"], ["history", "prune", "-h"]])
def test_help_is_short_to_ask_for(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert main([*words[:-1], "--help"]) == 0

    out, err = capsys.readouterr()
    assert err == ""
    assert out[: len(out) // 2] == out[len(out) // 2 :]


@pytest.mark.parametrize(
    ("words", "by_default", "level", "is_json"),
    [
        ([], None, "info", True),
        ([], "warning", "warning", True),
        (["--quiet"], None, "error", True),
        (["--quiet"], "info", "error", True),
        (["--log-level", "debug"], "warning", "debug", True),
        (["-q", "--log-level", "warning"], None, "warning", True),
        (["--log-format", "text"], None, "info", False),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_every_command_takes_options_for_its_logs(
    words: list[str],
    by_default: str | None,
    level: str,
    is_json: bool,
    before: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before its name and behind it. They outdo the command's own defaults, and hold for one command only."""
    logs: list[dict[str, Any]] = []
    monkeypatch.setattr("pipeline_processing.telemetry.logs.configure_logs", lambda **choices: logs.append(choices))
    monkeypatch.setattr("pipeline_processing.cli.migrate.current_settings", lambda: log_to_stderr(level=by_default))
    monkeypatch.setattr("pipeline_processing.terminal.event_loop.run_async", lambda coroutine: [])
    monkeypatch.setattr("pipeline_processing.app.history.migrate", lambda settings: None)

    assert main([*words, "migrate"] if before else ["migrate", *words]) == 0
    assert main(["migrate"]) == 0

    first, second = logs
    assert (first["level"], first["json"]) == (level, is_json)
    assert (second["level"], second["json"]) == (by_default or "info", True)


def test_every_command_with_data_prints_it_in_three_forms() -> None:
    """`-o` and `--json` have the same meaning everywhere."""
    without = {
        *("serve", "board", "demo", "triggers"),  # they go on, and only log
        *("init", "schemas"),  # they write files; --output of `schemas` is their folder
        "history export",  # objects only
        "config expressions",  # a text for people
    }
    groups = [("", main_module.program())]
    for prefix, group in groups:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                groups.append((f"{prefix}{name} ", command))
            options = {option for parameter in command.params for option in parameter.opts}
            if not hasattr(command, "commands") or command.invoke_without_command:
                assert ({"-o", "--json"} <= options) == (f"{prefix}{name}" not in without), name


def test_help_and_version_are_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main(["config", "check", "--help"]) == 0
    assert main(["--version"]) == 0

    out, err = capsys.readouterr()
    assert "Usage: pipeline-processing [OPTIONS] COMMAND" in out
    assert re.search(
        rf"^pipeline-processing 0\.\S+\nhistory schema {MIGRATIONS[-1].version}\nrows of Postgres are read by ",
        out,
        re.M,
    )
    assert err == ""


# -- the process ---------------------------------------------------------------------------------


HEAVY = {
    *("aiobotocore", "aiohttp", "aiokafka", "asyncio", "asyncpg", "botocore", "faust", "opentelemetry.sdk", "psutil"),
    *("pydantic", "rich", "sqlglot", "starlette", "structlog", "uvicorn", "uvloop", "yaml"),
}
"""Libraries that take long to import."""
_TO_RUN = {"asyncio", "asyncpg", "pydantic", "structlog", "uvloop", "yaml"}
_REQUEST = ("agency_data_job", "--agency-id", "1")
_JOB = """
job: agency_data_job
datasets:
  - name: records
    source:
      postgres:
        query: SELECT id, r.name AS title FROM records AS r WHERE agency_id = $1;
        args: [agency_id]
    steps:
      - filter: "id > 0"
"""


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--help"], set()),
        (["config", "check"], {"asyncio", "pydantic", "structlog", "yaml"}),
        (["history"], {"asyncio", "asyncpg", "pydantic", "uvloop"}),
        (["run", *_REQUEST, "--dry-run"], _TO_RUN),
        (["run", *_REQUEST], {*_TO_RUN, "aiobotocore", "aiohttp", "botocore"}),
    ],
)
def test_a_command_imports_nothing_that_it_does_not_need(
    arguments: list[str], needed: set[str], tmp_path: Path
) -> None:
    """What keeps its start quick; measured by modules, because times vary. The servers that it asks don't exist."""
    (job := tmp_path / "job.yaml").write_text(_JOB)
    variables = {
        "PIPELINE_JOB_CONFIG_FILE": str(job),
        "PIPELINE_DESTINATION": "s3://exports",
        "PIPELINE_SOURCE__DSN": "postgresql://127.0.0.1:1/agencies",
        "PIPELINE_S3__ENDPOINT_URL": "http://127.0.0.1:1",
        "PIPELINE_WORKER__MAX_ATTEMPTS": "1",
    }
    assert _imported(f"main({arguments})", **variables) & HEAVY <= needed


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("service", {*_TO_RUN, "aiohttp", "aiokafka", "starlette", "uvicorn"}),
        ("kafka", {"aiokafka", "asyncio", "pydantic"}),
        ("board", {*_TO_RUN, "aiokafka", "starlette", "uvicorn"}),
    ],
)
def test_the_parts_of_a_service_need_no_more(module: str, needed: set[str]) -> None:
    """`submit` and `triggers` are put together in the same way."""
    assert _imported(f"import pipeline_processing.app.{module}") & HEAVY <= needed


def _imported(code: str, **variables: str) -> set[str]:
    """Return the modules that a process has imported after running this code."""
    code = f"import sys; from pipeline_processing.cli.main import main; {code}; print('modules:', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(**variables)
    )
    imported = set(done.stdout.rpartition("modules:")[2].split())
    assert "pipeline_processing.cli.main" in imported
    return imported


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run([*PROGRAM, "config", "show"], capture_output=True, text=True, check=False, env=environment())

    assert done.returncode == 0
    assert "PIPELINE_WORKER__CONCURRENCY" in done.stdout
    assert done.stderr == ""


def test_wrong_usage_ends_the_process_with_64() -> None:
    done = subprocess.run([*PROGRAM, "nonsense"], capture_output=True, text=True, check=False, env=environment())

    assert (done.returncode, done.stdout) == (64, "")


def test_a_reader_that_has_gone_is_no_error() -> None:
    """`pipeline-processing … | head -1` ends quietly."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*PROGRAM, "config", "show"],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment(),
        )
    finally:
        os.close(write)

    assert (done.returncode, done.stderr) == (141, "")


# -- the event loop ------------------------------------------------------------------------------

WAIT = """
import asyncio, sys, typer
from pipeline_processing.cli import main as main_module
from pipeline_processing.terminal.event_loop import run_async

app = typer.Typer()

@app.command()
def wait() -> None:
    run_async(work())

async def work() -> None:
    print("started", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        print("unwound", flush=True)

main_module.program = lambda *_: app
sys.exit(main_module.main([]))
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_unwinds_what_runs(sent: signal.Signals, code: int) -> None:
    """What was opened is closed before the process ends with the signal's code."""
    with subprocess.Popen(
        [sys.executable, "-c", WAIT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(sent)
        assert process.wait(timeout=30) == code
        assert (process.stdout.read(), process.stderr.read()) == ("unwound\n", "")


IMPORT = """
import sys, typer
from pipeline_processing.cli import main as main_module
from pipeline_processing.steps.imported import imported

app = typer.Typer()

@app.command()
def load(path: str) -> None:
    imported(path, step="python")

main_module.program = lambda *_: app
sys.exit(main_module.main(sys.argv[1:]))
"""
SLOW_MODULE = """
import time

print("started", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_user_code_is_imported(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    """It ends the process, as ever: user code isn't blamed for it."""
    (tmp_path / "slow_module.py").write_text(SLOW_MODULE)
    with subprocess.Popen(
        [sys.executable, "-c", IMPORT, "slow_module:f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | {"PYTHONPATH": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(sent)
        assert process.wait(timeout=30) == code
        assert process.stderr.read() == ""


@pytest.mark.parametrize("error", ["SystemExit(0)", "KeyboardInterrupt"])
def test_user_code_that_ends_the_process_that_imports_it(error: str, tmp_path: Path) -> None:
    """A wrong job config."""
    (tmp_path / "ending_module.py").write_text(f"raise {error}\n")
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, "ending_module:f"],
        capture_output=True,
        text=True,
        env=environment() | {"PYTHONPATH": str(tmp_path)},
        timeout=60,
    )
    assert done.returncode == 65, done.stderr
    assert f"can't load ending_module:f: {error.partition('(')[0]}" in done.stderr


def test_a_coroutine_gives_its_result_or_its_error() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    async def fail() -> int:
        raise errors.Throttled("Slow down.")

    before = signal.getsignal(signal.SIGTERM)
    assert run_async(answer()) == 42
    with pytest.raises(errors.Throttled):
        run_async(fail())
    assert signal.getsignal(signal.SIGTERM) is before
