// Kernels that others call, and what they are given.
#pragma once

#include "vectors.h"

struct Heads {  // a token's head begins at at[token·token_stride + head·head_stride]
    const Number *at;
    int64_t token_stride, head_stride;
    const Number *operator()(int64_t token, int64_t head) const {
        return at + token * token_stride + head * head_stride;
    }
};

struct Shape {
    int64_t tokens, rows, heads, kv_heads, size, window;
    float scale;
    int64_t groups() const { return heads / kv_heads; }
    int64_t first_seen(int64_t place) const { return place + 1 > window ? place + 1 - window : 0; }
};

struct Place {  // of a matrix: element (i, j) is at[i·row + j·column], and one of the two is 1
    const Number *at;
    int64_t row, column;
    Place shifted(int64_t i, int64_t j) const { return {at + i * row + j * column, row, column}; }
};

struct Product {
    Place a, b;
    int64_t inner;
    int64_t is_packed;  // b is what `pack` made of it
};

extern "C" {
void sum_products(const Product *products, int64_t count, const Number *add, int64_t add_row, Number *out,
                  int64_t out_row, int64_t rows, int64_t columns);
void normalise(const Number *x, const Number *more, const Number *weight, Number *total, Number *out, float *inverse,
               float eps, int64_t rows, int64_t width, int64_t stride, int64_t more_stride, int64_t out_stride);
void rotate(const Number *x, const Number *cos, const Number *sin, const Number *q_weight, const Number *k_weight,
            Number *out, float q_eps, float k_eps, int64_t tokens, int64_t heads, int64_t q_heads, int64_t size,
            int64_t token_stride, int64_t head_stride);
void swiglu(const Number *gate, const Number *up, Number *out, int64_t rows, int64_t width, int64_t gate_stride,
            int64_t up_stride, int64_t out_stride);
void attend_cached(Heads q, Heads k, Heads v, const int64_t *places, Number *keys, Number *values, int64_t length,
                   Number *out, int64_t out_row, const Shape shape);
}
