// All layers for one new token per row, by the other kernels: between short operations, calls from Python would take as
// long as they do.
#include <vector>

#include "kernels.h"

struct Norm {
    const Number *weight;
    float eps;
};

struct Linear {  // (W + s·B·A) as [W, s·B] and A, if it has an adapter, as `pack` made them
    const Number *a, *weight, *bias;
    int64_t inputs, rank, outputs;
    int64_t width() const { return inputs + rank; }  // of its input, with room for the products with A
};

struct Layer {
    Norm attention_norm, mlp_norm, q_norm, k_norm;
    Linear qkv, out, gate_up, down;
    int64_t heads, kv_heads, size, window;
    float scale;
};

typedef std::vector<Number> Rows;

inline void apply(const Linear &linear, int64_t rows, Number *x, Number *y) {
    const int64_t width = linear.width();
    if (linear.rank) {
        const Product thin = {{x, width, 1}, {linear.a, 0, 0}, linear.inputs, true};
        sum_products(&thin, 1, nullptr, 0, x + linear.inputs, width, rows, linear.rank);
    }
    const Product whole = {{x, width, 1}, {linear.weight, 0, 0}, width, true};
    sum_products(&whole, 1, linear.bias, 0, y, linear.outputs, rows, linear.outputs);
}

// x: (rows, width), overwritten. keys, values: (layers, slots, kv_heads, length, size), where a layer takes `layer`
// numbers. out: (rows, width), normalised.
extern "C" void decode(const Layer *layers, int64_t count, Norm norm, Number *x, const Number *cos, const Number *sin,
                       const int64_t *places, Number *keys, Number *values, int64_t layer, int64_t length, Number *out,
                       int64_t rows, int64_t width) {
    Rows room, wide, rotated, more(rows * width);
    const auto normalise_sum = [&](Norm by, bool first, Number *to, int64_t to_row) {
        const Number *added = first ? nullptr : more.data();
        normalise(x, added, by.weight, x, to, nullptr, by.eps, rows, width, width, width, to_row);
    };
    for (int64_t l = 0; l < count; l++) {
        const Layer &each = layers[l];
        const int64_t heads = each.heads + each.kv_heads, size = each.size, inner = each.gate_up.outputs / 2;
        for (const Linear &linear : {each.qkv, each.out, each.gate_up, each.down}) {
            if ((int64_t)room.size() < rows * linear.width()) room.resize(rows * linear.width());
            if ((int64_t)wide.size() < rows * linear.outputs) wide.resize(rows * linear.outputs);
        }
        if ((int64_t)rotated.size() < rows * heads * size) rotated.resize(rows * heads * size);
        normalise_sum(each.attention_norm, l == 0, room.data(), each.qkv.width());
        apply(each.qkv, rows, room.data(), wide.data());
        rotate(wide.data(), cos, sin, each.q_norm.weight, each.k_norm.weight, rotated.data(), each.q_norm.eps,
               each.k_norm.eps, rows, heads, each.heads, size, each.qkv.outputs, size);
        const Heads q = {rotated.data(), heads * size, size}, k = {q(0, each.heads), heads * size, size};
        const Heads v = {wide.data() + heads * size, each.qkv.outputs, size};
        attend_cached(q, k, v, places, keys + l * layer, values + l * layer, length, room.data(), each.out.width(),
                      {rows, rows, each.heads, each.kv_heads, size, each.window, each.scale});
        apply(each.out, rows, room.data(), more.data());
        normalise_sum(each.mlp_norm, false, room.data(), each.gate_up.width());
        apply(each.gate_up, rows, room.data(), wide.data());
        swiglu(wide.data(), wide.data() + inner, room.data(), rows, inner, 2 * inner, 2 * inner, each.down.width());
        apply(each.down, rows, room.data(), more.data());
    }
    normalise_sum(norm, count == 0, out, width);
}
