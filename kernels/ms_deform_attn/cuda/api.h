// The C interface of the library: plain pointers, so that any framework can call it (ffi.cc, torch_op.py).
#pragma once

#include <cstdint>

extern "C" {

enum MsdaType : int32_t { MSDA_FLOAT32 = 0, MSDA_BFLOAT16 = 1 };

// Sizes and arrays of one call; every array is dense, in row-major order, in device memory and aligned to 16 bytes.
struct MsdaCall {
  int64_t batch, cells, queries, heads, depth, num_levels, points;
  const int64_t* level_shapes;  // [L, 2] (h, w), in host memory
  int32_t value_type, offset_type, score_type;
  int32_t softmax;
  const void* value;       // [B, S, M, D] of value_type
  const void* offsets;     // [B, Q, M, L, P, 2] of offset_type, (x, y) in pixels of the level
  const void* scores;      // [B, Q, M, L, P] of score_type
  const float* reference;  // [Q, L, 2], (x, y) normalised to the level
};

// All functions return nullptr or what is wrong; the text is valid until the next call of the same thread.

// Loads every kernel onto a device (its CUDA ordinal). Without it CUDA loads a kernel at its first launch, which fails if
// that launch is being captured into a graph.
const char* msda_load(int32_t device);

// out: [B, Q, M, D] of value_type.
const char* msda_forward(const MsdaCall* call, void* out, void* stream);

// out_grad: [B, Q, M, D] of value_type. Written: value_grad [B, S, M, D], always float32; offsets_grad and scores_grad
// like offsets and scores.
const char* msda_backward(const MsdaCall* call, const void* out_grad, float* value_grad, void* offsets_grad,
                          void* scores_grad, void* stream);

}  // extern "C"
