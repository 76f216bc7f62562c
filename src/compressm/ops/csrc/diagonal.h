// The diagonal complex recurrence of a narrow layer, states in the lanes:
//   x_t = lambda x_{t-1} + B u_t,  y_t = Re(C x_t) + D u_t
//
// Shapes: B batch, L steps, H width, N states. One task is some sequences; of a sequence, tiles of
// kTile steps; of a tile, W states at a time. What is summed over states (y, and du on the way
// back) is summed in lanes first, and the lanes once a tile. With g_t = dLoss/dx_t, as a pair of
// real numbers, and * the conjugate:
//   g_t = C* dy_t + lambda* g_{t+1},  du_t = Re(B* g_t) + D dy_t,
//   dB = sum_t g_t u_t',  dC = sum_t dy_t x_t*,  dlambda = sum_t g_t x_{t-1}*
// The backward pass starts from the states before every tile and computes the rest again. Sums over
// sequences are kept for each task, so they do not depend on the number of threads.
#pragma once

#include "lanes.h"
#include "scan.h"

namespace compressm {

constexpr int kTile = 32;  // steps between checkpoints
constexpr int kWide = 8;   // channels whose sums stay in registers

// Matrices are (H, N padded to a multiple of W), rows of B as columns: B_re[h][n]. u, y and their
// gradients are dense (B, L, H); the others hold zeros in the lanes that are no states.
struct DiagonalArgs {
    int64_t batch, length, width, padded, tasks, threads;
    const void *u, *lam_re, *lam_im, *B_re, *B_im, *C_re, *C_im, *D;
    void *y, *before;
    const void* g_y;
    void *g_u, *g_lam_re, *g_lam_im, *g_B_re, *g_B_im, *g_C_re, *g_C_im, *g_D;
};

// Runs `run(first, count)` for up to kWide channels at a time; the count is a compile-time constant.
template <int K = kWide, typename Run>
inline void for_channels(int64_t width, const Run& run, int64_t h = 0) {
    for (; h + K <= width; h += K) run(h, std::integral_constant<int, K>());
    if constexpr (K > 1) for_channels<K / 2>(width, run, h);
}

template <typename T>
struct Pair {
    Vec<T> re, im;
};

template <typename T>
class DiagonalTask {
    static constexpr int W = Simd<T>::W;
    const DiagonalArgs& a_;
    const int64_t task_, H_, N_, blocks_, tiles_;
    Vec<T>*sums_, *state_;
    Pair<T>*x_, *g_;

    // (re, im) += sum over the channels of row[h] (M_re, M_im)[h][n ...], step by step of a tile.
    void drive(Pair<T>* out, const T* rows, const void* re, const void* im, int64_t n, int steps,
               T sign) const {
        const T *R = in<T>(re) + n, *I = in<T>(im) + n;
        for_channels(H_, [&](int64_t h, auto count) {
            constexpr int K = decltype(count)::value;
            Vec<T> r[K], i[K];
            for (int k = 0; k < K; ++k) {
                r[k] = load<T>(R + (h + k) * N_);
                i[k] = load<T>(I + (h + k) * N_) * sign;
            }
            for (int t = 0; t < steps; ++t) {
                const T* row = rows + t * H_ + h;
                Pair<T> v = out[t];
                for (int k = 0; k < K; ++k) v.re += r[k] * row[k], v.im += i[k] * row[k];
                out[t] = v;
            }
        });
    }

    // sums[t][h] += M_re[h][n ...] v_t.re + sign M_im[h][n ...] v_t.im, lane by lane.
    void gather(const Pair<T>* v, const void* re, const void* im, int64_t n, int steps,
                T sign) const {
        const T *R = in<T>(re) + n, *I = in<T>(im) + n;
        for_channels(H_, [&](int64_t h, auto count) {
            constexpr int K = decltype(count)::value;
            Vec<T> r[K], i[K];
            for (int k = 0; k < K; ++k) {
                r[k] = load<T>(R + (h + k) * N_);
                i[k] = load<T>(I + (h + k) * N_) * sign;
            }
            for (int t = 0; t < steps; ++t) {
                Vec<T>* to = sums_ + t * H_ + h;
                for (int k = 0; k < K; ++k) to[k] += r[k] * v[t].re + i[k] * v[t].im;
            }
        });
    }

    // Outer products over a tile, added to (re, im)[h][n ...]: sum_t row_t[h] (v_t.re, sign v_t.im).
    void outer(const Pair<T>* v, const T* rows, T* re, T* im, int64_t n, int steps, T sign) const {
        for_channels(H_, [&](int64_t h, auto count) {
            constexpr int K = decltype(count)::value;
            Vec<T> r[K] = {}, i[K] = {};
            for (int t = 0; t < steps; ++t) {
                const T* row = rows + t * H_ + h;
                for (int k = 0; k < K; ++k) r[k] += v[t].re * row[k], i[k] += v[t].im * row[k];
            }
            for (int k = 0; k < K; ++k) {
                T *to_re = re + (h + k) * N_ + n, *to_im = im + (h + k) * N_ + n;
                store<T>(to_re, load<T>(to_re) + r[k]);
                store<T>(to_im, load<T>(to_im) + i[k] * sign);
            }
        });
    }

    // The states of a tile, from the one before it; `x` holds B u_t and has the states afterwards.
    Pair<T> advance(Pair<T>* x, Pair<T> now, int64_t n, int steps) const {
        const Vec<T> a = load<T>(in<T>(a_.lam_re) + n), b = load<T>(in<T>(a_.lam_im) + n);
        for (int t = 0; t < steps; ++t) {
            const Pair<T> v = x[t];
            const Vec<T> re = v.re + a * now.re - b * now.im;
            now.im = v.im + a * now.im + b * now.re;
            now.re = re;
            x[t] = now;
        }
        return now;
    }

    // Vectors that hold the sums of a tile: as many as its outputs, up to a multiple of W.
    static int64_t sums(const DiagonalArgs& a) { return (kTile * a.width + W - 1) / W * W; }

    void clear() {
        for (int64_t i = 0; i < sums(a_); ++i) sums_[i] = Vec<T>{};
    }

    // out[t][h] = sum of the lanes of sums[t][h], and D_h through[t][h].
    void close(T* out, const T* through, int steps) {
        for (int t = 0; t < steps; ++t)
            for (int64_t h = 0; h < H_; ++h)
                out[t * H_ + h] = a_.D == nullptr ? T(0) : in<T>(a_.D)[h] * through[t * H_ + h];
        add_sums<T>(out, sums_, steps * H_);
    }

    int steps_of(int64_t tile) const {
        const int64_t rest = a_.length - tile * kTile;
        return static_cast<int>(rest < kTile ? rest : kTile);
    }
    // States before a tile of a sequence, real parts first.
    T* kept(int64_t sequence, int64_t tile) const {
        return to<T>(a_.before) + (sequence * tiles_ + tile) * 2 * N_;
    }

    void forward(int64_t sequence) {
        Pair<T>* now = reinterpret_cast<Pair<T>*>(state_);
        for (int64_t i = 0; i < blocks_; ++i) now[i] = Pair<T>{};
        for (int64_t tile = 0; tile < tiles_; ++tile) {
            const int steps = steps_of(tile);
            const int64_t at = (sequence * a_.length + tile * kTile) * H_;
            const T* u = in<T>(a_.u) + at;
            clear();
            for (int64_t i = 0; i < blocks_; ++i) {
                const int64_t n = i * W;
                store<T>(kept(sequence, tile) + n, now[i].re);
                store<T>(kept(sequence, tile) + N_ + n, now[i].im);
                for (int t = 0; t < steps; ++t) x_[t] = Pair<T>{};
                drive(x_, u, a_.B_re, a_.B_im, n, steps, T(1));
                now[i] = advance(x_, now[i], n, steps);
                gather(x_, a_.C_re, a_.C_im, n, steps, T(-1));
            }
            close(to<T>(a_.y) + at, u, steps);
        }
    }

    void backward(int64_t sequence) {
        Pair<T>* back = reinterpret_cast<Pair<T>*>(state_);
        const auto own = [&](void* p, int64_t size) { return to<T>(p) + task_ * size; };
        for (int64_t i = 0; i < blocks_; ++i) back[i] = Pair<T>{};
        for (int64_t tile = tiles_ - 1; tile >= 0; --tile) {
            const int steps = steps_of(tile);
            const int64_t at = (sequence * a_.length + tile * kTile) * H_;
            const T *u = in<T>(a_.u) + at, *g_y = in<T>(a_.g_y) + at;
            clear();
            for (int64_t i = 0; i < blocks_; ++i) {
                const int64_t n = i * W;
                const Pair<T> first = {load<T>(kept(sequence, tile) + n),
                                       load<T>(kept(sequence, tile) + N_ + n)};
                for (int t = 0; t < steps; ++t) x_[t] = g_[t] = Pair<T>{};
                drive(x_, u, a_.B_re, a_.B_im, n, steps, T(1));
                advance(x_, first, n, steps);
                drive(g_, g_y, a_.C_re, a_.C_im, n, steps, T(-1));
                back[i] = retreat(back[i], first, n, steps, own(a_.g_lam_re, N_) + n,
                                  own(a_.g_lam_im, N_) + n);
                gather(g_, a_.B_re, a_.B_im, n, steps, T(1));
                outer(g_, u, own(a_.g_B_re, N_ * H_), own(a_.g_B_im, N_ * H_), n, steps, T(1));
                outer(x_, g_y, own(a_.g_C_re, N_ * H_), own(a_.g_C_im, N_ * H_), n, steps, T(-1));
            }
            close(to<T>(a_.g_u) + at, g_y, steps);
            if (a_.D == nullptr) continue;
            T* g_D = own(a_.g_D, H_);
            for (int t = 0; t < steps; ++t)
                for (int64_t h = 0; h < H_; ++h) g_D[h] += u[t * H_ + h] * g_y[t * H_ + h];
        }
    }

    // `g` holds C* dy_t and has the gradients of the states afterwards.
    Pair<T> retreat(Pair<T> back, Pair<T> first, int64_t n, int steps, T* to_re, T* to_im) const {
        const Vec<T> a = load<T>(in<T>(a_.lam_re) + n), b = load<T>(in<T>(a_.lam_im) + n);
        Vec<T> re = load<T>(to_re), im = load<T>(to_im);
        for (int t = steps - 1; t >= 0; --t) {
            const Pair<T> direct = g_[t], before = t > 0 ? x_[t - 1] : first;
            const Vec<T> real = direct.re + a * back.re + b * back.im;
            back.im = direct.im + a * back.im - b * back.re;
            back.re = real;
            g_[t] = back;
            re += back.re * before.re + back.im * before.im;
            im += back.im * before.re - back.re * before.im;
        }
        store<T>(to_re, re);
        store<T>(to_im, im);
        return back;
    }

   public:
    static int64_t vectors(const DiagonalArgs& a) {
        return sums(a) + 2 * a.padded / W + 4 * kTile;
    }

    DiagonalTask(const DiagonalArgs& a, int64_t task, Vec<T>* work)
        : a_(a), task_(task), H_(a.width), N_(a.padded), blocks_(a.padded / W),
          tiles_((a.length + kTile - 1) / kTile), sums_(work), state_(work + sums(a)), x_(reinterpret_cast<Pair<T>*>(state_ + 2 * blocks_)),
          g_(x_ + kTile) {}

    // Every tasks-th sequence, so that all tasks have about as many.
    void run(bool back) {
        for (int64_t b = task_; b < a_.batch; b += a_.tasks) back ? backward(b) : forward(b);
    }
};

template <typename T>
void diagonal(const DiagonalArgs& a, bool back) {
#pragma omp parallel num_threads(a.threads)
    {
        FlushDenormals flush;
        Workspace<T> work(DiagonalTask<T>::vectors(a));
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < a.tasks; ++task)
            DiagonalTask<T>(a, task, work.data()).run(back);
    }
}

}  // namespace compressm
