// Matrix products of pieces that fit the caches, in tiles that fit the registers.
#pragma once

#include <type_traits>

#include "vectors.h"

#if defined(__AVX512BW__)
constexpr int ROWS = 8, WIDE = 3;  // of a tile: its sums, with what they are made of, fill the registers
#else
constexpr int ROWS = 6, WIDE = 2;  // WIDE in vectors
#endif

constexpr int64_t AHEAD = 24;  // words after those that are read, which are fetched into the caches

// What is multiplied and added at once, for each sum: one float, or two numbers in bf16 that are next to each other.
template <class T>
struct Word;
template <>
struct Word<float> {
    typedef float One;
    typedef Floats Vector;
    static constexpr int NUMBERS = 1;
};
template <>
struct Word<bf16> {
    typedef uint32_t One;
    typedef Bits Vector;
    static constexpr int NUMBERS = 2;
};

// The first `count` numbers, as many as a vector has words for; the others are 0.
template <class T>
inline typename Word<T>::Vector load_words(const T *from, int64_t count) {
    typename Word<T>::Vector words = {};
    if (count >= LANES * Word<T>::NUMBERS)
        memcpy(&words, from, sizeof words);
    else if (count > 0)
        memcpy(&words, from, count * sizeof(T));
    return words;
}

inline Floats add_products(Floats sums, float a, Floats b) { return sums + a * b; }

inline Floats add_products(Floats sums, uint32_t a, Bits b) {
    const Bits each = Bits{} + a;
#if defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)each, (__m512bh)b);
#else
    const Floats sum = sums + (Floats)(each << 16) * (Floats)(b << 16);
    return sum + (Floats)(each & 0xffff0000u) * (Floats)(b & 0xffff0000u);
#endif
}

template <class T>
struct Matrix {  // word (i, k) begins at at[i·row + k·column]
    const T *at;
    int64_t row, column;
    Matrix shifted(int64_t i, int64_t k) const { return {at + i * row + k * column, row, column}; }
};

// sums += a·b, in registers.
template <int rows, int wide, class T>
inline void add_product(int64_t inner, Matrix<T> a, const typename Word<T>::One *b, int64_t b_row,
                        Floats (&sums)[rows][wide]) {
    const T *line[rows];
    for (int i = 0; i < rows; i++) line[i] = a.at + i * a.row;
    for (int64_t k = 0, at = 0; k < inner; k++, at += a.column) {
        typename Word<T>::Vector right[wide];
        for (int j = 0; j < wide; j++) {
            memcpy(&right[j], b + k * b_row + j * LANES, sizeof right[j]);
            __builtin_prefetch(b + (k + AHEAD) * b_row + j * LANES);
        }
        for (int i = 0; i < rows; i++) {
            typename Word<T>::One left;
            memcpy(&left, line[i] + at, sizeof left);
            for (int j = 0; j < wide; j++) sums[i][j] = add_products(sums[i][j], left, right[j]);
        }
    }
}

// c = a·b or, to add, c += a·b, whose numbers are summed before they are added.
template <int rows, int wide, class T>
inline void tile(int64_t inner, Matrix<T> a, const typename Word<T>::One *b, int64_t b_row, float *c, int64_t c_row,
                 bool add) {
    Floats sums[rows][wide] = {};
    add_product<rows, wide>(inner, a, b, b_row, sums);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < wide; j++) {
            float *to = c + i * c_row + j * LANES;
            store(to, add ? load(to) + sums[i][j] : sums[i][j]);
        }
}

// Calls f(the rows of a tile, as a type; its first row) for tiles of as many rows as can be, then of fewer.
template <int most = ROWS, class F>
inline void for_tiles(int64_t rows, F f, int64_t row = 0) {
    for (; row + most <= rows; row += most) f(std::integral_constant<int, most>{}, row);
    if constexpr (most > 1) for_tiles<most / 2>(rows, f, row);
}

// `tile` for any number of rows. `inner` in words, `wide` in vectors of columns.
template <int wide, class T>
inline void multiply(int64_t rows, int64_t inner, Matrix<T> a, const typename Word<T>::One *b, int64_t b_row, float *c,
                     int64_t c_row, bool add) {
    for_tiles(rows, [&](auto height, int64_t i) {
        tile<height.value, wide>(inner, a.shifted(i, 0), b, b_row, c + i * c_row, c_row, add);
    });
}
