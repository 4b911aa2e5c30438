// Sums over rows of logits, as wide as the vocabulary. They add up columns by blocks, then the blocks.
#include <algorithm>

#include "vectors.h"

constexpr float LOWEST = -1e4f;  // nats: its exponential is 0, and so is their product

inline float highest_of(const Number *logits, int64_t width, float scale) {
    Floats top = all(-INFINITY);
    for (int64_t j = 0; j < width; j += LANES) {
        const Floats z = load(logits + j, width - j) * scale;
        top = larger(inside(j, 0, width) ? z : all(-INFINITY), top);
    }
    return largest(top);
}

// z − max z, at least LOWEST; NaN stays NaN
inline Floats below(const Number *logits, int64_t left, float scale, float highest) {
    const Floats found = load(logits, left) * scale - highest;
    return found < LOWEST ? all(LOWEST) : found;
}

// found: the maximum of each row, the sum of its exponentials, and their mean exponent, (3, rows). `sums`, unless it is
// null: those of blocks of columns. `weights`, unless it is null: exp(z − max z). `slopes`, unless it is null: these
// times z − max z − mean. z: logits·scale, in whose place the weights may be.
extern "C" void exponentials(const Number *logits, float *found, float *sums, Number *weights, Number *slopes,
                             float scale, int64_t rows, int64_t width, int64_t stride, int64_t block) {
    const int64_t blocks = (width + block - 1) / block;
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        const Number *z = logits + row * stride;
        const float highest = highest_of(z, width, scale);
        float total = 0.0f, moment = 0.0f;
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t end = std::min(width, (b + 1) * block);
            Floats counted = {}, moments = {};
            for (int64_t j = b * block; j < end; j += LANES) {
                const Floats x = below(z + j, end - j, scale, highest);
                const Floats weight = inside(j, 0, end) ? exponential(x) : Floats{};
                counted += weight;
                moments += weight * x;
            }
            const float each = sum(counted);
            if (sums) sums[row * blocks + b] = each;
            total += each;
            moment += sum(moments);
        }
        const float mean = moment / total;
        found[row] = highest;
        found[rows + row] = total;
        found[2 * rows + row] = mean;
        for (int64_t j = 0; weights && j < width; j += LANES) {
            const Floats x = below(z + j, width - j, scale, highest), weight = exponential(x);
            if (slopes) store(slopes + row * width + j, weight * (x - mean), width - j);
            store(weights + row * stride + j, weight, width - j);
        }
    }
}
