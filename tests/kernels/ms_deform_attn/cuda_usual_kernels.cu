// The kernels for the sizes that TarViS uses, each by itself, for the tests of the machine code.
#include "msda.cuh"

#define MSDA_PARAMS (const __grid_constant__ Params)

namespace msda {

template __global__ void forward_kernel<UsualShape, Bfloat16, Bfloat16, Bfloat16, 4, true> MSDA_PARAMS;
template __global__ void forward_kernel<UsualShape, Bfloat16, float, float, 4, true> MSDA_PARAMS;
template __global__ void forward_kernel<UsualShape, float, Bfloat16, Bfloat16, 4, false> MSDA_PARAMS;
template __global__ void forward_kernel<UsualShape, float, float, float, 4, false> MSDA_PARAMS;
template __global__ void backward_kernel<UsualShape, Bfloat16, Bfloat16, Bfloat16, 4> MSDA_PARAMS;
template __global__ void backward_kernel<UsualShape, Bfloat16, float, float, 4> MSDA_PARAMS;
template __global__ void backward_kernel<UsualShape, float, Bfloat16, Bfloat16, 4> MSDA_PARAMS;
template __global__ void backward_kernel<UsualShape, float, float, float, 4> MSDA_PARAMS;

}  // namespace msda
