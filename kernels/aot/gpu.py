"""Compiling for an NVIDIA GPU on a machine without one.

Needs the packages of `pip install "jax[cuda13]"`, whose libraries JAX finds by itself, and for the CUDA back end of
deformable attention nvcc and TARVIS_CUDA_ARCHITECTURES. XLA then runs its whole GPU pipeline, down to machine code, but
chooses algorithms of matrix products and convolutions without timing them: what is compiled says how much memory a
program needs, how many kernels it starts and what they contain; not how long they take.
"""

import jax
from jax.experimental import topologies

# In the text form of XLA's stream_executor.GpuTargetConfigProto: figures of NVIDIA's H200 SXM data sheet and of CUDA's
# table of compute capability 9.0.
H200 = """
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
  memory_bandwidth: 4800000000000
  l2_cache_size: 62914560
  clock_rate_ghz: 1.98
  device_memory_size: 150754820096
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
runtime_version { major: 13 }
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
device_description_str: "NVIDIA H200"
"""


def device(description: str = H200):
    """A described GPU; arrays placed on it can be lowered and compiled, not computed.

    Raises:
      RuntimeError: JAX's CUDA plugin is not installed.
    """
    jax.devices()  # initialises the platforms that are there
    try:
        topology = topologies.get_topology_desc(platform="cuda", target_config=description, topology="1x1x1")
    except Exception as error:
        raise RuntimeError(f'no CUDA plugin of JAX (pip install "jax[cuda13]"): {error}') from error
    return topology.devices[0]
