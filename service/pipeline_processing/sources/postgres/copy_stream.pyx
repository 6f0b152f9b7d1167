# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""
Decodes the answer to COPY … TO STDOUT (FORMAT binary): a stream of messages of Postgres's protocol, version 3.

Rows leave as lines that are already encoded, or as tuples of carried values (see `kinds.py`), equal to those that the
codecs of `types.py` make. How values are written is in the .hpp files beside this one.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport int16_t, int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove
from libcpp.vector cimport vector

from pipeline_processing.sources.postgres.copy_values cimport (
    BOOL,
    DATE,
    FLOAT4,
    FLOAT8,
    INT2,
    INT4,
    INT8,
    JSON,
    JSONB,
    NUMERIC,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UUID,
    Buffer,
    Days,
    Field,
    Kind,
    Part,
    RowTemplate,
    big_endian,
    boolean,
    content_of,
    fixed,
    malformed_type,
    numeric_size,
    room_of,
    write_document,
    write_row,
    write_scalar,
)

from msgspec import Raw

from pipeline_processing.ports import Template
from pipeline_processing.rows.lines import Lines


cdef extern from "Python.h":
    object PyUnicode_DecodeUTF8(const char *text, Py_ssize_t size, const char *errors)
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 most)
    void *PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    int PyUnicode_KIND(object text)
    Py_ssize_t PY_SSIZE_T_MAX
    void PyObject_GC_UnTrack(PyObject *tracked)


cdef extern from *:
    """
    // Call a type's constructor with one argument, in a tuple that is used again and again.
    static PyObject *made_of(PyObject *type, PyObject *arguments, PyObject *argument) {
        PyTuple_SET_ITEM(arguments, 0, argument);
        PyObject *made = ((PyTypeObject *)type)->tp_new((PyTypeObject *)type, arguments, nullptr);
        PyTuple_SET_ITEM(arguments, 0, nullptr);
        return made;
    }
    """
    object made_of(object type, object arguments, object argument)


class CopyMalformed(ValueError):
    """What arrived isn't the answer to a COPY in binary format. The connection can't be used any more."""


malformed_type = <PyObject *>CopyMalformed

cdef dict KINDS = {
    "bool": BOOL,
    "int2": INT2,
    "int4": INT4,
    "int8": INT8,
    "float4": FLOAT4,
    "float8": FLOAT8,
    "numeric": NUMERIC,
    "uuid": UUID,
    "date": DATE,
    "timestamp": TIMESTAMP,
    "timestamptz": TIMESTAMPTZ,
    "text": TEXT,
    "varchar": TEXT,
    "bpchar": TEXT,
    "name": TEXT,
    "json": JSON,
    "jsonb": JSONB,
}
TYPES = frozenset(KINDS)

cdef enum Stage:
    HEADER, TUPLES, ENDED, FAILED

cdef const char *SIGNATURE = b"PGCOPY\n\xff\r\n\0"
cdef size_t SIGNATURE_SIZE = 11
cdef size_t HEADER_SIZE = 19
cdef uint32_t UNKNOWN_FLAGS = 0xFFFF0000

cdef Py_ssize_t VALUE_SIZE = 56  # about the memory of a small value

cdef object RAW = Raw
cdef object RAW_ARGUMENTS = PyTuple_New(1)


cdef inline void drop(Buffer &buffer, size_t used) noexcept:
    """Remove the first bytes."""
    cdef size_t left = buffer.size() - used
    if left == 0:
        buffer.clear()
    elif used > 0:
        memmove(buffer.begin(), buffer.begin() + used, left)
        buffer.cut(left)


cdef class CopyStream:
    """
    The rows of one COPY.

    `types` are the names of the columns' types, of `TYPES`. `outputs` says what is made of each row, as for
    `ports.Delivers`; None: all carried values. `carry` is their form, "json" or "text". The session has the time zone
    UTC, DateStyle ISO and extra_float_digits 1.

    Values can be far larger than what is sent: a numeric of ten bytes may have a hundred thousand digits. So rows are
    held back, as they were sent, and with them all that follows, once those that are decoded have more than
    `batch_bytes`, and at a row larger than `row_bytes`, which is `batch_bytes` at first. `feed(b"")` tries again.
    """

    cdef vector[Kind] _kinds
    cdef vector[Field] _fields
    cdef Days _days

    # what is made of a row: lines of a template, or values, of columns (from 0) or templates (-1, -2, …)
    cdef bint _as_json
    cdef bint _has_lines
    cdef RowTemplate _line
    cdef vector[int] _values
    cdef vector[RowTemplate] _templates

    # where the stream is
    cdef Stage _stage
    cdef uint32_t _to_skip  # bytes left of the header's extension
    cdef char _head[5]  # the beginning of a message: type and length
    cdef int _head_size
    cdef size_t _to_pass  # bytes left of a message that isn't CopyData
    cdef size_t _expected  # size of the CopyData of which only some has arrived
    cdef Buffer _message
    cdef Buffer _pending  # the beginning of a row that continues in the next CopyData
    cdef size_t _needed  # how long that has to be, at least

    # what is held back
    cdef Py_ssize_t _batch_bytes
    cdef bint _is_held
    cdef size_t _large  # size of the next row if that is why
    cdef Buffer _rest  # what has arrived behind it
    cdef vector[int] _numerics  # columns that are written
    cdef bint _discards

    cdef Buffer _out
    cdef Buffer _scratch
    cdef vector[uint64_t] _ends
    cdef list _tuples

    cdef readonly Py_ssize_t rows
    """Rows decoded, and not yet taken."""
    cdef readonly Py_ssize_t size
    """About how many bytes of memory they need."""
    cdef public Py_ssize_t row_bytes
    """A row larger than this, as it is sent or decoded, is held back."""

    def __cinit__(self, types, outputs, *, str carry, Py_ssize_t batch_bytes=PY_SSIZE_T_MAX):
        if carry not in ("json", "text"):
            raise ValueError(f"{carry!r} isn't a form of carried values")
        self._as_json = carry == "json"
        self._batch_bytes = self.row_bytes = batch_bytes
        for name in types:
            self._kinds.push_back(<Kind><int>KINDS[name])
        self._fields.resize(self._kinds.size())
        self._has_lines = isinstance(outputs, Template)
        if self._has_lines:
            self._read_template(outputs, self._line)
        else:
            for output in range(len(types)) if outputs is None else outputs:
                if isinstance(output, Template):
                    self._templates.emplace_back()
                    self._read_template(output, self._templates.back())
                    self._values.push_back(-<int>self._templates.size())
                else:
                    self._values.push_back(self._column(output))
        self._tuples = []
        self._stage = HEADER

    cdef int _column(self, int index) except -1:
        if not 0 <= index < <int>self._kinds.size():
            raise IndexError(f"there is no column {index}")
        if self._kinds[index] == NUMERIC:
            self._numerics.push_back(index)
        return index

    cdef int _read_template(self, template, RowTemplate &read) except -1:
        cdef Part part
        for index, prefix in template.columns:
            part.column = self._column(index)
            part.kind = self._kinds[part.column]
            part.prefix = prefix
            read.parts.push_back(part)
        read.tail = template.tail
        if template.csv is not None:
            read.is_csv = True
            read.csv.delimiter = ord(template.csv.delimiter)
            read.csv.null = template.csv.null.encode()
            read.csv.is_alone = len(template.columns) == 1 and template.tail in (b"\n", b"\r\n")
            # Numbers and times consist of letters, digits, points and these.
            read.csv.may_quote_scalars = template.csv.null != "" or template.csv.delimiter in "+-: "
        return 0

    @property
    def begun(self) -> int:
        """
        The size of the CopyData of which only some has arrived, and of the row that continues in it; 0 if none.

        If a row larger than `row_bytes` is held back: its size.
        """
        if self._is_held:
            return self._large
        cdef size_t begun = self._expected + self._pending.size()
        return begun if self._expected else max(begun, self._needed if begun else 0)

    def feed(self, data):
        """
        Take bytes from the server, cut anywhere, and decode every CopyData that is complete, unless it is held back.

        Returns the bytes of all other messages in front of what is held back, unchanged. Raises CopyMalformed, or
        UnicodeDecodeError for text that isn't UTF-8; then the stream is over.
        """
        if self._stage == FAILED:
            raise CopyMalformed("the stream has failed before")
        cdef Py_buffer view
        cdef Buffer passed
        cdef size_t size, used
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if self._is_held:
                self._is_held = False
                self._read_data(NULL, 0)
            size = view.len
            if self._rest.size() == 0:
                used = self._read(<const char *>view.buf, size, passed)
                if used < size:
                    self._rest.add(<const char *>view.buf + used, size - used)
            else:
                self._rest.add(<const char *>view.buf, size)
                used = self._read(self._rest.begin(), self._rest.size(), passed)
                drop(self._rest, used)
        except BaseException:
            self._stage = FAILED
            raise
        finally:
            PyBuffer_Release(&view)
        return passed.take(passed.size())

    cdef size_t _read(self, const char *at, size_t left, Buffer &passed) except? 0:
        """Return how many bytes were used: all of them, or those in front of what is held back."""
        cdef size_t given = left
        cdef size_t size
        cdef const char *head
        cdef uint32_t length
        while left > 0 and not self._is_held:
            if self._to_pass > 0:
                size = min(left, self._to_pass)
                passed.add(at, size)
                self._to_pass -= size
                at += size
                left -= size
                continue
            if self._expected > 0:
                size = min(left, self._expected - self._message.size())
                self._message.add_of(at, size, self._expected)
                at += size
                left -= size
                if self._message.size() == self._expected:
                    self._expected = 0
                    self._read_data(self._message.begin(), self._message.size())
                    self._message.clear()
                continue
            if self._head_size > 0 or left < 5:
                size = min(left, <size_t>(5 - self._head_size))
                memcpy(self._head + self._head_size, at, size)
                self._head_size += <int>size
                at += size
                left -= size
                if self._head_size < 5:
                    break
                self._head_size = 0
                head = self._head
            else:
                head = at
                at += 5
                left -= 5
            length = big_endian[uint32_t](head + 1)
            if length < 4 or length > 0x7FFFFFFF:
                raise CopyMalformed("a message has an impossible length")
            size = length - 4
            if head[0] != c"d":
                if head[0] == c"c" and self._stage != ENDED:
                    raise CopyMalformed("the rows end without the trailer")
                passed.add(head, 5)
                self._to_pass = size
            elif size <= left:
                self._read_data(at, size)
                at += size
                left -= size
            else:
                self._expected = size
        return given - left

    cdef int _read_data(self, const char *data, size_t size) except -1:
        """Read the content of a CopyData. A row that isn't complete waits for the next one."""
        cdef size_t used
        if self._pending.size() == 0:
            used = self._read_rows(data, size)
            if used < size:
                self._pending.add(data + used, size - used)
            return 0
        self._pending.add(data, size)
        size = self._pending.size()
        if size < self._needed:
            return 0
        drop(self._pending, self._read_rows(self._pending.begin(), size))
        return 0

    cdef size_t _read_rows(self, const char *data, size_t size) except? 0:
        """Return how many bytes were used. `_needed` is how many the next row needs, at least."""
        cdef size_t used = 0
        cdef size_t row
        cdef int16_t count
        while used < size:
            if self._to_skip > 0:
                row = min(<size_t>self._to_skip, size - used)
                self._to_skip -= <uint32_t>row
                used += row
                continue
            if self._stage == HEADER:
                if size - used < HEADER_SIZE:
                    self._needed = HEADER_SIZE
                    break
                self._read_header(data + used)
                used += HEADER_SIZE
                continue
            if self._stage == ENDED:
                raise CopyMalformed("there are bytes after the trailer")
            if size - used < 2:
                self._needed = 2
                break
            count = <int16_t>big_endian[uint16_t](data + used)
            if count == -1:
                self._stage = ENDED
                used += 2
                continue
            if count < 0 or <size_t>count != self._kinds.size():
                raise CopyMalformed("a row has another number of columns than the query")
            row = self._find_fields(data + used, size - used)
            if row == 0:
                break
            if not self._discards:
                if self._holds_back(row):
                    self._needed = row
                    break
                self._decode_row()
            used += row
        return used

    cdef bint _holds_back(self, size_t size) noexcept:
        """Whether the row has to wait. Each numeric counts as long as it is sent or written, whichever is longer."""
        cdef size_t written
        cdef Field field
        for column in self._numerics:
            field = self._fields[column]
            if field.data != NULL:
                written = numeric_size(field)
                if written > <size_t>field.size:
                    size += written - <size_t>field.size
        self._large = size if size > <size_t>self.row_bytes else 0
        self._is_held = self._large > 0 or self.size > self._batch_bytes
        return self._is_held

    cdef int _read_header(self, const char *header) except -1:
        cdef uint32_t extension
        if memcmp(header, SIGNATURE, SIGNATURE_SIZE) != 0:
            raise CopyMalformed("the signature is missing")
        if big_endian[uint32_t](header + SIGNATURE_SIZE) & UNKNOWN_FLAGS:
            raise CopyMalformed("the header has unknown flags")
        extension = big_endian[uint32_t](header + SIGNATURE_SIZE + 4)
        if extension > 0x7FFFFFFF:
            raise CopyMalformed("the header has an impossible length")
        self._to_skip = extension
        self._stage = TUPLES
        return 0

    cdef size_t _find_fields(self, const char *row, size_t size) except? 0:
        """Find where the fields are. Returns the row's size; 0 if it isn't complete."""
        cdef size_t place = 2
        cdef size_t column
        cdef int32_t length
        cdef Field *fields = self._fields.data()
        for column in range(self._kinds.size()):
            if size - place < 4:
                self._needed = place + 4
                return 0
            length = <int32_t>big_endian[uint32_t](row + place)
            place += 4
            if length == -1:
                fields[column].data = NULL
                continue
            if length < 0:
                raise CopyMalformed("a value has an impossible length")
            if size - place < <size_t>length:
                self._needed = place + <size_t>length
                return 0
            fields[column].data = row + place
            fields[column].size = length
            place += <size_t>length
        return place

    cdef int _decode_row(self) except -1:
        cdef tuple row
        cdef object value
        cdef Py_ssize_t place, count
        cdef int output
        if self._has_lines:
            write_row(self._out, self._line, self._fields.data(), self._days)
            self._ends.push_back(self._out.size())
            self.size = <Py_ssize_t>self._out.size() + 8 * <Py_ssize_t>self._ends.size()
        else:
            count = <Py_ssize_t>self._values.size()
            row = PyTuple_New(count)
            for place in range(count):
                output = self._values[place]
                if output >= 0:
                    value = self._value(self._kinds[output], self._fields[output])
                else:
                    value = self._merged(self._templates[-1 - output])
                Py_INCREF(value)
                PyTuple_SET_ITEM(row, place, value)
            if count:  # the empty tuple is shared
                PyObject_GC_UnTrack(<PyObject *>row)  # its values refer to nothing
            self._tuples.append(row)
            self.size += VALUE_SIZE * (count + 1)
        self.rows += 1
        return 0

    cdef object _merged(self, const RowTemplate &template):
        self._scratch.clear()
        write_row(self._scratch, template, self._fields.data(), self._days)
        if self._as_json:
            return self._raw(self._scratch.begin(), self._scratch.size())
        return self._text(self._scratch.begin(), self._scratch.size())

    cdef object _value(self, Kind kind, const Field &field):
        """Return the carried value."""
        cdef Field text
        cdef char small[128]
        if field.data == NULL:
            return None
        if kind == TEXT or (kind == JSON or kind == JSONB) and not self._as_json:
            text = content_of(kind, field)
            return self._text(text.data, text.size)
        if kind == JSON or kind == JSONB:
            self._scratch.clear()
            write_document(self._scratch, kind, field)
            return self._raw(self._scratch.begin(), self._scratch.size())
        if self._as_json:
            if kind == BOOL:
                return True if boolean(field) else False
            if kind == INT2:
                return <int16_t>fixed[uint16_t](field)
            if kind == INT4:
                return <int32_t>fixed[uint32_t](field)
            if kind == INT8:
                return <int64_t>fixed[uint64_t](field)
        if kind != NUMERIC:
            return self._scalar(kind, small, write_scalar(small, kind, field, self._as_json, self._days))
        self._scratch.clear()
        self._scratch.need(room_of(kind, field))
        return self._scalar(
            kind, self._scratch.at, write_scalar(self._scratch.at, kind, field, self._as_json, self._days)
        )

    cdef object _scalar(self, Kind kind, const char *text, const char *end):
        cdef object made
        if self._as_json and (kind == NUMERIC or kind == FLOAT4 or kind == FLOAT8):
            return self._raw(text, end - text)
        made = PyUnicode_New(end - text, 127)
        memcpy(PyUnicode_DATA(made), text, end - text)
        self.size += end - text
        return made

    cdef object _raw(self, const char *data, size_t size):
        self.size += <Py_ssize_t>size
        return made_of(RAW, RAW_ARGUMENTS, PyBytes_FromStringAndSize(data, size))

    cdef object _text(self, const char *text, size_t size):
        cdef object made = PyUnicode_DecodeUTF8(text, size, NULL)
        self.size += PyUnicode_GET_LENGTH(made) * PyUnicode_KIND(made)
        return made

    def discard(self):
        """Forget the rows decoded, and those that are held back or arrive. `feed` still returns the other messages."""
        self._discards = True
        self.take()

    def take(self):
        """Return the rows decoded, and forget them."""
        cdef list tuples
        cdef size_t end
        if not self._has_lines:
            tuples = self._tuples
            self._tuples = []
            self.rows = self.size = 0
            return tuples
        end = self._ends.back() if self.rows else 0  # behind it, there may be the beginning of a malformed row
        ends = PyBytes_FromStringAndSize(<const char *>self._ends.data(), self.rows * <Py_ssize_t>sizeof(uint64_t))
        self._ends.clear()
        self.rows = self.size = 0
        return Lines(self._out.take(end), memoryview(ends).cast("Q"))
