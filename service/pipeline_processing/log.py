"""
Loggers, which import structlog when they are first used: most commands log nothing.

structlog itself imports rich if it is installed, for tracebacks that nothing here prints. That takes longer than the
rest of structlog, so it is told that there is no rich.
"""

from __future__ import annotations

import sys
from functools import cached_property
from typing import Any


def get_logger(name: str) -> Any:
    """Return a structlog logger of this name."""
    return _Logger(name)


def import_structlog() -> Any:
    """Import structlog without rich."""
    modules: dict[str, Any] = sys.modules
    hidden = "rich" not in modules
    if hidden:
        modules["rich"] = None  # so that its import fails
    try:
        import structlog
    finally:
        if hidden:
            modules.pop("rich", None)
    return structlog


class _Logger:
    def __init__(self, name: str) -> None:
        self._name = name

    @cached_property
    def _logger(self) -> Any:
        return import_structlog().get_logger(self._name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)
