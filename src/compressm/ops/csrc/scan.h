// What the selective-scan kernels share: arguments, tiles, chunk length.
//
// Shapes: B batch, D channels, L steps, N states, G groups. W channels sit in the lanes of one
// vector ("block"); time is cut into chunks of kChunk steps, and the states before every chunk
// are what the forward pass keeps for the backward pass.
#pragma once

#include <memory>
#include <type_traits>

#include "simd.h"

namespace compressm {

constexpr int kChunk = 16;   // steps between checkpoints
constexpr int kStates = 4;   // states that stay in registers through a chunk
constexpr int kBlocks = 16;  // blocks of channels whose gradients of B and C are summed in lanes

// Pointers may be null where the option is off. Strides count elements, in the order of the shape.
struct ScanArgs {
    int64_t batch, channels, length, states, groups, splits, threads, softplus;
    const void *u, *delta, *A, *B, *C, *D, *z, *bias, *initial;
    void *out, *ungated, *last, *checkpoints;
    int64_t u_s[3], delta_s[3], z_s[3], out_s[3], B_s[4], C_s[4];
    const void *g_out, *g_last;
    void *g_u, *g_delta, *g_A, *g_B, *g_C, *g_D, *g_z, *g_bias, *g_initial;
    int64_t g_out_s[3], g_z_s[3];
};

// kChunk vectors: W channels over one chunk, time by time.
template <typename T>
struct alignas(64) Tile {
    Vec<T> at[kChunk];
};

// Rows of a (.., D, L) tensor, W channels and `steps` steps from p on, into a tile.
template <typename T>
inline void read_tile(Tile<T>& tile, const T* p, const int64_t* s, int lanes, int steps) {
    constexpr int W = Simd<T>::W;
    if (s[1] == 1) {
        for (int t = 0; t < steps; ++t) tile.at[t] = load_some<T>(p + t * s[2], lanes);
        return;
    }
    T* to = reinterpret_cast<T*>(tile.at);
    if (lanes < W) std::memset(to, 0, sizeof tile);
    for (int i = 0; i < lanes; ++i)
        for (int t = 0; t < steps; ++t) to[t * W + i] = p[i * s[1] + t * s[2]];
}

// Asks for a tile's lines before they are read: with a stride between steps no processor does so by
// itself. Only for layouts with the channels innermost, where one step of a tile is one line.
template <typename T, int kWrite>
inline void prefetch_tile(const T* p, const int64_t* s, int steps) {
    if (s[1] != 1) return;
    for (int t = 0; t < steps; ++t) __builtin_prefetch(p + t * s[2], kWrite);
}

template <typename T>
inline void write_tile(const Tile<T>& tile, T* p, const int64_t* s, int lanes, int steps) {
    constexpr int W = Simd<T>::W;
    if (s[1] == 1) {
        for (int t = 0; t < steps; ++t) store_some<T>(p + t * s[2], tile.at[t], lanes);
        return;
    }
    const T* from = reinterpret_cast<const T*>(tile.at);
    for (int i = 0; i < lanes; ++i)
        for (int t = 0; t < steps; ++t) p[i * s[1] + t * s[2]] = from[t * W + i];
}

// A (D, N) of one block, state by state, times log2(e): exp(delta A) = 2^(delta A').
template <typename T>
inline void read_decay(Vec<T>* to, const T* A, int64_t states, int lanes) {
    for (int64_t n = 0; n < states; ++n) {
        Vec<T> v = {};
        for (int i = 0; i < lanes; ++i) v[i] = A[i * states + n];
        to[n] = v * T(1.4426950408889634);
    }
}

// Raw step sizes of a tile: the bias added.
template <typename T>
inline void add_bias(Tile<T>& tile, const T* bias, int lanes) {
    if (bias == nullptr) return;
    const Vec<T> b = load_some<T>(bias, lanes);
    for (int t = 0; t < kChunk; ++t) tile.at[t] += b;
}

// Runs `run(K)` for K states at a time until all N are done; K is a compile-time constant.
template <typename Run>
inline void for_states(int64_t states, const Run& run) {
    for (int64_t n = 0; n + kStates <= states; n += kStates)
        run(std::integral_constant<int, kStates>());
    switch (states % kStates) {
        case 3: return run(std::integral_constant<int, 3>());
        case 2: return run(std::integral_constant<int, 2>());
        case 1: return run(std::integral_constant<int, 1>());
    }
}

// A thread's own vectors, aligned.
template <typename T>
class Workspace {
    std::unique_ptr<char[]> memory_;
    Vec<T>* data_;

   public:
    explicit Workspace(int64_t vectors) : memory_(new char[vectors * kBytes + 64]) {
        const auto address = reinterpret_cast<uintptr_t>(memory_.get());
        data_ = reinterpret_cast<Vec<T>*>((address + 63) / 64 * 64);
    }
    Vec<T>* data() { return data_; }
};

template <typename T>
inline const T* in(const void* p) {
    return static_cast<const T*>(p);
}
template <typename T>
inline T* to(void* p) {
    return static_cast<T*>(p);
}

}  // namespace compressm
