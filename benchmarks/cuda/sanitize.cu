// Runs every kernel of deformable attention once on hostile inputs, for compute-sanitizer (see sanitize.sh).
//
// Each array is an allocation of its own and exactly as long as it must be, so that memcheck sees any access beyond.
// Exits with 1 if a launch fails or an output is not finite where all inputs are.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "api.cu"

namespace {

struct Case {
  std::vector<int64_t> shapes;  // h, w, h, w, ...
  int64_t batch, queries, heads, depth, points;
};

std::mt19937 generator(0);

void must(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "sanitize: %s\n", what);
  std::exit(1);
}

uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return static_cast<uint16_t>(bits >> 16);
}

class Array {
 public:
  Array(int64_t count, bool is_bfloat16) : bytes_(count * (is_bfloat16 ? 2 : 4)), is_bfloat16_(is_bfloat16) {
    must(cudaMalloc(&data_, bytes_) == cudaSuccess, "out of memory");
  }
  Array(const Array&) = delete;
  ~Array() { cudaFree(data_); }

  void fill(const std::vector<float>& values) {
    std::vector<uint16_t> halves;
    if (is_bfloat16_) {
      for (float x : values) halves.push_back(to_bfloat16(x));
    }
    const void* from = is_bfloat16_ ? static_cast<const void*>(halves.data()) : values.data();
    must(cudaMemcpy(data_, from, bytes_, cudaMemcpyHostToDevice) == cudaSuccess, "copy");
  }

  bool is_finite() const {
    std::vector<uint16_t> words(bytes_ / 2);
    must(cudaMemcpy(words.data(), data_, bytes_, cudaMemcpyDeviceToHost) == cudaSuccess, "copy back");
    for (size_t i = is_bfloat16_ ? 0 : 1; i < words.size(); i += is_bfloat16_ ? 1 : 2) {
      if ((words[i] & 0x7f80) == 0x7f80) return false;  // the exponent of infinities and NaN
    }
    return true;
  }

  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  size_t bytes_;
  bool is_bfloat16_;
};

std::vector<float> normal(int64_t count, float scale) {
  std::normal_distribution<float> distribution(0.0f, scale);
  std::vector<float> values(count);
  for (float& x : values) x = distribution(generator);
  return values;
}

std::vector<float> extreme(int64_t count) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> choices = {NAN, inf, -inf, 3e9f, -3e9f, 1e38f, -1.0f, 0.0f, 1.0f, 5.0f, -5.5f};
  std::uniform_int_distribution<size_t> index(0, choices.size() - 1);
  std::vector<float> values(count);
  for (float& x : values) x = choices[index(generator)];
  return values;
}

void run(const Case& c, bool bfloat16_values, bool bfloat16_offsets, bool softmax, bool hostile) {
  const int64_t levels = c.shapes.size() / 2;
  int64_t cells = 0;
  for (int64_t l = 0; l < levels; ++l) cells += c.shapes[2 * l] * c.shapes[2 * l + 1];
  const int64_t values = c.batch * cells * c.heads * c.depth, outs = c.batch * c.queries * c.heads * c.depth;
  const int64_t samples = c.batch * c.queries * c.heads * levels * c.points;
  Array value(values, bfloat16_values), out(outs, bfloat16_values), out_grad(outs, bfloat16_values);
  Array offsets(2 * samples, bfloat16_offsets), scores(samples, bfloat16_offsets), value_grad(values, false);
  Array offsets_grad(2 * samples, bfloat16_offsets), scores_grad(samples, bfloat16_offsets);
  Array reference(c.queries * levels * 2, false);
  value.fill(normal(values, 1));
  out_grad.fill(normal(outs, 1));
  reference.fill(normal(c.queries * levels * 2, 1));
  offsets.fill(hostile ? extreme(2 * samples) : normal(2 * samples, 4));
  scores.fill(hostile ? extreme(samples) : normal(samples, 1));
  const int32_t others = bfloat16_offsets ? MSDA_BFLOAT16 : MSDA_FLOAT32;
  const MsdaCall call = {c.batch, cells, c.queries, c.heads, c.depth, levels, c.points, c.shapes.data(),
                         bfloat16_values ? MSDA_BFLOAT16 : MSDA_FLOAT32, others, others, softmax, value.data(),
                         offsets.data(), scores.data(), static_cast<const float*>(reference.data())};
  const char* error = msda_forward(&call, out.data(), nullptr);
  if (!error) {
    error = msda_backward(&call, out_grad.data(), static_cast<float*>(value_grad.data()), offsets_grad.data(),
                          scores_grad.data(), nullptr);
  }
  must(error == nullptr, error);
  must(cudaDeviceSynchronize() == cudaSuccess, "a kernel failed");
  if (hostile) return;
  for (const Array* array : {&out, &value_grad, &offsets_grad, &scores_grad}) must(array->is_finite(), "not finite");
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {{2, 3, 4, 6, 8, 12}, 2, 126, 8, 32, 4},   // the usual sizes, a query per cell
      {{2, 3, 4, 6, 8, 12}, 1, 77, 8, 32, 4},    // other queries
      {{1, 1, 3, 1, 1, 5, 4, 3}, 2, 13, 3, 12, 3},
      {{3, 4}, 1, 5, 1, 4, 1},
      {{3, 4, 2, 2}, 2, 16, 2, 16, 2},
      {{5, 7}, 1, 35, 1, 64, 4},
      {{5, 7}, 1, 9, 1, 128, 4},
      {{5, 7}, 1, 9, 1, 256, 4},
  };
  if (const char* error = msda_load(0)) must(false, error);
  int runs = 0;
  for (const Case& c : cases) {
    for (int flags = 0; flags < 16; ++flags, ++runs) run(c, flags & 1, flags & 2, flags & 4, flags & 8);
  }
  std::printf("{\"runs\": %d, \"ok\": true}\n", runs);
  return 0;
}
