// Several elementwise operations at once, row by row. They compute in fp32 and round once.
#include "kernels.h"

constexpr int64_t FEW = 16384;  // elements that one thread computes sooner than it wakes the others

extern "C" void swiglu(const Number *gate, const Number *up, Number *out, int64_t rows, int64_t width,
                       int64_t gate_stride, int64_t up_stride, int64_t out_stride) {
#pragma omp parallel for if (rows * width > FEW)
    for (int64_t row = 0; row < rows; row++) {
        const Number *g = gate + row * gate_stride, *u = up + row * up_stride;
        for (int64_t i = 0; i < width; i += LANES) {
            const Floats x = load(g + i, width - i);
            store(out + row * out_stride + i, x / (1.0f + exponential(-x)) * load(u + i, width - i), width - i);
        }
    }
}

// The gradient of the gate takes the place of `grad`.
extern "C" void swiglu_gradients(Number *grad, const Number *gate, const Number *up, Number *product, Number *grad_up,
                                 int64_t rows, int64_t width, int64_t gate_stride, int64_t up_stride) {
#pragma omp parallel for if (rows * width > FEW)
    for (int64_t row = 0; row < rows; row++) {
        const Number *g = gate + row * gate_stride, *u = up + row * up_stride;
        for (int64_t i = 0; i < width; i += LANES) {
            const int64_t at = row * width + i, left = width - i;
            const Floats x = load(g + i, left), y = load(u + i, left), slope = load(grad + at, left);
            const Floats sigmoid = 1.0f / (1.0f + exponential(-x)), active = x * sigmoid;
            store(product + at, active * y, left);
            store(grad_up + at, slope * active, left);
            store(grad + at, slope * y * sigmoid * (1.0f + x * (1.0f - sigmoid)), left);
        }
    }
}

inline float inverse_length(const Number *x, int64_t width, float eps) {
    Floats squares = {};
    for (int64_t i = 0; i < width; i += LANES) {
        const Floats each = load(x + i, width - i);
        squares += each * each;
    }
    return 1.0f / std::sqrt(sum(squares) / width + eps);
}

// Rows of x or, unless `more` is null, of x + more, which goes to `total`. `inverse` may be null.
extern "C" void normalise(const Number *x, const Number *more, const Number *weight, Number *total, Number *out,
                          float *inverse, float eps, int64_t rows, int64_t width, int64_t stride, int64_t more_stride,
                          int64_t out_stride) {
#pragma omp parallel for if (rows * width > FEW)
    for (int64_t row = 0; row < rows; row++) {
        const Number *from = x + row * stride;
        if (more) {
            Number *sums = total + row * width;
            for (int64_t i = 0; i < width; i += LANES)
                store(sums + i, load(from + i, width - i) + load(more + row * more_stride + i, width - i), width - i);
            from = sums;
        }
        const float scale = inverse_length(from, width, eps);
        if (inverse)
            inverse[row] = scale;
        for (int64_t i = 0; i < width; i += LANES) {
            const int64_t left = width - i;
            store(out + row * out_stride + i, load(from + i, left) * scale * load(weight + i, left), left);
        }
    }
}

// `more`, unless it is null, is added to the gradient of x.
extern "C" void normalise_gradients(const Number *grad, const Number *x, const float *inverse, const Number *weight,
                                    const Number *more, Number *grad_x, int64_t rows, int64_t width,
                                    int64_t grad_stride, int64_t stride, int64_t more_stride) {
#pragma omp parallel for if (rows * width > FEW)
    for (int64_t row = 0; row < rows; row++) {
        const Number *from = x + row * stride, *slope = grad + row * grad_stride;
        Floats sums = {};
        for (int64_t i = 0; i < width; i += LANES) {
            const int64_t left = width - i;
            sums += load(slope + i, left) * load(weight + i, left) * load(from + i, left);
        }
        const float scale = inverse[row], along = sum(sums) / width * scale * scale;
        for (int64_t i = 0; i < width; i += LANES) {
            const int64_t left = width - i;
            const Floats of_unit = load(slope + i, left) * load(weight + i, left);
            const Floats found = (of_unit - load(from + i, left) * along) * scale;
            store(grad_x + row * width + i, more ? found + load(more + row * more_stride + i, left) : found, left);
        }
    }
}

// Unless the weights are null, heads are normalised first: with q_weight those before q_heads, with k_weight the
// others.
extern "C" void rotate(const Number *x, const Number *cos, const Number *sin, const Number *q_weight,
                       const Number *k_weight, Number *out, float q_eps, float k_eps, int64_t tokens, int64_t heads,
                       int64_t q_heads, int64_t size, int64_t token_stride, int64_t head_stride) {
    const int64_t half = size / 2;
#pragma omp parallel for if (tokens * heads * size > FEW)
    for (int64_t token = 0; token < tokens; token++)
        for (int64_t head = 0; head < heads; head++) {
            const Number *from = x + token * token_stride + head * head_stride;
            const Number *c = cos + token * size, *s = sin + token * size;
            const Number *weight = head < q_heads ? q_weight : k_weight;
            const float scale = weight ? inverse_length(from, size, head < q_heads ? q_eps : k_eps) : 1.0f;
            Number *to = out + (token * heads + head) * size;
            for (int64_t i = 0; i < half; i += LANES) {
                const int64_t left = half - i;
                Floats first = load(from + i, left), second = load(from + half + i, left);
                if (weight) {
                    first *= scale * load(weight + i, left);
                    second *= scale * load(weight + half + i, left);
                }
                store(to + i, first * load(c + i, left) + second * load(s + i, left), left);
                store(to + half + i, second * load(c + half + i, left) + first * load(s + half + i, left), left);
            }
        }
}
