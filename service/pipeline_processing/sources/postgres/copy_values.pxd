"""What the .hpp files offer."""

from cpython.object cimport PyObject
from libc.stdint cimport int32_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector


cdef extern from "copy_values.hpp" namespace "copy_stream" nogil:
    PyObject *malformed_type
    void set_python_error()

    enum Kind:
        BOOL, INT2, INT4, INT8, FLOAT4, FLOAT8, NUMERIC, UUID, DATE, TIMESTAMP, TIMESTAMPTZ, TEXT, JSON, JSONB

    struct Field:
        const char *data
        int32_t size

    Unsigned big_endian[Unsigned](const char *at)
    Unsigned fixed[Unsigned](const Field &field) except +set_python_error
    cbool boolean(const Field &field) except +set_python_error

    cppclass Buffer:
        char *at
        char *begin()
        size_t size()
        void cut(size_t size)
        void clear()
        void need(size_t room) except +set_python_error
        void add(const char *data, size_t size) except +set_python_error
        void add_of(const char *data, size_t size, size_t total) except +set_python_error
        object take(size_t size)

    cppclass Days:
        pass

    cppclass Csv:
        unsigned char delimiter
        string null
        cbool is_alone
        cbool may_quote_scalars

    struct Part:
        int column
        Kind kind
        string prefix

    cppclass RowTemplate "copy_stream::Template":
        vector[Part] parts
        string tail
        cbool is_csv
        Csv csv

    size_t numeric_size(const Field &field)
    size_t room_of(Kind kind, const Field &field) except +set_python_error
    char *write_scalar(char *out, Kind kind, const Field &field, cbool as_json, Days &days) except +set_python_error
    Field content_of(Kind kind, const Field &field) except +set_python_error
    void write_document(Buffer &out, Kind kind, const Field &field) except +set_python_error
    void write_row(Buffer &out, const RowTemplate &row, const Field *fields, Days &days) except +set_python_error
