// Multi-scale deformable attention (Zhu et al., 2021): the kernels, without any framework's headers.
//
// An item is one head of one query. A group of `kLanes` neighbouring lanes works on an item, eight channels a lane; a
// block works on one head of a tile of neighbouring queries, because these sample neighbouring cells and so find them
// in the L1 cache. Each lane computes location and weights of the points k = lane, lane + kLanes, ... ("its own") and
// hands them to the other lanes of the group by shuffles.
//
// A point reads two cells in each of two neighbouring rows, always inside the level: near a border the pair of cells
// is moved inside and the weights move with it, so that the cells outside weigh nothing. Coordinates, weights and sums
// are float32 whatever the types in memory.
#pragma once

#include <cstdint>
#include <type_traits>

// Defines MSDA_DEVICE, MSDA_KERNEL, MSDA_GRID_CONSTANT and everything that touches the hardware.
#ifdef MSDA_PRIMITIVES
#include MSDA_PRIMITIVES
#else
#include "primitives.cuh"
#endif

namespace msda {

constexpr int kThreads = 256;   // per block
constexpr int kMaxLevels = 16;  // of feature maps
constexpr int kMaxPoints = 128;  // levels * points of one item
constexpr int kMaxDepth = 256;  // channels of a head: 32 lanes of eight

struct Level {
  int height, width, first_cell;
  int step_x, step_y;  // elements of `value` to the next column and row; 0 where there is none
};

// Queries laid out like cells, so that tiles are neighbours in both directions.
struct QueryLevel {
  int height, width, first_query;
  int first_tile, tiles_per_row;
};

struct Params {
  const void* value;       // [B, S, M, D]
  const void* offsets;     // [B, Q, M, L, P, 2]
  const void* scores;      // [B, Q, M, L, P]
  const float* reference;  // [Q, L, 2]
  const void* out_grad;    // [B, Q, M, D]
  void* out;               // [B, Q, M, D]
  float* value_grad;       // [B, S, M, D], zeros before
  void* offsets_grad;
  void* scores_grad;
  int batch, cells, queries, heads, depth, num_levels, points;
  int num_query_levels, tile_width_log2;
  bool softmax, bfloat16_offsets, bfloat16_scores;
  Level levels[kMaxLevels];
  QueryLevel query_levels[kMaxLevels];
};

// Sizes that are known when compiling (0: only at run time). The first is what TarViS uses.
struct UsualShape {
  static constexpr bool is_static = true;
  static constexpr int levels = 3, points = 4, heads = 8, depth = 32;
};
struct AnyShape {
  static constexpr bool is_static = false;
  static constexpr int levels = 0, points = 0, heads = 0, depth = 0;
};

// ---- types in memory ------------------------------------------------------------------------------------------------

struct Bfloat16 {
  uint16_t bits;
};
struct Either {};  // float or Bfloat16, told at run time

MSDA_DEVICE float low_half(uint32_t pair) { return bits_to_float(pair << 16); }
MSDA_DEVICE float high_half(uint32_t pair) { return bits_to_float(pair & 0xffff0000u); }

template <typename T>
MSDA_DEVICE float load_number(const void* array, int64_t index, bool is_bfloat16) {
  if constexpr (std::is_same_v<T, Either>) {
    return is_bfloat16 ? load_number<Bfloat16>(array, index, true) : load_number<float>(array, index, false);
  } else if constexpr (std::is_same_v<T, Bfloat16>) {
    return bits_to_float(static_cast<uint32_t>(load(static_cast<const uint16_t*>(array) + index)) << 16);
  } else {
    return load(static_cast<const float*>(array) + index);
  }
}

template <typename T>
MSDA_DEVICE float2 load_pair(const void* array, int64_t index, bool is_bfloat16) {
  if constexpr (std::is_same_v<T, Either>) {
    return is_bfloat16 ? load_pair<Bfloat16>(array, index, true) : load_pair<float>(array, index, false);
  } else if constexpr (std::is_same_v<T, Bfloat16>) {
    const uint32_t pair = load(static_cast<const uint32_t*>(array) + index);
    return make_float2(low_half(pair), high_half(pair));
  } else {
    return load(static_cast<const float2*>(array) + index);
  }
}

template <typename T>
MSDA_DEVICE void store_number(void* array, int64_t index, float value, bool is_bfloat16) {
  if constexpr (std::is_same_v<T, Either>) {
    is_bfloat16 ? store_number<Bfloat16>(array, index, value, true) : store_number<float>(array, index, value, false);
  } else if constexpr (std::is_same_v<T, Bfloat16>) {
    store(static_cast<uint16_t*>(array) + index, round_bfloat16(value));
  } else {
    store(static_cast<float*>(array) + index, value);
  }
}

template <typename T>
MSDA_DEVICE void store_pair(void* array, int64_t index, float2 value, bool is_bfloat16) {
  if constexpr (std::is_same_v<T, Either>) {
    is_bfloat16 ? store_pair<Bfloat16>(array, index, value, true) : store_pair<float>(array, index, value, false);
  } else if constexpr (std::is_same_v<T, Bfloat16>) {
    store(static_cast<uint32_t*>(array) + index, pack_bfloat16(value.x, value.y));
  } else {
    store(static_cast<float2*>(array) + index, value);
  }
}

// Which eight channels a lane holds: eight neighbours (one load of 16 bytes of bfloat16), or two runs of four, the
// second run `4 * kLanes` channels after the first, so that the lanes of a group touch whole sectors together.
template <typename Value, int kLanes, bool kWide, bool kAllActive>
struct Channels {
  int first;         // channel
  bool is_active[2]; // whether each run of four lies below D

  MSDA_DEVICE Channels(int lane, int depth) {
    first = lane * (kWide ? 8 : 4);
    is_active[0] = kAllActive || first < depth;
    is_active[1] = kAllActive || first + kSecond < depth;
  }

  static constexpr int kSecond = kWide ? 4 : 4 * kLanes;  // where the second run starts, from `first`

  // `row` is where the lane's first channel lies.
  MSDA_DEVICE void load_row(const Value* row, float (&values)[8]) const {
    if constexpr (kWide) {
      uint4 words = make_uint4(0, 0, 0, 0);
      if (is_active[0]) words = load(reinterpret_cast<const uint4*>(row));
      unpack(words.x, words.y, values);
      unpack(words.z, words.w, values + 4);
    } else {
#pragma unroll
      for (int run = 0; run < 2; ++run) load_run(row + run * kSecond, is_active[run], values + 4 * run);
    }
  }

  MSDA_DEVICE void store_row(Value* row, const float (&values)[8]) const {
    if constexpr (kWide) {
      if (is_active[0]) {
        store(reinterpret_cast<uint4*>(row),
              make_uint4(pack_bfloat16(values[0], values[1]), pack_bfloat16(values[2], values[3]),
                         pack_bfloat16(values[4], values[5]), pack_bfloat16(values[6], values[7])));
      }
    } else {
#pragma unroll
      for (int run = 0; run < 2; ++run) {
        const float* v = values + 4 * run;
        if (!is_active[run]) continue;
        if constexpr (std::is_same_v<Value, Bfloat16>) {
          store(reinterpret_cast<uint2*>(row + run * kSecond),
                make_uint2(pack_bfloat16(v[0], v[1]), pack_bfloat16(v[2], v[3])));
        } else {
          store(reinterpret_cast<float4*>(row + run * kSecond), make_float4(v[0], v[1], v[2], v[3]));
        }
      }
    }
  }

 private:
  static MSDA_DEVICE void unpack(uint32_t a, uint32_t b, float* values) {
    values[0] = low_half(a);
    values[1] = high_half(a);
    values[2] = low_half(b);
    values[3] = high_half(b);
  }

  static MSDA_DEVICE void load_run(const Value* run, bool active, float* values) {
    if constexpr (std::is_same_v<Value, Bfloat16>) {
      uint2 words = make_uint2(0, 0);
      if (active) words = load(reinterpret_cast<const uint2*>(run));
      unpack(words.x, words.y, values);
    } else {
      float4 loaded = make_float4(0, 0, 0, 0);
      if (active) loaded = load(reinterpret_cast<const float4*>(run));
      values[0] = loaded.x;
      values[1] = loaded.y;
      values[2] = loaded.z;
      values[3] = loaded.w;
    }
  }
};

// ---- where a point samples ------------------------------------------------------------------------------------------

// Along one axis of `size` cells: the pair of cells `first`, `first + 1` (the second only if size > 1).
struct Pair {
  int first;
  float low, high;              // weights
  float low_slope, high_slope;  // their derivatives; at whole pixels those to the right
};

// NaN gives weights of NaN, anything at -1 or below or at `size` or beyond weights and slopes of 0.
template <bool kSizeAbove1>
MSDA_DEVICE Pair locate(float x, int size) {
  const int cell = floor_to_int(x);
  const float fraction = x - static_cast<float>(cell);
  Pair pair;
  pair.first = min(max(cell, 0), max(size - 2, 0));
  const int shift = cell - pair.first;
  pair.low = shift == 0 ? 1 - fraction : shift == -1 ? fraction : 0.0f;
  pair.high = shift == 0 ? fraction : shift == 1 ? 1 - fraction : 0.0f;
  pair.low_slope = shift == 0 ? -1.0f : (shift == -1 && fraction > 0) ? 1.0f : 0.0f;
  pair.high_slope = shift == 0 ? 1.0f : shift == 1 ? -1.0f : 0.0f;
  if (!kSizeAbove1 && size == 1) pair.high = pair.high_slope = 0;
  return pair;
}

// array[index]. No instruction indexes registers: a short array is searched, so that it can live in them.
constexpr int kMaxInRegisters = 4;

template <int kSize>
MSDA_DEVICE float pick(const float (&array)[kSize], int index) {
  if constexpr (kSize > kMaxInRegisters) return array[index];
  float picked = array[0];
#pragma unroll
  for (int i = 1; i < kSize; ++i) picked = i == index ? array[i] : picked;
  return picked;
}
template <int kSize>
MSDA_DEVICE void put(float (&array)[kSize], int index, float value) {
  if constexpr (kSize > kMaxInRegisters) {
    array[index] = value;
  } else {
#pragma unroll
    for (int i = 0; i < kSize; ++i) array[i] = i == index ? value : array[i];
  }
}

// The item of this lane's group, and what both directions need of it.
template <typename Shape, typename Offset, typename Score, int kLanes>
struct Item {
  static constexpr int kStaticPoints = Shape::levels * Shape::points;
  static constexpr int kRounds = (kStaticPoints + kLanes - 1) / kLanes;

  const Params& params;
  int lane;       // within the group
  int query;
  bool is_valid;  // false: only fills the tile; does what another item does, stores the same, but must not add twice
  int head;
  int64_t index;  // (b * Q + q) * M + m
  float weights[Shape::is_static ? kRounds : 1];  // of the lane's own points
  float max_score, scale;                         // what gives them where there may be many

  MSDA_DEVICE int heads() const { return Shape::is_static ? Shape::heads : params.heads; }
  MSDA_DEVICE int depth() const { return Shape::is_static ? Shape::depth : params.depth; }
  MSDA_DEVICE int points() const { return Shape::is_static ? Shape::points : params.points; }
  MSDA_DEVICE int all_points() const { return Shape::is_static ? kStaticPoints : params.num_levels * params.points; }
  MSDA_DEVICE int rounds() const { return Shape::is_static ? kRounds : (all_points() + kLanes - 1) / kLanes; }
  MSDA_DEVICE int own_point(int round) const { return round * kLanes + lane; }
  MSDA_DEVICE bool has_point(int round) const {
    return (Shape::is_static && kStaticPoints % kLanes == 0) || own_point(round) < all_points();
  }

  MSDA_DEVICE int own_level(int round) const {
    if constexpr (Shape::is_static && Shape::points % kLanes == 0) return round * kLanes / Shape::points;
    return level_of(own_point(round));
  }
  // Points beyond the last, which weigh nothing, count to the last level.
  MSDA_DEVICE int level_of(int point) const { return min(point, all_points() - 1) / points(); }

  MSDA_DEVICE Item(const Params& params, int b) : params(params) {
    lane = thread_index() % kLanes;
    const int tile = block_x() / heads();
    head = block_x() - tile * heads();
    find_query(tile, thread_index() / kLanes);
    index = (static_cast<int64_t>(b) * params.queries + query) * heads() + head;
    prepare_weights();
  }

  MSDA_DEVICE float weight(int round) const {
    if constexpr (Shape::is_static) {
      return pick(weights, round);
    } else {
      return has_point(round) ? unscaled_weight(load_score(round)) * scale : 0.0f;
    }
  }

  // (x, y) in cells of the level; 0 is the centre of the first.
  MSDA_DEVICE float2 location(int round) const {
    const int level = own_level(round);
    const int point = min(own_point(round), all_points() - 1);
    const int num_levels = Shape::is_static ? Shape::levels : params.num_levels;
    const float2 reference = load(reinterpret_cast<const float2*>(params.reference) +
                                  static_cast<int64_t>(query) * num_levels + level);
    const float2 offset = load_pair<Offset>(params.offsets, index * all_points() + point, params.bfloat16_offsets);
    return make_float2(fmaf(reference.x, static_cast<float>(params.levels[level].width), -0.5f) + offset.x,
                       fmaf(reference.y, static_cast<float>(params.levels[level].height), -0.5f) + offset.y);
  }

  MSDA_DEVICE float sum_over_group(float value) const {
#pragma unroll
    for (int mask = 1; mask < kLanes; mask *= 2) value += shuffle_xor(value, mask);
    return value;
  }

 private:
  MSDA_DEVICE void find_query(int tile, int slot) {
    int level = 0;
    if constexpr (!Shape::is_static) {
      while (level + 1 < params.num_query_levels && tile >= params.query_levels[level + 1].first_tile) ++level;
    } else {
#pragma unroll
      for (int next = 1; next < Shape::levels; ++next) {
        level += next < params.num_query_levels && tile >= params.query_levels[next].first_tile;
      }
    }
    const QueryLevel& grid = params.query_levels[level];
    tile -= grid.first_tile;
    const int tile_y = tile / grid.tiles_per_row;
    const int tile_x = tile - tile_y * grid.tiles_per_row;
    const int slots_log2 = kSlotsLog2 - params.tile_width_log2;
    const int x = (tile_x << params.tile_width_log2) + (slot & ((1 << params.tile_width_log2) - 1));
    const int y = (tile_y << slots_log2) + (slot >> params.tile_width_log2);
    is_valid = x < grid.width && y < grid.height;
    query = grid.first_query + (is_valid ? y * grid.width + x : 0);
  }

  MSDA_DEVICE float load_score(int round) const {
    const int point = min(own_point(round), all_points() - 1);
    return load_number<Score>(params.scores, index * all_points() + point, params.bfloat16_scores);
  }

  MSDA_DEVICE float unscaled_weight(float score) const {
    return params.softmax ? exp_approx(score - max_score) : score;
  }

  MSDA_DEVICE void prepare_weights() {
    scale = 1;
    max_score = 0;
    if constexpr (Shape::is_static) {
#pragma unroll
      for (int round = 0; round < kRounds; ++round) weights[round] = load_score(round);
    }
    const auto score = [&](int round) { return Shape::is_static ? pick(weights, round) : load_score(round); };
    if (params.softmax) {
      // A lane without a point in the last round repeats the item's last score: no matter to the maximum.
      const int num_rounds = rounds();
      max_score = score(0);
      for (int round = 1; round < num_rounds; ++round) max_score = fmaxf(max_score, score(round));
#pragma unroll
      for (int mask = 1; mask < kLanes; mask *= 2) max_score = fmaxf(max_score, shuffle_xor(max_score, mask));
      float sum = 0;
      for (int round = 0; round < num_rounds; ++round) sum += has_point(round) ? unscaled_weight(score(round)) : 0.0f;
      scale = divide_approx(1.0f, sum_over_group(sum));
    }
    if constexpr (Shape::is_static) {
#pragma unroll
      for (int round = 0; round < kRounds; ++round) {
        weights[round] = has_point(round) ? unscaled_weight(weights[round]) * scale : 0.0f;
      }
    }
  }

  static constexpr int log2(int n) { return n == 1 ? 0 : 1 + log2(n / 2); }
  static constexpr int kSlotsLog2 = log2(kThreads / kLanes);
};

// What the lanes of a group must know of a point: where its first cell starts and the weights of the four
// cells (top left, top right, bottom left, bottom right) times the point's weight.
struct Corners {
  int start;  // element within [S, M, D]
  float weights[4];
};

MSDA_DEVICE Corners make_corners(const Level& level, const Pair& x, const Pair& y, float weight, int row_elements) {
  const float top = y.low * weight, bottom = y.high * weight;
  return {(level.first_cell + y.first * level.width + x.first) * row_elements,
          {x.low * top, x.high * top, x.low * bottom, x.high * bottom}};
}

template <int kLanes>
MSDA_DEVICE Corners share(const Corners& own, int source) {
  Corners corners;
  corners.start = shuffle(own.start, source, kLanes);
#pragma unroll
  for (int c = 0; c < 4; ++c) corners.weights[c] = shuffle(own.weights[c], source, kLanes);
  return corners;
}

// ---- forward --------------------------------------------------------------------------------------------------------

// The second number, blocks per multiprocessor, bounds the registers of a thread: as many blocks as fit without spills.
template <typename Shape, typename Value, typename Offset, typename Score, int kLanes, bool kWide>
MSDA_KERNEL(kThreads, (std::is_same_v<Value, Bfloat16> ? 4 : 3))
forward_kernel(const MSDA_GRID_CONSTANT Params params) {
  constexpr bool kStatic = Shape::is_static;
  constexpr int kUnroll = kStatic ? kMaxPoints : 1;
  const int b = block_z() * kMaxGridY + block_y();
  if (b >= params.batch) return;
  const Item<Shape, Offset, Score, kLanes> item(params, b);
  const Channels<Value, kLanes, kWide, Shape::depth == 8 * kLanes> channels(item.lane, item.depth());
  const int row_elements = item.heads() * item.depth();
  const Value* value = static_cast<const Value*>(params.value) +
                       static_cast<int64_t>(b) * params.cells * row_elements + item.head * item.depth() +
                       channels.first;
  float sums[8] = {};
#pragma unroll kUnroll
  for (int round = 0; round < item.rounds(); ++round) {
    const Level& own_level = params.levels[item.own_level(round)];
    const float2 location = item.location(round);
    const Corners own = make_corners(own_level, locate<kStatic>(location.x, own_level.width),
                                     locate<kStatic>(location.y, own_level.height), item.weight(round), row_elements);
    const int num_sources = min(kLanes, item.all_points() - round * kLanes);
#pragma unroll kUnroll
    for (int source = 0; source < num_sources; ++source) {
      const Corners corners = share<kLanes>(own, source);
      const Level& level = params.levels[item.level_of(round * kLanes + source)];
      const int step_x = kStatic ? row_elements : level.step_x;
      const Value* top = value + corners.start;
      const Value* bottom = top + level.step_y;
      float cells[4][8];
      channels.load_row(top, cells[0]);
      channels.load_row(top + step_x, cells[1]);
      channels.load_row(bottom, cells[2]);
      channels.load_row(bottom + step_x, cells[3]);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[i] = fmaf(corners.weights[c], cells[c][i], sums[i]);
      }
    }
  }
  channels.store_row(static_cast<Value*>(params.out) + item.index * item.depth() + channels.first, sums);
}

// ---- backward -------------------------------------------------------------------------------------------------------

// Sums `dots` over the lanes of a group. On return dots[0] of a lane belongs to the point `lane % kCount`. Halving what
// is left in each step costs half the shuffles of summing everything in all lanes.
template <int kLanes, int kCount>
MSDA_DEVICE void reduce_dots(float (&dots)[kCount][4], int lane) {
#pragma unroll
  for (int half = kCount / 2; half >= 1; half /= 2) {
    const bool is_upper = lane & half;
#pragma unroll
    for (int t = 0; t < half; ++t) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float keep = select(is_upper, dots[t + half][c], dots[t][c]);
        const float send = select(is_upper, dots[t][c], dots[t + half][c]);
        dots[t][c] = keep + shuffle_xor(send, half);
      }
    }
  }
#pragma unroll
  for (int mask = kCount; mask < kLanes; mask *= 2) {
#pragma unroll
    for (int c = 0; c < 4; ++c) dots[0][c] += shuffle_xor(dots[0][c], mask);
  }
}

template <typename Shape, typename Value, typename Offset, typename Score, int kLanes>
MSDA_KERNEL(kThreads, (Shape::is_static && std::is_same_v<Value, Bfloat16> ? 3 : 2))
backward_kernel(const MSDA_GRID_CONSTANT Params params) {
  constexpr bool kStatic = Shape::is_static;
  constexpr int kAddsAll = 1;                      // a bit that `start`, a multiple of four, leaves free
  constexpr int kCount = kLanes < 2 ? kLanes : 2;  // points whose dot products are summed together
  using ItemOf = Item<Shape, Offset, Score, kLanes>;
  const int b = block_z() * kMaxGridY + block_y();
  if (b >= params.batch) return;
  const ItemOf item(params, b);
  const Channels<Value, kLanes, false, Shape::depth == 8 * kLanes> channels(item.lane, item.depth());
  const int row_elements = item.heads() * item.depth();
  const int64_t first = static_cast<int64_t>(b) * params.cells * row_elements + item.head * item.depth() +
                        channels.first;
  const Value* value = static_cast<const Value*>(params.value) + first;
  float* value_grad = params.value_grad + first;
  float out_grad[8];
  channels.load_row(static_cast<const Value*>(params.out_grad) + item.index * item.depth() + channels.first,
                    out_grad);

  // Of the lane's own points; with sizes known only at run time this array lies in local memory.
  float weight_grads[kStatic ? ItemOf::kRounds : kMaxPoints / kLanes] = {};
  float weighted_sum = 0;  // of weight_grads, what the softmax takes off each
#pragma unroll 1  // unrolled, the code would outgrow the instruction cache
  for (int round = 0; round < item.rounds(); ++round) {
    const Level& own_level = params.levels[item.own_level(round)];
    const float2 location = item.location(round);
    const float weight = item.weight(round);
    const Pair x = locate<kStatic>(location.x, own_level.width);
    const Pair y = locate<kStatic>(location.y, own_level.height);
    Corners own = make_corners(own_level, x, y, weight, row_elements);
    const bool has_zero = own.weights[0] == 0 || own.weights[1] == 0 || own.weights[2] == 0 || own.weights[3] == 0;
    if (item.is_valid && !has_zero) own.start |= kAddsAll;
    float own_dots[4] = {};  // of the four cells with the gradient of the output
#pragma unroll(kStatic ? 4 : 1)
    for (int batch = 0; batch < kLanes / kCount; ++batch) {
      float dots[kCount][4];
#pragma unroll
      for (int t = 0; t < kCount; ++t) {
        const int source = batch * kCount + t;
        const Corners corners = share<kLanes>(own, source);
        const int start = corners.start & ~kAddsAll;
        const Level& level = params.levels[item.level_of(round * kLanes + source)];
        const int step_x = kStatic ? row_elements : level.step_x;
        const int steps[4] = {0, step_x, level.step_y, level.step_y + step_x};
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          float cell[8];
          channels.load_row(value + start + steps[c], cell);
          float dot = cell[0] * out_grad[0];
#pragma unroll
          for (int i = 1; i < 8; ++i) dot = fmaf(cell[i], out_grad[i], dot);
          dots[t][c] = dot;
        }
        const auto add = [&](int c) {
#pragma unroll
          for (int run = 0; run < 2; ++run) {
            const float* g = out_grad + 4 * run;
            const float w = corners.weights[c];
            if (channels.is_active[run]) {
              atomic_add(value_grad + start + steps[c] + run * channels.kSecond,
                         make_float4(w * g[0], w * g[1], w * g[2], w * g[3]));
            }
          }
        };
        // One branch for the usual case: one around each addition costs as much as the additions.
        if (corners.start & kAddsAll) {
#pragma unroll
          for (int c = 0; c < 4; ++c) add(c);
        } else if (item.is_valid) {
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            if (corners.weights[c] != 0) add(c);
          }
        }
      }
      reduce_dots<kLanes, kCount>(dots, item.lane);
#pragma unroll
      for (int c = 0; c < 4; ++c) own_dots[c] = select(item.lane / kCount == batch, dots[0][c], own_dots[c]);
    }
    const float top = x.low * own_dots[0] + x.high * own_dots[1];
    const float bottom = x.low * own_dots[2] + x.high * own_dots[3];
    const float weight_grad = y.low * top + y.high * bottom;
    put(weight_grads, round, weight_grad);
    weighted_sum = fmaf(weight, weight_grad, weighted_sum);
    if (item.has_point(round)) {
      const float x_grad = y.low * (x.low_slope * own_dots[0] + x.high_slope * own_dots[1]) +
                           y.high * (x.low_slope * own_dots[2] + x.high_slope * own_dots[3]);
      const float y_grad = y.low_slope * top + y.high_slope * bottom;
      store_pair<Offset>(params.offsets_grad, item.index * item.all_points() + item.own_point(round),
                         make_float2(weight * x_grad, weight * y_grad), params.bfloat16_offsets);
    }
  }

  weighted_sum = item.sum_over_group(weighted_sum);
#pragma unroll(kStatic ? ItemOf::kRounds : 1)
  for (int round = 0; round < item.rounds(); ++round) {
    const float weight_grad = pick(weight_grads, round);
    const float grad = params.softmax ? item.weight(round) * (weight_grad - weighted_sum) : weight_grad;
    if (item.has_point(round)) {
      store_number<Score>(params.scores_grad, item.index * item.all_points() + item.own_point(round), grad,
                          params.bfloat16_scores);
    }
  }
}

}  // namespace msda
