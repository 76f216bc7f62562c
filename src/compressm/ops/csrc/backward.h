// Backward pass, by recomputation from the states before every chunk.
//
// With g_t = dLoss/dh_t, a_t = exp(delta_t A) and x_t = delta_t u_t:
//   g_t = C_t dy_t + a_{t+1} g_{t+1}
//   dC_t = sum_d dy_t h_t,  dB_t = sum_d g_t x_t,  dx_t = sum_n g_t B_t,
//   dA = sum_t delta_t q_t,  ddelta_t = u_t dx_t + sum_n A q_t,  where q_t = g_t a_t h_{t-1}.
// One task is up to kBlocks blocks of channels of one sequence, so that the sums over channels
// stay in vector lanes as long as possible. The results do not depend on the number of threads
// beyond `splits`: no two tasks write to one place.
#pragma once

#include "scan.h"

namespace compressm {

// What one block of channels keeps through a chunk.
template <typename T>
struct Block {
    Tile<T> u, raw, delta, x, dy, dx, da;
};

// Sums over channels of one chunk, K states: lanes are added up at the end.
template <typename T>
struct Sums {
    Vec<T> dB[kChunk][kStates], dC[kChunk][kStates];
};

template <typename T, int K>
inline void retreat(Vec<T>* g, Vec<T>* dA, const Vec<T>* A, const T* kept, int64_t kept_s, int lanes,
                    const T* B, const T* C, const int64_t* B_s, const int64_t* C_s, Block<T>& w,
                    Sums<T>& sums, int steps) {
    Vec<T> h[kChunk + 1][K], e[kChunk][K];
    Vec<T> a[K], now[K];
    for (int k = 0; k < K; ++k) {
        a[k] = A[k];
        h[0][k] = now[k] = load_some<T>(kept + k * kept_s, lanes);
    }
    for (int t = 0; t < steps; ++t) {
        const Vec<T> d = w.delta.at[t], v = w.x.at[t];
        for (int k = 0; k < K; ++k) {
            e[t][k] = exp2(d * a[k]);
            h[t + 1][k] = now[k] = e[t][k] * now[k] + v * B[k * B_s[2] + t * B_s[3]];
        }
    }
    Vec<T> back[K], decay[K];
    for (int k = 0; k < K; ++k) back[k] = g[k], decay[k] = dA[k];
    for (int t = steps - 1; t >= 0; --t) {
        const Vec<T> d = w.delta.at[t], v = w.x.at[t], dy = w.dy.at[t];
        Vec<T> dx = w.dx.at[t], da = w.da.at[t];
        for (int k = 0; k < K; ++k) {
            back[k] += dy * C[k * C_s[2] + t * C_s[3]];
            sums.dC[t][k] += dy * now[k];
            sums.dB[t][k] += back[k] * v;
            dx += back[k] * B[k * B_s[2] + t * B_s[3]];
            back[k] *= e[t][k];
            now[k] = h[t][k];
            const Vec<T> q = back[k] * now[k];
            da += q * a[k];
            decay[k] += q * d;
        }
        w.dx.at[t] = dx;
        w.da.at[t] = da;
    }
    for (int k = 0; k < K; ++k) g[k] = back[k], dA[k] = decay[k];
}

template <typename T>
class BackwardTask {
    static constexpr int W = Simd<T>::W;
    const ScanArgs& a_;
    const int64_t b_, group_, split_, first_;
    const int blocks_;
    const int64_t end_, N_;
    Vec<T>*g_, *dA_, *A_, *dD_, *dbias_;
    Block<T>* block_;

    int lanes(int i) const {
        const int64_t rest = end_ - channel(i);
        return static_cast<int>(rest < W ? rest : W);
    }
    int64_t channel(int i) const { return first_ + i * W; }

    void begin() {
        for (int i = 0; i < blocks_; ++i) {
            read_decay<T>(A_ + i * N_, in<T>(a_.A) + channel(i) * N_, N_, lanes(i));
            dD_[i] = dbias_[i] = Vec<T>{};
            for (int64_t n = 0; n < N_; ++n) {
                Vec<T> v = {};
                if (a_.g_last != nullptr)
                    for (int l = 0; l < lanes(i); ++l)
                        v[l] = in<T>(a_.g_last)[(b_ * a_.channels + channel(i) + l) * N_ + n];
                g_[i * N_ + n] = v;
                dA_[i * N_ + n] = Vec<T>{};
            }
        }
    }

    void open(int i, int64_t start, int steps) {
        Block<T>& w = block_[i];
        const auto at = [&](const int64_t* s) { return b_ * s[0] + channel(i) * s[1] + start * s[2]; };
        read_tile<T>(w.u, in<T>(a_.u) + at(a_.u_s), a_.u_s, lanes(i), steps);
        read_tile<T>(w.raw, in<T>(a_.delta) + at(a_.delta_s), a_.delta_s, lanes(i), steps);
        read_tile<T>(w.dy, in<T>(a_.g_out) + at(a_.g_out_s), a_.g_out_s, lanes(i), steps);
        if (start > 0) {
            const auto will_read = [&](const void* p, const int64_t* s) {
                prefetch_tile<T, 0>(in<T>(p) + at(s) - kChunk * s[2], s, kChunk);
            };
            const auto will_write = [&](const void* p, const int64_t* s) {
                prefetch_tile<T, 1>(in<T>(p) + at(s) - kChunk * s[2], s, kChunk);
            };
            will_read(a_.u, a_.u_s);
            will_read(a_.delta, a_.delta_s);
            will_read(a_.g_out, a_.g_out_s);
            will_write(a_.g_u, a_.out_s);
            will_write(a_.g_delta, a_.out_s);
            if (a_.z != nullptr) {
                will_read(a_.ungated, a_.out_s);
                will_read(a_.z, a_.z_s);
                will_write(a_.g_z, a_.g_z_s);
            }
        }
        add_bias<T>(w.raw, a_.bias == nullptr ? nullptr : in<T>(a_.bias) + channel(i), lanes(i));
        if (a_.z != nullptr) {
            Tile<T> y, z;
            read_tile<T>(y, to<T>(a_.ungated) + at(a_.out_s), a_.out_s, lanes(i), steps);
            read_tile<T>(z, in<T>(a_.z) + at(a_.z_s), a_.z_s, lanes(i), steps);
            for (int t = 0; t < steps; ++t) {
                const Vec<T> s = sigmoid(z.at[t]), gate = z.at[t] * s, dy = w.dy.at[t];
                w.dy.at[t] = dy * gate;
                z.at[t] = dy * y.at[t] * (s + gate * (1 - s));
            }
            write_tile<T>(z, to<T>(a_.g_z) + at(a_.g_z_s), a_.g_z_s, lanes(i), steps);
        }
        for (int t = 0; t < steps; ++t) {
            w.delta.at[t] = a_.softplus ? softplus(w.raw.at[t]) : w.raw.at[t];
            w.x.at[t] = w.delta.at[t] * w.u.at[t];
            w.dx.at[t] = w.da.at[t] = Vec<T>{};
        }
    }

    void close(int i, int64_t start, int steps) {
        Block<T>& w = block_[i];
        const auto at = [&](const int64_t* s) { return b_ * s[0] + channel(i) * s[1] + start * s[2]; };
        const Vec<T> skip =
            a_.D == nullptr ? Vec<T>{} : load_some<T>(in<T>(a_.D) + channel(i), lanes(i));
        for (int t = 0; t < steps; ++t) {
            const Vec<T> u = w.u.at[t], dy = w.dy.at[t], dx = w.dx.at[t];
            dD_[i] += dy * u;
            // da was summed over A' = A log2(e).
            Vec<T> ddelta = w.da.at[t] * T(0.6931471805599453) + u * dx;
            if (a_.softplus) ddelta *= sigmoid(w.raw.at[t]);
            dbias_[i] += ddelta;
            w.da.at[t] = ddelta;
            w.dx.at[t] = w.delta.at[t] * dx + skip * dy;
        }
        write_tile<T>(w.dx, to<T>(a_.g_u) + at(a_.out_s), a_.out_s, lanes(i), steps);
        write_tile<T>(w.da, to<T>(a_.g_delta) + at(a_.out_s), a_.out_s, lanes(i), steps);
    }

    void chunk(int64_t c, int64_t chunks) {
        const int64_t start = c * kChunk, D = a_.channels;
        const int steps = static_cast<int>(a_.length - start < kChunk ? a_.length - start : kChunk);
        const T* B = in<T>(a_.B) + b_ * a_.B_s[0] + group_ * a_.B_s[1] + start * a_.B_s[3];
        const T* C = in<T>(a_.C) + b_ * a_.C_s[0] + group_ * a_.C_s[1] + start * a_.C_s[3];
        const T* kept = in<T>(a_.checkpoints) + (b_ * chunks + c) * N_ * D;
        const int64_t sums_at = ((split_ * a_.batch + b_) * a_.groups + group_) * a_.length + start;
        T *g_B = to<T>(a_.g_B) + sums_at * N_, *g_C = to<T>(a_.g_C) + sums_at * N_;
        for (int i = 0; i < blocks_; ++i) open(i, start, steps);
        int64_t n = 0;
        for_states(N_, [&](auto count) {
            constexpr int K = decltype(count)::value;
            Sums<T> sums;
            std::memset(&sums, 0, sizeof sums);
            for (int i = 0; i < blocks_; ++i) {
                const int64_t at = i * N_ + n;
                retreat<T, K>(g_ + at, dA_ + at, A_ + at, kept + n * D + channel(i), D, lanes(i),
                              B + n * a_.B_s[2], C + n * a_.C_s[2], a_.B_s, a_.C_s, block_[i], sums,
                              steps);
            }
            for (int t = 0; t < steps; ++t)
                for (int k = 0; k < K; ++k) {
                    g_B[t * N_ + n + k] += sum<T>(sums.dB[t][k]);
                    g_C[t * N_ + n + k] += sum<T>(sums.dC[t][k]);
                }
            n += K;
        });
        for (int i = 0; i < blocks_; ++i) close(i, start, steps);
    }

    void end() {
        for (int i = 0; i < blocks_; ++i) {
            const int64_t row = b_ * a_.channels + channel(i);
            if (a_.g_D != nullptr) store_some<T>(to<T>(a_.g_D) + row, dD_[i], lanes(i));
            if (a_.g_bias != nullptr) store_some<T>(to<T>(a_.g_bias) + row, dbias_[i], lanes(i));
            for (int64_t n = 0; n < N_; ++n)
                for (int l = 0; l < lanes(i); ++l) {
                    to<T>(a_.g_A)[(row + l) * N_ + n] = dA_[i * N_ + n][l];
                    if (a_.g_initial != nullptr)
                        to<T>(a_.g_initial)[(row + l) * N_ + n] = g_[i * N_ + n][l];
                }
        }
    }

   public:
    static int64_t vectors(int64_t states) {
        return 3 * kBlocks * states + 2 * kBlocks + kBlocks * int64_t(sizeof(Block<T>) / kBytes);
    }

    BackwardTask(const ScanArgs& a, int64_t b, int64_t group, int64_t split, int64_t first,
                 int64_t end, Vec<T>* work)
        : a_(a), b_(b), group_(group), split_(split), first_(first),
          blocks_(static_cast<int>((end - first + W - 1) / W)), end_(end), N_(a.states), g_(work),
          dA_(g_ + kBlocks * N_), A_(dA_ + kBlocks * N_), dD_(A_ + kBlocks * N_),
          dbias_(dD_ + kBlocks), block_(reinterpret_cast<Block<T>*>(dbias_ + kBlocks)) {}

    void run() {
        const int64_t chunks = (a_.length + kChunk - 1) / kChunk;
        begin();
        for (int64_t c = chunks - 1; c >= 0; --c) chunk(c, chunks);
        end();
    }
};

template <typename T>
void scan_backward(const ScanArgs& a) {
    constexpr int64_t W = Simd<T>::W, range = W * kBlocks;
    const int64_t width = a.channels / a.groups, blocks = (width + W - 1) / W;
    const int64_t share = (blocks + a.splits - 1) / a.splits * W;
    const int64_t tasks = a.batch * a.groups * a.splits;
#pragma omp parallel num_threads(a.threads)
    {
        FlushDenormals flush;
        Workspace<T> work(BackwardTask<T>::vectors(a.states));
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; ++task) {
            const int64_t split = task % a.splits, group = task / a.splits % a.groups;
            const int64_t base = group * width, low = base + split * share;
            const int64_t high = low + share < base + width ? low + share : base + width;
            for (int64_t first = low; first < high; first += range) {
                const int64_t end = first + range < high ? first + range : high;
                BackwardTask<T>(a, task / a.splits / a.groups, group, split, first, end,
                                work.data())
                    .run();
            }
        }
    }
}

}  // namespace compressm
