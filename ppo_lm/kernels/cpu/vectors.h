// Vectors of floats as wide as the processor's registers, which memory holds in fp32 or bf16.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512BW__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

struct bf16 {
    uint16_t bits;
};

typedef NUMBER Number;  // float or bf16, as the compiler is told

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Integers __attribute__((vector_size(LANES * 4)));
typedef uint32_t Bits __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));

inline int64_t divide_up(int64_t count, int64_t by) { return (count + by - 1) / by; }
inline int64_t round_up(int64_t count, int64_t multiple) { return divide_up(count, multiple) * multiple; }

inline Floats load(const float *from) {
    Floats x;
    memcpy(&x, from, sizeof x);
    return x;
}

inline Floats load(const bf16 *from) {
    Halves halves;
    memcpy(&halves, from, sizeof halves);
#if defined(__AVX512BW__)
    Bits bits = (Bits)_mm512_cvtepu16_epi32((__m256i)halves);
#elif defined(__AVX2__)
    Bits bits = (Bits)_mm256_cvtepu16_epi32((__m128i)halves);
#else
    Bits bits = __builtin_convertvector(halves, Bits);
#endif
    return (Floats)(bits << 16);
}

inline void store(float *to, Floats x) { memcpy(to, &x, sizeof x); }

// Rounds to the nearest, ties to even; NaN stays NaN.
inline void store(bf16 *to, Floats x) {
#if defined(__AVX512BF16__)
    Halves halves = (Halves)_mm512_cvtneps_pbh((__m512)x);
#else
    Bits bits = (Bits)x, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    rounded = x == x ? rounded : (bits >> 16) | 0x40;
#if defined(__AVX512BW__)
    Halves halves = (Halves)_mm512_cvtepi32_epi16((__m512i)rounded);
#else
    Halves halves = __builtin_convertvector(rounded, Halves);
#endif
#endif
    memcpy(to, &halves, sizeof halves);
}

// The first `count` elements, or as many as a vector has; the others are 0.
template <class T>
inline Floats load(const T *from, int64_t count) {
    if (count >= LANES) return load(from);
    T some[LANES] = {};
    memcpy(some, from, count * sizeof(T));
    return load(some);
}

template <class T>
inline void store(T *to, Floats x, int64_t count) {
    if (count >= LANES) return store(to, x);
    T some[LANES];
    store(some, x);
    memcpy(to, some, count * sizeof(T));
}

inline Floats all(float x) { return Floats{} + x; }

inline float sum(Floats x) {
    float parts[LANES];
    store(parts, x);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) parts[i] += parts[i + width];
    return parts[0];
}

// The elements of each that are larger; NaN counts as larger than all numbers.
inline Floats larger(Floats x, Floats y) { return x > y || x != x ? x : y; }

inline float largest(Floats x) {
    float found = x[0];
    for (int i = 1; i < LANES; i++) found = x[i] > found || x[i] != x[i] ? x[i] : found;
    return found;
}

// Of two vectors, one below the other, in squares of `step`: upper right and lower left ones change places.
template <int step, class T>
inline void swap_squares(T &upper, T &lower) {
    Integers left, right;
    for (int j = 0; j < LANES; j++) {
        left[j] = j & step ? LANES + j - step : j;
        right[j] = j & step ? LANES + j : j + step;
    }
    const T both = __builtin_shuffle(upper, lower, left);
    lower = __builtin_shuffle(upper, lower, right);
    upper = both;
}

// Transposes LANES vectors.
template <int step = LANES / 2, class T>
inline void transpose(T *x) {
    for (int i = 0; i < LANES; i++)
        if (!(i & step)) swap_squares<step>(x[i], x[i + step]);
    if constexpr (step > 1) transpose<step / 2>(x);
}

// The sums of LANES vectors, which it overwrites.
template <int step = LANES / 2>
inline Floats sums_of(Floats *x) {
    for (int i = 0; i < step; i++) {
        swap_squares<step>(x[i], x[i + step]);
        x[i] += x[i + step];
    }
    if constexpr (step > 1) return sums_of<step / 2>(x);
    return x[0];
}

// Of the places from `first` on, those from `from` to `to`.
inline Integers inside(int64_t first, int64_t from, int64_t to) {
    Integers place;
    for (int i = 0; i < LANES; i++) place[i] = i;
    place += (int32_t)first;
    return (place >= (int32_t)from) & (place < (int32_t)to);
}

// exp x to about an ulp, by Cephes' polynomial; 0 below -87, exp 88 above 88.
inline Floats exponential(Floats x) {
    const Floats n = ((x > 88.0f ? all(88.0f) : x) * 1.44269504f + 12582912.0f) - 12582912.0f;  // an integer
    const Floats r = (x > 88.0f ? all(88.0f) : x) - n * 0.693359375f + n * 2.12194440e-4f;      // x − n·log 2
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const Integers power = (__builtin_convertvector(n, Integers) + 127) << 23;
    return x < -87.0f ? Floats{} : p * (Floats)power;
}
