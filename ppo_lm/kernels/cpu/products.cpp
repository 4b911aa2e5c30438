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
constexpr int64_t DEPTH = 256;             // words of a panel: they are summed before other sums are added
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
inline Floats pair_rows(const float *row, const float *, int64_t count) {
    return count > 0 ? load(row, count) : Floats{};
}

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
            for (int64_t i = 0; i < LANES; i++) {
                const int64_t left = j + i < columns ? inner - k * NUMBERS : 0;
                square[i] = load_words(b.at + (j + i) * b.column + k * NUMBERS, left);
            }
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

// Of the result: some rows of a panel's columns, whose sums are (rows, COLUMNS).
struct Part {
    int64_t row, rows, column, columns;
};

inline void start_sums(const Part &part, const Number *add, int64_t add_row, float *sums) {
    for (int64_t i = 0; i < part.rows; i++)
        for (int64_t j = 0; j < COLUMNS; j += LANES) {
            const int64_t at = (part.row + i) * add_row + part.column + j, left = part.columns - j;
            store(sums + i * COLUMNS + j, add && left > 0 ? load(add + at, left) : Floats{});
        }
}

// `a`: the product's, word by word. `panel`: memory for one.
inline void add_product(const Part &part, const Product &product, Matrix<Number> a, One *panel, float *sums) {
    const int64_t all = words_of(product), panels = divide_up(all, DEPTH), depth = panels ? divide_up(all, panels) : 1;
    for (int64_t k = 0; k < all; k += depth) {
        const int64_t words = std::min(depth, all - k);
        const One *right = (const One *)product.b.at + part.column * all + k * COLUMNS;
        if (!product.is_packed) {
            const Place b = product.b.shifted(k * NUMBERS, part.column);
            pack_panel(b, product.inner - k * NUMBERS, words, part.columns, panel);
            right = panel;
        }
        const Matrix<Number> left = {a.at + part.row * a.row + k * a.column, a.row, a.column};
        multiply_panel(part.columns, part.rows, words, left, right, sums);
    }
}

inline void round_sums(const Part &part, const float *sums, Number *out, int64_t out_row) {
    for (int64_t i = 0; i < part.rows; i++)
        for (int64_t j = 0; j < part.columns; j += LANES)
            store(out + (part.row + i) * out_row + part.column + j, load(sums + i * COLUMNS + j), part.columns - j);
}

// out = add + Σ a·b, (rows, columns). `add` may be null, and its rows all the same one, add_row = 0.
extern "C" void sum_products(const Product *products, int64_t count, const Number *add, int64_t add_row, Number *out,
                             int64_t out_row, int64_t rows, int64_t columns) {
    if (rows == 0) return;
    const int64_t panels = divide_up(columns, COLUMNS), threads = omp_get_max_threads();
    const int64_t alike = columns % COLUMNS ? 1 : panels;  // parts of one size, of which each thread should get as many
    const int64_t even = panels < 8 * threads ? threads / std::gcd(alike, threads) : 1;
    const int64_t wanted = std::max(divide_up(rows, MOST_ROWS), std::min(even, rows / FEWEST_ROWS));
    const int64_t height = round_up(divide_up(rows, wanted), ROWS), blocks = divide_up(rows, height);
    std::vector<std::vector<One>> packed(count);
    std::vector<Matrix<Number>> left(count);
    for (int64_t p = 0; p < count; p++) {
        const Place a = products[p].a;
        left[p] = {a.at, a.row, a.column * NUMBERS};
        if (is_readable(products[p])) continue;
        packed[p].resize(words_of(products[p]) * rows);
        left[p] = {(const Number *)packed[p].data(), NUMBERS, rows * NUMBERS};
    }
#pragma omp parallel
    {
        const std::unique_ptr<Line[]> own_sums(new Line[height * WIDE]), own_panel(new Line[DEPTH * WIDE]);
        float *sums = own_sums[0].sums;
        for (int64_t p = 0; p < count; p++)
            if (!packed[p].empty()) pack_words(products[p], rows, packed[p].data());
#pragma omp for schedule(static)  // neighbouring columns share lines of the caches
        for (int64_t task = 0; task < panels * blocks; task++) {
            const int64_t column = task % panels * COLUMNS, row = task / panels * height;
            const Part part = {row, std::min(height, rows - row), column, std::min(COLUMNS, columns - column)};
            start_sums(part, add, add_row, sums);
            for (int64_t p = 0; p < count; p++) add_product(part, products[p], left[p], own_panel[0].words, sums);
            round_sums(part, sums, out, out_row);
        }
    }
}
