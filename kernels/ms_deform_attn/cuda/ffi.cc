// The library's handlers for jax.ffi. Arrays come checked by the operator; what is checked here again is what keeps the
// kernels within bounds, so that a wrong caller gets an error instead of someone else's memory.
#include <cstdint>
#include <string>

#include "api.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using Dimensions = ffi::Span<const int64_t>;
using Stream = ffi::PlatformStream<void*>;

std::string to_string(Dimensions dimensions) {
  std::string text = "[";
  for (size_t i = 0; i < dimensions.size(); ++i) text += (i ? ", " : "") + std::to_string(dimensions[i]);
  return text + "]";
}

// Collects what is wrong with one call.
class Checks {
 public:
  void rank(const char* name, ffi::AnyBuffer array, size_t rank) {
    if (array.dimensions().size() != rank) fail(name, std::to_string(rank) + " dimensions", array);
  }

  void shape(const char* name, ffi::AnyBuffer array, std::initializer_list<int64_t> expected) {
    const Dimensions found = array.dimensions();
    const Dimensions wanted(expected.begin(), expected.size());
    bool equal = found.size() == wanted.size();
    for (size_t i = 0; equal && i < wanted.size(); ++i) equal = found[i] == wanted[i];
    if (!equal) fail(name, "shape " + to_string(wanted), array);
  }

  void type(const char* name, ffi::AnyBuffer array, ffi::DataType expected) {
    if (array.element_type() != expected) add(std::string(name) + ": another dtype expected");
  }

  MsdaType float_type(const char* name, ffi::AnyBuffer array) {
    if (array.element_type() == ffi::F32) return MSDA_FLOAT32;
    if (array.element_type() == ffi::BF16) return MSDA_BFLOAT16;
    add(std::string(name) + ": expected float32 or bfloat16");
    return MSDA_FLOAT32;
  }

  bool passed() const { return errors_.empty(); }
  ffi::Error error() const { return ffi::Error::InvalidArgument("ms_deform_attn: " + errors_); }

 private:
  void fail(const char* name, const std::string& expected, ffi::AnyBuffer array) {
    add(std::string(name) + ": expected " + expected + ", found " + to_string(array.dimensions()));
  }
  void add(const std::string& error) { errors_ += (errors_.empty() ? "" : "; ") + error; }

  std::string errors_;
};

// Fills `call` as far as the ranks allow.
MsdaCall make_call(ffi::AnyBuffer value, ffi::AnyBuffer offsets, ffi::AnyBuffer scores, ffi::AnyBuffer reference,
                   Dimensions level_shapes, bool softmax, Checks& checks) {
  MsdaCall call = {};
  checks.rank("value", value, 4);
  checks.rank("scores", scores, 5);
  if (!checks.passed()) return call;
  const Dimensions v = value.dimensions(), s = scores.dimensions();
  call.batch = v[0];
  call.cells = v[1];
  call.heads = v[2];
  call.depth = v[3];
  call.queries = s[1];
  call.num_levels = s[3];
  call.points = s[4];
  checks.shape("scores", scores, {call.batch, call.queries, call.heads, call.num_levels, call.points});
  checks.shape("offsets", offsets, {call.batch, call.queries, call.heads, call.num_levels, call.points, 2});
  checks.shape("reference", reference, {call.queries, call.num_levels, 2});
  checks.type("reference", reference, ffi::F32);
  call.level_shapes = level_shapes.begin();
  if (static_cast<int64_t>(level_shapes.size()) != 2 * call.num_levels) call.num_levels = 0;  // refused by the library
  call.value_type = checks.float_type("value", value);
  call.offset_type = checks.float_type("offsets", offsets);
  call.score_type = checks.float_type("scores", scores);
  call.softmax = softmax;
  call.value = value.untyped_data();
  call.offsets = offsets.untyped_data();
  call.scores = scores.untyped_data();
  call.reference = static_cast<const float*>(reference.untyped_data());
  return call;
}

ffi::Error to_error(const char* message) {
  return message ? ffi::Error::Internal(message) : ffi::Error::Success();
}

ffi::Error forward(void* stream, ffi::AnyBuffer value, ffi::AnyBuffer offsets, ffi::AnyBuffer scores,
                   ffi::AnyBuffer reference, ffi::Result<ffi::AnyBuffer> out, Dimensions level_shapes, bool softmax) {
  Checks checks;
  const MsdaCall call = make_call(value, offsets, scores, reference, level_shapes, softmax, checks);
  if (!checks.passed()) return checks.error();
  checks.shape("out", *out, {call.batch, call.queries, call.heads, call.depth});
  checks.type("out", *out, value.element_type());
  if (!checks.passed()) return checks.error();
  return to_error(msda_forward(&call, out->untyped_data(), stream));
}

ffi::Error backward(void* stream, ffi::AnyBuffer value, ffi::AnyBuffer offsets, ffi::AnyBuffer scores,
                    ffi::AnyBuffer reference, ffi::AnyBuffer out_grad, ffi::Result<ffi::AnyBuffer> value_grad,
                    ffi::Result<ffi::AnyBuffer> offsets_grad, ffi::Result<ffi::AnyBuffer> scores_grad,
                    Dimensions level_shapes, bool softmax) {
  Checks checks;
  const MsdaCall call = make_call(value, offsets, scores, reference, level_shapes, softmax, checks);
  if (!checks.passed()) return checks.error();
  checks.shape("out_grad", out_grad, {call.batch, call.queries, call.heads, call.depth});
  checks.type("out_grad", out_grad, value.element_type());
  checks.shape("value_grad", *value_grad, {call.batch, call.cells, call.heads, call.depth});
  checks.type("value_grad", *value_grad, ffi::F32);
  checks.shape("offsets_grad", *offsets_grad, {call.batch, call.queries, call.heads, call.num_levels, call.points, 2});
  checks.type("offsets_grad", *offsets_grad, offsets.element_type());
  checks.shape("scores_grad", *scores_grad, {call.batch, call.queries, call.heads, call.num_levels, call.points});
  checks.type("scores_grad", *scores_grad, scores.element_type());
  if (!checks.passed()) return checks.error();
  return to_error(msda_backward(&call, out_grad.untyped_data(), static_cast<float*>(value_grad->untyped_data()),
                                offsets_grad->untyped_data(), scores_grad->untyped_data(), stream));
}

}  // namespace

// Both only put work on the stream, so that XLA may record them into a command buffer (a CUDA graph).
XLA_FFI_DEFINE_HANDLER_SYMBOL(msda_ffi_forward, forward,
                              ffi::Ffi::Bind()
                                  .Ctx<Stream>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<Dimensions>("level_shapes")
                                  .Attr<bool>("softmax"),
                              {ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(msda_ffi_backward, backward,
                              ffi::Ffi::Bind()
                                  .Ctx<Stream>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<Dimensions>("level_shapes")
                                  .Attr<bool>("softmax"),
                              {ffi::Traits::kCmdBufferCompatible});
