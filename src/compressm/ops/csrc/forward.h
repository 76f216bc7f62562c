// Forward pass: one task is one block of channels of one sequence.
#pragma once

#include "scan.h"

namespace compressm {

// K states through one chunk: h' = 2^(delta A') h + delta u B, y += C h'.
template <typename T, int K>
inline void advance(Vec<T>* state, const Vec<T>* A, const T* B, const T* C, const int64_t* B_s,
                    const int64_t* C_s, const Tile<T>& delta, const Tile<T>& x, Tile<T>& y,
                    int steps) {
    Vec<T> h[K], a[K];
    for (int k = 0; k < K; ++k) h[k] = state[k], a[k] = A[k];
    for (int t = 0; t < steps; ++t) {
        const Vec<T> d = delta.at[t], v = x.at[t];
        Vec<T> sum = y.at[t];
        for (int k = 0; k < K; ++k) {
            h[k] = exp2(d * a[k]) * h[k] + v * B[k * B_s[2] + t * B_s[3]];
            sum += h[k] * C[k * C_s[2] + t * C_s[3]];
        }
        y.at[t] = sum;
    }
    for (int k = 0; k < K; ++k) state[k] = h[k];
}

template <typename T>
void forward_block(const ScanArgs& a, int64_t b, int64_t group, int64_t first, int lanes,
                   Vec<T>* work) {
    const int64_t N = a.states;
    Vec<T>*state = work, *A = work + N;
    read_decay<T>(A, in<T>(a.A) + first * N, N, lanes);
    for (int64_t n = 0; n < N; ++n) {
        state[n] = Vec<T>{};
        if (a.initial != nullptr)
            for (int i = 0; i < lanes; ++i)
                state[n][i] = in<T>(a.initial)[(b * a.channels + first + i) * N + n];
    }
    const T* B = in<T>(a.B) + b * a.B_s[0] + group * a.B_s[1];
    const T* C = in<T>(a.C) + b * a.C_s[0] + group * a.C_s[1];
    const Vec<T> skip = a.D == nullptr ? Vec<T>{} : load_some<T>(in<T>(a.D) + first, lanes);
    const T* bias = a.bias == nullptr ? nullptr : in<T>(a.bias) + first;
    const int64_t chunks = (a.length + kChunk - 1) / kChunk;

    Tile<T> u, delta, x, y, z;
    for (int64_t c = 0; c < chunks; ++c) {
        const int64_t start = c * kChunk;
        const int steps = static_cast<int>(a.length - start < kChunk ? a.length - start : kChunk);
        const auto at = [&](const int64_t* s) { return b * s[0] + first * s[1] + start * s[2]; };
        read_tile<T>(u, in<T>(a.u) + at(a.u_s), a.u_s, lanes, steps);
        read_tile<T>(delta, in<T>(a.delta) + at(a.delta_s), a.delta_s, lanes, steps);
        if (start + kChunk < a.length) {
            const int64_t next = start + kChunk;
            const int more = static_cast<int>(a.length - next < kChunk ? a.length - next : kChunk);
            const auto will_read = [&](const void* p, const int64_t* s) {
                prefetch_tile<T, 0>(in<T>(p) + at(s) + kChunk * s[2], s, more);
            };
            const auto will_write = [&](const void* p, const int64_t* s) {
                prefetch_tile<T, 1>(in<T>(p) + at(s) + kChunk * s[2], s, more);
            };
            will_read(a.u, a.u_s);
            will_read(a.delta, a.delta_s);
            if (a.z != nullptr) will_read(a.z, a.z_s);
            will_write(a.out, a.out_s);
            if (a.ungated != nullptr) will_write(a.ungated, a.out_s);
        }
        add_bias<T>(delta, bias, lanes);
        for (int t = 0; t < steps; ++t) {
            if (a.softplus) delta.at[t] = softplus(delta.at[t]);
            x.at[t] = delta.at[t] * u.at[t];
            y.at[t] = skip * u.at[t];
        }
        if (a.checkpoints != nullptr) {
            T* kept = to<T>(a.checkpoints) + (b * chunks + c) * N * a.channels + first;
            for (int64_t n = 0; n < N; ++n) store_some<T>(kept + n * a.channels, state[n], lanes);
        }
        const T *B_c = B + start * a.B_s[3], *C_c = C + start * a.C_s[3];
        int64_t n = 0;
        const auto run = [&](auto count) {
            constexpr int K = decltype(count)::value;
            advance<T, K>(state + n, A + n, B_c + n * a.B_s[2], C_c + n * a.C_s[2], a.B_s, a.C_s,
                          delta, x, y, steps);
            n += K;
        };
        for_states(N, run);
        if (a.z != nullptr) {
            if (a.ungated != nullptr)
                write_tile<T>(y, to<T>(a.ungated) + at(a.out_s), a.out_s, lanes, steps);
            read_tile<T>(z, in<T>(a.z) + at(a.z_s), a.z_s, lanes, steps);
            for (int t = 0; t < steps; ++t) y.at[t] *= z.at[t] * sigmoid(z.at[t]);
        }
        write_tile<T>(y, to<T>(a.out) + at(a.out_s), a.out_s, lanes, steps);
    }
    for (int64_t n = 0; n < N; ++n)
        for (int i = 0; i < lanes; ++i)
            to<T>(a.last)[(b * a.channels + first + i) * N + n] = state[n][i];
}

template <typename T>
void scan_forward(const ScanArgs& a) {
    constexpr int W = Simd<T>::W;
    const int64_t width = a.channels / a.groups, blocks = (width + W - 1) / W;
    const int64_t tasks = a.batch * a.groups * blocks;
#pragma omp parallel num_threads(a.threads)
    {
        FlushDenormals flush;
        Workspace<T> work(2 * a.states);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; ++task) {
            const int64_t block = task % blocks, group = task / blocks % a.groups;
            const int64_t rest = width - block * W;
            forward_block<T>(a, task / blocks / a.groups, group, group * width + block * W,
                             static_cast<int>(rest < W ? rest : W), work.data());
        }
    }
}

}  // namespace compressm
