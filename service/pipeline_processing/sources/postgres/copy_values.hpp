// Writes values of COPY BINARY as Postgres prints them: plain, as JSON, or as fields of CSV.
//
// The formats are those of the types' `_send` functions in Postgres. Nothing here trusts a length or a digit.

#pragma once

#include <Python.h>
#include <endian.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "copy_floats.hpp"
#include "copy_text.hpp"

namespace copy_stream {

enum Kind { BOOL, INT2, INT4, INT8, FLOAT4, FLOAT8, NUMERIC, UUID, DATE, TIMESTAMP, TIMESTAMPTZ, TEXT, JSON, JSONB };

constexpr size_t SCALAR_ROOM = 64;  // fits each value but numerics, texts and documents

struct Field {
    const char *data;  // nullptr: null
    int32_t size;
};

template <typename Unsigned>
inline Unsigned big_endian(const char *at) {
    Unsigned value;
    std::memcpy(&value, at, sizeof value);
    if constexpr (sizeof value == 2) return be16toh(value);
    else if constexpr (sizeof value == 4) return be32toh(value);
    else return be64toh(value);
}

template <typename Unsigned>
inline Unsigned fixed(const Field &field) {
    if (field.size != static_cast<int32_t>(sizeof(Unsigned))) throw Malformed("a value has the wrong length for its type");
    return big_endian<Unsigned>(field.data);
}

inline bool boolean(const Field &field) {
    if (field.size != 1) throw Malformed("a value has the wrong length for its type");
    return *field.data != 0;
}

// -- numeric: digits to base 10,000 --------------------------------------------------------------

struct Numeric {
    int digits, weight, scale;
    unsigned sign;
    const char *at;

    explicit Numeric(const Field &field) {
        if (field.size < 8) throw Malformed("a numeric is cut off");
        digits = static_cast<int16_t>(big_endian<uint16_t>(field.data));
        weight = static_cast<int16_t>(big_endian<uint16_t>(field.data + 2));
        sign = big_endian<uint16_t>(field.data + 4);
        scale = big_endian<uint16_t>(field.data + 6);
        at = field.data + 8;
        if (digits < 0 || field.size != 8 + 2 * digits) throw Malformed("a numeric has another length than its digits");
        if (scale > 0x3FFF) throw Malformed("a numeric has an impossible scale");
    }

    size_t room() const { return 4 * (static_cast<size_t>(weight < 0 ? 0 : weight) + 2) + static_cast<size_t>(scale) + 16; }

    unsigned digit(int place) const {
        if (place < 0 || place >= digits) return 0;
        unsigned digit = big_endian<uint16_t>(at + 2 * place);
        if (digit > 9999) throw Malformed("a numeric has an impossible digit");
        return digit;
    }

    char *write(char *out) {
        switch (sign) {
            case 0x0000: break;
            case 0x4000: *out++ = '-'; break;
            case 0xC000: return put(out, "NaN");
            case 0xD000: return put(out, "Infinity");
            case 0xF000: return put(out, "-Infinity");
            default: throw Malformed("a numeric has an impossible sign");
        }
        int place = 0;
        while (weight > 0 && digit(place) == 0) place++, weight--;  // JSON forbids leading zeros; Postgres sends none
        if (weight < 0) {
            *out++ = '0';
            place = weight + 1;
        } else {
            out = std::to_chars(out, out + 4, digit(place++)).ptr;
            for (; weight > 0; weight--) out = four(out, digit(place++));
        }
        if (scale > 0) {
            *out++ = '.';
            char *end = out + scale;
            while (out < end) out = four(out, digit(place++));
            out = end;
        }
        return out;
    }

    static char *four(char *out, unsigned digit) { return two_digits(two_digits(out, digit / 100), digit % 100); }
};

// Return how many bytes a numeric has when it is written, or a few less, without reading its digits.
inline size_t numeric_size(const Field &field) {
    if (field.size < 8) return 0;
    int weight = static_cast<int16_t>(big_endian<uint16_t>(field.data + 2));
    return 4 * static_cast<size_t>(weight < 0 ? 0 : weight) + big_endian<uint16_t>(field.data + 6) + 1;
}

// -- dates and times -----------------------------------------------------------------------------

constexpr int64_t MICROSECONDS_PER_DAY = 86'400'000'000;

// The text of a day. Most rows have times of the same few days, so the last one is kept.
class Days {
public:
    char *write(char *out, int64_t day) {  // days since 2000-01-01
        if (day != day_) set(day);
        std::memcpy(out, text_, sizeof text_);
        return out + size_;
    }
    bool before_christ() const { return before_christ_; }

private:
    int64_t day_ = INT64_MIN;
    char text_[24];
    int size_ = 0;
    bool before_christ_ = false;

    void set(int64_t day) {
        // By years that begin in March, so that the leap day is the last one, and eras of 400 of them.
        int64_t since_era_0 = day + 730'425;  // days since 0000-03-01
        int64_t era = (since_era_0 >= 0 ? since_era_0 : since_era_0 - 146'096) / 146'097;
        unsigned quarters = 4 * static_cast<unsigned>(since_era_0 - era * 146'097) + 3;
        unsigned century = quarters / 146'097;
        quarters = quarters % 146'097 | 3;
        unsigned year_of_century = quarters / 1'461;
        unsigned fifths = 5 * (quarters % 1'461 / 4) + 2;  // five months have 153 days, all but the last
        unsigned month = fifths / 153 + 3, of_month = fifths % 153 / 5 + 1;
        int64_t year = era * 400 + century * 100 + year_of_century;
        if (month > 12) month -= 12, year++;
        before_christ_ = year <= 0;
        uint64_t shown = static_cast<uint64_t>(before_christ_ ? 1 - year : year);
        char *out = text_;
        for (uint64_t limit = 1'000; limit > 1 && shown < limit; limit /= 10) *out++ = '0';
        out = std::to_chars(out, text_ + 16, shown).ptr;
        *out++ = '-';
        out = two_digits(out, month);
        *out++ = '-';
        out = two_digits(out, of_month);
        size_ = static_cast<int>(out - text_);
        day_ = day;
    }
};

inline char *write_date(char *out, int32_t day, Days &days) {
    if (day == INT32_MAX) return put(out, "infinity");
    if (day == INT32_MIN) return put(out, "-infinity");
    out = days.write(out, day);
    return days.before_christ() ? put(out, " BC") : out;
}

inline char *write_timestamp(char *out, int64_t microseconds, char separator, const char *zone, Days &days) {
    if (microseconds == INT64_MAX) return put(out, "infinity");
    if (microseconds == INT64_MIN) return put(out, "-infinity");
    int64_t day = microseconds / MICROSECONDS_PER_DAY;
    int64_t of_day = microseconds % MICROSECONDS_PER_DAY;
    if (of_day < 0) day--, of_day += MICROSECONDS_PER_DAY;
    out = days.write(out, day);
    *out++ = separator;
    uint32_t seconds = static_cast<uint32_t>(of_day / 1'000'000);
    uint32_t fraction = static_cast<uint32_t>(of_day % 1'000'000);
    out = two_digits(out, seconds / 3'600);
    *out++ = ':';
    out = two_digits(out, seconds / 60 % 60);
    *out++ = ':';
    out = two_digits(out, seconds % 60);
    if (fraction != 0) {
        *out++ = '.';
        out = two_digits(two_digits(two_digits(out, fraction / 10'000), fraction / 100 % 100), fraction % 100);
        while (out[-1] == '0') out--;
    }
    out = put(out, zone);
    return days.before_christ() ? put(out, " BC") : out;
}

inline char *write_uuid(char *out, const Field &field) {
    if (field.size != 16) throw Malformed("a value has the wrong length for its type");
    for (int place = 0; place < 16; place++) {
        if (place == 4 || place == 6 || place == 8 || place == 10) *out++ = '-';
        out = two_hex_digits(out, static_cast<unsigned char>(field.data[place]));
    }
    return out;
}

// -- a value -------------------------------------------------------------------------------------

inline size_t room_of(Kind kind, const Field &field) { return kind == NUMERIC ? Numeric(field).room() : SCALAR_ROOM; }

// Write a value of any type but text and documents, for which `room_of` gives the room. `as_json`: times as in JSON.
inline char *write_scalar(char *out, Kind kind, const Field &field, bool as_json, Days &days) {
    switch (kind) {
        case BOOL: return as_json ? put(out, boolean(field) ? "true" : "false") : put(out, boolean(field) ? "t" : "f");
        case INT2: return std::to_chars(out, out + 24, static_cast<int16_t>(fixed<uint16_t>(field))).ptr;
        case INT4: return std::to_chars(out, out + 24, static_cast<int32_t>(fixed<uint32_t>(field))).ptr;
        case INT8: return std::to_chars(out, out + 24, static_cast<int64_t>(fixed<uint64_t>(field))).ptr;
        case FLOAT4: return write_float<float>(out, fixed<uint32_t>(field));
        case FLOAT8: return write_float<double>(out, fixed<uint64_t>(field));
        case NUMERIC: return Numeric(field).write(out);
        case UUID: return write_uuid(out, field);
        case DATE: return write_date(out, static_cast<int32_t>(fixed<uint32_t>(field)), days);
        case TIMESTAMP: return write_timestamp(out, static_cast<int64_t>(fixed<uint64_t>(field)), as_json ? 'T' : ' ', "", days);
        case TIMESTAMPTZ:
            return write_timestamp(
                out, static_cast<int64_t>(fixed<uint64_t>(field)), as_json ? 'T' : ' ', as_json ? "+00:00" : "+00", days);
        default: throw Malformed("not a scalar");
    }
}

// Return the bytes of a text or document.
inline Field content_of(Kind kind, const Field &field) {
    Field content = field;
    if (kind == JSONB) {
        if (field.size < 1 || *field.data != 1) throw Malformed("a jsonb has an unknown version");
        content = Field{field.data + 1, field.size - 1};
    }
    if (kind != TEXT && content.size == 0) throw Malformed("a document is empty");
    return content;
}

// Return them if they are valid UTF-8.
inline Field text_of(Kind kind, const Field &field) {
    Field text = content_of(kind, field);
    check_utf8(text.data, static_cast<size_t>(text.size));
    return text;
}

inline void write_document(Buffer &out, Kind kind, const Field &field) {
    Field text = text_of(kind, field);
    size_t size = static_cast<size_t>(text.size);
    out.need(size);
    std::memcpy(out.at, text.data, size);
    if (kind == JSON) {  // keeps white space, but line ends can only occur between tokens
        for (char end : {'\n', '\r'})
            for (char *at = out.at; (at = static_cast<char *>(std::memchr(at, end, static_cast<size_t>(out.at + size - at))));)
                *at = ' ';
    }
    out.at += size;
}

inline void write_json(Buffer &out, Kind kind, const Field &field, Days &days) {
    if (field.data == nullptr) {
        out.add("null", 4);
        return;
    }
    switch (kind) {
        case TEXT: {
            Field text = text_of(kind, field);
            write_json_text(out, text.data, static_cast<size_t>(text.size));
            return;
        }
        case JSON:
        case JSONB: write_document(out, kind, field); return;
        case UUID:
        case DATE:
        case TIMESTAMP:
        case TIMESTAMPTZ:
            out.need(SCALAR_ROOM + 2);
            *out.at++ = '"';
            out.at = write_scalar(out.at, kind, field, true, days);
            *out.at++ = '"';
            return;
        default: {
            out.need(room_of(kind, field) + 2);
            char *end = write_scalar(out.at, kind, field, true, days);
            if (kind != BOOL && end[-1] > '9') {  // NaN and the infinities, which JSON lacks
                std::memmove(out.at + 1, out.at, static_cast<size_t>(end - out.at));
                *out.at = '"';
                *++end = '"';
                end++;
            }
            out.at = end;
        }
    }
}

// -- rows ----------------------------------------------------------------------------------------

struct Part {
    int column;
    Kind kind;
    std::string prefix;
};

struct Template {
    std::vector<Part> parts;
    std::string tail;
    bool is_csv = false;
    Csv csv;
};

inline void write_csv(Buffer &out, Kind kind, const Field &field, const Csv &csv, Days &days) {
    if (field.data == nullptr) {
        out.add(csv.null.data(), csv.null.size());
    } else if (kind >= TEXT) {
        Field text = text_of(kind, field);
        csv.write(out, text.data, static_cast<size_t>(text.size));
    } else {
        size_t room = room_of(kind, field);
        out.need(room);
        char *end = write_scalar(out.at, kind, field, false, days);
        if (csv.may_quote_scalars) {
            std::string text(out.at, end);
            csv.write(out, text.data(), text.size());
        } else {
            out.at = end;
        }
    }
}

inline void write_row(Buffer &out, const Template &row, const Field *fields, Days &days) {
    for (const Part &part : row.parts) {
        out.add(part.prefix.data(), part.prefix.size());
        if (row.is_csv) write_csv(out, part.kind, fields[part.column], row.csv, days);
        else write_json(out, part.kind, fields[part.column], days);
    }
    out.add(row.tail.data(), row.tail.size());
}

}  // namespace copy_stream
