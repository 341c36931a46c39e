// The whole library for the CPU: the same sources, with the emulation in place of the hardware.
#define MSDA_PRIMITIVES "cuda_emulation.h"
#include "api.cu"

#include "xla/ffi/api/ffi.h"

// On a CPU there is no stream to ask XLA for.
template <>
struct xla::ffi::CtxDecoding<xla::ffi::PlatformStream<void*>> {
  using Type = void*;
  static std::optional<Type> Decode(const XLA_FFI_Api*, XLA_FFI_ExecutionContext*, DiagnosticEngine&) {
    return nullptr;
  }
};

#include "ffi.cc"
