// What the kernels ask of the hardware, and nothing else. The tests replace this file by an emulation for the CPU
// (tests/kernels/ms_deform_attn/cuda_emulation.h), which must declare the same names.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#define MSDA_DEVICE __device__ __forceinline__
#define MSDA_KERNEL(threads, blocks_per_processor) __global__ void __launch_bounds__(threads, blocks_per_processor)
#define MSDA_GRID_CONSTANT __grid_constant__

namespace msda {

using Stream = cudaStream_t;
constexpr int kMaxGridY = 65535;  // what CUDA allows; a larger batch goes on along z

MSDA_DEVICE int thread_index() { return threadIdx.x; }
MSDA_DEVICE int block_x() { return blockIdx.x; }
MSDA_DEVICE int block_y() { return blockIdx.y; }
MSDA_DEVICE int block_z() { return blockIdx.z; }

// Shuffles among `width` neighbouring lanes; all 32 lanes of the warp must call.
template <typename T>
MSDA_DEVICE T shuffle(T value, int source, int width) {
  return __shfl_sync(0xffffffffu, value, source, width);
}
MSDA_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// `condition ? a : b` as one instruction. Of `?:` nvcc makes branches, and copies the shuffles that follow into both.
MSDA_DEVICE float select(bool condition, float a, float b) {
  float selected;
  asm("{\n"
      ".reg .pred condition;\n"
      "setp.ne.u32 condition, %1, 0;\n"
      "selp.f32 %0, %2, %3, condition;\n"
      "}\n"
      : "=f"(selected)
      : "r"(static_cast<unsigned>(condition)), "f"(a), "f"(b));
  return selected;
}

// Reads through the read-only cache.
template <typename T>
MSDA_DEVICE T load(const T* address) {
  return __ldg(address);
}
template <typename T>
MSDA_DEVICE void store(T* address, T value) {
  *address = value;
}

// Adds to four neighbouring floats in device memory, each atomically; nothing waits for the result.
MSDA_DEVICE void atomic_add(float* address, float4 value) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(address), "f"(value.x), "f"(value.y),
               "f"(value.z), "f"(value.w)
               : "memory");
#else
  atomicAdd(address, value.x);
  atomicAdd(address + 1, value.y);
  atomicAdd(address + 2, value.z);
  atomicAdd(address + 3, value.w);
#endif
}

// Saturates; NaN becomes 0.
MSDA_DEVICE int floor_to_int(float x) { return __float2int_rd(x); }
MSDA_DEVICE float exp_approx(float x) { return __expf(x); }
MSDA_DEVICE float divide_approx(float a, float b) { return __fdividef(a, b); }
MSDA_DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }

// Two bfloat16 in one word, the first in the low half; rounds to nearest even.
MSDA_DEVICE uint32_t pack_bfloat16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}
MSDA_DEVICE uint16_t round_bfloat16(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }

inline const char* fill_zero(void* address, size_t bytes, Stream stream) {
  const cudaError_t status = cudaMemsetAsync(address, 0, bytes, stream);
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

inline const char* set_device(int ordinal) {
  const cudaError_t status = cudaSetDevice(ordinal);
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}
inline const char* get_device(int* ordinal) {
  const cudaError_t status = cudaGetDevice(ordinal);
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

// Brings a kernel's code onto the current device: to tell its attributes, CUDA must load it.
template <typename Params>
const char* load_kernel(void (*kernel)(Params)) {
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

template <typename Params>
const char* launch(void (*kernel)(Params), unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned threads,
                   Stream stream, const Params& params) {
  void* arguments[] = {const_cast<Params*>(&params)};
  const cudaError_t status = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(grid_x, grid_y, grid_z),
                                              dim3(threads), arguments, 0, stream);
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

}  // namespace msda
