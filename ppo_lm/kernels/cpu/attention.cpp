// Causal attention: of packed rows to themselves, both ways, and of one new token to those before it. Scores exist for
// a block of queries at a time and are computed again in the backward pass ("FlashAttention", 2205.14135).
#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels.h"
#include "products.h"

constexpr int64_t BLOCK = 32;           // places whose queries are computed at once
constexpr int64_t COLUMNS = 2 * LANES;  // of scores: they are computed in multiples

#if defined(__AVX512BF16__)
typedef Number Operand;  // of scores and their gradients: products of two numbers in bf16 are exact in fp32
#else
typedef float Operand;
#endif
typedef Word<Operand>::One One;
constexpr int64_t NUMBERS = Word<Operand>::NUMBERS;

using Buffer = std::vector<float>;
using Operands = std::vector<Operand>;
using Words = std::vector<One>;

inline void copy(const Number *from, float *to, int64_t size, float factor = 1.0f) {
    for (int64_t i = 0; i < size; i += LANES) store(to + i, load(from + i, size - i) * factor, size - i);
}

inline void round(const float *from, Number *to, int64_t size, float factor = 1.0f) {
    for (int64_t i = 0; i < size; i += LANES) store(to + i, load(from + i, size - i) * factor, size - i);
}

// c = a·b or, to add, c += a·b, in fp32: (rows, inner)·(inner, columns), where columns is a multiple of COLUMNS and
// inner is in words.
template <class T>
inline void multiply(int64_t rows, int64_t inner, int64_t columns, Matrix<T> a, const typename Word<T>::One *b,
                     int64_t b_row, float *c, int64_t c_row, bool add = false) {
    for (int64_t j = 0; j < columns; j += COLUMNS) multiply<2>(rows, inner, a, b + j, b_row, c + j, c_row, add);
}

inline int64_t words_of(int64_t size) { return divide_up(size, NUMBERS); }

template <class T>
inline void copy_operands(const Number *from, T *to, int64_t size) {
    if constexpr (std::is_same_v<T, Number>)
        memcpy(to, from, size * sizeof(Number));
    else
        copy(from, to, size);
}

template <class T>
inline typename Word<T>::Vector load_operands(const Number *from, int64_t count) {
    if constexpr (std::is_same_v<T, Number>)
        return load_words(from, count);
    else
        return load(from, count);
}

// One head of `length` tokens, as (words of size, length) with `row` columns.
inline void transpose(Heads x, int64_t first, int64_t length, int64_t head, int64_t size, One *to, int64_t row) {
    for (int64_t t = 0; t < length; t += LANES)
        for (int64_t i = 0; i < words_of(size); i += LANES) {
            Word<Operand>::Vector square[LANES] = {};
            for (int64_t k = 0; k < std::min<int64_t>(LANES, length - t); k++)
                square[k] = load_operands<Operand>(x(first + t + k, head) + i * NUMBERS, size - i * NUMBERS);
            transpose(square);
            for (int64_t k = 0; k < std::min<int64_t>(LANES, words_of(size) - i); k++)
                memcpy(to + (i + k) * row + t, &square[k], sizeof square[k]);
        }
}

// The columns from j on: x in those from `from` to `to`, `other` in the rest.
inline Floats where_inside(int64_t j, int64_t from, int64_t to, Floats x, Floats other) {
    if (j >= from && j + LANES <= to) return x;
    return inside(j, from, to) ? x : other;
}

// The exponentials of a row of scores and their sum.
struct Softmax {
    float total, logsum;
};

// Columns `from` to `to` of a row of scores → exp((x − max x)·scale), 0 in the others.
inline Softmax softmax(float *scores, int64_t from, int64_t to, int64_t columns, float scale) {
    const int64_t begin = from / LANES * LANES, end = round_up(to, LANES);
    Floats top = all(-INFINITY), sums = {};
    for (int64_t j = begin; j < end; j += LANES)
        top = larger(where_inside(j, from, to, load(scores + j), all(-INFINITY)), top);
    const float highest = largest(top);
    for (int64_t j = begin; j < end; j += LANES) {
        const Floats weight = exponential((load(scores + j) - highest) * scale);
        const Floats seen = where_inside(j, from, to, weight, Floats{});
        store(scores + j, seen);
        sums += seen;
    }
    std::fill(scores, scores + begin, 0.0f);
    std::fill(scores + end, scores + columns, 0.0f);
    const float total = sum(sums);
    return {total, highest * scale + std::log(total)};
}

// Scores → their softmax, and its gradients → those of scores·scale, 0 in other columns. `logsum`: what `softmax`
// returned.
inline void softmax_gradients(float *scores, float *slopes, float logsum, int64_t from, int64_t to, int64_t columns,
                              float scale) {
    const int64_t begin = from / LANES * LANES, end = round_up(to, LANES);
    Floats along = {};
    for (int64_t j = begin; j < end; j += LANES) {
        const Floats each = exponential(load(scores + j) * scale - logsum);
        const Floats weight = where_inside(j, from, to, each, Floats{});
        const Floats slope = where_inside(j, from, to, load(slopes + j), Floats{});
        store(scores + j, weight);
        store(slopes + j, slope);
        along += weight * slope;
    }
    const float mean = sum(along);
    for (int64_t j = begin; j < end; j += LANES) store(slopes + j, load(scores + j) * (load(slopes + j) - mean));
    for (float *line : {scores, slopes}) {
        std::fill(line, line + begin, 0.0f);
        std::fill(line + end, line + columns, 0.0f);
    }
}

// The queries of places `start` to `end` of a row, all those that share a key and value head: query i is that of place
// start + i / groups.
struct Queries {
    const Shape &shape;
    int64_t first, kv, start, end;
    int64_t count() const { return (end - start) * shape.groups(); }
    int64_t place(int64_t i) const { return start + i / shape.groups(); }
    int64_t token(int64_t i) const { return first + place(i); }
    int64_t head(int64_t i) const { return kv * shape.groups() + i % shape.groups(); }
};

// Tokens after the last row are 0.
inline void zero(Number *x, int64_t first, int64_t tokens, int64_t width) {
    memset(x + first * width, 0, (tokens - first) * width * sizeof(Number));
}

// out: (tokens, heads, size). logsums: (tokens, heads). Row i is tokens boundaries[i] to boundaries[i + 1].
extern "C" void attend(Heads q, Heads k, Heads v, const int32_t *boundaries, Number *out, float *logsums,
                       const Shape shape) {
    const int64_t heads = shape.heads, size = shape.size, wide = round_up(size, COLUMNS);
    const int64_t words = words_of(size), deep = words * NUMBERS;
    zero(out, boundaries[shape.rows], shape.tokens, heads * size);
#pragma omp parallel
    {
        Buffer values, scores, totals(BLOCK * shape.groups()), mixed(BLOCK * shape.groups() * wide);
        Words keys;
        Operands queries(BLOCK * shape.groups() * deep);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < shape.rows * shape.kv_heads; task++) {
            const int64_t row = task / shape.kv_heads, kv = task % shape.kv_heads;
            const int64_t first = boundaries[row], length = boundaries[row + 1] - first;
            const int64_t padded = round_up(length, COLUMNS);
            keys.assign(words * padded, One{});
            values.assign(padded * wide, 0.0f);
            scores.resize(BLOCK * shape.groups() * padded);
            transpose(k, first, length, kv, size, keys.data(), padded);
            for (int64_t t = 0; t < length; t++) copy(v(first + t, kv), &values[t * wide], size);
            for (int64_t start = 0; start < length; start += BLOCK) {
                const Queries each{shape, first, kv, start, std::min(length, start + BLOCK)};
                const int64_t count = each.count(), columns = round_up(each.end, COLUMNS);
                for (int64_t i = 0; i < count; i++)
                    copy_operands(q(each.token(i), each.head(i)), &queries[i * deep], size);
                const Matrix<Operand> of_query{queries.data(), deep, NUMBERS};
                multiply(count, words, columns, of_query, keys.data(), padded, scores.data(), padded);
                for (int64_t i = 0; i < count; i++) {
                    const int64_t place = each.place(i), from = shape.first_seen(place);
                    const Softmax found = softmax(&scores[i * padded], from, place + 1, columns, shape.scale);
                    logsums[each.token(i) * heads + each.head(i)] = found.logsum;
                    totals[i] = found.total;
                }
                const Matrix<float> weights{scores.data(), padded, 1};
                multiply(count, each.end, wide, weights, values.data(), wide, mixed.data(), wide);
                for (int64_t i = 0; i < count; i++)
                    round(&mixed[i * wide], out + (each.token(i) * heads + each.head(i)) * size, size,
                          1.0f / totals[i]);
            }
        }
    }
}

// The gradients of q, k and v, laid out like `out`, given that of `attend`'s first output, and its second.
extern "C" void attend_gradients(Heads grad, Heads q, Heads k, Heads v, const int32_t *boundaries, const float *logsums,
                                 Number *grad_q, Number *grad_k, Number *grad_v, const Shape shape) {
    const int64_t heads = shape.heads, kv_heads = shape.kv_heads, size = shape.size;
    const int64_t wide = round_up(size, COLUMNS), most = BLOCK * shape.groups();
    const int64_t words = words_of(size), deep = words * NUMBERS;
    zero(grad_q, boundaries[shape.rows], shape.tokens, heads * size);
    for (Number *found : {grad_k, grad_v}) zero(found, boundaries[shape.rows], shape.tokens, kv_heads * size);
#pragma omp parallel
    {
        Words keys_across, values_across;
        Operands query_operands(most * deep), grad_operands(most * deep);
        Buffer keys, of_keys, of_values, scores, slopes;
        Buffer queries(most * wide), grads(most * wide), of_queries(most * wide);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < shape.rows * kv_heads; task++) {
            const int64_t row = task / kv_heads, kv = task % kv_heads;
            const int64_t first = boundaries[row], length = boundaries[row + 1] - first;
            const int64_t padded = round_up(length, COLUMNS);
            for (Words *across : {&keys_across, &values_across}) across->assign(words * padded, One{});
            for (Buffer *rows : {&keys, &of_keys, &of_values}) rows->assign(padded * wide, 0.0f);
            for (Buffer *square : {&scores, &slopes}) square->resize(most * padded);
            transpose(k, first, length, kv, size, keys_across.data(), padded);
            transpose(v, first, length, kv, size, values_across.data(), padded);
            for (int64_t t = 0; t < length; t++) copy(k(first + t, kv), &keys[t * wide], size);
            for (int64_t start = 0; start < length; start += BLOCK) {
                const Queries each{shape, first, kv, start, std::min(length, start + BLOCK)};
                const int64_t count = each.count(), end = each.end, columns = round_up(end, COLUMNS);
                for (int64_t i = 0; i < count; i++) {
                    const Number *query = q(each.token(i), each.head(i)), *slope = grad(each.token(i), each.head(i));
                    copy_operands(query, &query_operands[i * deep], size);
                    copy_operands(slope, &grad_operands[i * deep], size);
                    copy(query, &queries[i * wide], size, shape.scale);
                    copy(slope, &grads[i * wide], size);
                }
                const Matrix<Operand> of_query{query_operands.data(), deep, NUMBERS};
                const Matrix<Operand> of_grad{grad_operands.data(), deep, NUMBERS};
                multiply(count, words, columns, of_query, keys_across.data(), padded, scores.data(), padded);
                multiply(count, words, columns, of_grad, values_across.data(), padded, slopes.data(), padded);
                for (int64_t i = 0; i < count; i++) {
                    const int64_t place = each.place(i), from = shape.first_seen(place), at = i * padded;
                    const float logsum = logsums[each.token(i) * heads + each.head(i)];
                    softmax_gradients(&scores[at], &slopes[at], logsum, from, place + 1, columns, shape.scale);
                }
                const Matrix<float> rows_of_slopes{slopes.data(), padded, 1};
                multiply(count, end, wide, rows_of_slopes, keys.data(), wide, of_queries.data(), wide);
                for (int64_t i = 0; i < count; i++)
                    round(&of_queries[i * wide], grad_q + (each.token(i) * heads + each.head(i)) * size, size,
                          shape.scale);
                const Matrix<float> slopes_across{slopes.data(), 1, padded}, weights_across{scores.data(), 1, padded};
                multiply(end, count, wide, slopes_across, queries.data(), wide, of_keys.data(), wide, true);
                multiply(end, count, wide, weights_across, grads.data(), wide, of_values.data(), wide, true);
            }
            for (int64_t t = 0; t < length; t++) {
                const int64_t to = ((first + t) * kv_heads + kv) * size;
                round(&of_keys[t * wide], grad_k + to, size);
                round(&of_values[t * wide], grad_v + to, size);
            }
        }
    }
}

// The products of a query with LANES keys, of which there are `count`.
template <class T>
inline Floats multiply_keys(const float *query, const T *keys, int64_t count, int64_t size) {
    Floats products[LANES] = {};
    for (int64_t t = 0; t < std::min<int64_t>(LANES, count); t++)
        for (int64_t i = 0; i < size; i += LANES)
            products[t] += load(keys + t * size + i, size - i) * load(query + i);
    return sums_of(products);
}

// Σ weight·value·factor, from `from` to `to`.
template <class T>
inline void mix_values(const float *weights, const T *values, int64_t from, int64_t to, int64_t size, float factor,
                       T *out) {
    constexpr int SIDE = 4;  // vectors at once: sums wait for each other
    for (int64_t i = 0; i < size; i += SIDE * LANES) {
        Floats sums[SIDE] = {};
        for (int64_t t = from; t < to; t++)
            for (int j = 0; j < SIDE; j++) {
                const int64_t at = i + j * LANES;
                if (at < size) sums[j] += weights[t] * load(values + t * size + at, size - at);
            }
        for (int j = 0; j < SIDE; j++)
            if (i + j * LANES < size) store(out + i + j * LANES, sums[j] * factor, size - i - j * LANES);
    }
}

// One new token per row: its key and value are put at its place, and it attends to those up to there. keys, values:
// (rows, kv_heads, length, size). places: (rows,). out: (rows, heads·size), where rows begin `out_row` apart.
extern "C" void attend_cached(Heads q, Heads k, Heads v, const int64_t *places, Number *keys, Number *values,
                              int64_t length, Number *out, int64_t out_row, const Shape shape) {
    const int64_t size = shape.size, groups = shape.groups(), wide = round_up(size, LANES);
#pragma omp parallel
    {
        Buffer scores, query(wide);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < shape.rows * shape.kv_heads; task++) {
            const int64_t row = task / shape.kv_heads, kv = task % shape.kv_heads, place = places[row];
            const int64_t from = shape.first_seen(place), columns = round_up(place + 1, LANES);
            Number *own_keys = keys + task * length * size, *own_values = values + task * length * size;
            memcpy(own_keys + place * size, k(row, kv), size * sizeof(Number));
            memcpy(own_values + place * size, v(row, kv), size * sizeof(Number));
            scores.resize(columns);
            for (int64_t head = kv * groups; head < (kv + 1) * groups; head++) {
                copy(q(row, head), query.data(), size);
                for (int64_t t = from / LANES * LANES; t <= place; t += LANES)
                    store(&scores[t], multiply_keys(query.data(), own_keys + t * size, place + 1 - t, size));
                const float total = softmax(scores.data(), from, place + 1, columns, shape.scale).total;
                Number *to = out + row * out_row + head * size;
                mix_values(scores.data(), own_values, from, place + 1, size, 1.0f / total, to);
            }
        }
    }
}
