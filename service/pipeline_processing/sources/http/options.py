"""Source `http`: an API that returns pages of JSON records."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from pipeline_processing.errors import QueryInvalid
from pipeline_processing.http.options import UpstreamOptions, check_one
from pipeline_processing.http.urls import UrlTemplate, encoded, with_query
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.options.parts import Part, Path
from pipeline_processing.options.templates import names_in, pieces_of
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import BuildContext, Source
from pipeline_processing.rows.columns import Columns, Kind

_MAX_RECORD_BYTES = 4 * 1024 * 1024
"""Parsing a record needs many times its size in memory, and blocks the event loop."""

ParamName = Annotated[str, StringConstraints(min_length=1)]


class Cursor(Part):
    """Each page names the next by a cursor, which is sent back as a parameter of the query."""

    path: Path = Field(description="Where in the page the cursor stands; null, empty or absent on the last page.")
    param: ParamName = Field(description="Parameter to send it back in.")


class PageNumber(Part):
    """Pages are counted. They end with an empty one."""

    param: ParamName = Field("page", description="Parameter with the page's number.")
    first: int = Field(1, description="Number of the first page.")
    size_param: ParamName | None = Field(None, description="Parameter to ask for that many records in.")
    size: int | None = Field(None, ge=1, description="How many. A page may have fewer.")

    @model_validator(mode="after")
    def _size_is_sent(self) -> "PageNumber":
        if self.size_param is not None and self.size is None:
            raise ValueError("`size_param` needs `size`: how many records to ask for")
        if self.size is not None and self.size_param is None:
            raise ValueError("`size` needs `size_param`, the parameter to send it in: pages end with an empty one")
        if self.size_param == self.param:
            raise ValueError("`param` and `size_param` must differ")
        return self


class Pages(Part):
    """How an API goes on after the first page: one of these."""

    next_link: Path | None = Field(
        None, description="Where in the page the next one's URL stands; null, empty or absent on the last page."
    )
    next_link_header: Literal[True] | None = Field(None, description='It stands in the header Link, as rel="next".')
    cursor: Cursor | None = None
    page_number: PageNumber | None = None
    optional: bool = Field(
        False,
        description="Whether the API leaves out the link or cursor where there is only one page. If not, a first page "
        "without it fails the run.",
    )

    @model_validator(mode="after")
    def _one(self) -> "Pages":
        check_one(self, among=("next_link", "next_link_header", "cursor", "page_number"))
        if self.optional and self.path is None:
            raise ValueError("`optional` goes with `next_link` and `cursor` only: leave it out")
        return self

    @property
    def params(self) -> tuple[str, ...]:
        """The parameters that it adds to the query."""
        if self.cursor is not None:
            return (self.cursor.param,)
        if self.page_number is not None:
            return tuple(name for name in (self.page_number.param, self.page_number.size_param) if name is not None)
        return ()

    @property
    def path(self) -> str | None:
        """The path in a page of the next link or cursor."""
        return self.next_link if self.cursor is None else self.cursor.path


class ColumnSchema(Part):
    """A column of the dataset, and where in a record its value stands."""

    kind: Kind
    path: Path | None = Field(None, description="Where in the record; under the column's own name if not set.")
    required: bool = Field(False, description="Whether a record without it, or with null there, fails the run.")


class HttpSourceConfig(UpstreamOptions):
    """An API that gives pages of JSON records."""

    how_to_use_agency: ClassVar[str] = "Write {agency_id} into `url` or `query`."

    url: str = Field(
        description="Where to ask. May hold {agency_id}, {run_id}, {since}, {until} or {a param of the request} in "
        "path and query."
    )
    query: dict[ParamName, StrictBool | StrictInt | StrictStr] = Field(
        default_factory=dict,
        description="Parameters of the query; text may hold the same names. One that is nothing but a {name} which is "
        "null is left out.",
    )
    records: Path | None = Field(
        None, description="Where in the page the list of records stands; it is the page if not."
    )
    pages: Pages | None = Field(None, description="How there is more than one page.")
    max_pages: int = Field(100_000, ge=1, description="More fail the run: an API may go on for ever.")
    columns: dict[
        Annotated[str, StringConstraints(min_length=1)],
        Annotated[
            Annotated[Kind, Tag("kind")] | Annotated[ColumnSchema, Tag("column")],
            Discriminator(lambda column: "column" if isinstance(column, Mapping | ColumnSchema) else "kind"),
        ],
    ] = Field(min_length=1, description="Columns: name → kind, or {kind, path, required}. All records are checked.")

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        UrlTemplate(url)
        return url

    @field_validator("query")
    @classmethod
    def _is_a_query(cls, query: dict[str, Any]) -> dict[str, Any]:
        for name, value in query.items():
            encoded(name)
            if isinstance(value, str):
                pieces_of(value)
        return query

    @model_validator(mode="after")
    def _fits_together(self) -> "HttpSourceConfig":
        if self.pages is None:
            return self
        if twice := [name for name in self.pages.params if name in self.query]:
            raise ValueError(f"`query` and `pages` both set the parameter {', '.join(twice)}: leave it to `pages`")
        if self.pages.path is not None:
            path, records = f"{self.pages.path}.", f"{self.records}."
            if self.records is None or path.startswith(records) or records.startswith(path):
                raise ValueError(
                    f"`pages` reads {self.pages.path!r}, which can't stand beside the records of such a page"
                )
        return self

    @property
    def schema_columns(self) -> dict[str, ColumnSchema]:
        """The columns, with shorthands expanded."""
        return {
            name: ColumnSchema(kind=column) if isinstance(column, Kind) else column
            for name, column in self.columns.items()
        }

    def columns_in(self, carry: str) -> Columns:
        """Return the dataset's columns, for values in the form `carry`."""
        return Columns(
            tuple(
                replace(column_of_kind(name, column.kind, carry, origins=(name,)), unchanged=True)
                for name, column in self.schema_columns.items()
            )
        )

    @property
    def names(self) -> frozenset[str]:
        """Names of the values used in the URL."""
        texts = (value for value in self.query.values() if isinstance(value, str))
        return UrlTemplate(self.url).names.union(*map(names_in, texts))

    @property
    def uses_agency(self) -> bool:
        """Whether the URL contains `agency_id`."""
        return "agency_id" in self.names

    def first_url(self, arguments: Mapping[str, Any]) -> str:
        """
        Return the URL of the first page, without the parameters of `pages`.

        Raises QueryInvalid if a name is unknown, or a URL can't contain its value.
        """
        template = UrlTemplate(self.url)
        values = {name: _required(name, arguments) for name in template.names}
        try:
            query = {name: _filled(value, arguments) for name, value in self.query.items()}
            url = template.filled(values)
            return with_query(url, {name: value for name, value in query.items() if value is not None})
        except UnicodeEncodeError:
            raise QueryInvalid("A param in the URL contains a lone surrogate. Send valid Unicode text.") from None
        except ValueError as error:
            raise QueryInvalid(f"In the URL {error}. Send another value for it.") from None


def _filled(value: str | int | bool, arguments: Mapping[str, Any]) -> str | None:
    if not isinstance(value, str):
        return _text(value)
    pieces = pieces_of(value)
    match pieces:
        case [("", str(name))]:
            argument = _argument(name, arguments)
            return None if argument is None else _text(argument)
    return "".join(literal + ("" if name is None else _required(name, arguments)) for literal, name in pieces)


def _required(name: str, arguments: Mapping[str, Any]) -> str:
    value = _argument(name, arguments)
    if value is None:
        initial = " set the dataset's `initial`," if name == "since" else ""
        raise QueryInvalid(
            f"The URL needs a value for {name!r}, which is null in this request. Send one,{initial} or give it a "
            f"separate parameter in `query`, such as `{name}: '{{{name}}}'`, which is left out then."
        )
    return _text(value)


def _argument(name: str, arguments: Mapping[str, Any]) -> Any:
    if name not in arguments:
        raise QueryInvalid(
            f"The URL needs {name!r}, which is neither built in nor a param of this request; available are "
            f"{', '.join(arguments)}. Send it with `--param {name}=VALUE`, or correct `url` and `query`."
        )
    return arguments[name]


def _text(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case _:
            return str(value)


def _built(*, context: BuildContext) -> Source:
    from pipeline_processing.sources.http.source import HttpSource

    return HttpSource(
        upstream=context.upstream,
        clock=context.clock,
        batch_bytes=context.limits.batch,
        max_record_bytes=min(_MAX_RECORD_BYTES, context.limits.row),
    )


PLUGIN = Plugin(options=HttpSourceConfig, build=_built)
