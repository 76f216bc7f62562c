// Matrix-valued states step by step: linear attention and the delta rule, scalar or vector decay.
//
// Shapes: B batch, L steps, H heads, K key dimensions, V value dimensions. With a_t the decay, S
// the state (K, V) of one head, and r_t = v_t where there is no beta:
//   forward    r_t = v_t - (a_t S)' k_t,  u_t = beta_t r_t,  S <- a_t S + k_t u_t',  o_t = S' q_t
//   backward   G += q_t do_t',  dq_t = S_t do_t,  du = G' k_t,  dp = -beta_t du,
//              dk_t = G u_t + (a_t S) dp,  G += k_t dp',  da_t = rows of G o (a_t S),  G <- a_t G
// where dp is what goes through the prediction. A state of a few thousand numbers stays in the
// nearest cache, so a step costs three products of its size and needs no others: on a CPU that is
// less than matrix products over chunks. Columns of S never meet, so they are done kColumns vectors
// at a time; the backward pass starts from states kept every `every` steps. Where `unit` is set, q
// and k are first brought to length one, x r with r = (sum x x + eps)^-1/2, and q is multiplied by
// `scale`; on the way back dx = r (d - x r (x r)' d).
#pragma once

#include "lanes.h"
#include "scan.h"

namespace compressm {

constexpr int kColumns = 4;  // vectors of columns of a state that are done together

// Null where an input is not there. Strides count elements, for batch, step and head; what lies
// inside a head is dense, and so is everything without strides.
struct MatrixArgs {
    int64_t batch, length, heads, keys, values, every, threads, wide_decay, unit;
    double scale, eps;
    const void *q, *k, *v, *decay, *beta, *initial;
    void *o, *last, *before, *missed;
    int64_t q_s[3], k_s[3], v_s[3];
    const void *g_o, *g_last;
    void *g_q, *g_k, *g_v, *g_decay, *g_beta, *g_initial;
};

// One head of one sequence, C vectors of its columns from `column` on.
template <typename T, int C>
class Columns {
    static constexpr int W = Simd<T>::W;
    static constexpr int kRows = C == 1 ? 8 : C == 2 ? 4 : C == 3 ? 3 : 2;  // sums kept apart
    const MatrixArgs& a_;
    const int64_t b_, h_, K_, P_, column_;
    Vec<T>* work_;
    T *units_, *rates_;  // q and k of the steps at hand, each P_ long, and what they were multiplied by

    using Row = Vec<T>[C];

    Vec<T> read(const T* p, int j) const {
        const int64_t rest = a_.values - column_ - j * W;
        return load_some<T>(p + j * W, static_cast<int>(rest < W ? rest : W));
    }
    void write(T* p, int j, Vec<T> v) const {
        const int64_t rest = a_.values - column_ - j * W;
        store_some<T>(p + j * W, v, static_cast<int>(rest < W ? rest : W));
    }
    int64_t at(int64_t t) const { return (b_ * a_.length + t) * a_.heads + h_; }
    const T* key(const void* p, const int64_t* s, int64_t t) const {
        return in<T>(p) + b_ * s[0] + t * s[1] + h_ * s[2];
    }
    T* row(void* p, int64_t t, int64_t width) const { return to<T>(p) + at(t) * width; }

    // Where q (0) and k (1) of step t are to be read; `slot` is where they lie when brought to length.
    const T* read_key(int which, int64_t t, int64_t slot) {
        const T* x = which ? key(a_.k, a_.k_s, t) : key(a_.q, a_.q_s, t);
        if (!a_.unit) return x;
        Vec<T> squares = {};
        for (int64_t n = 0; n < K_; n += W) {
            const Vec<T> v = load_some<T>(x + n, lanes(n));
            squares += v * v;
        }
        const T rate = T(1) / std::sqrt(sum<T>(squares) + static_cast<T>(a_.eps));
        const T by = which ? rate : rate * static_cast<T>(a_.scale);
        T* to = units_ + (2 * slot + which) * P_;
        rates_[2 * slot + which] = rate;
        for (int64_t n = 0; n < K_; n += W) store<T>(to + n, load_some<T>(x + n, lanes(n)) * by);
        return to;
    }
    const T* kept_key(int which, int64_t t, int64_t slot) const {
        if (a_.unit) return units_ + (2 * slot + which) * P_;
        return which ? key(a_.k, a_.k_s, t) : key(a_.q, a_.q_s, t);
    }
    int lanes(int64_t n) const { return static_cast<int>(K_ - n < W ? K_ - n : W); }

    // Adds what the lanes of `rows` sum up to, the gradient of what was read, to that of q or k.
    void add_gradient(int which, T* to, Vec<T>* rows, int64_t slot) const {
        if (!a_.unit) return add_sums<T>(to, rows, K_);
        T* d = reinterpret_cast<T*>(work_);  // behind it lies what the pass itself needs
        for (int64_t n = 0; n < P_; ++n) d[n] = T(0);
        add_sums<T>(d, rows, K_);
        const T* x = units_ + (2 * slot + which) * P_;
        const T rate = rates_[2 * slot + which], scale = which ? T(1) : static_cast<T>(a_.scale);
        T along = 0;  // x is `scale` times what has length one
        for (int64_t n = 0; n < K_; ++n) along += x[n] * d[n];
        for (int64_t n = 0; n < K_; ++n) to[n] += rate * (scale * d[n] - x[n] * along / scale);
    }

    // A state (K, V) of tensors of states that are (B, H, `count`, K, V).
    template <typename P>
    auto* state_of(P p, int64_t i, int64_t count) const {
        const int64_t rows = ((b_ * a_.heads + h_) * count + i) * K_;
        using Q = std::conditional_t<std::is_const_v<std::remove_pointer_t<P>>, const T, T>;
        return static_cast<Q*>(p) + rows * a_.values + column_;
    }
    void read_state(Vec<T>* S, const T* p) const {
        for (int64_t n = 0; n < K_; ++n)
            for (int j = 0; j < C; ++j) S[n * C + j] = read(p + n * a_.values, j);
    }
    void write_state(const Vec<T>* S, T* p) const {
        for (int64_t n = 0; n < K_; ++n)
            for (int j = 0; j < C; ++j) write(p + n * a_.values, j, S[n * C + j]);
    }

    // Decays of a step, one for each row of the state.
    void decays(T* a, int64_t t) const {
        if (a_.decay == nullptr) {
            for (int64_t n = 0; n < K_; ++n) a[n] = 1;
        } else if (!a_.wide_decay) {
            const T value = std::exp(in<T>(a_.decay)[at(t)]);
            for (int64_t n = 0; n < K_; ++n) a[n] = value;
        } else {
            const T* g = in<T>(a_.decay) + at(t) * K_;
            for (int64_t n = 0; n < K_; n += W) {
                const int lanes = static_cast<int>(K_ - n < W ? K_ - n : W);
                store_some<T>(a + n, exp<Vec<T>>(load_some<T>(g + n, lanes)), lanes);
            }
        }
    }

    // out_j = sum_n w(n, S_n)_j, in kRows sums that the processor can do side by side.
    template <typename Term>
    static void sum_rows(int64_t K, Vec<T>* out, const Term& term) {
        Vec<T> sums[kRows][C] = {};
        int64_t n = 0;
        for (; n + kRows <= K; n += kRows)
            for (int r = 0; r < kRows; ++r) term(n + r, sums[r]);
        for (; n < K; ++n) term(n, sums[0]);
        for (int j = 0; j < C; ++j) {
            out[j] = sums[0][j];
            for (int r = 1; r < kRows; ++r) out[j] += sums[r][j];
        }
    }

   public:
    // Vectors of workspace that one task needs.
    static int64_t vectors(const MatrixArgs& a, bool back) {
        const int64_t P = padded(a), slots = back ? a.every : 1;
        const int64_t own = slots * (P / W) + (back ? (a.every + 1) * a.keys * C + 3 * P : 0);
        return own + a.keys * C + P / W + slots * (2 * P / W) + (2 * slots + W - 1) / W;
    }
    static int64_t padded(const MatrixArgs& a) { return (a.keys + W - 1) / W * W; }

    Columns(const MatrixArgs& a, int64_t b, int64_t h, int64_t column, Vec<T>* work, bool back)
        : a_(a), b_(b), h_(h), K_(a.keys), P_(padded(a)), column_(column) {
        const int64_t slots = back ? a.every : 1;
        units_ = reinterpret_cast<T*>(work);
        rates_ = units_ + 2 * slots * P_;
        work_ = work + slots * (2 * P_ / W) + (2 * slots + W - 1) / W;
    }

    void forward() {
        Vec<T>* S = work_ + P_ / W;
        T* a = reinterpret_cast<T*>(S + K_ * C);
        if (a_.initial == nullptr) {
            for (int64_t i = 0; i < K_ * C; ++i) S[i] = Vec<T>{};
        } else {
            read_state(S, state_of(a_.initial, 0, 1));
        }
        const int64_t kept = (a_.length + a_.every - 1) / a_.every;
        for (int64_t t = 0; t < a_.length; ++t) {
            if (t % a_.every == 0) write_state(S, state_of(a_.before, t / a_.every, kept));
            const T *q = read_key(0, t, 0), *k = read_key(1, t, 0);
            const T* v = key(a_.v, a_.v_s, t) + column_;
            if (t == 0 || a_.decay != nullptr) decays(a, t);
            Vec<T> u[C], o[C];
            for (int j = 0; j < C; ++j) u[j] = read(v, j);
            if (a_.beta != nullptr) {
                const T beta = in<T>(a_.beta)[at(t)];
                Vec<T> p[C];
                sum_rows(K_, p, [&](int64_t n, Vec<T>* sum) {
                    const T w = a[n] * k[n];
                    for (int j = 0; j < C; ++j) sum[j] += S[n * C + j] * w;
                });
                T* missed = row(a_.missed, t, a_.values) + column_;
                for (int j = 0; j < C; ++j) {
                    u[j] -= p[j];
                    write(missed, j, u[j]);
                    u[j] *= beta;
                }
            }
            sum_rows(K_, o, [&](int64_t n, Vec<T>* sum) {
                for (int j = 0; j < C; ++j) {
                    const Vec<T> s = S[n * C + j] * a[n] + u[j] * k[n];
                    S[n * C + j] = s;
                    sum[j] += s * q[n];
                }
            });
            T* out = row(a_.o, t, a_.values) + column_;
            for (int j = 0; j < C; ++j) write(out, j, o[j]);
        }
        write_state(S, state_of(a_.last, 0, 1));
    }

    void backward() {
        const int64_t padded = P_, kept = (a_.length + a_.every - 1) / a_.every;
        Vec<T>*G = work_ + P_ / W, *states = G + K_ * C, *dq = states + (a_.every + 1) * K_ * C;
        Vec<T>*dk = dq + padded, *da = dk + padded;
        T* decay = reinterpret_cast<T*>(da + padded);
        for (int64_t n = 0; n < padded; ++n) dq[n] = dk[n] = da[n] = Vec<T>{};
        read_state(G, state_of(a_.g_last, 0, 1));
        for (int64_t c = kept - 1; c >= 0; --c) {
            const int64_t start = c * a_.every;
            const int64_t steps = a_.length - start < a_.every ? a_.length - start : a_.every;
            read_state(states, state_of(a_.before, c, kept));
            for (int64_t t = 0; t < steps; ++t) {
                decays(decay + t * padded, start + t);
                read_key(0, start + t, t);
                read_key(1, start + t, t);
                again(states + t * K_ * C, start + t, decay + t * padded, t);
            }
            for (int64_t t = steps - 1; t >= 0; --t)
                retreat(G, states + t * K_ * C, start + t, decay + t * padded, dq, dk, da, t);
        }
        write_state(G, state_of(a_.g_initial, 0, 1));
    }

   private:
    // u_t, and beta_t.
    T written(Vec<T>* u, int64_t t) const {
        if (a_.beta == nullptr) {
            const T* v = key(a_.v, a_.v_s, t) + column_;
            for (int j = 0; j < C; ++j) u[j] = read(v, j);
            return 1;
        }
        const T beta = in<T>(a_.beta)[at(t)];
        const T* missed = row(a_.missed, t, a_.values) + column_;
        for (int j = 0; j < C; ++j) u[j] = read(missed, j) * beta;
        return beta;
    }

    // The state after a step, behind the one before it.
    void again(Vec<T>* S, int64_t t, const T* a, int64_t slot) const {
        Vec<T> u[C];
        written(u, t);
        const T* k = kept_key(1, t, slot);
        Vec<T>* next = S + K_ * C;
        for (int64_t n = 0; n < K_; ++n)
            for (int j = 0; j < C; ++j) next[n * C + j] = S[n * C + j] * a[n] + u[j] * k[n];
    }

    void retreat(Vec<T>* G, const Vec<T>* S, int64_t t, const T* a, Vec<T>* dq, Vec<T>* dk,
                 Vec<T>* da, int64_t slot) const {
        const T *q = kept_key(0, t, slot), *k = kept_key(1, t, slot);
        const T* g_o = row(const_cast<void*>(a_.g_o), t, a_.values) + column_;
        Vec<T> u[C], d[C], du[C], dp[C];
        const T beta = written(u, t);
        for (int j = 0; j < C; ++j) d[j] = read(g_o, j);
        const Vec<T>* after = S + K_ * C;
        sum_rows(K_, du, [&](int64_t n, Vec<T>* sum) {
            Vec<T> read_by = {}, moved = {};
            for (int j = 0; j < C; ++j) {
                const Vec<T> g = G[n * C + j] + d[j] * q[n];
                G[n * C + j] = g;
                sum[j] += g * k[n];
                read_by += after[n * C + j] * d[j];
                moved += g * u[j];
            }
            dq[n] = read_by;
            dk[n] = moved;
        });
        T* g_v = row(a_.g_v, t, a_.values) + column_;
        for (int j = 0; j < C; ++j) write(g_v, j, du[j] * beta);
        if (a_.beta != nullptr) {
            const T* missed = row(a_.missed, t, a_.values) + column_;
            Vec<T> through = {};
            for (int j = 0; j < C; ++j) {
                through += du[j] * read(missed, j);
                dp[j] = du[j] * -beta;
            }
            to<T>(a_.g_beta)[at(t)] += sum<T>(through);
        }
        Vec<T> all = {};
        for (int64_t n = 0; n < K_; ++n) {
            Vec<T> moved = dk[n], faded = {};
            for (int j = 0; j < C; ++j) {
                const Vec<T> s = S[n * C + j] * a[n];
                Vec<T> g = G[n * C + j];
                if (a_.beta != nullptr) {
                    moved += s * dp[j];
                    g += dp[j] * k[n];
                }
                faded += g * s;
                G[n * C + j] = g * a[n];
            }
            dk[n] = moved;
            da[n] = faded;
            all += faded;
        }
        add_gradient(0, row(a_.g_q, t, K_), dq, slot);
        add_gradient(1, row(a_.g_k, t, K_), dk, slot);
        if (a_.decay == nullptr) return;
        if (a_.wide_decay)
            add_sums<T>(row(a_.g_decay, t, K_), da, K_);
        else
            to<T>(a_.g_decay)[at(t)] += sum<T>(all);
    }
};

// Every head of every sequence, all its columns one after the other: no two tasks write to one place.
template <typename T>
void matrix_state(const MatrixArgs& a, bool back) {
    constexpr int64_t wide = kColumns * Simd<T>::W;
    const int64_t tasks = a.batch * a.heads;
#pragma omp parallel num_threads(a.threads)
    {
        FlushDenormals flush;
        Workspace<T> work(Columns<T, kColumns>::vectors(a, back));
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; ++task) {
            for (int64_t first = 0; first < a.values; first += wide) {
                const auto run = [&](auto count) {
                    Columns<T, decltype(count)::value> some(a, task / a.heads, task % a.heads,
                                                            first, work.data(), back);
                    back ? some.backward() : some.forward();
                };
                const int64_t rest = a.values - first < wide ? a.values - first : wide;
                switch ((rest + Simd<T>::W - 1) / Simd<T>::W) {
                    case 1: run(std::integral_constant<int, 1>()); break;
                    case 2: run(std::integral_constant<int, 2>()); break;
                    case 3: run(std::integral_constant<int, 3>()); break;
                    default: run(std::integral_constant<int, kColumns>()); break;
                }
            }
        }
    }
}

}  // namespace compressm
