// Checks a call, chooses the kernel for its types and sizes, and launches it.
#include "api.h"

#include <algorithm>
#include <climits>
#include <cstdint>
#include <string>

#include "msda.cuh"

namespace msda {
namespace {

const char* fail(const std::string& message) {
  thread_local std::string last;
  last = "ms_deform_attn: " + message;
  return last.c_str();
}

bool is_aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

std::string expected(const char* name, const char* what, int64_t found) {
  return std::string(name) + ": expected " + what + ", found " + std::to_string(found);
}

int log2_up(int64_t n) {
  int log2 = 0;
  while ((int64_t{1} << log2) < n) ++log2;
  return log2;
}

// Lanes of a group, eight channels each.
int lanes_of(int64_t depth) { return 1 << log2_up((depth + 7) / 8); }

const char* check(const MsdaCall& call) {
  const struct {
    const char* name;
    int64_t size;
  } sizes[] = {{"S", call.cells}, {"M", call.heads}, {"D", call.depth}, {"L", call.num_levels}, {"P", call.points}};
  for (const auto& [name, size] : sizes) {
    if (size < 1) return fail(expected(name, "at least 1", size));
  }
  if (call.depth % 4 || call.depth > kMaxDepth) {
    return fail(expected("D", "a multiple of 4 up to 256", call.depth));
  }
  if (call.num_levels > kMaxLevels) return fail(expected("L", "at most 16", call.num_levels));
  if (call.num_levels * call.points > kMaxPoints) {
    return fail(expected("L * P", "at most 128", call.num_levels * call.points));
  }
  int64_t cells = 0;
  for (int64_t l = 0; l < call.num_levels; ++l) {
    const int64_t height = call.level_shapes[2 * l], width = call.level_shapes[2 * l + 1];
    if (height < 1 || width < 1 || height > INT_MAX / width) {
      return fail("level_shapes: level " + std::to_string(l) + " is " + std::to_string(height) + " x " +
                  std::to_string(width));
    }
    cells += height * width;
  }
  if (cells != call.cells) {
    return fail(expected("S", ("the levels' " + std::to_string(cells) + " cells").c_str(), call.cells));
  }
  if (call.batch < 0 || call.batch > INT_MAX) return fail(expected("B", "0 .. 2^31 - 1", call.batch));
  // Lanes that fill the last tile count a little beyond Q.
  if (call.queries < 0 || call.queries > INT_MAX - kThreads) {
    return fail(expected("Q", "below 2^31 - 256", call.queries));
  }
  // Within one image the kernels count elements in 32 bits.
  if (call.cells > INT_MAX / (call.heads * call.depth)) {
    return fail(expected("S * M * D", "less than 2^31", call.cells * call.heads * call.depth));
  }
  for (const int32_t type : {call.value_type, call.offset_type, call.score_type}) {
    if (type != MSDA_FLOAT32 && type != MSDA_BFLOAT16) return fail(expected("type", "0 or 1", type));
  }
  for (const void* array : {call.value, call.offsets, call.scores, static_cast<const void*>(call.reference)}) {
    if (!is_aligned(array)) return fail("an input is not aligned to 16 bytes");
  }
  return nullptr;
}

// The queries as a grid: the levels' cells themselves where there is a query per cell, else one long row.
int64_t lay_out_queries(const MsdaCall& call, int slots_log2, Params& params) {
  const bool is_pyramid = call.queries == call.cells;
  params.num_query_levels = is_pyramid ? static_cast<int>(call.num_levels) : 1;
  params.tile_width_log2 = is_pyramid ? (slots_log2 + 1) / 2 : slots_log2;
  const int tile_width = 1 << params.tile_width_log2, tile_height = 1 << (slots_log2 - params.tile_width_log2);
  int64_t first_query = 0, first_tile = 0;
  for (int l = 0; l < params.num_query_levels; ++l) {
    const int64_t height = is_pyramid ? call.level_shapes[2 * l] : 1;
    const int64_t width = is_pyramid ? call.level_shapes[2 * l + 1] : call.queries;
    const int64_t tiles_per_row = (width + tile_width - 1) / tile_width;
    params.query_levels[l] = {static_cast<int>(height), static_cast<int>(width), static_cast<int>(first_query),
                              static_cast<int>(first_tile), static_cast<int>(tiles_per_row)};
    first_query += height * width;
    first_tile += tiles_per_row * ((height + tile_height - 1) / tile_height);
  }
  return first_tile;
}

Params make_params(const MsdaCall& call) {
  Params params = {};
  params.value = call.value;
  params.offsets = call.offsets;
  params.scores = call.scores;
  params.reference = call.reference;
  params.batch = static_cast<int>(call.batch);
  params.cells = static_cast<int>(call.cells);
  params.queries = static_cast<int>(call.queries);
  params.heads = static_cast<int>(call.heads);
  params.depth = static_cast<int>(call.depth);
  params.num_levels = static_cast<int>(call.num_levels);
  params.points = static_cast<int>(call.points);
  params.softmax = call.softmax != 0;
  params.bfloat16_offsets = call.offset_type == MSDA_BFLOAT16;
  params.bfloat16_scores = call.score_type == MSDA_BFLOAT16;
  const int row_elements = params.heads * params.depth;
  int first_cell = 0;
  for (int l = 0; l < params.num_levels; ++l) {
    const int height = static_cast<int>(call.level_shapes[2 * l]);
    const int width = static_cast<int>(call.level_shapes[2 * l + 1]);
    params.levels[l] = {height, width, first_cell, width > 1 ? row_elements : 0, height > 1 ? width * row_elements : 0};
    first_cell += height * width;
  }
  return params;
}

bool is_usual(const MsdaCall& call) {
  bool has_pairs = true;  // every level is at least two cells wide and high
  for (int64_t i = 0; i < 2 * call.num_levels; ++i) has_pairs &= call.level_shapes[i] > 1;
  return has_pairs && call.num_levels == UsualShape::levels && call.points == UsualShape::points &&
         call.heads == UsualShape::heads && call.depth == UsualShape::depth && call.offset_type == call.score_type;
}

using Kernel = void (*)(Params);

template <typename Value>
Kernel usual_kernel(bool is_forward, bool is_bfloat16) {
  constexpr bool kWide = std::is_same_v<Value, Bfloat16>;
  if (is_forward) {
    return is_bfloat16 ? Kernel(forward_kernel<UsualShape, Value, Bfloat16, Bfloat16, 4, kWide>)
                       : Kernel(forward_kernel<UsualShape, Value, float, float, 4, kWide>);
  }
  return is_bfloat16 ? Kernel(backward_kernel<UsualShape, Value, Bfloat16, Bfloat16, 4>)
                     : Kernel(backward_kernel<UsualShape, Value, float, float, 4>);
}

template <typename Value, int kLanes>
Kernel general_kernel(bool is_forward, int lanes) {
  if constexpr (kLanes <= 32) {
    if (lanes != kLanes) return general_kernel<Value, 2 * kLanes>(is_forward, lanes);
    return is_forward ? Kernel(forward_kernel<AnyShape, Value, Either, Either, kLanes, false>)
                      : Kernel(backward_kernel<AnyShape, Value, Either, Either, kLanes>);
  } else {
    return nullptr;
  }
}

template <typename Value>
Kernel choose(const MsdaCall& call, bool is_forward) {
  if (is_usual(call)) return usual_kernel<Value>(is_forward, call.offset_type == MSDA_BFLOAT16);
  return general_kernel<Value, 1>(is_forward, lanes_of(call.depth));
}

// Every kernel that `choose` may return.
template <typename Value>
const char* load_kernels() {
  for (const bool is_forward : {true, false}) {
    for (const bool is_bfloat16 : {true, false}) {
      if (const char* error = load_kernel(usual_kernel<Value>(is_forward, is_bfloat16))) return error;
    }
    for (int lanes = 1; lanes <= 32; lanes *= 2) {
      if (const char* error = load_kernel(general_kernel<Value, 1>(is_forward, lanes))) return error;
    }
  }
  return nullptr;
}

const char* run(const MsdaCall& call, Params& params, bool is_forward, Stream stream) {
  if (call.batch == 0 || call.queries == 0) return nullptr;
  const int slots_log2 = log2_up(kThreads / lanes_of(call.depth));
  const int64_t num_blocks = lay_out_queries(call, slots_log2, params) * call.heads;
  if (num_blocks > INT_MAX) return fail(expected("Q * M", "fewer items", call.queries * call.heads));
  const Kernel kernel =
      call.value_type == MSDA_BFLOAT16 ? choose<Bfloat16>(call, is_forward) : choose<float>(call, is_forward);
  const auto grid_y = static_cast<unsigned>(std::min<int64_t>(call.batch, kMaxGridY));
  const auto grid_z = static_cast<unsigned>((call.batch + kMaxGridY - 1) / kMaxGridY);
  const char* error =
      launch(kernel, static_cast<unsigned>(num_blocks), grid_y, grid_z, kThreads, stream, params);
  return error ? fail(std::string("launch failed: ") + error) : nullptr;
}

}  // namespace
}  // namespace msda

const char* msda_load(int32_t device) {
  using namespace msda;
  int before = 0;
  const char* error = get_device(&before);
  if (!error) error = set_device(device);
  if (!error) error = load_kernels<float>();
  if (!error) error = load_kernels<Bfloat16>();
  if (const char* not_restored = set_device(before); !error) error = not_restored;
  return error ? fail("cannot load the kernels onto device " + std::to_string(device) + ": " + error) : nullptr;
}

const char* msda_forward(const MsdaCall* call, void* out, void* stream) {
  using namespace msda;
  if (const char* error = check(*call)) return error;
  if (!is_aligned(out)) return fail("out is not aligned to 16 bytes");
  Params params = make_params(*call);
  params.out = out;
  return run(*call, params, true, static_cast<Stream>(stream));
}

const char* msda_backward(const MsdaCall* call, const void* out_grad, float* value_grad, void* offsets_grad,
                          void* scores_grad, void* stream) {
  using namespace msda;
  if (const char* error = check(*call)) return error;
  for (const void* array : {out_grad, static_cast<const void*>(value_grad), static_cast<const void*>(offsets_grad),
                            static_cast<const void*>(scores_grad)}) {
    if (!is_aligned(array)) return fail("a gradient is not aligned to 16 bytes");
  }
  Params params = make_params(*call);
  params.out_grad = out_grad;
  params.value_grad = value_grad;
  params.offsets_grad = offsets_grad;
  params.scores_grad = scores_grad;
  const size_t bytes = sizeof(float) * call->batch * call->cells * call->heads * call->depth;
  if (bytes != 0) {
    if (const char* error = fill_zero(value_grad, bytes, static_cast<Stream>(stream))) {
      return fail(std::string("cannot clear value_grad: ") + error);
    }
  }
  return run(*call, params, false, static_cast<Stream>(stream));
}
