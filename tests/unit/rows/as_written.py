"""Modules that are compiled, as they are written."""

import importlib.util
from pathlib import Path
from types import ModuleType


def as_written(installed: ModuleType) -> ModuleType:
    """Return the module without its compiled form."""
    name = installed.__name__.rpartition(".")[2]
    path = Path(installed.__file__ or "").with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(installed.__name__, path)  # by this name, coverage is measured
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
