"""
Rows whose values are converted when a user's function reads them.

Where there is a C compiler, the build compiles this module with Cython, as it does `loops.py`. `lazy_row.pxd` has its C
types.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from pipeline_processing.rows.untouched import is_json_of, seen_as

if TYPE_CHECKING:
    import cython  # type: ignore[import-untyped]  # in no library; only the compiler reads it

_PAST_METHODS = "C code took a value from a row without calling its methods: give it `dict(row)`, or set `takes: dicts`"


class ReadPastMethods(TypeError):
    """C code has read a row past its methods."""


class ValueNotRead:
    """
    Stands in a LazyRow for a value that is not converted yet.

    No method of the row returns it. C code that takes values from a dict without calling its methods gets it. Using it
    raises ReadPastMethods, so that it never is mistaken for a value.
    """

    def _refuse(self, *_: Any) -> Any:
        raise ReadPastMethods(_PAST_METHODS)

    __repr__ = __str__ = __format__ = __bool__ = __eq__ = __ne__ = __hash__ = __reduce_ex__ = _refuse


UNREAD = ValueNotRead()


class LazyRow(dict):  # type: ignore[type-arg]  # the compiler takes no parameters of a base class
    """
    A row that converts a value when it is read, and otherwise is a dict: column → natural value.

    It is a real dict, in which UNREAD stands for values that are not converted yet. All methods that return values are
    here. Those that are inherited return keys, or take values from outside. As `__iter__` is replaced, CPython copies
    it by its methods: `dict(row)`, `{**row}`, `function(**row)`.

    It never changes the carried row that it is made from.
    """

    _carried: dict[str, Any]
    """The row as it reached the step."""
    _naturals: Mapping[str, Callable[[Any], Any]]
    """Column → function from a carried value to the natural one, for columns where they differ."""
    _read: dict[str, Any]
    """The natural values read so far, of this row or of a copy: as copies of a dict do, they share documents."""

    def __getitem__(self, name: Any) -> Any:
        value = dict.__getitem__(self, name)
        if value is not UNREAD:
            return value
        value = self._natural(name)
        if dict.get(self, name) is UNREAD:  # another thread may have set or removed it meanwhile
            dict.__setitem__(self, name, value)
        return value

    def _natural(self, name: Any) -> Any:
        value = self._read.get(name)
        if value is None:
            # If two threads read a document, both must get the same object: either may change it.
            value = self._read.setdefault(name, self._naturals[name](self._carried[name]))
        return value

    def _read_all(self) -> None:
        if self._naturals:
            for name in self._naturals:
                if dict.get(self, name) is UNREAD:
                    self[name]

    def __iter__(self) -> Any:
        return dict.__iter__(self)

    def get(self, name: Any, default: Any = None) -> Any:
        value = dict.get(self, name, default)
        return self[name] if value is UNREAD else value

    def values(self) -> Any:
        self._read_all()
        return dict.values(self)

    def items(self) -> Any:
        self._read_all()
        return dict.items(self)

    def pop(self, name: Any, *default: Any) -> Any:
        value = dict.pop(self, name, *default)
        return self._natural(name) if value is UNREAD else value

    def popitem(self) -> tuple[Any, Any]:
        name, value = dict.popitem(self)
        return name, self._natural(name) if value is UNREAD else value

    def setdefault(self, name: Any, default: Any = None) -> Any:
        return self[name] if name in self else dict.setdefault(self, name, default)

    def copy(self) -> Any:
        new: LazyRow = LazyRow(dict.items(self))
        new._carried, new._naturals, new._read = self._carried, self._naturals, self._read
        return new

    __copy__ = copy

    def __deepcopy__(self, memo: Any) -> Any:
        self._read_all()
        new = self.copy()
        memo[id(self)] = new
        for name, value in dict.items(self):
            dict.__setitem__(new, name, deepcopy(value, memo))
        return new

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (dict(self),)

    def __eq__(self, other: object) -> Any:
        return dict(self) == other

    def __ne__(self, other: object) -> Any:
        return dict(self) != other

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, dict):
            return NotImplemented
        new = self.copy()
        new.update(other)
        return new

    def __ror__(self, other: Any) -> Any:
        return {**other, **self} if isinstance(other, dict) else NotImplemented

    def __repr__(self) -> str:
        self._read_all()
        return dict.__repr__(self)


if __file__.endswith(".py"):  # the fields of a C type begin as None
    LazyRow._carried = LazyRow._naturals = LazyRow._read = None  # type: ignore[assignment]


def lazy_rows(rows: Iterable[Any], naturals: dict[str, Any]) -> list[Any]:
    """Return a LazyRow for each carried row. `naturals` are functions of values that aren't None, by column."""
    made: list[Any] = []
    for row in rows:
        carried: dict[Any, Any] = row if type(row) is dict else dict(row)
        new: LazyRow = LazyRow(carried)
        new._carried, new._naturals, new._read = carried, naturals, {}
        for name in naturals:
            if carried.get(name) is not None:
                new[name] = UNREAD
        made.append(new)
    return made


def plain_rows(rows: Iterable[Any]) -> list[Any]:
    """Return each LazyRow as a plain dict, with all values converted."""
    made: list[Any] = []
    for each in rows:
        row: LazyRow = each
        plain = dict(row._carried)
        for name in row._naturals:
            if plain.get(name) is not None:
                plain[name] = row._natural(name)
        made.append(plain)
    return made


def carried_rows(given: Sequence[Any] | None, returned: Sequence[Any], naturals: dict[str, Any]) -> list[Any]:
    """
    Return the rows to be written. `returned` are what a function has made of the rows `given`, in the same order, or of
    unknown ones. It may also return a LazyRow of another batch, which has the same object as `naturals`.

    A value that it has not read or not changed is the carried one. So is a float or document that it has only moved to
    another column, and a document that it has copied within a column or to a new one. Other values are as it left them.
    Raises ReadPastMethods.
    """
    rows: list[Any] = []
    [unknown] = lazy_rows([{}], {})
    for place, new in enumerate(returned):
        origin: LazyRow = unknown if given is None else given[place]
        if type(new) is LazyRow:
            lazy: LazyRow = new
            # One that the function has made by the class is a dict like any other. So is one of another dataset, whose
            # format may carry values in another form.
            if lazy._naturals is naturals:
                origin = lazy
        rows.append(_settled(origin, new))
    return rows


def _settled(origin: LazyRow, new: Any) -> Any:
    """Do the usual case of `_put_back`: a row with the same columns, in which no float or document has moved."""
    carried, read = origin._carried, origin._read
    is_lazy: cython.bint = new is origin
    if (type(new) is not dict and not is_lazy) or len(new) != len(carried):
        return _put_back(origin, new)
    row: dict[Any, Any] | None = None
    names, values = dict.__iter__(new), iter(dict.values(new))
    for name, was in carried.items():
        known, value = next(names), next(values)
        if name is not known and name != known:
            return _put_back(origin, new)
        if is_lazy and value is UNREAD:
            value = read.get(name, was)  # a copy may have changed a document
        if value is was:
            continue
        kind = type(value)
        if kind is dict or kind is list or kind is float or value is UNREAD:
            if value is not read.get(name):
                return _put_back(origin, new)
            if kind is float or _is_document(value, was, origin._naturals[name]):
                continue
        elif value is read.get(name, UNREAD):
            continue
        if row is None:
            row = dict(carried)
        row[name] = value
    return carried if row is None else row


def _put_back(origin: LazyRow, new: Any) -> dict[Any, Any]:
    """Return a row with the values of `new`, or the carried values of `origin` that they come from."""
    carried, naturals, read = origin._carried, origin._naturals, origin._read
    moved = {id(value): name for name, value in read.items() if type(value) in (float, dict, list)}
    is_lazy = new is origin
    row: dict[Any, Any] = {}
    for name, value in dict.items(new) if is_lazy else new.items():
        if value is UNREAD:
            if not is_lazy:
                raise ReadPastMethods(_PAST_METHODS)
            value = read.get(name, carried[name])  # a copy may have changed a document
        row[name] = value
        origins: list[Any] = []
        if value is read.get(name, UNREAD):
            origins = [name]
        elif value is None or value is carried.get(name):
            continue
        elif id(value) in moved:
            origins = [moved[id(value)]]
        elif type(value) is dict or type(value) is list:
            # An empty document in a new column is hardly a copy.
            origins = [name] if name in carried or not value else list(read)
        for each in origins:
            was, natural = carried.get(each), naturals.get(each)
            if was is None or natural is None:
                continue
            if (type(value) is not dict and type(value) is not list) or _is_document(value, was, natural):
                row[name] = was
                break
    return row


def _is_document(value: Any, carried: Any, natural: Callable[[Any], Any]) -> bool:
    """Return whether a dict or list is what the carried document says."""
    if is_json_of(value, carried):
        return True  # the usual case, in a quarter of the time
    other = natural(carried)
    return type(value) is type(other) and len(value) == len(other) and seen_as(value) == seen_as(other)
