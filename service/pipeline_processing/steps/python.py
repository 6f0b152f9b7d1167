"""Step `python`: a function of the user's own."""

import asyncio
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from pipeline_processing.errors import InvalidStep, PipelineError, StepAddedRows, StepFailed
from pipeline_processing.ports import Batch, Columns


class Python:
    """
    Calls `module:function` with each batch, and takes what it returns.

    The function sees natural Python values (Decimal, datetime, dict, …) and may return fewer rows, which count as
    filtered. A plain function runs in a thread, so that a slow one doesn't keep the run's lease from being renewed.
    """

    columns: Columns | None = None

    def __init__(self, path: str, columns: Columns | None, *, dataset: str) -> None:
        self.name = f"python: {path}"
        self.filtered = 0
        self._dataset = dataset
        self._function = _load(path)
        self._is_async = any(map(inspect.iscoroutinefunction, (self._function, type(self._function).__call__)))
        self._conversions = [(c.name, c.natural) for c in columns or () if c.natural is not None]

    async def __call__(self, batch: Batch) -> Batch:
        for name, natural in self._conversions:
            for row in batch:
                if (value := row[name]) is not None:
                    row[name] = natural(value)
        got = len(batch)
        returned = self._checked(await self._call(batch))
        if len(returned) > got:
            raise StepAddedRows(step=self.name, dataset=self._dataset, got=got, returned=len(returned))
        self.filtered += got - len(returned)
        return returned

    async def _call(self, batch: Batch) -> Any:
        try:
            if self._is_async:
                return await self._function(batch)
            return await asyncio.to_thread(self._function, batch)
        except PipelineError:
            raise  # the function knows the service's errors, and says itself what is to be done
        except Exception as error:
            raise StepFailed(
                f"Step {self.name!r} of dataset {self._dataset!r} raised {type(error).__name__}: {error}. "
                "Mend the function or the rows it got, then replay the run."
            ) from error

    def _checked(self, returned: Any) -> Batch:
        if not isinstance(returned, list):
            raise StepFailed(
                f"Step {self.name!r} of dataset {self._dataset!r} returned {type(returned).__name__}, not a list "
                "of rows. Return a list of dicts."
            )
        for row in returned:
            if not isinstance(row, dict):
                raise StepFailed(
                    f"Step {self.name!r} of dataset {self._dataset!r} returned a list with a {type(row).__name__} "
                    "in it. Every row must be a dict of column name → value."
                )
        return returned


def _load(path: str) -> Callable[[Batch], Any]:
    module_name, _, attribute = path.partition(":")
    try:
        function: Any = import_module(module_name)
        for part in attribute.split("."):
            function = getattr(function, part)
    except Exception as error:  # an import runs the user's code, which may raise anything
        raise InvalidStep(
            f"Step 'python: {path}' can't be loaded: {type(error).__name__}: {error}. Install the package that has "
            "it beside this service, or correct the path `module:function`."
        ) from error
    if not callable(function):
        raise InvalidStep(f"Step 'python: {path}' names a {type(function).__name__}, not a function.")
    return function  # type: ignore[no-any-return]  # what it returns is checked at every call
