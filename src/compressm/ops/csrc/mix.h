// What follows the recurrence in a narrow block, in one pass over the rows:
//   y = x + drop(value sigmoid(gate)),  [value; gate] = W m + b,  m = drop(gelu(z))
//
// Shapes: R rows, H width. drop multiplies by `scale` or by zero, as 16 random bits say. Tiles of
// kRows rows stay in the nearest cache: what is elementwise runs over their entries, whatever the
// width, and products run row by row. The backward pass computes the forward pass again. Sums over
// rows are kept for each task, so they do not depend on the number of threads.
#pragma once

#include "scan.h"

namespace compressm {

constexpr int kMixWidth = 32;  // at most
constexpr int kRows = 32;
constexpr int kOutputs = 8;  // gradients of W that stay in registers, times the vectors of a row

// W and b with H padded to whole vectors: `into` [h][value | gate], `out` [value | gate][h].
struct MixArgs {
    int64_t rows, width, padded, tasks, threads, dropped;
    double scale;
    const void *z, *x, *into, *out, *bias, *inner, *outer;
    void* y;
    const void* g_y;
    void *g_z, *g_weight, *g_bias;
};

// erf by Abramowitz and Stegun 7.1.26, to 1.5e-7; `e` is exp(-x x).
inline VF erf(VF x, VF e) {
    const VF a = x < 0 ? -x : x;
    const VF t = 1.0f / (1.0f + 0.3275911f * a);
    VF p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const VF r = 1.0f - p * t * e;
    return x < 0 ? -r : r;
}
inline VD erf(VD x, VD) {
    for (int i = 0; i < Simd<double>::W; ++i) x[i] = std::erf(x[i]);
    return x;
}

// A row is N vectors.
template <typename T, int N>
class MixTask {
    static constexpr int W = Simd<T>::W;
    // Rows are read and written as whole vectors, also the last one.
    static constexpr int kEntries = kRows * kMixWidth + kMixWidth;
    typedef int16_t Bits __attribute__((vector_size(W * sizeof(int16_t))));
    struct alignas(64) Entries {
        T at[kEntries];
    };

    const MixArgs& a_;
    const int64_t task_, H_, P_;
    const Vec<T> scale_;
    const T *into_, *out_, *bias_;
    Entries m_, slope_, value_, gate_, g_m_;

    // Runs `run(i, lanes)` over the entries of a tile, W at a time.
    template <typename Run>
    static void each(int64_t entries, const Run& run) {
        int64_t i = 0;
        for (; i + W <= entries; i += W) run(i, W);
        if (i < entries) run(i, static_cast<int>(entries - i));
    }

    // `scale` where the bits keep an entry, else 0.
    Vec<T> kept(const void* bits, int64_t at, int lanes) const {
        if (bits == nullptr) return Vec<T>{} + T(1);
        const int16_t* p = in<int16_t>(bits) + at;
        Bits draws = {};
        if (lanes == W)  // a size that the compiler knows needs no call
            std::memcpy(&draws, p, W * sizeof *p);
        else
            std::memcpy(&draws, p, lanes * sizeof *p);
        const Vec<T> v = __builtin_convertvector(draws, Vec<T>);
        return v >= static_cast<T>(a_.dropped - 32768) ? scale_ : Vec<T>{};
    }

    // m, and what its gradient is to be multiplied with for that of z.
    void activate(int64_t at, int64_t entries, bool back) {
        const T* z = in<T>(a_.z) + at;
        each(entries, [&](int64_t i, int lanes) {
            const Vec<T> v = load_some<T>(z + i, lanes);
            const Vec<T> e = exp<Vec<T>>(v * v * T(-0.5));
            const Vec<T> below = T(0.5) + T(0.5) * erf(v * T(0.7071067811865476), e);
            const Vec<T> keep = kept(a_.inner, at + i, lanes);
            store<T>(m_.at + i, v * below * keep);
            if (back) store<T>(slope_.at + i, (below + v * e * T(0.3989422804014327)) * keep);
        });
    }

    // [value | gate] = W m + b. Lanes behind a row are written over by the next one.
    void project(int rows) {
        for (int r = 0; r < rows; ++r) {
            const T* m = m_.at + r * H_;
            Vec<T> p[2 * N];
            for (int i = 0; i < 2 * N; ++i) p[i] = load<T>(bias_ + i * W);
            for (int64_t h = 0; h < H_; ++h)
                for (int i = 0; i < 2 * N; ++i) p[i] += load<T>(into_ + h * 2 * P_ + i * W) * m[h];
            for (int i = 0; i < N; ++i) {
                store<T>(value_.at + r * H_ + i * W, p[i]);
                store<T>(gate_.at + r * H_ + i * W, p[N + i]);
            }
        }
    }

    void forward(int64_t at, int rows) {
        const int64_t entries = rows * H_;
        activate(at, entries, false);
        project(rows);
        each(entries, [&](int64_t i, int lanes) {
            const Vec<T> open = sigmoid(load<T>(gate_.at + i));
            const Vec<T> y = load<T>(value_.at + i) * open * kept(a_.outer, at + i, lanes);
            const Vec<T> x = load_some<T>(in<T>(a_.x) + at + i, lanes);
            store_some<T>(to<T>(a_.y) + at + i, x + y, lanes);
        });
    }

    void backward(int64_t at, int rows, T* g_weight, T* g_bias) {
        const int64_t entries = rows * H_;
        activate(at, entries, true);
        project(rows);
        each(entries, [&](int64_t i, int lanes) {
            const Vec<T> open = sigmoid(load<T>(gate_.at + i));
            const Vec<T> g =
                load_some<T>(in<T>(a_.g_y) + at + i, lanes) * kept(a_.outer, at + i, lanes);
            const Vec<T> value = load<T>(value_.at + i);
            store<T>(value_.at + i, g * open);
            store<T>(gate_.at + i, g * open * value * (T(1) - open));
        });
        for (int r = 0; r < rows; ++r) {
            Vec<T> sums[N] = {};
            for (int half = 0; half < 2; ++half) {
                const T* d = (half ? gate_ : value_).at + r * H_;
                for (int64_t o = 0; o < H_; ++o)
                    for (int i = 0; i < N; ++i)
                        sums[i] += load<T>(out_ + (half * P_ + o) * P_ + i * W) * d[o];
            }
            for (int i = 0; i < N; ++i) store<T>(g_m_.at + r * H_ + i * W, sums[i]);
        }
        each(entries, [&](int64_t i, int lanes) {
            const Vec<T> g_z = load<T>(g_m_.at + i) * load<T>(slope_.at + i);
            store_some<T>(to<T>(a_.g_z) + at + i, g_z, lanes);
        });
        for (int half = 0; half < 2; ++half) {
            const T* d = (half ? gate_ : value_).at;
            int64_t o = 0;
            for (; o + kOutputs <= H_; o += kOutputs)
                outer<kOutputs>(d + o, rows, g_weight + (half * P_ + o) * P_);
            for (; o < H_; ++o) outer<1>(d + o, rows, g_weight + (half * P_ + o) * P_);
            for (int r = 0; r < rows; ++r)
                for (int64_t h = 0; h < H_; ++h) g_bias[half * P_ + h] += d[r * H_ + h];
        }
    }

    // Rows o of the gradient of W: sum_r d[r][o] m[r].
    template <int K>
    void outer(const T* d, int rows, T* to) const {
        Vec<T> sums[K][N] = {};
        for (int r = 0; r < rows; ++r) {
            Vec<T> m[N];
            for (int i = 0; i < N; ++i) m[i] = load<T>(m_.at + r * H_ + i * W);
            for (int k = 0; k < K; ++k)
                for (int i = 0; i < N; ++i) sums[k][i] += m[i] * d[r * H_ + k];
        }
        for (int k = 0; k < K; ++k)
            for (int i = 0; i < N; ++i) {
                T* p = to + k * P_ + i * W;
                store<T>(p, load<T>(p) + sums[k][i]);
            }
    }

   public:
    MixTask(const MixArgs& a, int64_t task)
        : a_(a), task_(task), H_(a.width), P_(a.padded),
          scale_(Vec<T>{} + static_cast<T>(a.scale)), into_(in<T>(a.into)), out_(in<T>(a.out)),
          bias_(in<T>(a.bias)) {
        std::memset(&m_, 0, sizeof m_);  // lanes behind the last row are read
    }

    void run(bool back) {
        const int64_t first = a_.rows * task_ / a_.tasks, last = a_.rows * (task_ + 1) / a_.tasks;
        for (int64_t row = first; row < last; row += kRows) {
            const int rows = static_cast<int>(last - row < kRows ? last - row : kRows);
            if (back)
                backward(row * H_, rows, to<T>(a_.g_weight) + task_ * 2 * P_ * P_,
                         to<T>(a_.g_bias) + task_ * 2 * P_);
            else
                forward(row * H_, rows);
        }
    }
};

template <typename T>
void mix(const MixArgs& a, bool back) {
    static_assert(kMixWidth <= 4 * Simd<double>::W || kBytes < 64, "a case is missing below");
#pragma omp parallel for num_threads(a.threads) schedule(dynamic)
    for (int64_t task = 0; task < a.tasks; ++task) {
        switch (a.padded / Simd<T>::W) {
            case 1: MixTask<T, 1>(a, task).run(back); break;
            case 2: MixTask<T, 2>(a, task).run(back); break;
            case 4: MixTask<T, 4>(a, task).run(back); break;
            case 8: MixTask<T, 8>(a, task).run(back); break;
            case 16: MixTask<T, 16>(a, task).run(back); break;
        }
    }
}

}  // namespace compressm
