"""`demo`: the main job end to end, on its own servers."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from pipeline_processing.cli.context import current_mask, log_to_stderr, traced
from pipeline_processing.terminal.exit_codes import FAILED, SUCCESS, UNAVAILABLE


def demo(
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Keep servers and service running until Ctrl-C, and print how another shell reaches them."
        ),
    ] = False,
) -> int:
    """
    Show the service at work on its own servers: load sample data, send requests, repair and replay a failed run.

    Needs no server and no settings, and leaves nothing behind. Takes about twenty seconds.
    """
    from pipeline_processing.demo.page import Page

    page = Page()
    page.title("pipeline-processing: from a request on Kafka to an agency's data in S3")
    page.say("Everything below happens now, on this machine, and leaves nothing behind.")

    # Imported only now, because it takes a moment.
    from pipeline_processing.demo.evidence import StoryUntrue
    from pipeline_processing.demo.tell import tell, without_proxy
    from pipeline_processing.embedded.process import EmbeddedServerError

    environ = dict(os.environ)
    # Drivers read these variables, which would point them to other servers.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = without_proxy(os.environ)
    for name in [name for name in os.environ if name.startswith(("AWS_", "PG"))]:
        del os.environ[name]
    log_to_stderr(level="warning")
    try:
        with traced() as telemetry:
            tell(page=page, tracer=telemetry.tracer, mask=current_mask(), keep=keep, environ=environ)
    except EmbeddedServerError as error:
        typer.echo(f"Error: {error}", err=True)
        return UNAVAILABLE
    except StoryUntrue as error:
        typer.echo(f"Error: {error}", err=True)
        return FAILED
    return SUCCESS
