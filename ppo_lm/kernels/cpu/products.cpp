// Sums of matrix products. Each number of a result is summed in fp32, in the same order whatever rows are beside it and
// however many threads there are, and is rounded once.
#include "products.h"

#include "kernels.h"

#include <omp.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

typedef Word<Number>::One One;
typedef Word<Number>::Vector Vector;

constexpr int64_t NUMBERS = Word<Number>::NUMBERS;
constexpr int64_t COLUMNS = WIDE * LANES;  // of a panel
constexpr int64_t DEPTH = 512;             // words of a panel: the second cache holds it
constexpr int64_t MOST_ROWS = 1024, FEWEST_ROWS = 64;

inline int64_t words_of(const Product &product) { return divide_up(product.inner, NUMBERS); }

union alignas(64) Line {
    float sums[LANES];
    One words[LANES];
};

// The first `count` numbers, as many as a vector has words for; the others are 0.
inline Vector load_words(const Number *from, int64_t count) {
    Vector words = {};
    if (count >= LANES * NUMBERS)
        memcpy(&words, from, sizeof words);
    else if (count > 0)
        memcpy(&words, from, count * sizeof(Number));
    return words;
}

// The words of a row or, in bf16, of two; the second may be null.
inline Floats pair_rows(const float *row, const float *, int64_t count) { return count > 0 ? load(row, count) : all(0); }

inline Bits pair_rows(const bf16 *row, const bf16 *next, int64_t count) {
    if (count <= 0) return Bits{};
    return (Bits)load(row, count) >> 16 | (next ? (Bits)load(next, count) : Bits{});
}

// `words` words of `columns` columns of b, as (words, COLUMNS). `inner`: how many numbers a column has.
inline void pack_panel(Place b, int64_t inner, int64_t words, int64_t columns, One *panel) {
    for (int64_t j = 0; j < COLUMNS; j += LANES) {
        if (b.column == 1) {
            for (int64_t k = 0; k < words; k++) {
                const Number *first = b.at + k * NUMBERS * b.row + j;
                const Vector line = pair_rows(first, (k + 1) * NUMBERS <= inner ? first + b.row : nullptr, columns - j);
                memcpy(panel + k * COLUMNS + j, &line, sizeof line);
            }
            continue;
        }
        for (int64_t k = 0; k < words; k += LANES) {
            Vector square[LANES];
            for (int64_t i = 0; i < LANES; i++)
                square[i] = load_words(b.at + (j + i) * b.column + k * NUMBERS, j + i < columns ? inner - k * NUMBERS : 0);
            transpose(square);
            for (int64_t i = 0; i < std::min<int64_t>(LANES, words - k); i++)
                memcpy(panel + (k + i) * COLUMNS + j, &square[i], sizeof square[i]);
        }
    }
}

// Whether a tile can read a's words where they are.
inline bool is_readable(const Product &product) {
    return NUMBERS == 1 || (product.a.column == 1 && product.inner % NUMBERS == 0);
}

// a's words, of a matrix whose words are not where a tile can read them: word (i, k) at i + k·rows.
inline void pack_words(const Product &product, int64_t rows, One *to) {
    const Place a = product.a;
#pragma omp for
    for (int64_t k = 0; k < words_of(product); k++) {
        const bool two = (k + 1) * NUMBERS <= product.inner;
        if (a.row == 1) {
            const Number *first = a.at + k * NUMBERS * a.column;
            for (int64_t i = 0; i < rows; i += LANES) {
                const Vector line = pair_rows(first + i, two ? first + a.column + i : nullptr, rows - i);
                memcpy(to + k * rows + i, &line, std::min<int64_t>(LANES, rows - i) * sizeof(One));
            }
        } else
            for (int64_t i = 0; i < rows; i++) {
                One &word = to[k * rows + i] = One{};
                memcpy(&word, a.at + i * a.row + k * NUMBERS, (two ? NUMBERS : 1) * sizeof(Number));
            }
    }
}

// The product of a panel, whose first `columns` columns are wanted.
template <int wide = WIDE>
inline void multiply_panel(int64_t columns, int64_t rows, int64_t words, Matrix<Number> a, const One *panel,
                           float *sums) {
    if constexpr (wide > 1)
        if (columns <= (wide - 1) * LANES) return multiply_panel<wide - 1>(columns, rows, words, a, panel, sums);
    multiply<wide>(rows, words, a, panel, COLUMNS, sums, COLUMNS, true);
}

// Panels of all words, one after another; the last one is as wide as the others.
extern "C" void pack(Place b, int64_t inner, int64_t columns, One *to) {
    const int64_t words = divide_up(inner, NUMBERS);
#pragma omp parallel for
    for (int64_t j = 0; j < columns; j += COLUMNS)
        pack_panel(b.shifted(0, j), inner, words, std::min(COLUMNS, columns - j), to + j * words);
}

// Whether these products are faster than those of the libraries that torch calls, as far as it was measured: MKL's fp32
// is for Intel's processors, and oneDNN's bf16 uses the tiles (AMX) of those that have them.
extern "C" int64_t products_are_ahead() {
#if defined(__AVX512BF16__)
    return !__builtin_cpu_is("intel");
#elif defined(__AVX512BW__)
    return NUMBERS == 1 && !__builtin_cpu_is("intel");
#else
    return false;
#endif
}

// out = add + Σ a·b, (rows, columns). `add` may be null, and its rows all the same one, add_row = 0.
extern "C" void sum_products(const Product *products, int64_t count, const Number *add, int64_t add_row, Number *out,
                             int64_t out_row, int64_t rows, int64_t columns) {
    const int64_t panels = divide_up(columns, COLUMNS), threads = omp_get_max_threads();
    const int64_t alike = columns % COLUMNS ? 1 : panels;  // in how many parts of equal size columns can be shared out
    const int64_t even = panels < 8 * threads ? threads / std::gcd(alike, threads) : 1;
    const int64_t parts = std::max(divide_up(rows, MOST_ROWS), std::min(even, rows / FEWEST_ROWS));
    const int64_t height = round_up(divide_up(rows, parts), ROWS), blocks = divide_up(rows, height);
    std::vector<std::vector<One>> packed(count);
    for (int64_t p = 0; p < count; p++)
        if (!is_readable(products[p])) packed[p].resize(words_of(products[p]) * rows);
#pragma omp parallel
    {
        const std::unique_ptr<Line[]> own_sums(new Line[height * WIDE]), own_panel(new Line[DEPTH * WIDE]);
        float *sums = own_sums[0].sums;
        One *panel = own_panel[0].words;
        for (int64_t p = 0; p < count; p++)
            if (!is_readable(products[p])) pack_words(products[p], rows, packed[p].data());
#pragma omp for schedule(static)  // neighbouring columns share lines of the caches
        for (int64_t task = 0; task < panels * blocks; task++) {
            const int64_t column = task % panels * COLUMNS, row = task / panels * height;
            const int64_t width = std::min(COLUMNS, columns - column), own = std::min(height, rows - row);
            for (int64_t i = 0; i < own; i++)
                for (int64_t j = 0; j < COLUMNS; j += LANES)
                    store(&sums[i * COLUMNS + j],
                          add && j < width ? load(add + (row + i) * add_row + column + j, width - j) : Floats{});
            for (int64_t p = 0; p < count; p++) {
                const Product &each = products[p];
                const int64_t depth = divide_up(words_of(each), divide_up(words_of(each), DEPTH));
                for (int64_t k = 0; k < words_of(each); k += depth) {
                    const int64_t words = std::min(depth, words_of(each) - k);
                    const One *right = (const One *)each.b.at + column * words_of(each) + k * COLUMNS;
                    if (!each.is_packed) {
                        const Place b = each.b.shifted(k * NUMBERS, column);
                        pack_panel(b, each.inner - k * NUMBERS, words, width, panel);
                        right = panel;
                    }
                    Matrix<Number> left = {each.a.at + row * each.a.row + k * NUMBERS * each.a.column, each.a.row,
                                           each.a.column * NUMBERS};
                    if (!is_readable(each))
                        left = {(const Number *)(packed[p].data() + row + k * rows), NUMBERS, rows * NUMBERS};
                    multiply_panel(width, own, words, left, right, sums);
                }
            }
            for (int64_t i = 0; i < own; i++)
                for (int64_t j = 0; j < width; j += LANES)
                    store(out + (row + i) * out_row + column + j, load(&sums[i * COLUMNS + j]), width - j);
        }
    }
}
