// Sums over lanes of many vectors at once: W vectors to one in log2(W) steps.
#pragma once

#include <utility>

#include "simd.h"

namespace compressm {

// Sums of the lanes of `count` vectors, added to out[0 ...]; there are vectors up to a multiple of W.
template <typename T, int H, int... I>
inline Vec<T> fold(Vec<T> a, Vec<T> b, std::integer_sequence<int, I...>) {
    constexpr int W = Simd<T>::W;
    return __builtin_shufflevector(a, b, (I & H ? W + I : I)...) +
           __builtin_shufflevector(a, b, (I & H ? W + I - H : I + H)...);
}
template <typename T, int H>
inline void fold_all(Vec<T>* rows) {
    if constexpr (H > 0) {
        for (int i = 0; i < H; ++i)
            rows[i] = fold<T, H>(rows[i], rows[i + H],
                                 std::make_integer_sequence<int, Simd<T>::W>());
        fold_all<T, H / 2>(rows);
    }
}
template <typename T>
inline void add_sums(T* out, Vec<T>* rows, int64_t count) {
    constexpr int W = Simd<T>::W;
    for (int64_t n = 0; n < count; n += W) {
        fold_all<T, W / 2>(rows + n);
        const int lanes = static_cast<int>(count - n < W ? count - n : W);
        store_some<T>(out + n, load_some<T>(out + n, lanes) + rows[n], lanes);
    }
}

}  // namespace compressm
