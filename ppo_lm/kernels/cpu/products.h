// Matrix products in fp32, of small matrices.
#pragma once

#include "vectors.h"

constexpr int64_t COLUMNS = 2 * LANES;  // of a tile
constexpr int ROWS = 6;                 // of a tile: its sums fill the registers

struct Matrix {  // element (i, j) is at[i·row + j·column]
    const float *at;
    int64_t row, column;
    Matrix below(int64_t rows) const { return {at + rows * row, row, column}; }
};

template <int rows>
inline void tile(int64_t inner, Matrix a, const float *b, int64_t b_row, float *c, int64_t c_row, bool add) {
    Floats left[rows] = {}, right[rows] = {};
    for (int i = 0; add && i < rows; i++) {
        left[i] = load(c + i * c_row);
        right[i] = load(c + i * c_row + LANES);
    }
    for (int64_t k = 0; k < inner; k++) {
        const Floats first = load(b + k * b_row), second = load(b + k * b_row + LANES);
        for (int i = 0; i < rows; i++) {
            const float each = a.at[i * a.row + k * a.column];
            left[i] += each * first;
            right[i] += each * second;
        }
    }
    for (int i = 0; i < rows; i++) {
        store(c + i * c_row, left[i]);
        store(c + i * c_row + LANES, right[i]);
    }
}

// c = a·b or, to add, c += a·b: (rows, inner)·(inner, columns), where columns is a multiple of COLUMNS.
inline void multiply(int64_t rows, int64_t inner, int64_t columns, Matrix a, const float *b, int64_t b_row, float *c,
                     int64_t c_row, bool add = false) {
    for (int64_t j = 0; j < columns; j += COLUMNS) {
        int64_t i = 0;
        for (; i + ROWS <= rows; i += ROWS) tile<ROWS>(inner, a.below(i), b + j, b_row, c + i * c_row + j, c_row, add);
        for (; i < rows; i++) tile<1>(inner, a.below(i), b + j, b_row, c + i * c_row + j, c_row, add);
    }
}
