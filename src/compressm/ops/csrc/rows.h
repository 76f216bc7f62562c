// Elementwise steps on rows, in one pass each: root mean square norms with gates, and gated units.
//
// R rows of G groups of D numbers ("lines"), W of them in a vector. With u = x, or x a(z) where the
// gate comes first, w the weights and n = u r, r = (mean u u + eps)^-1/2, a norm is
//   forward   y = n (offset + w), times a(z) where the gate comes last
//   backward  dn = dy (offset + w) a(z),  du = r (dn - n mean n dn),  dw = sum dy n a(z)
// and a gated unit is y = silu(x) z. The function a is silu or the sigmoid. Sums over rows are made
// for `tasks` parts of them, so that they do not depend on the number of threads.
#pragma once

#include "scan.h"

namespace compressm {

enum Gate : int64_t { kNone, kSilu, kSigmoid, kSiluFirst };

// Null where an input is not there. `x_s`, `gate_s`: numbers from a row to the next; a row is dense,
// and so is everything else. g_weight is (tasks, G, D).
struct RowArgs {
    int64_t rows, groups, width, tasks, threads, kind, x_s, gate_s;
    double eps, offset;
    const void *x, *gate, *weight, *g_y;
    void *y, *g_x, *g_gate, *g_weight;
};

// a(z), and with `slope` its derivative.
template <int64_t kind, typename V>
inline V gated(V z, V* slope = nullptr) {
    const V s = sigmoid(z);
    if constexpr (kind == kSigmoid) {
        if (slope != nullptr) *slope = s * (1 - s);
        return s;
    } else {
        if (slope != nullptr) *slope = s * (1 + z * (1 - s));
        return z * s;
    }
}

template <typename T, int64_t kind>
class NormLine {
    static constexpr int W = Simd<T>::W;
    static constexpr bool kGated = kind != kNone, kFirst = kind == kSiluFirst;
    const RowArgs& a_;
    const int64_t D_, dense_;
    const T *x_, *z_, *w_;

    int lanes(int64_t i) const { return static_cast<int>(D_ - i < W ? D_ - i : W); }
    // u, and what y and its gradient are multiplied by behind the norm.
    Vec<T> normed(int64_t i, int n) const {
        const Vec<T> x = load_some<T>(x_ + i, n);
        if constexpr (kFirst) return x * gated<kind>(load_some<T>(z_ + i, n));
        return x;
    }
    Vec<T> gain(int64_t i, int n) const {
        return load_some<T>(w_ + i, n) + static_cast<T>(a_.offset);
    }
    T rate(Vec<T> squares) const {
        return 1 / std::sqrt(sum<T>(squares) / D_ + static_cast<T>(a_.eps));
    }

   public:
    NormLine(const RowArgs& a, int64_t row, int64_t group)
        : a_(a), D_(a.width), dense_((row * a.groups + group) * D_),
          x_(in<T>(a.x) + row * a.x_s + group * D_),
          z_(kGated ? in<T>(a.gate) + row * a.gate_s + group * D_ : nullptr),
          w_(in<T>(a.weight) + group * D_) {}

    void forward() const {
        Vec<T> squares = {};
        for (int64_t i = 0; i < D_; i += W) {
            const Vec<T> u = normed(i, lanes(i));
            squares += u * u;
        }
        const T r = rate(squares);
        T* y = to<T>(a_.y) + dense_;
        for (int64_t i = 0; i < D_; i += W) {
            const int n = lanes(i);
            Vec<T> made = normed(i, n) * r * gain(i, n);
            if constexpr (kGated && !kFirst) made *= gated<kind>(load_some<T>(z_ + i, n));
            store_some<T>(y + i, made, n);
        }
    }

    void backward(T* g_weight) const {
        const T* g = in<T>(a_.g_y) + dense_;
        Vec<T> squares = {}, along = {};
        for (int64_t i = 0; i < D_; i += W) {
            const int n = lanes(i);
            const Vec<T> u = normed(i, n);
            Vec<T> dn = load_some<T>(g + i, n) * gain(i, n);
            if constexpr (kGated && !kFirst) dn *= gated<kind>(load_some<T>(z_ + i, n));
            squares += u * u;
            along += u * dn;
        }
        const T r = rate(squares), back = r * r * sum<T>(along) / D_;
        for (int64_t i = 0; i < D_; i += W) {
            const int n = lanes(i);
            const Vec<T> u = normed(i, n), by = gain(i, n);
            Vec<T> d = load_some<T>(g + i, n), x = u, a = {}, slope = {};
            if constexpr (kGated) a = gated<kind>(load_some<T>(z_ + i, n), &slope);
            if constexpr (kGated && !kFirst) {
                store_some<T>(to<T>(a_.g_gate) + dense_ + i, d * u * r * by * slope, n);
                d *= a;
            }
            store_some<T>(g_weight + i, load_some<T>(g_weight + i, n) + d * u * r, n);
            Vec<T> du = (d * by - u * back) * r;
            if constexpr (kFirst) {
                x = load_some<T>(x_ + i, n);
                store_some<T>(to<T>(a_.g_gate) + dense_ + i, du * x * slope, n);
                du *= a;
            }
            store_some<T>(to<T>(a_.g_x) + dense_ + i, du, n);
        }
    }
};

template <typename T, int64_t kind>
void norm(const RowArgs& a, int64_t task, bool back) {
    T* g_weight = to<T>(a.g_weight) + task * a.groups * a.width;
    for (int64_t row = task * a.rows / a.tasks; row < (task + 1) * a.rows / a.tasks; ++row) {
        for (int64_t group = 0; group < a.groups; ++group) {
            const NormLine<T, kind> line(a, row, group);
            back ? line.backward(g_weight + group * a.width) : line.forward();
        }
    }
}

template <typename T>
void rms_norm(const RowArgs& a, bool back) {
#pragma omp parallel for num_threads(a.threads) schedule(static)
    for (int64_t task = 0; task < a.tasks; ++task) {
        switch (a.kind) {
            case kNone: norm<T, kNone>(a, task, back); break;
            case kSilu: norm<T, kSilu>(a, task, back); break;
            case kSigmoid: norm<T, kSigmoid>(a, task, back); break;
            case kSiluFirst: norm<T, kSiluFirst>(a, task, back); break;
        }
    }
}

template <typename T>
void swiglu(const RowArgs& a, bool back) {
    constexpr int W = Simd<T>::W;
#pragma omp parallel for num_threads(a.threads) schedule(static)
    for (int64_t row = 0; row < a.rows; ++row) {
        const T *x = in<T>(a.x) + row * a.x_s, *z = in<T>(a.gate) + row * a.gate_s;
        const int64_t dense = row * a.width;
        for (int64_t i = 0; i < a.width; i += W) {
            const int n = static_cast<int>(a.width - i < W ? a.width - i : W);
            Vec<T> slope;
            const Vec<T> on = gated<kSilu>(load_some<T>(x + i, n), &slope);
            const Vec<T> value = load_some<T>(z + i, n);
            if (!back) {
                store_some<T>(to<T>(a.y) + dense + i, on * value, n);
            } else {
                const Vec<T> g = load_some<T>(in<T>(a.g_y) + dense + i, n);
                store_some<T>(to<T>(a.g_x) + dense + i, g * value * slope, n);
                store_some<T>(to<T>(a.g_gate) + dense + i, g * on, n);
            }
        }
    }
}

}  // namespace compressm
