// Causal depthwise convolution, y_t = act(bias + sum_k w_k x_{t-K+1+k}), act none or silu.
//
// W channels sit in the lanes of one vector; one task is one such block of one sequence. K is the
// number of taps. Workspace: the inputs, with K - 1 zeros before them, and in the backward pass the
// gradients of the sums, with K - 1 zeros behind them.
#pragma once

#include "scan.h"

namespace compressm {

struct ConvArgs {
    int64_t batch, channels, length, taps, threads, silu;
    const void *x, *weight, *bias;
    void* y;
    const void* g_y;
    void *g_x, *g_weight, *g_bias;  // g_weight (B, D, K) and g_bias (B, D): to be summed over B
    int64_t x_s[3], y_s[3], g_y_s[3];
};

template <typename T>
class ConvTask {
    static constexpr int W = Simd<T>::W;
    const ConvArgs& a_;
    const int64_t b_, first_, L_, K_;
    const int lanes_;
    Vec<T>*w_, *x_, *g_;
    Vec<T> bias_;

    int64_t at(const int64_t* s, int64_t t) const { return b_ * s[0] + first_ * s[1] + t * s[2]; }

    void read(Vec<T>* rows, const void* p, const int64_t* s) const {
        Tile<T> tile;
        for (int64_t t = 0; t < L_; t += kChunk) {
            const int steps = static_cast<int>(L_ - t < kChunk ? L_ - t : kChunk);
            read_tile<T>(tile, in<T>(p) + at(s, t), s, lanes_, steps);
            for (int i = 0; i < steps; ++i) rows[t + i] = tile.at[i];
        }
    }
    void write(const Vec<T>* rows, void* p, const int64_t* s) const {
        Tile<T> tile;
        for (int64_t t = 0; t < L_; t += kChunk) {
            const int steps = static_cast<int>(L_ - t < kChunk ? L_ - t : kChunk);
            for (int i = 0; i < steps; ++i) tile.at[i] = rows[t + i];
            write_tile<T>(tile, to<T>(p) + at(s, t), s, lanes_, steps);
        }
    }

    Vec<T> sum_at(int64_t t) const {
        Vec<T> y = bias_;
        for (int64_t k = 0; k < K_; ++k) y += w_[k] * x_[t + k];
        return y;
    }

   public:
    static int64_t vectors(const ConvArgs& a) { return 2 * (a.length + a.taps) + a.taps; }

    ConvTask(const ConvArgs& a, int64_t b, int64_t first, int lanes, Vec<T>* work)
        : a_(a), b_(b), first_(first), L_(a.length), K_(a.taps), lanes_(lanes), w_(work),
          x_(w_ + K_), g_(x_ + L_ + K_) {
        bias_ = a.bias == nullptr ? Vec<T>{} : load_some<T>(in<T>(a.bias) + first, lanes);
        for (int64_t k = 0; k < K_; ++k) {
            w_[k] = Vec<T>{};
            for (int i = 0; i < lanes; ++i) w_[k][i] = in<T>(a.weight)[(first + i) * K_ + k];
        }
        for (int64_t k = 0; k + 1 < K_; ++k) x_[k] = Vec<T>{};
        read(x_ + K_ - 1, a.x, a.x_s);
    }

    void forward() {
        for (int64_t t = 0; t < L_; ++t) {
            const Vec<T> y = sum_at(t);
            g_[t] = a_.silu ? y * sigmoid(y) : y;
        }
        write(g_, a_.y, a_.y_s);
    }

    void backward() {
        read(g_, a_.g_y, a_.g_y_s);
        for (int64_t k = 0; k + 1 < K_; ++k) g_[L_ + k] = Vec<T>{};
        Vec<T> total = {};
        for (int64_t t = 0; t < L_; ++t) {
            if (a_.silu) {
                const Vec<T> y = sum_at(t), s = sigmoid(y);
                g_[t] *= s * (1 + y * (1 - s));
            }
            total += g_[t];
        }
        const int64_t row = b_ * a_.channels + first_;
        if (a_.g_bias != nullptr) store_some<T>(to<T>(a_.g_bias) + row, total, lanes_);
        for (int64_t k = 0; k < K_; ++k) {
            Vec<T> dw = {};
            for (int64_t t = 0; t < L_; ++t) dw += g_[t] * x_[t + k];
            for (int i = 0; i < lanes_; ++i) to<T>(a_.g_weight)[(row + i) * K_ + k] = dw[i];
        }
        for (int64_t t = 0; t < L_; ++t) {
            Vec<T> dx = {};
            for (int64_t k = 0; k < K_; ++k) dx += w_[k] * g_[t + K_ - 1 - k];
            x_[t] = dx;
        }
        write(x_, a_.g_x, a_.y_s);
    }
};

template <typename T>
void convolve(const ConvArgs& a) {
    constexpr int64_t W = Simd<T>::W;
    const int64_t blocks = (a.channels + W - 1) / W;
#pragma omp parallel num_threads(a.threads)
    {
        FlushDenormals flush;
        Workspace<T> work(ConvTask<T>::vectors(a));
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < a.batch * blocks; ++task) {
            const int64_t first = task % blocks * W, rest = a.channels - first;
            ConvTask<T> conv(a, task / blocks, first, static_cast<int>(rest < W ? rest : W),
                             work.data());
            a.g_y == nullptr ? conv.forward() : conv.backward();
        }
    }
}

}  // namespace compressm
