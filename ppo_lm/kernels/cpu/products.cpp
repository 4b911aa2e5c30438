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
// Words of a panel, whose sums stay in registers: short ones lose less to rounding, long ones are faster.
constexpr int64_t DEPTH = NUMBERS == 1 ? 256 : 800;
constexpr int64_t FEW = 64;  // words
constexpr int64_t MOST_ROWS = 1024, FEWEST_ROWS = 64;

inline int64_t words_of(const Product &product) { return divide_up(product.inner, NUMBERS); }

union alignas(64) Line {
    float sums[LANES];
    One words[LANES];
};

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

// Some words of a product.
struct Cut {
    int64_t product, first, words;
};

// All words, in groups that one panel holds. Few words, as of an adapter, go with the many that follow, which would be
// grouped in the same way without them.
inline std::vector<std::vector<Cut>> cut(const Product *products, int64_t count) {
    std::vector<std::vector<Cut>> groups(1);
    int64_t held = 0;  // words in the last group
    for (int64_t p = 0; p < count; p++) {
        const int64_t all = words_of(products[p]), size = all ? divide_up(all, divide_up(all, DEPTH)) : 1;
        for (int64_t first = 0; first < all; first += size) {
            const int64_t words = std::min(size, all - first);
            if (held && (held > FEW || words <= FEW)) {
                groups.emplace_back();
                held = 0;
            }
            groups.back().push_back({p, first, words});
            held += words;
        }
    }
    return groups;
}

// What is multiplied for some rows of a panel's columns: a's words from the first of these rows on, and b's, laid out.
struct Piece {
    Matrix<Number> a;
    const One *b;
    int64_t words;
};

// Some rows of a panel's columns of the result. `add` may be null. `sums`: those of earlier pieces, (rows, COLUMNS).
struct Part {
    int64_t rows, columns;
    const Number *add;
    int64_t add_row;
    Number *out;
    int64_t out_row;
    float *sums;
};

// Adds pieces to rows of the part, from registers to memory once: the first ones begin with `add`, the last ones round.
template <int rows, int wide>
inline void add_to_rows(const std::vector<Piece> &pieces, const Part &part, int64_t row, bool first, bool last) {
    Floats sums[rows][wide] = {};
    for (const Piece &piece : pieces)
        add_product<rows, wide>(piece.words, piece.a.shifted(row, 0), piece.b, COLUMNS, sums);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < wide; j++) {
            const int64_t column = j * LANES, left = part.columns - column;
            float *kept = part.sums + (row + i) * COLUMNS + column;
            Floats sum = sums[i][j];
            if (!first)
                sum += load(kept);
            else if (part.add)
                sum += load(part.add + (row + i) * part.add_row + column, left);
            if (last)
                store(part.out + (row + i) * part.out_row + column, sum, left);
            else
                store(kept, sum);
        }
}

template <int wide = WIDE>
inline void add_to_part(const std::vector<Piece> &pieces, const Part &part, bool first, bool last) {
    if constexpr (wide > 1)
        if (part.columns <= (wide - 1) * LANES) return add_to_part<wide - 1>(pieces, part, first, last);
    for_tiles(part.rows, [&](auto height, int64_t row) {
        add_to_rows<height.value, wide>(pieces, part, row, first, last);
    });
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
    const std::vector<std::vector<Cut>> groups = cut(products, count);
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
        const std::unique_ptr<Line[]> own_sums(new Line[height * WIDE]), own_panel(new Line[(FEW + DEPTH) * WIDE]);
        std::vector<Piece> pieces;
        for (int64_t p = 0; p < count; p++)
            if (!packed[p].empty()) pack_words(products[p], rows, packed[p].data());
#pragma omp for schedule(static)  // neighbouring columns share lines of the caches
        for (int64_t task = 0; task < panels * blocks; task++) {
            const int64_t column = task % panels * COLUMNS, row = task / panels * height;
            const Part part = {std::min(height, rows - row),
                               std::min(COLUMNS, columns - column),
                               add ? add + row * add_row + column : nullptr,
                               add_row,
                               out + row * out_row + column,
                               out_row,
                               own_sums[0].sums};
            for (const std::vector<Cut> &group : groups) {
                One *panel = own_panel[0].words;
                pieces.clear();
                for (const Cut &each : group) {
                    const Product &product = products[each.product];
                    const Place b = product.b;
                    const One *right = (const One *)b.at + column * words_of(product) + each.first * COLUMNS;
                    if (!product.is_packed) {
                        const int64_t first = each.first * NUMBERS;
                        pack_panel(b.shifted(first, column), product.inner - first, each.words, part.columns, panel);
                        right = panel;
                        panel += each.words * COLUMNS;
                    }
                    pieces.push_back({left[each.product].shifted(row, each.first), right, each.words});
                }
                add_to_part(pieces, part, &group == &groups.front(), &group == &groups.back());
            }
        }
    }
}
