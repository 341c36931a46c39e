"""Multi-scale deformable attention in CUDA C++; built on first use, never required."""
