// The C interface of the kernels: plain pointers, so that no header of PyTorch is needed and the
// build takes seconds.
#include "backward.h"
#include "conv.h"
#include "diagonal.h"
#include "forward.h"
#include "matrix_state.h"
#include "mix.h"
#include "rows.h"

extern "C" {

void compressm_scan_forward(const compressm::ScanArgs* a, int64_t is_double) {
    is_double ? compressm::scan_forward<double>(*a) : compressm::scan_forward<float>(*a);
}

void compressm_scan_backward(const compressm::ScanArgs* a, int64_t is_double) {
    is_double ? compressm::scan_backward<double>(*a) : compressm::scan_backward<float>(*a);
}

void compressm_conv(const compressm::ConvArgs* a, int64_t is_double) {
    is_double ? compressm::convolve<double>(*a) : compressm::convolve<float>(*a);
}

void compressm_diagonal(const compressm::DiagonalArgs* a, int64_t is_double, int64_t back) {
    is_double ? compressm::diagonal<double>(*a, back) : compressm::diagonal<float>(*a, back);
}

void compressm_matrix_state(const compressm::MatrixArgs* a, int64_t is_double, int64_t back) {
    is_double ? compressm::matrix_state<double>(*a, back) : compressm::matrix_state<float>(*a, back);
}

void compressm_mix(const compressm::MixArgs* a, int64_t is_double, int64_t back) {
    is_double ? compressm::mix<double>(*a, back) : compressm::mix<float>(*a, back);
}

void compressm_rms_norm(const compressm::RowArgs* a, int64_t is_double, int64_t back) {
    is_double ? compressm::rms_norm<double>(*a, back) : compressm::rms_norm<float>(*a, back);
}

void compressm_swiglu(const compressm::RowArgs* a, int64_t is_double, int64_t back) {
    is_double ? compressm::swiglu<double>(*a, back) : compressm::swiglu<float>(*a, back);
}

}
