"""`schemas`: writes the published schemas, or compares them with the code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pipeline_processing.terminal.exit_codes import FAILED, SUCCESS


def schemas(
    output: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, help="The folder; created if missing.")
    ] = Path("schemas"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 if a file is out of date.")
    ] = False,
) -> int:
    """Write the published schemas: JSON Schemas, the table of error kinds, an AsyncAPI and an OpenAPI document."""
    from pipeline_processing.board import openapi
    from pipeline_processing.published.schemas import schema_files

    files = schema_files() | {"board.openapi.json": openapi.file()}
    if not check:
        write(output, files)
        return SUCCESS
    if faults := differences(output, files):
        for fault in faults:
            typer.echo(fault, err=True)
        typer.echo(f"Error: run `pipeline-processing schemas --output {output}`, and commit the result.", err=True)
        return FAILED
    typer.echo(f"{len(files)} files in {output} are up to date")
    return SUCCESS


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files and print their paths. Raises BadParameter if the folder can't be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content.encode())
            typer.echo(folder / name)
    except OSError as error:
        raise typer.BadParameter(
            f"can't write to {error.filename}: {error.strerror}.", param_hint="'--output'"
        ) from None


def differences(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Return one line for each file that is missing, out of date, or no longer generated."""
    faults = []
    for name, content in files.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{path}: missing")
        elif path.read_bytes() != content.encode():
            faults.append(f"{path}: differs from the code")
    faults += [
        f"{path}: isn't generated any more; delete it"
        for path in sorted(folder.glob("*.schema.json"))
        if path.name not in files
    ]
    return faults
