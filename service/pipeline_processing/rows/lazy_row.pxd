# The C types of lazy_row.py, for the compiler only.

cdef object UNREAD

cdef class LazyRow(dict):
    cdef dict _carried
    cdef dict _naturals
    cdef dict _read
    cdef object _natural(self, name)
    cdef void _read_all(self) except *

cdef object _settled(LazyRow origin, new)
