"""Step `enrich_http`: look up columns at an HTTP API, many keys per request."""

import asyncio
from collections.abc import Collection, Hashable, Iterator, Mapping
from itertools import islice
from typing import Any, Self

from msgspec import Raw
from pydantic import Field, field_validator

from pipeline_processing.errors import SourceDataInvalid, StepFailed
from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.http.urls import UrlTemplate, encoded
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.options.parts import Part, Path
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import Answer, Upstream
from pipeline_processing.rows.columns import Kind
from pipeline_processing.rows.json_values import loads
from pipeline_processing.steps import lookup_keys
from pipeline_processing.steps.enriching import Answers, CacheRows, Enriching, LookupOptions, Missing, Name, On
from pipeline_processing.steps.json_fields import WrongType, converter
from pipeline_processing.steps.json_records import at, is_object, records_of
from pipeline_processing.steps.lookup_cache import Found, Misfit
from pipeline_processing.steps.step import StepContext

MIB = 1024 * 1024
MAX_BODY_BYTES = 4 * MIB
"""Per response, because the responses of all runs are in memory at once. Requests with larger ones are halved."""
_PIECE_BYTES = 256 * 1024
_MAX_URL = 8000
"""Many servers reject longer URLs. Keys that don't fit go into another request."""
_VALUES = "{values}"


class AddedField(Part):
    """A field of the records, and what its values are."""

    field: Path = Field(description="Where in the record it stands.")
    kind: Kind = Field(Kind.TEXT, description="What its values are; a record with another is a row error.")
    required: bool = Field(False, description="Whether a record without it, or with null there, is a row error.")


class EnrichHttpOptions(LookupOptions, UpstreamOptions):
    """An API that gives records by keys, and what they add to the rows."""

    url: str = Field(
        description="Where to ask. {values}, in its path or its query, stands for the keys, with commas between."
    )
    on: On
    key: Path = Field(description="The records' field that equals it, at most one record each.")
    add: dict[Name, Path | AddedField] = Field(
        min_length=1, description="New column → the records' field, which holds text; or {field, kind, required}."
    )
    missing: Missing = None
    records: Path | None = Field(
        None, description="Where in the answer the list of records stands; it is the answer if not."
    )
    batch: int = Field(100, ge=1, le=1000, description="Most keys in one request.")
    concurrency: int = Field(4, ge=1, le=100, description="Most requests at once.")
    cache_rows: CacheRows = 10_000

    @field_validator("url")
    @classmethod
    def _has_values(cls, url: str) -> str:
        if UrlTemplate(url).names != {"values"} or url.count(_VALUES) != 1:
            raise ValueError(f"needs {_VALUES} once, in its path or its query, and no other name in braces")
        return url

    @property
    def fields(self) -> dict[str, AddedField]:
        """The added columns, with shorthands expanded."""
        return {name: AddedField(field=of) if isinstance(of, str) else of for name, of in self.add.items()}


class EnrichHttp(Enriching):
    """
    Adds columns from an API's records.

    A key that can't be put into the URL (empty text, or `..` in a path) has no record.
    """

    def __init__(self, options: EnrichHttpOptions, context: StepContext) -> None:
        super().__init__("enrich_http", options, context)
        self.matching = lookup_keys.of_json(self.on, step=self.name)
        self._options = options
        self._fields = [(added, converter(added.kind, context.carry)) for added in options.fields.values()]
        self._template = UrlTemplate(options.url)
        self._services = context.services
        self._most = options.batch
        """Maximum keys per request. Lowered when a response is too large."""
        self._free = asyncio.Semaphore(options.concurrency)
        self._upstream: Upstream
        self.columns = context.columns.plus(
            (
                column_of_kind(name, added.kind, context.carry, origins=self.on.origins)
                for name, added in options.fields.items()
            ),
            step=self.name,
        )

    async def __aenter__(self) -> Self:
        self._upstream = await self._stack.enter_async_context(self._services.upstream(self._options.access))
        return self

    async def fetch(self, wanted: Mapping[Hashable, Any]) -> Answers:
        """See `Enriching`. Raises StepFailed if records share a key, SourceDataInvalid, or an error of `Upstream`."""
        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(self._ask(values)) for values in self._requests(wanted)]
        except ExceptionGroup as failed:
            first = failed.exceptions[0]
            raise first from first.__cause__
        return {key: outcome for task in asked for key, outcome in task.result().items()}

    def _requests(self, wanted: Mapping[Hashable, str]) -> Iterator[dict[Hashable, str]]:
        """Split the keys into requests. Yields key → its text in the URL."""
        room = _MAX_URL - len(self._options.url) + len(_VALUES)
        values: dict[Hashable, str] = {}
        length = 0
        for key, text in wanted.items():
            try:
                self._template.filled({"values": text})
            except ValueError:  # it would change the path, or can't be encoded
                continue
            value = encoded(text)
            if not value:
                continue
            if len(values) == self._most or (values and length + len(value) > room):
                yield values
                values, length = {}, 0
            values[key] = value
            length += len(value) + len(",")
        if values:
            yield values

    async def _ask(self, values: dict[Hashable, str]) -> Answers:
        before, _, after = self._options.url.partition(_VALUES)
        url = before + ",".join(values.values()) + after
        async with self._free, self._upstream.get(url, shown_as=self._options.url) as answer:
            body = await _body(answer)
        if body is not None:
            return self._outcomes(body, values)
        if len(values) == 1:
            raise SourceDataInvalid(
                f"the answer for a single key has more than the {MAX_BODY_BYTES // MIB} MiB that are read at once. "
                "Let the API give fewer fields, or correct `url`."
            )
        half = len(values) // 2
        self._most = min(self._most, half)  # later responses are likely to be as large
        first = await self._ask(dict(islice(values.items(), half)))
        return {**first, **await self._ask(dict(islice(values.items(), half, None)))}

    def _outcomes(self, body: bytes, keys: Collection[Hashable]) -> Answers:
        outcomes: dict[Hashable, Found | Misfit] = {}
        for record in records_of(body, self._options.records):
            key = self._key_of(record)
            if key not in keys:
                continue
            if key in outcomes:
                raise StepFailed(
                    f"an answer has two records with the same {self._options.key!r}, so the result is ambiguous. Use a "
                    "`key` that is unique there."
                )
            outcomes[key] = self._outcome_of(record)
        return outcomes

    def _key_of(self, record: Raw) -> Hashable | None:
        """Return the record's key; None if it can't match any row. Raises SourceDataInvalid if there is none."""
        key = at(record, self._options.key)
        if key is None:
            fault = f"has no field {self._options.key!r}" if is_object(record) else "isn't an object"
            raise SourceDataInvalid(f"a record of the answer {fault}. Correct `key` or `records`.")
        value = loads(bytes(key))
        if value is None:
            return None
        try:
            return self.matching.of_record(value)
        except ValueError:
            return None

    def _outcome_of(self, record: Raw) -> Found | Misfit:
        values = []
        for added, convert in self._fields:
            found = at(record, added.field)
            try:
                value = None if found is None else convert(found.copy())  # a copy lets the response be freed
            except WrongType as wrong:
                return Misfit(
                    f"in the record of its {self.on.name!r} the field {added.field!r} is {wrong}; say in `add` what it "
                    f"is, such as {{field: {added.field}, kind: json}}"
                )
            if value is None and added.required:
                return Misfit(f"the record of its {self.on.name!r} has no {added.field!r}, which is required")
            values.append(value)
        return tuple(values)


async def _body(answer: Answer) -> bytes | None:
    """Read the body; None if it is larger than MAX_BODY_BYTES."""
    body = bytearray()
    while piece := await answer.read(_PIECE_BYTES):
        body += piece
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


PLUGIN = Plugin(options=EnrichHttpOptions, build=EnrichHttp, description="Add columns looked up at an HTTP API.")
