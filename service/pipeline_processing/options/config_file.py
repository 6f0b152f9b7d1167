"""A config written in YAML, and its faults, each with file, line, column and path."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from pipeline_processing.options.validation import without_redundant
from pipeline_processing.options.words import close_to, is_shape, keys_of, merged, words_of
from pipeline_processing.options.yaml_documents import InvalidYaml, YamlDocument, parse_yaml

FOLDER = "folder"
"""Key of the validation's context: the folder of the file, to which paths in it are relative."""

_MOST_FAULTS = 100
_BELOW = "fault_below"

Location = tuple[str | int, ...]
Words = Callable[[ErrorDetails], str | None]


class UnusableFile(ValueError):
    """The file can't be read, or isn't YAML. The message says why."""


def fault_below(*location: str | int, why: str) -> PydanticCustomError:
    """Return the error for a validator of a whole mapping to raise, whose fault is at one of the keys below it."""
    return PydanticCustomError(_BELOW, "{why}", {"why": why, "location": location})


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, at a location such as `("datasets", 0, "steps", 2, "mask")`; items may go by index or `name`."""

    location: Location
    message: str
    at_key: bool = False
    """Whether it is the key that is wrong."""
    word: str | None = None
    """The key or value below that is wrong, if it is a single one."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The file of a config, parsed."""

    path: Path
    document: YamlDocument

    def written(self, location: Location) -> Location:
        """
        Return where it is written: a key that a dataset doesn't have may be one of `defaults`, and a query may be in
        its `query_file`.
        """
        if location[-1:] == ("query",) and self.document.known(location)[-1:] != ("query",):
            return (*location[:-1], "query_file")
        if location[:1] != ("datasets",) or len(location) < 3 or len(self.document.known(location[:3])) == 3:
            return location
        shared: Location = ("defaults", *location[2:])
        return shared if len(self.document.known(shared[:2])) == 2 else location

    @classmethod
    def read(cls, path: Path, *, what: str, remedy: str) -> "ConfigFile":
        """Read a YAML file, called `what` in messages. Raises UnusableFile, with `remedy` if it can't be read."""
        try:
            return cls(path, parse_yaml(path.read_text("utf-8")))
        except OSError as error:
            raise UnusableFile(f"Can't read the {what} {path}: {error.strerror}. {remedy}") from None
        except InvalidYaml as error:
            place = f":{error.place.line}:{error.place.column}" if error.place else ""
            raise UnusableFile(f"The {what} {path} isn't YAML:\n  {path.name}{place} {error}") from None
        except ValueError as error:
            raise UnusableFile(f"The {what} {path} isn't UTF-8: {error}") from None

    def place(self, location: Location, *, word: str | None = None) -> str:
        """Return `job.yaml:14:9 datasets[records].steps[2].mask`. See `YamlDocument.locate`."""
        path, place = self.document.locate(self.written(location), word=word)
        return f"{self.path.name}:{place.line}:{place.column} {path}".rstrip()

    def line(self, location: Location) -> str:
        """Return `job.yaml:14:9`."""
        _, place = self.document.locate(self.written(location))
        return f"{self.path.name}:{place.line}:{place.column}"

    def lines(self, faults: Iterable[Fault]) -> list[str]:
        """Return an indented line for each fault, in the order of the file."""
        located = {
            (self.document.locate(self.written(each.location), at_key=each.at_key, word=each.word), each.message)
            for each in faults
        }
        lines = [
            f"  {self.path.name}:{place.line}:{place.column} {f'{path}: ' if path else ''}{message}"
            for (path, place), message in sorted(located, key=lambda each: (each[0][1], each))
        ]
        more = [f"  and {len(lines) - _MOST_FAULTS:,} more"] if len(lines) > _MOST_FAULTS else []
        return lines[:_MOST_FAULTS] + more

    def faults(
        self, error: ValidationError, model: type[BaseModel], *, told: Words = lambda fault: None
    ) -> list[Fault]:
        """Return what is wrong with the document by the model, in YAML's words, or in those of `told` if it has any."""
        located = [_Located.of(each, self) for each in without_redundant(error.errors(include_url=False))]
        return list(dict.fromkeys(_told(located, model, told)))


@dataclass(frozen=True, slots=True)
class _Located:
    """An error of pydantic, and where the document has it."""

    detail: ErrorDetails
    path: Location
    union: Location | None
    """Where the value stands, if the error is of one alternative of a union."""
    tag: str | int | None
    """Pydantic's name of that alternative."""

    @classmethod
    def of(cls, detail: ErrorDetails, file: ConfigFile) -> "_Located":
        document = file.document
        location = file.written(detail["loc"] + (detail["ctx"]["location"] if detail["type"] == _BELOW else ()))
        named = location[:-1] if detail["type"] == "missing" or location[-1:] == ("[key]",) else location
        depth = next((at for at in range(len(named)) if len(document.known(named[: at + 1])) <= at), None)
        if depth is None:
            return cls(detail, document.known(location), None, None)
        return cls(detail, document.known(location), tuple(named[:depth]), named[depth])


def _told(located: Sequence[_Located], model: type[BaseModel], told: Words) -> Iterator[Fault]:
    unknown = [each.path for each in located if each.detail["type"] == "extra_forbidden"]
    for each in located:
        kind, key = each.detail["type"], each.detail["loc"][-1:]
        around = each.path[:-1] if kind == "extra_forbidden" else each.path
        if kind == "missing" and any(
            path[:-1] == around and close_to(str(path[-1]), [str(key[0])]) for path in unknown
        ):
            continue  # it is misspelt
        alternatives = [other for other in located if other.union is not None and other.union == each.union]
        if len({other.tag for other in alternatives}) < 2:
            alternatives = []
        elif any(other.path != other.union for other in alternatives):  # one of them has the value's shape
            if is_shape(kind) and each.path == each.union:
                continue
            alternatives = []
        keys = keys_of(model, around) if kind == "extra_forbidden" or is_shape(kind) else {}
        top = keys_of(model, ()) if kind == "extra_forbidden" and around else ()
        message = merged(
            [told(other.detail) or words_of(other.detail, keys=keys, top=top) for other in alternatives or [each]]
        )
        yield Fault(each.path, message, at_key=kind == "extra_forbidden" or key == ("[key]",))
