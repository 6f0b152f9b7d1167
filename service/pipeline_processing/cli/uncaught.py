"""Masks the uncaught errors of threads and destructors, which Python prints on stderr."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pipeline_processing.telemetry.masking import Mask

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


@contextmanager
def uncaught_errors_masked(mask: Mask) -> Iterator[None]:
    """Print them masked inside the block. User code may start threads."""

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:  # raised to end a thread; not an error
            name = args.thread.name if args.thread is not None else "?"
            write(f"Exception in thread {name}:", args.exc_value)

    def of_destructor(args: UnraisableHookArgs) -> None:
        write(f"{args.err_msg or 'Exception ignored in'}: {args.object!r}", args.exc_value)

    def write(where: str, error: BaseException | None) -> None:
        import traceback

        lines = traceback.format_exception(error) if error is not None else []
        with suppress(OSError, ValueError, AttributeError):  # stderr is gone
            sys.stderr.write(mask.text("".join([f"{where}\n", *lines])))

    before = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = of_thread, of_destructor
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = before
