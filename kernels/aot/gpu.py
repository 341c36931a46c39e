"""Compiling for an NVIDIA GPU on a machine without one.

Needs the packages of `pip install "jax[cuda13]"`, whose libraries JAX finds by itself, and for the CUDA back end of
deformable attention nvcc and TARVIS_CUDA_ARCHITECTURES. XLA then runs its whole GPU pipeline, down to machine code, but
chooses algorithms of matrix products and convolutions without timing them: what is compiled says how much memory a
program needs, how many kernels it starts and what they contain; not how long they take.
"""

import os

import jax
from jax.experimental import topologies

# In the text form of XLA's stream_executor.GpuTargetConfigProto: figures of NVIDIA's data sheets of the SXM modules and
# of CUDA's table of compute capability 9.0.
_HOPPER = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: %d
  l2_cache_size: %d
  clock_rate_ghz: 1.98
  device_memory_size: %d
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
runtime_version { major: 13 }
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
device_description_str: "%s"
"""
H100 = _HOPPER % (3_350_000_000_000, 52_428_800, 85_520_809_984, "NVIDIA H100 80GB HBM3")
H200 = _HOPPER % (4_800_000_000_000, 62_914_560, 150_754_820_096, "NVIDIA H200")
DESCRIPTIONS = {"h100": H100, "h200": H200}


def prepare() -> None:
    """Sets the environment for compiling without a GPU; call before JAX initializes its back ends."""
    jax.config.update("jax_platforms", "cpu")
    flags = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"  # both would try products on a GPU
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"


def devices(number: int = 1, description: str = H200) -> list:
    """Described GPUs of one machine; arrays placed on them can be lowered and compiled, not computed.

    Raises:
      RuntimeError: JAX's CUDA plugin is not installed.
    """
    jax.devices()  # initializes the platforms that are there
    try:
        topology = topologies.get_topology_desc(platform="cuda", target_config=description, topology=f"1x1x{number}")
    except NotImplementedError as error:
        raise RuntimeError(f'no CUDA plugin of JAX (pip install "jax[cuda13]"): {error}') from error
    return list(topology.devices)
