"""What decides the architecture. Imports no JAX, so that config files load quickly."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Annotated

from tarvis_jax.datasets import class_counts
from tarvis_jax.fields import Length, OneOf, Range, Text, check_fields, raise_problems

# Names that are known without loading JAX: the family of each backbone (`model/backbones/`), and the back ends of
# deformable attention (`kernels/ms_deform_attn/backends.py`).
BACKBONE_FAMILIES = {
    **dict.fromkeys(("ResNet50", "ResNet101", "ResNetTiny"), "resnet"),
    **dict.fromkeys(("SwinTiny", "SwinSmall", "SwinBase", "SwinLarge"), "swin"),
    **dict.fromkeys(("ConvNextTiny", "ConvNextSmall", "ConvNextBase", "ConvNextLarge", "ConvNextXLarge"), "convnext"),
}
MS_DEFORM_ATTN_BACKENDS = ("xla", "xla_deterministic", "tpu", "cuda", "triton")

# Environment variables by the field that they fill where it is None.
BACKEND_VARIABLES = {"ms_deform_attn_backend": "TARVIS_MS_DEFORM_ATTN", "attention_backend": "TARVIS_ATTENTION"}

HARD_MASKED = "hard_masked"
SOFT_MASKED = "soft_masked"
REMATS = ("none", "blocks")  # the second needs less memory and more time
COMPUTE_DTYPES = ("float32", "bfloat16")
PYRAMID_STRIDES = (32, 16, 8, 4)

_Layers = Annotated[int, Range(0, 100)]
_Size = Annotated[int, Range(1, 65_536)]
_Queries = Annotated[int, Range(1, 10_000)]


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
      semantic_classes: (dataset, number of classes) for every dataset with classes, each once; stored alphabetically.
      class_logit_scale: multiplies class logits; 1.0 in the released models.
      exemplar_gradient: let gradients flow from mask objects into the feature maps. The reference does not.
      drop_path: stochastic depth rate in training; None takes the rate that the reference trains this backbone with
        (0.3 for Swin, 0 for the others).
      compute_dtype: dtype of activations, "float32" or "bfloat16"; parameters are float32.
      ms_deform_attn_backend: what computes the deformable attention, a name in `kernels.ms_deform_attn.backends`; None
        leaves it to the platform. Commands and `tarvis_jax.load` fill it from TARVIS_MS_DEFORM_ATTN (`settle`).
      ms_deform_attn_deterministic: the same bits in every run; slow on GPUs, without cost on TPUs and CPUs.
      attention_backend: "xla" computes attention in plain XLA on every platform; None takes cuDNN where it can
        (bfloat16 on NVIDIA GPUs, whose gradients differ from run to run). Filled from TARVIS_ATTENTION likewise.
      remat: what is computed again in the backward pass to save memory: "none", what bounds the memory of attention
        alone; "blocks", all of each block of the backbone and each layer of neck, decoder and object encoder.
      attention_mib: MiB of attention logits (float32, of one clip) that may exist at once; what needs more is computed
        in parts, forward and backward, with the same result. None = what suits the platform (kernels/attention/limits).
    """

    backbone: Annotated[str, OneOf(BACKBONE_FAMILIES)] = "ResNet50"
    cross_attention: Annotated[str, OneOf((HARD_MASKED, SOFT_MASKED))] = "hard_masked"
    hidden_size: Annotated[int, Range(4, 8192)] = 256
    num_heads: Annotated[int, Range(1, 256)] = 8
    neck_layers: _Layers = 6
    neck_points: Annotated[int, Range(1, 64)] = 4
    neck_ffn_size: _Size = 1024
    neck_groups: Annotated[int, Range(1, 8192)] = 32
    temporal_window: Annotated[int, Range(1, 64)] = 2
    decoder_layers: _Layers = 9
    decoder_ffn_size: _Size = 2048
    decoder_strides: Annotated[tuple[Annotated[int, OneOf(PYRAMID_STRIDES)], ...], Length(1, 100)] = (32, 16, 8)
    object_encoder_layers: _Layers = 4
    object_encoder_ffn_size: _Size = 2048
    num_instance_queries: _Queries = 128
    num_background_queries: _Queries = 1
    num_queries_per_object: Annotated[int, Range(1, 256)] = 4
    background_grid: tuple[Annotated[int, Range(1, 64)], Annotated[int, Range(1, 64)]] = (4, 4)
    semantic_classes: Annotated[
        tuple[tuple[Annotated[str, Text(100, 1)], Annotated[int, Range(1, 65_535)]], ...], Length(0, 1000)
    ] = class_counts(("CITYSCAPES_VPS", "KITTI_STEP", "OVIS", "VIPSEG", "YOUTUBE_VIS"))
    class_logit_scale: Annotated[float, Range(0, 1e6, above_low=True)] = 1.0
    exemplar_gradient: bool = False
    drop_path: Annotated[float, Range(0, 1, below_high=True)] | None = None
    compute_dtype: Annotated[str, OneOf(COMPUTE_DTYPES)] = "float32"
    ms_deform_attn_backend: Annotated[str, OneOf(MS_DEFORM_ATTN_BACKENDS)] | None = None
    ms_deform_attn_deterministic: bool = False
    attention_backend: Annotated[str, OneOf(("xla",))] | None = None
    remat: Annotated[str, OneOf(REMATS)] = "none"
    attention_mib: Annotated[int, Range(0, 2**20)] | None = None

    def __post_init__(self) -> None:
        """Raises one ValueError with every field that is out of its range."""
        check_fields(self)
        divisors = {4: "sine and cosine of y and x", self.num_heads: "num_heads", self.neck_groups: "neck_groups"}
        problems = [
            f"hidden_size: expected a multiple of {divisor} ({what}), found {self.hidden_size}"
            for divisor, what in divisors.items()
            if self.hidden_size % divisor
        ]
        names = [name for name, _ in self.semantic_classes]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            problems.append(f"semantic_classes: each dataset may occur once, found twice: {twice}")
        raise_problems(problems)

    @property
    def max_logit_bytes(self) -> int | None:
        """`attention_mib` in bytes."""
        return None if self.attention_mib is None else self.attention_mib * 2**20

    @property
    def size_divisor(self) -> int:
        """Images are padded to a multiple of this, in pixels."""
        return 32 * self.temporal_window


def settle_backends(config: ModelConfig, environ: Mapping[str, str] = os.environ) -> ModelConfig:
    """`config` with the back ends that it leaves open as the environment says: from here on it alone decides.

    Nothing below commands and `tarvis_jax.load`, which call this, reads these variables.

    Raises:
      ValueError: a variable names no back end.
    """
    found = {
        field: environ[variable]
        for field, variable in BACKEND_VARIABLES.items()
        if getattr(config, field) is None and environ.get(variable)
    }
    try:
        return dataclasses.replace(config, **found)
    except ValueError as error:
        raise ValueError(f"{', '.join(BACKEND_VARIABLES[field] for field in found)}: {error}") from None
