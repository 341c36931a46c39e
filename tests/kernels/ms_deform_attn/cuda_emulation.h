// Runs the CUDA kernels on a CPU, exactly if slowly: stands in for primitives.cuh.
//
// The 32 lanes of a warp are coroutines that take turns in the order of their numbers. A shuffle writes the lane's
// value, lets every other lane come to the same shuffle, and then reads. Warps run one after the other. A lane that
// skips a shuffle, and an access that is not aligned or outside the arrays named by `emulation_allow`, are errors of the
// launch: on a GPU they would be undefined. So is a kernel that was not loaded before its launch: while CUDA captures a
// graph, that fails.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#define MSDA_DEVICE inline
#define MSDA_KERNEL(threads, blocks_per_processor) void
#define MSDA_GRID_CONSTANT

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

namespace msda {

using std::fmaf;
using std::max;
using std::min;
using Stream = void*;
constexpr int kMaxGridY = 3;  // small, so that small batches come to use the third dimension of the grid

// ---- warps ----------------------------------------------------------------------------------------------------------

constexpr int kWarp = 32;

struct Warp {
  ucontext_t scheduler, lanes[kWarp];
  uint64_t values[2][kWarp];  // of this shuffle and of the next, which faster lanes may have come to
  int num_shuffles[kWarp];
  bool is_done[kWarp];
  int lane;         // that runs now
  int first_thread; // of the block
  int block_x, block_y, block_z;
  void (*body)(void*);
  void* argument;
};
inline Warp* current = nullptr;

inline std::string error;  // the first of the launch

inline void report(const char* message) {
  if (!error.empty()) return;
  error = std::string(message) + " (block " + std::to_string(current->block_x) + " " +
          std::to_string(current->block_y) + ", thread " + std::to_string(current->first_thread + current->lane) + ")";
}

inline void run_lane() {
  current->body(current->argument);
  current->is_done[current->lane] = true;
  swapcontext(&current->lanes[current->lane], &current->scheduler);
}

inline void run_warp(Warp& warp, std::vector<char>& stacks) {
  const size_t stack_bytes = stacks.size() / kWarp;
  current = &warp;
  for (int lane = 0; lane < kWarp; ++lane) {
    getcontext(&warp.lanes[lane]);
    warp.lanes[lane].uc_stack.ss_sp = stacks.data() + lane * stack_bytes;
    warp.lanes[lane].uc_stack.ss_size = stack_bytes;
    warp.lanes[lane].uc_link = &warp.scheduler;
    makecontext(&warp.lanes[lane], run_lane, 0);
    warp.num_shuffles[lane] = 0;
    warp.is_done[lane] = false;
  }
  while (!warp.is_done[0]) {
    for (warp.lane = 0; warp.lane < kWarp; ++warp.lane) {
      swapcontext(&warp.scheduler, &warp.lanes[warp.lane]);
      if (warp.is_done[warp.lane] != warp.is_done[0] || warp.num_shuffles[warp.lane] != warp.num_shuffles[0]) {
        return report("lanes of a warp do not come to the same shuffles");
      }
    }
  }
}

// The value that lane `source` of the warp has at this shuffle.
template <typename T>
T exchange(T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  auto& values = current->values[current->num_shuffles[current->lane]++ % 2];
  std::memcpy(&values[current->lane], &value, sizeof(T));
  swapcontext(&current->lanes[current->lane], &current->scheduler);
  std::memcpy(&value, &values[source], sizeof(T));
  return value;
}

inline int thread_index() { return current->first_thread + current->lane; }
inline int block_x() { return current->block_x; }
inline int block_y() { return current->block_y; }
inline int block_z() { return current->block_z; }

template <typename T>
T shuffle(T value, int source, int width) {
  return exchange(value, current->lane / width * width + source % width);
}
inline float shuffle_xor(float value, int mask) { return exchange(value, current->lane ^ mask); }

inline float select(bool condition, float a, float b) { return condition ? a : b; }

// ---- loading --------------------------------------------------------------------------------------------------------

inline int device = 0;                       // the current one
inline std::vector<const void*> loaded[2];  // by device: kernels whose code is there

inline bool is_loaded(const void* kernel) {
  return std::find(loaded[device].begin(), loaded[device].end(), kernel) != loaded[device].end();
}
inline const char* get_device(int* ordinal) {
  *ordinal = device;
  return nullptr;
}
inline const char* set_device(int ordinal) {
  if (ordinal < 0 || ordinal > 1) return "no such device";
  device = ordinal;
  return nullptr;
}
template <typename Params>
const char* load_kernel(void (*kernel)(Params)) {
  const auto* address = reinterpret_cast<const void*>(kernel);
  if (!is_loaded(address)) loaded[device].push_back(address);
  return nullptr;
}

// ---- launches -------------------------------------------------------------------------------------------------------

template <typename Params>
const char* launch(void (*kernel)(Params), unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned threads, Stream,
                   const Params& params) {
  if (!is_loaded(reinterpret_cast<const void*>(kernel))) return "the kernel is not loaded";  // as inside a CUDA graph
  static std::mutex one_at_a_time;  // XLA runs independent calls in several threads
  const std::lock_guard lock(one_at_a_time);
  error.clear();
  auto call = std::make_pair(kernel, &params);
  auto warp = std::make_unique<Warp>();
  std::vector<char> stacks(kWarp * 64 * 1024);
  warp->body = [](void* argument) {
    auto& [kernel, params] = *static_cast<std::pair<void (*)(Params), const Params*>*>(argument);
    kernel(*params);
  };
  warp->argument = &call;
  for (unsigned z = 0; z < grid_z; ++z) {
    for (unsigned y = 0; y < grid_y; ++y) {
      for (unsigned x = 0; x < grid_x; ++x) {
        for (unsigned thread = 0; thread < threads; thread += kWarp) {
          warp->block_x = x;
          warp->block_y = y;
          warp->block_z = z;
          warp->first_thread = thread;
          run_warp(*warp, stacks);
        }
      }
    }
  }
  return error.empty() ? nullptr : error.c_str();
}

// ---- memory ---------------------------------------------------------------------------------------------------------

struct Range {
  uintptr_t begin, end;
};
inline std::vector<Range> allowed;  // empty: everything

inline bool is_good(const void* address, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(address);
  bool is_inside = allowed.empty();
  for (const Range& range : allowed) is_inside |= range.begin <= begin && begin + bytes <= range.end;
  if (!is_inside) report("an access is out of bounds");
  if (begin % bytes) report("an access is not aligned");
  return error.empty();
}

template <typename T>
T load(const T* address) {
  T value = {};
  if (is_good(address, sizeof(T))) std::memcpy(&value, address, sizeof(T));
  return value;
}
template <typename T>
void store(T* address, T value) {
  if (is_good(address, sizeof(T))) std::memcpy(address, &value, sizeof(T));
}
inline void atomic_add(float* address, float4 value) {
  if (!is_good(address, sizeof(float4))) return;
  address[0] += value.x;
  address[1] += value.y;
  address[2] += value.z;
  address[3] += value.w;
}
inline const char* fill_zero(void* address, size_t bytes, Stream) {
  std::memset(address, 0, bytes);
  return nullptr;
}

// ---- numbers --------------------------------------------------------------------------------------------------------

inline int floor_to_int(float x) {
  if (std::isnan(x)) return 0;
  if (x >= 2147483648.0f) return INT32_MAX;
  if (x <= -2147483648.0f) return INT32_MIN;
  return static_cast<int>(std::floor(x));
}
inline float exp_approx(float x) { return std::exp(x); }
inline float divide_approx(float a, float b) { return a / b; }
inline float bits_to_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline uint16_t round_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  if (std::isnan(x)) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline uint32_t pack_bfloat16(float low, float high) {
  return round_bfloat16(low) | static_cast<uint32_t>(round_bfloat16(high)) << 16;
}

}  // namespace msda

// From now on only the arrays named since the last `emulation_allow_all` may be accessed.
extern "C" inline __attribute__((used)) void emulation_allow(const void* array, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(array);
  msda::allowed.push_back({begin, begin + bytes});
}
extern "C" inline __attribute__((used)) void emulation_allow_all() { msda::allowed.clear(); }
// Kernels loaded onto a device, and the current device.
extern "C" inline __attribute__((used)) int emulation_loaded(int device) {
  return static_cast<int>(msda::loaded[device].size());
}
extern "C" inline __attribute__((used)) int emulation_device() { return msda::device; }
