"""What decides the architecture. Imports no JAX, so that config files load quickly."""

import dataclasses

from tarvis_jax.datasets import class_counts


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Architecture of TarViS (paper section 3; numbers of the released models).

    Attributes:
      backbone: a name in `backbones.BACKBONES`.
      cross_attention: "hard_masked" (threshold at 0.5) or "soft_masked" (sigmoid times a per-head factor, added).
      hidden_size: C of neck, queries and decoder.
      num_heads: heads of every attention outside the backbone.
      neck_layers: pairs of deformable and temporal layers.
      neck_points: sampling points per head and level of the deformable attention.
      temporal_window: patch of the temporal layer, in cells at stride 32; images must be multiples of 32 times this.
      decoder_layers: layers of the query decoder; they cycle through strides 32, 16, 8.
      decoder_strides: the strides they cycle through.
      num_queries_per_object: queries of one mask object in training; inference uses twice as many.
      background_grid: rows and columns of the grid that gives the background queries of VOS and PET.
      semantic_classes: (dataset, number of classes) for every dataset with classes; stored alphabetically.
      class_logit_scale: multiplies class logits; 1.0 in the released models.
      exemplar_gradient: let gradients flow from mask objects into the feature maps. The reference does not.
      drop_path: stochastic depth rate in training; None takes the rate that the reference trains this backbone with
        (0.3 for Swin, 0 for the others).
      compute_dtype: dtype of activations, "float32" or "bfloat16"; parameters are float32.
      ms_deform_attn_backend: what computes the deformable attention, a name in `kernels.ms_deform_attn.backends`; None
        takes the environment variable TARVIS_MS_DEFORM_ATTN or else the default of the platform.
      ms_deform_attn_deterministic: the same bits in every run; slow on GPUs, without cost on TPUs and CPUs.
      attention_backend: "xla" computes attention in plain XLA on every platform; None takes the environment variable
        TARVIS_ATTENTION or else cuDNN where it can (bfloat16 on NVIDIA GPUs, whose gradients differ from run to run).
      remat: recompute activations of backbone stages and neck/decoder layers in the backward pass.
      attention_mib: MiB of attention logits (float32, of one clip) that may exist at once; what needs more is computed
        in parts, forward and backward, with the same result. None = what suits the platform (kernels/attention/limits).
    """

    backbone: str = "ResNet50"
    cross_attention: str = "hard_masked"
    hidden_size: int = 256
    num_heads: int = 8
    neck_layers: int = 6
    neck_points: int = 4
    neck_ffn_size: int = 1024
    neck_groups: int = 32
    temporal_window: int = 2
    decoder_layers: int = 9
    decoder_ffn_size: int = 2048
    decoder_strides: tuple[int, ...] = (32, 16, 8)
    object_encoder_layers: int = 4
    object_encoder_ffn_size: int = 2048
    num_instance_queries: int = 128
    num_background_queries: int = 1
    num_queries_per_object: int = 4
    background_grid: tuple[int, int] = (4, 4)
    semantic_classes: tuple[tuple[str, int], ...] = class_counts(
        ("CITYSCAPES_VPS", "KITTI_STEP", "OVIS", "VIPSEG", "YOUTUBE_VIS")
    )
    class_logit_scale: float = 1.0
    exemplar_gradient: bool = False
    drop_path: float | None = None
    compute_dtype: str = "float32"
    ms_deform_attn_backend: str | None = None
    ms_deform_attn_deterministic: bool = False
    attention_backend: str | None = None
    remat: bool = False
    attention_mib: int | None = None

    @property
    def max_logit_bytes(self) -> int | None:
        """`attention_mib` in bytes."""
        return None if self.attention_mib is None else self.attention_mib * 2**20

    @property
    def size_divisor(self) -> int:
        """Images are padded to a multiple of this, in pixels."""
        return 32 * self.temporal_window
