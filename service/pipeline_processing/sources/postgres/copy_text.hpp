// A growing buffer, and text in it: UTF-8 checked, escaped for JSON, quoted for CSV.

#pragma once

#include <Python.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

namespace copy_stream {

struct Malformed : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct NotUtf8 {
    const char *text;
    size_t size;
};

struct PythonError {};  // Python has set its own

inline PyObject *malformed_type = nullptr;

// Set Python's error for the exception that is being handled.
inline void set_python_error() {
    try {
        throw;
    } catch (const PythonError &) {
    } catch (const Malformed &error) {
        PyErr_SetString(malformed_type, error.what());
    } catch (const NotUtf8 &error) {
        Py_XDECREF(PyUnicode_DecodeUTF8(error.text, static_cast<Py_ssize_t>(error.size), nullptr));
        if (!PyErr_Occurred()) PyErr_SetString(malformed_type, "a text isn't valid UTF-8");
    } catch (const std::exception &) {
        PyErr_NoMemory();
    }
}

// The bytes of an object of Python, so that nobody has to copy them in the end.
class Buffer {
public:
    char *at = nullptr;

    Buffer() = default;
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    ~Buffer() { Py_XDECREF(object_); }

    char *begin() const { return begin_; }
    size_t size() const { return static_cast<size_t>(at - begin_); }
    void cut(size_t size) { at = begin_ + size; }

    // Forget the bytes, but keep the memory unless it is much.
    void clear() {
        if (end_ - begin_ <= 1'048'576) {
            at = begin_;
            return;
        }
        Py_CLEAR(object_);
        begin_ = at = end_ = nullptr;
    }

    void need(size_t room) {
        if (static_cast<size_t>(end_ - at) < room) grow(room, PY_SSIZE_T_MAX);
    }

    void add(const char *data, size_t size) {
        need(size);
        if (size != 0) std::memcpy(at, data, size);
        at += size;
    }

    // Append to a buffer that will get `total` bytes, but isn't given the memory before they arrive.
    void add_of(const char *data, size_t size, size_t total) {
        if (static_cast<size_t>(end_ - at) < size) grow(size, total);
        std::memcpy(at, data, size);
        at += size;
    }

    // Return the first `size` bytes as an object, and begin anew.
    PyObject *take(size_t size) {
        size_t capacity = static_cast<size_t>(end_ - begin_);
        PyObject *taken = object_;
        object_ = nullptr;
        begin_ = at = end_ = nullptr;
        size_t next = size + size / 8;  // it will be about as large
        if (next > first_ || next < first_ / 4) first_ = next;
        if (taken == nullptr) return PyBytes_FromStringAndSize(nullptr, 0);
        if (size >= capacity / 4 * 3) {
            // Keep some spare memory. Blocks that shrink are smaller than the next ones, which the C library then takes
            // from the operating system again and again, page by page: that costs more than all decoding.
            Py_SET_SIZE(taken, static_cast<Py_ssize_t>(size));
            PyBytes_AS_STRING(taken)[size] = 0;
        } else {
            _PyBytes_Resize(&taken, static_cast<Py_ssize_t>(size));  // sets an error and null if it fails
        }
        return taken;
    }

private:
    PyObject *object_ = nullptr;
    char *begin_ = nullptr;
    char *end_ = nullptr;
    size_t first_ = 4096;

    void grow(size_t room, size_t most) {
        size_t used = size(), capacity = static_cast<size_t>(end_ - begin_);
        if (room > static_cast<size_t>(PY_SSIZE_T_MAX) / 4 - used) throw std::bad_alloc();
        size_t wanted = std::max({used + room, std::min(capacity + capacity / 2, most), std::min(first_, most)});
        if (object_ == nullptr) object_ = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(wanted));
        else _PyBytes_Resize(&object_, static_cast<Py_ssize_t>(wanted));
        if (object_ == nullptr) {
            begin_ = at = end_ = nullptr;
            throw PythonError();
        }
        begin_ = PyBytes_AS_STRING(object_);
        at = begin_ + used;
        end_ = begin_ + wanted;
    }
};

inline char *put(char *out, const char *text) {
    size_t size = std::strlen(text);
    std::memcpy(out, text, size);
    return out + size;
}

struct Pairs {
    char digits[200], hex[512];
    constexpr Pairs() : digits(), hex() {
        for (int value = 0; value < 100; value++) {
            digits[2 * value] = static_cast<char>('0' + value / 10);
            digits[2 * value + 1] = static_cast<char>('0' + value % 10);
        }
        for (int value = 0; value < 256; value++) {
            hex[2 * value] = "0123456789abcdef"[value / 16];
            hex[2 * value + 1] = "0123456789abcdef"[value % 16];
        }
    }
};
inline constexpr Pairs PAIRS;

inline char *two_digits(char *out, unsigned value) {
    std::memcpy(out, PAIRS.digits + 2 * value, 2);
    return out + 2;
}

inline char *two_hex_digits(char *out, unsigned char value) {
    std::memcpy(out, PAIRS.hex + 2 * value, 2);
    return out + 2;
}

// -- sixteen bytes at a time ---------------------------------------------------------------------

typedef unsigned char Sixteen __attribute__((vector_size(16)));

inline Sixteen sixteen(const char *at) {
    Sixteen bytes;
    std::memcpy(&bytes, at, 16);
    return bytes;
}

template <typename Mask>
inline bool any(Mask mask) {
    uint64_t halves[2];
    std::memcpy(halves, &mask, 16);
    return (halves[0] | halves[1]) != 0;
}

// -- UTF-8 ---------------------------------------------------------------------------------------

// Return the length of the character at `at`, which isn't ASCII; 0 if it is malformed (also surrogates).
inline size_t utf8_length(const unsigned char *at, size_t left) {
    auto continues = [&](size_t place) { return (at[place] & 0xC0) == 0x80; };
    unsigned char first = at[0];
    if (first >= 0xC2 && first <= 0xDF) return left >= 2 && continues(1) ? 2 : 0;
    if (first >= 0xE0 && first <= 0xEF) {
        if (left < 3 || !continues(1) || !continues(2)) return 0;
        return (first == 0xE0 && at[1] < 0xA0) || (first == 0xED && at[1] > 0x9F) ? 0 : 3;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        if (left < 4 || !continues(1) || !continues(2) || !continues(3)) return 0;
        return (first == 0xF0 && at[1] < 0x90) || (first == 0xF4 && at[1] > 0x8F) ? 0 : 4;
    }
    return 0;
}

inline void check_utf8(const char *text, size_t size) {
    size_t place = 0;
    while (place < size) {
        while (size - place >= 16 && !any(sixteen(text + place) & 0x80)) place += 16;
        size_t stop = std::min(size, place + 16);
        while (place < stop) {
            unsigned char first = static_cast<unsigned char>(text[place]);
            size_t length = first < 0x80 ? 1 : utf8_length(reinterpret_cast<const unsigned char *>(text + place), size - place);
            if (length == 0) throw NotUtf8{text, size};
            place += length;
        }
    }
}

// -- JSON ----------------------------------------------------------------------------------------

// For each byte: 0 if it needs no escape, `u` if it is written as \u00XX, or the letter behind the backslash.
struct Escapes {
    char letters[256];
    constexpr Escapes() : letters() {
        for (int byte = 0; byte < 32; byte++) letters[byte] = 'u';
        letters['\b'] = 'b', letters['\t'] = 't', letters['\n'] = 'n', letters['\f'] = 'f', letters['\r'] = 'r';
        letters['"'] = '"', letters['\\'] = '\\';
    }
};
inline constexpr Escapes ESCAPES;

// Write valid UTF-8 as a JSON string, with the escapes that msgspec uses.
inline void write_json_text(Buffer &out, const char *text, size_t size) {
    out.need(size + 2);  // from here on, there is room for the rest without escapes
    *out.at++ = '"';
    const char *end = text + size;
    while (text < end) {
        while (end - text >= 16) {
            Sixteen bytes = sixteen(text);
            if (any((bytes < 0x20) | (bytes == '"') | (bytes == '\\'))) break;
            std::memcpy(out.at, &bytes, 16);
            text += 16, out.at += 16;
        }
        const char *stop = std::min(end, text + 16);
        while (text < stop) {
            unsigned char byte = static_cast<unsigned char>(*text++);
            char letter = ESCAPES.letters[byte];
            if (letter == 0) {
                *out.at++ = static_cast<char>(byte);
                continue;
            }
            out.need(static_cast<size_t>(end - text) + 7);
            *out.at++ = '\\';
            *out.at++ = letter;
            if (letter == 'u') {
                *out.at++ = '0';
                *out.at++ = '0';
                out.at = two_hex_digits(out.at, byte);
            }
        }
    }
    *out.at++ = '"';
}

// -- CSV -----------------------------------------------------------------------------------------

struct Csv {
    unsigned char delimiter = ',';
    std::string null;
    bool is_alone = false;  // the only field of its line
    bool may_quote_scalars = false;

    bool must_quote(const char *text, size_t size) const {
        if (size == null.size() && std::memcmp(text, null.data(), size) == 0) return true;
        if (is_alone && size == 2 && text[0] == '\\' && text[1] == '.') return true;  // ends the data for older COPYs
        size_t place = 0;
        for (; size - place >= 16; place += 16) {
            Sixteen bytes = sixteen(text + place);
            if (any((bytes == delimiter) | (bytes == '"') | (bytes == '\n') | (bytes == '\r'))) return true;
        }
        for (; place < size; place++) {
            unsigned char byte = static_cast<unsigned char>(text[place]);
            if (byte == delimiter || byte == '"' || byte == '\n' || byte == '\r') return true;
        }
        return false;
    }

    void write(Buffer &out, const char *text, size_t size) const {
        if (!must_quote(text, size)) {
            out.add(text, size);
            return;
        }
        out.add("\"", 1);
        for (const char *end = text + size; text < end;) {
            const char *stop = end - text > 4096 ? text + 4096 : end;
            out.need(2 * static_cast<size_t>(stop - text) + 1);
            char *at = out.at;
            for (; text < stop; text++) {  // without branches, because a document has many quotes
                at[0] = *text;
                at[1] = '"';
                at += 1 + (*text == '"');
            }
            out.at = at;
        }
        out.add("\"", 1);
    }
};

}  // namespace copy_stream
