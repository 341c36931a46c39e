// What the machine gives deformable attention: bandwidths of copies, of gathered rows and of atomic additions to rows.
//
//   nvcc -std=c++17 -O3 -arch=sm_90 benchmarks/cuda/microbench.cu -o /tmp/microbench && /tmp/microbench
//
// Prints one JSON object: per measurement the median time in microseconds and terabytes per second (bytes of the rows
// read or added to; a copy counts reads and writes). Rows are cells of a head: 64 bytes of bfloat16 or 128 of float32
// (32 channels). Patterns:
//   random   any row of the table
//   local    as the operator: query (y, x) of a 64 x 112 map takes cells around it, offsets of a normal distribution of
//            3 cells, four neighbouring cells (2 x 2) per point, 8 heads, and as many maps as fill the table
//   one      the same row for all: the worst case of additions
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "microbench: %s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}

template <typename T>
T* allocate(size_t count) {
  T* pointer = nullptr;
  check(cudaMalloc(&pointer, count * sizeof(T)), "cudaMalloc");
  check(cudaMemset(pointer, 0, count * sizeof(T)), "cudaMemset");
  return pointer;
}

constexpr int kThreads = 256;
constexpr int kHeight = 64, kWidth = 112, kHeads = 8;
constexpr int kMaps = 4;                                  // 14.7 MB of 64-byte rows, 29.4 MB of 128-byte rows
constexpr int kRows = kMaps * kHeight * kWidth * kHeads;  // of each table
constexpr int kGroups = kRows;                            // one per query and head
constexpr int kRowsPerGroup = 48;                         // 12 points of 4 cells

__global__ void copy(const float4* __restrict__ from, float4* __restrict__ to, size_t count) {
  for (size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x; i < count; i += gridDim.x * size_t{kThreads}) {
    to[i] = from[i];
  }
}

// kLanes lanes read a row of kLanes * 16 bytes together.
template <int kLanes>
__global__ void gather(const uint4* __restrict__ table, const int* __restrict__ rows, uint4* __restrict__ sums) {
  const int thread = blockIdx.x * kThreads + threadIdx.x;
  const int group = thread / kLanes, lane = thread % kLanes;
  if (group >= kGroups) return;
  uint4 sum = {};
#pragma unroll 8
  for (int i = 0; i < kRowsPerGroup; ++i) {
    const uint4 words = __ldg(table + static_cast<int64_t>(__ldg(rows + group * kRowsPerGroup + i)) * kLanes + lane);
    sum.x ^= words.x;
    sum.y ^= words.y;
    sum.z ^= words.z;
    sum.w ^= words.w;
  }
  sums[thread] = sum;
}

// Four lanes add to a row of 32 floats: as in the backward kernel each adds twice four channels.
template <bool kVector>
__global__ void scatter(float* __restrict__ table, const int* __restrict__ rows) {
  const int thread = blockIdx.x * kThreads + threadIdx.x;
  const int group = thread / 4, lane = thread % 4;
  if (group >= kGroups) return;
#pragma unroll 4
  for (int i = 0; i < kRowsPerGroup; ++i) {
    float* row = table + static_cast<int64_t>(__ldg(rows + group * kRowsPerGroup + i)) * 32;
    if constexpr (kVector) {
#if __CUDA_ARCH__ >= 900
      for (int run = 0; run < 2; ++run) {
        asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %1, %1, %1};" ::"l"(row + 16 * run + 4 * lane),
                     "f"(1.0f)
                     : "memory");
      }
#endif
    } else {
      for (int c = 0; c < 8; ++c) atomicAdd(row + 4 * c + lane, 1.0f);
    }
  }
}

// Row (map, y, x, head) of each of a group's accesses.
std::vector<int> make_rows(const std::string& pattern) {
  std::mt19937 random(0);
  std::normal_distribution<float> offset(0.0f, 3.0f);
  std::uniform_int_distribution<int> any(0, kRows - 1);
  std::vector<int> rows(static_cast<size_t>(kGroups) * kRowsPerGroup);
  for (int group = 0; group < kGroups; ++group) {
    const int head = group % kHeads, x = group / kHeads % kWidth, y = group / kHeads / kWidth % kHeight;
    const int map = group / kHeads / kWidth / kHeight;
    int* mine = rows.data() + static_cast<size_t>(group) * kRowsPerGroup;
    for (int point = 0; point < kRowsPerGroup / 4; ++point) {
      const int left = std::clamp(x + static_cast<int>(offset(random)), 0, kWidth - 2);
      const int top = std::clamp(y + static_cast<int>(offset(random)), 0, kHeight - 2);
      for (int c = 0; c < 4; ++c) {
        const int local = ((map * kHeight + top + c / 2) * kWidth + left + c % 2) * kHeads + head;
        mine[4 * point + c] = pattern == "local" ? local : pattern == "random" ? any(random) : 0;
      }
    }
  }
  return rows;
}

bool is_first = true;

void measure(const std::string& name, double bytes, const std::function<void()>& run) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i < 23; ++i) {
    check(cudaEventRecord(begin), "record");
    run();
    check(cudaEventRecord(end), "record");
    check(cudaEventSynchronize(end), name.c_str());
    check(cudaGetLastError(), name.c_str());
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "elapsed");
    if (i >= 3) times.push_back(ms);  // the first warm up
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  const double us = 1e3 * times[times.size() / 2];
  std::printf("%s\n  \"%s\": {\"us\": %.2f, \"tb_per_s\": %.4f}", is_first ? "" : ",", name.c_str(), us,
              bytes / us / 1e6);
  is_first = false;
}

int blocks(int64_t threads) { return static_cast<int>((threads + kThreads - 1) / kThreads); }

}  // namespace

int main() {
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  std::printf("{\"device\": \"%s\", \"multiprocessors\": %d, \"l2_bytes\": %d, \"table_rows\": %d, \"measurements\": {",
              device.name, device.multiProcessorCount, device.l2CacheSize, kRows);

  const size_t count = size_t{1} << 26;  // 1 GiB of float4
  float4* from = allocate<float4>(count);
  float4* to = allocate<float4>(count);
  measure("copy_1GiB", 2.0 * count * sizeof(float4), [&] {
    copy<<<device.multiProcessorCount * 8, kThreads>>>(from, to, count);
  });

  auto* table = reinterpret_cast<float*>(from);
  auto* sums = reinterpret_cast<uint4*>(to);
  int* rows = allocate<int>(static_cast<size_t>(kGroups) * kRowsPerGroup);
  const double accesses = static_cast<double>(kGroups) * kRowsPerGroup;
  for (const std::string pattern : {"local", "random", "one"}) {
    const std::vector<int> host = make_rows(pattern);
    check(cudaMemcpy(rows, host.data(), host.size() * sizeof(int), cudaMemcpyHostToDevice), "cudaMemcpy");
    measure("gather_64B_" + pattern, accesses * 64, [&] {
      gather<4><<<blocks(int64_t{kGroups} * 4), kThreads>>>(reinterpret_cast<const uint4*>(table), rows, sums);
    });
    measure("gather_128B_" + pattern, accesses * 128, [&] {
      gather<8><<<blocks(int64_t{kGroups} * 8), kThreads>>>(reinterpret_cast<const uint4*>(table), rows, sums);
    });
    if (device.major >= 9) {
      measure("add_vector_128B_" + pattern, accesses * 128, [&] {
        scatter<true><<<blocks(int64_t{kGroups} * 4), kThreads>>>(table, rows);
      });
    }
    measure("add_scalar_128B_" + pattern, accesses * 128, [&] {
      scatter<false><<<blocks(int64_t{kGroups} * 4), kThreads>>>(table, rows);
    });
  }
  std::printf("\n}}\n");
  return 0;
}
