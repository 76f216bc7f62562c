// Vectors of the widest kind that the machine has, and the few functions that the kernels need.
//
// GCC and Clang vector extensions: one source for AVX-512, AVX2, SSE and NEON. Float functions are
// polynomials of our own; double (which serves gradient checks) calls the C library lane by lane.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace compressm {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

template <typename T>
struct Simd {
    typedef T V __attribute__((vector_size(kBytes)));
    static constexpr int W = kBytes / sizeof(T);
};
using VF = Simd<float>::V;
using VD = Simd<double>::V;
typedef int32_t VI __attribute__((vector_size(kBytes)));

template <typename T>
using Vec = typename Simd<T>::V;

template <typename T>
inline Vec<T> load(const T* p) {
    Vec<T> v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

template <typename T>
inline void store(T* p, Vec<T> v) {
    std::memcpy(p, &v, sizeof v);
}

// The first `lanes` numbers, zeros behind them.
template <typename T>
inline Vec<T> load_some(const T* p, int lanes) {
    if (lanes == Simd<T>::W) return load<T>(p);
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    if constexpr (sizeof(T) == 4)
        return (Vec<T>)_mm512_maskz_loadu_ps((__mmask16)((1u << lanes) - 1), p);
    else
        return (Vec<T>)_mm512_maskz_loadu_pd((__mmask8)((1u << lanes) - 1), p);
#else
    Vec<T> v = {};
    for (int i = 0; i < lanes; ++i) v[i] = p[i];
    return v;
#endif
}

template <typename T>
inline void store_some(T* p, Vec<T> v, int lanes) {
    if (lanes == Simd<T>::W) return store<T>(p, v);
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    if constexpr (sizeof(T) == 4)
        _mm512_mask_storeu_ps(p, (__mmask16)((1u << lanes) - 1), (__m512)v);
    else
        _mm512_mask_storeu_pd(p, (__mmask8)((1u << lanes) - 1), (__m512d)v);
#else
    for (int i = 0; i < lanes; ++i) p[i] = v[i];
#endif
}

template <typename T>
inline T sum(Vec<T> v) {
    T total = 0;
    for (int i = 0; i < Simd<T>::W; ++i) total += v[i];
    return total;
}

// 2^x. The float versions are exact at 0, so that a step with delta = 0 leaves the state as it
// is; elsewhere their relative error is below 1.2e-7 (two units in the last place). Below -126 the
// result is 0; infinities and NaN behave as for std::exp2.
#if defined(__AVX512F__) && defined(__AVX512DQ__)
inline VF exp2(VF x) {
    // x = k + i / 16 + r: 2^k by vscalef, 2^(i/16) from a register, 2^r by a polynomial.
    const __m512 table = _mm512_setr_ps(
        1.0f, 1.0442737824274138f, 1.0905077326652577f, 1.1387886347566916f, 1.189207115002721f,
        1.241857812073484f, 1.2968395546510096f, 1.3542555469368927f, 1.4142135623730951f,
        1.4768261459394993f, 1.5422108254079407f, 1.6104903319492543f, 1.681792830507429f,
        1.7562521603732995f, 1.8340080864093424f, 1.9152065613971474f);
    const __m512 v = (__m512)x;
    const __m512 shifted = _mm512_add_round_ps(
        v, _mm512_set1_ps(786432.0f), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    const __m512 r = _mm512_reduce_ps(v, (4 << 4) | 1);
    const __m512 head = _mm512_permutexvar_ps(_mm512_castps_si512(shifted), table);
    __m512 p = _mm512_fmadd_ps(
        r, _mm512_set1_ps(0.05666990087856177f), _mm512_set1_ps(0.2401842422532173f));
    p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(0.6931476145550989f));
    p = _mm512_fmadd_ps(_mm512_mul_ps(r, head), p, head);
    return (VF)_mm512_scalef_ps(p, v);
}
#else
inline VF exp2(VF x) {
    const VF least = VF{} - 126.0f, most = VF{} + 128.0f;
    VF y = x < least ? least : x;
    y = y > most ? most : y;
    // Adding 1.5 * 2^23 rounds to the nearest integer, which the low bits then hold.
    const VF shifted = y + 12582912.0f;
    const VF r = y - (shifted - 12582912.0f);
    VF p = r * 0.0001535336206094933f + 0.0013398874588410072f;
    p = p * r + 0.009618437358496807f;
    p = p * r + 0.05550332470702394f;
    p = p * r + 0.24022647913611087f;
    p = p * r + 0.6931472028552517f;
    p = p * r + 1.0f;
    const VI exponent = (VI)shifted - 0x4b400000 + 127;
    p = p * (VF)(exponent << 23);
    return x < least ? VF{} : p;
}
#endif

inline VD exp2(VD x) {
    for (int i = 0; i < Simd<double>::W; ++i) x[i] = std::exp2(x[i]);
    return x;
}

template <typename V>
inline V exp(V x) {
    return exp2(x * 1.4426950408889634f);
}
template <>
inline VD exp(VD x) {
    for (int i = 0; i < Simd<double>::W; ++i) x[i] = std::exp(x[i]);
    return x;
}

// log(1 + y) for y in [0, 1]: twice the inverse hyperbolic tangent of y / (2 + y).
inline VF log1p(VF y) {
    const VF s = y / (y + 2.0f);
    const VF q = s * s;
    VF p = q * 0.2817833517313618f + 0.2796060302784802f;
    p = p * q + 0.4002491023096387f;
    p = p * q + 0.6666631468443623f;
    p = p * q + 2.0000000079207663f;
    return p * s;
}
inline VD log1p(VD y) {
    for (int i = 0; i < Simd<double>::W; ++i) y[i] = std::log1p(y[i]);
    return y;
}

// 1 / (1 + e^-x), from the exponential of a number that is not positive.
template <typename V>
inline V sigmoid(V x) {
    const V e = exp<V>(x < 0 ? x : -x);
    return (x < 0 ? e : e * 0 + 1) / (e + 1);
}

// log(1 + e^x)
template <typename V>
inline V softplus(V x) {
    const V e = exp<V>(x < 0 ? x : -x);
    return log1p(e) + (x < 0 ? x * 0 : x);
}

// States that decay reach denormal numbers, on which some processors are a hundred times slower.
// Inside the kernels they count as zero; the thread's own mode comes back afterwards.
class FlushDenormals {
#if defined(__SSE2__)
    unsigned saved_ = _mm_getcsr();

   public:
    FlushDenormals() { _mm_setcsr(saved_ | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(saved_); }
#endif
};

}  // namespace compressm
