// Writes floats exactly as Postgres prints them with extra_float_digits = 1.

#pragma once

#include <charconv>
#include <cstdint>
#include <cstring>

#include "copy_text.hpp"

namespace copy_stream {

template <typename Float>
struct Layout;

template <>
struct Layout<float> {
    typedef uint32_t Bits;
    static constexpr int mantissa_bits = 23, exponent_bias = 127 + 23, fixed_digits = 6;
};

template <>
struct Layout<double> {
    typedef uint64_t Bits;
    static constexpr int mantissa_bits = 52, exponent_bias = 1023 + 52, fixed_digits = 15;
};

typedef unsigned __int128 Wide;

// Correct the shortest decimal, digits·10^power, of mantissa·2^exponent (both positive) if it lies exactly in the middle
// between two floats. It reads back as the even one of these, so most programs print it. But Postgres only prints
// decimals that read back whatever the rule for halves.
//
// A decimal in the middle is an odd number of 54 bits at most, times a power of two. That number is a multiple of
// 5^power, so `power` is 23 at most. With 17 digits at most, all of them are below 10^40, and everything fits into 128
// bits if it is divided by 2^power.
inline void keep_off_the_middle(uint64_t mantissa, int exponent, uint64_t &digits, int &power) {
    for (;; power--) {
        Wide step = 1;
        for (int count = 0; count < power; count++) step *= 5;
        Wide value = 2 * static_cast<Wide>(mantissa), half_gap = 1;  // in units of 2^(exponent - 1), or of 2^power
        int shift = exponent - 1 - power;
        if (shift >= 0) value <<= shift, half_gap <<= shift;
        else step <<= -shift;
        Wide nearest = value / step, rest = value % step;
        if (2 * rest > step || (2 * rest == step && nearest % 2 == 1)) nearest++, rest = step - rest;
        if (rest < half_gap) {
            digits = static_cast<uint64_t>(nearest);
            return;
        }
    }
}

template <typename Float>
inline char *write_float(char *out, typename Layout<Float>::Bits bits) {
    typedef typename Layout<Float>::Bits Bits;
    constexpr int mantissa_bits = Layout<Float>::mantissa_bits;
    constexpr Bits sign_bit = static_cast<Bits>(1) << (8 * sizeof(Bits) - 1);
    constexpr Bits hidden_bit = static_cast<Bits>(1) << mantissa_bits;
    Bits fraction = bits & (hidden_bit - 1);
    int exponent = static_cast<int>((bits & ~sign_bit) >> mantissa_bits);
    bool is_special = exponent == static_cast<int>((sign_bit - 1) >> mantissa_bits);
    if (is_special && fraction != 0) return put(out, "NaN");
    if (bits & sign_bit) *out++ = '-';
    if (is_special) return put(out, "Infinity");
    if (exponent == 0 && fraction == 0) return put(out, "0");

    bits &= ~sign_bit;
    Float value;
    std::memcpy(&value, &bits, sizeof value);
    char text[32];
    char *end = std::to_chars(text, text + sizeof text, value, std::chars_format::scientific).ptr;
    // d.ddde±xx → digits and exponent
    char *mark = end[-4] == 'e' ? end - 4 : end - 5;
    int power = 0;
    for (char *digit = mark + 2; digit < end; digit++) power = 10 * power + (*digit - '0');
    if (mark[1] == '-') power = -power;
    char *digits = text;
    int count = 1;
    if (mark - text > 1) {
        text[1] = text[0];  // over the point
        digits = text + 1;
        count = static_cast<int>(mark - digits);
    }

    int scale = power - (count - 1);
    // Powers of two have no decimals in the middle: 2^54 - 1 and 2^53 + 1 are no multiples of 5, nor are those of floats.
    if (exponent > Layout<Float>::exponent_bias && fraction != 0 && scale >= 0 && scale <= 23) {
        uint64_t decimal = 0;
        std::from_chars(digits, digits + count, decimal);
        uint64_t kept = decimal;
        keep_off_the_middle(fraction | hidden_bit, exponent - Layout<Float>::exponent_bias, decimal, scale);
        if (decimal != kept) {
            digits = text;
            count = static_cast<int>(std::to_chars(text, text + sizeof text, decimal).ptr - text);
            power = scale + count - 1;
        }
    }

    if (power < -4 || power >= Layout<Float>::fixed_digits) {
        *out++ = digits[0];
        if (count > 1) {
            *out++ = '.';
            std::memcpy(out, digits + 1, static_cast<size_t>(count - 1));
            out += count - 1;
        }
        *out++ = 'e';
        *out++ = power < 0 ? '-' : '+';
        unsigned size = static_cast<unsigned>(power < 0 ? -power : power);
        if (size >= 100) *out++ = static_cast<char>('0' + size / 100);
        return two_digits(out, size % 100);
    }
    if (power < 0) {
        std::memcpy(out, "0.0000", 6);
        out += 1 - power;
        std::memcpy(out, digits, static_cast<size_t>(count));
        return out + count;
    }
    int whole = power + 1;
    if (count <= whole) {
        std::memcpy(out, digits, static_cast<size_t>(count));
        std::memset(out + count, '0', static_cast<size_t>(whole - count));
        return out + whole;
    }
    std::memcpy(out, digits, static_cast<size_t>(whole));
    out[whole] = '.';
    std::memcpy(out + whole + 1, digits + whole, static_cast<size_t>(count - whole));
    return out + count + 1;
}

}  // namespace copy_stream
