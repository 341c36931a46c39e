"""Which tensor of the PyTorch reference is which variable of our model, and in what layout.

A rule is a pair of name templates and a layout change. `{x}` in a template stands for one component of a name (letters,
digits, underscores), the same on both sides, so every rule can be read in both directions. A name must fit exactly one
rule.
"""

import dataclasses
import functools
import re
from collections.abc import Callable

import numpy as np

from tarvis_jax.model.backbones import BackboneConfig, ConvNextConfig, ResNetConfig, SwinConfig, backbone_config
from tarvis_jax.model.backbones.swin import relative_position_index
from tarvis_jax.model.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Layout:
    """Change of layout between torch and jax; `to_torch(to_jax(x))` is x, bit for bit."""

    to_jax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


def _permutation(*axes: int) -> Layout:
    return Layout(lambda x: x.transpose(axes), lambda x: x.transpose(np.argsort(axes)))


COPY = Layout(lambda x: x, lambda x: x)
LINEAR = _permutation(1, 0)  # OI -> IO
CONV = _permutation(2, 3, 1, 0)  # OIHW -> HWIO; depthwise too: O1HW -> HW1O


@dataclasses.dataclass(frozen=True)
class TensorRule:
    """One tensor (or family of tensors) of the reference and its place in our model.

    Attributes:
      torch: template of the name in the reference's state dict.
      jax: template of the slash-separated path of the variable.
      layout: how the values are laid out on either side.
      derive: for a tensor that we compute and do not store: what it must be, given the variable at `jax` (the one that
        its shape or value follows from). Such a tensor is compared when loading and recomputed when exporting.
    """

    torch: str
    jax: str
    layout: Layout = COPY
    derive: Callable[[np.ndarray], np.ndarray] | None = None

    def jax_path(self, torch_name: str) -> str | None:
        """Path of the variable for a tensor's name, or None if the name is not this rule's."""
        return _translate(self.torch, self.jax, torch_name)

    def torch_name(self, jax_path: str) -> str | None:
        """Name of the tensor for a variable's path, or None if the path is not this rule's."""
        return _translate(self.jax, self.torch, jax_path)


@functools.cache
def _pattern(template: str) -> re.Pattern:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(re.escape(p) if i % 2 == 0 else rf"(?P<{p}>\w+)" for i, p in enumerate(parts)))


def _translate(source: str, target: str, name: str) -> str | None:
    match = _pattern(source).fullmatch(name)
    return target.format(**match.groupdict()) if match else None


def affine(torch: str, jax: str) -> list[TensorRule]:
    """Scale and bias of a norm."""
    return [TensorRule(f"{torch}.weight", f"{jax}/scale"), TensorRule(f"{torch}.bias", f"{jax}/bias")]


def linear(torch: str, jax: str) -> list[TensorRule]:
    """Weight and bias of a dense layer."""
    return [TensorRule(f"{torch}.weight", f"{jax}/kernel", LINEAR), TensorRule(f"{torch}.bias", f"{jax}/bias")]


def conv(torch: str, jax: str) -> list[TensorRule]:
    """Weight and bias of a convolution, depthwise ones included."""
    return [TensorRule(f"{torch}.weight", f"{jax}/kernel", CONV), TensorRule(f"{torch}.bias", f"{jax}/bias")]


def backbone_rules(config: BackboneConfig) -> list[TensorRule]:
    """Rules of the backbone; those that differ between the families go by the type of the config."""
    if isinstance(config, ResNetConfig):
        return _resnet_rules()
    if isinstance(config, SwinConfig):
        return _swin_rules()
    assert isinstance(config, ConvNextConfig)
    return _convnext_rules()


def _resnet_rules() -> list[TensorRule]:
    def conv_and_norm(torch: str, jax: str) -> list[TensorRule]:
        return [
            TensorRule(f"{torch}.weight", f"{jax}/kernel", CONV),
            *affine(f"{torch}.norm", f"{jax}/norm"),
            TensorRule(f"{torch}.norm.running_mean", f"{jax}/norm/mean"),
            TensorRule(f"{torch}.norm.running_var", f"{jax}/norm/var"),
        ]

    rules = conv_and_norm("backbone.backbone.stem.conv1", "backbone/stem/0")
    for i in range(4):  # conv: conv1, conv2, conv3, shortcut
        rules += conv_and_norm(
            f"backbone.backbone.res{i + 2}.{{block}}.{{conv}}", f"backbone/stages/{i}/{{block}}/{{conv}}"
        )
    return rules


def _swin_rules() -> list[TensorRule]:
    block, our_block = "backbone.backbone.layers.{i}.blocks.{j}", "backbone/stages/{i}/{j}"
    merge, our_merge = "backbone.backbone.layers.{i}.downsample", "backbone/merges/{i}"
    return [
        *conv("backbone.backbone.patch_embed.proj", "backbone/patch_embed"),
        *affine("backbone.backbone.patch_embed.norm", "backbone/patch_norm"),
        *affine(f"{block}.norm1", f"{our_block}/norm1"),
        *affine(f"{block}.norm2", f"{our_block}/norm2"),
        *linear(f"{block}.attn.qkv", f"{our_block}/attention/qkv"),
        *linear(f"{block}.attn.proj", f"{our_block}/attention/out"),
        TensorRule(f"{block}.attn.relative_position_bias_table", f"{our_block}/attention/position_bias"),
        TensorRule(
            f"{block}.attn.relative_position_index", f"{our_block}/attention/position_bias", derive=_index_of_bias_table
        ),
        *linear(f"{block}.mlp.fc1", f"{our_block}/linear1"),
        *linear(f"{block}.mlp.fc2", f"{our_block}/linear2"),
        *affine(f"{merge}.norm", f"{our_merge}/norm"),
        TensorRule(f"{merge}.reduction.weight", f"{our_merge}/linear/kernel", LINEAR),
        *(rule for i in range(4) for rule in affine(f"backbone.backbone.norm{i}", f"backbone/output_norms/{i}")),
    ]


def _index_of_bias_table(table: np.ndarray) -> np.ndarray:
    window = (round(table.shape[0] ** 0.5) + 1) // 2  # the table has (2 * window - 1) ** 2 rows
    return relative_position_index(window)


def _convnext_rules() -> list[TensorRule]:
    block, our_block = "backbone.backbone.stages.{i}.{j}", "backbone/stages/{i}/{j}"
    rules = [
        *conv(f"{block}.dwconv", f"{our_block}/depthwise"),
        *affine(f"{block}.norm", f"{our_block}/norm"),
        *linear(f"{block}.pwconv1", f"{our_block}/linear1"),
        *linear(f"{block}.pwconv2", f"{our_block}/linear2"),
        TensorRule(f"{block}.gamma", f"{our_block}/layer_scale"),
    ]
    for i in range(4):  # the stem normalizes after its convolution, the other reductions before
        conv_index, norm_index = (0, 1) if i == 0 else (1, 0)
        reduction = f"backbone.backbone.downsample_layers.{i}"
        rules += conv(f"{reduction}.{conv_index}", f"backbone/reductions/{i}")
        rules += affine(f"{reduction}.{norm_index}", f"backbone/reduction_norms/{i}")
        rules += affine(f"backbone.norm_layers.res{i + 2}", f"backbone/output_norms/{i}")
    return rules


def model_rules(config: ModelConfig) -> list[TensorRule]:
    """Rules of the whole model."""
    return [
        TensorRule("pixel_mean", "pixel_mean"),
        TensorRule("pixel_std", "pixel_std"),
        *backbone_rules(backbone_config(config.backbone)),
        *_neck_rules(),
        *_query_rules(),
        *_decoder_rules(),
        *_object_encoder_rules(config),
    ]


def attention(torch: str, jax: str) -> list[TensorRule]:
    """Multi-head attention with fused query, key and value projections."""
    return [
        TensorRule(f"{torch}.in_proj_weight", f"{jax}/in_proj/kernel", LINEAR),
        TensorRule(f"{torch}.in_proj_bias", f"{jax}/in_proj/bias"),
        *linear(f"{torch}.out_proj", f"{jax}/out_proj"),
    ]


def _neck_rules() -> list[TensorRule]:
    torch, encoder = "backbone.fpn", "backbone.fpn.transformer.encoder"
    deformable, temporal = f"{encoder}.layers.{{i}}", f"{encoder}.temporal_layers.{{i}}"
    ours, our_deformable, our_temporal = "neck", "neck/layers/{i}/deformable", "neck/layers/{i}/temporal"
    rules = [
        *conv(f"{torch}.input_proj.{{i}}.0", f"{ours}/input_proj/{{i}}/conv"),
        *affine(f"{torch}.input_proj.{{i}}.1", f"{ours}/input_proj/{{i}}/norm"),
        TensorRule(f"{torch}.transformer.level_embed", f"{ours}/level_embed"),
        TensorRule(f"{torch}.transformer.level_embed_3d", f"{ours}/level_embed_3d"),
        *attention(f"{temporal}.self_attn", f"{our_temporal}/attention"),
        *conv(f"{torch}.mask_features", f"{ours}/mask_features"),
    ]
    for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
        rules += linear(f"{deformable}.self_attn.{name}", f"{our_deformable}/{name}")
    for layer, our_layer in ((deformable, our_deformable), (temporal, our_temporal)):
        rules += affine(f"{layer}.norm1", f"{our_layer}/norm")
        rules += linear(f"{layer}.linear1", f"{our_layer}/ffn/linear1")
        rules += linear(f"{layer}.linear2", f"{our_layer}/ffn/linear2")
        rules += affine(f"{layer}.norm2", f"{our_layer}/ffn/norm")
    for name, our_name in (("adapter_1", "adapter"), ("layer_1", "output_conv")):
        rules.append(TensorRule(f"{torch}.{name}.weight", f"{ours}/{our_name}/conv/kernel", CONV))
        rules += affine(f"{torch}.{name}.norm", f"{ours}/{our_name}/norm")
    return rules


def _query_rules() -> list[TensorRule]:
    names = ("semantic", "background", "background_vos", "instance", "vos")
    return [TensorRule(f"embedding_container._{name}_queries", f"queries/{name}") for name in names]


def _decoder_rules() -> list[TensorRule]:
    self_attention, cross_attention, ffn = (
        f"decoder.transformer_{part}_layers.{{i}}" for part in ("self_attention", "cross_attention", "ffn")
    )
    return [
        *attention(f"{cross_attention}.multihead_attn._attn", "decoder/layers/{i}/cross_attention"),
        *affine(f"{cross_attention}.norm", "decoder/layers/{i}/cross_norm"),
        TensorRule(f"{cross_attention}.multihead_attn.scaling_factors", "decoder/layers/{i}/mask_factors"),
        *attention(f"{self_attention}.self_attn", "decoder/layers/{i}/self_attention"),
        *affine(f"{self_attention}.norm", "decoder/layers/{i}/self_norm"),
        *linear(f"{ffn}.linear1", "decoder/layers/{i}/ffn/linear1"),
        *linear(f"{ffn}.linear2", "decoder/layers/{i}/ffn/linear2"),
        *affine(f"{ffn}.norm", "decoder/layers/{i}/ffn/norm"),
        *affine("decoder.decoder_norm", "decoder/norm"),
        TensorRule("decoder.scale_embed.weight", "decoder/scale_embed"),
        *linear("decoder.mask_embeds.{group}.layers.{i}", "decoder/mask_embeds/{group}/layers/{i}"),
        *linear("decoder.proj_layers.{group}", "decoder/class_projections/{group}"),
    ]


def _object_encoder_rules(config: ModelConfig) -> list[TensorRule]:
    torch, layer = "vos_query_extractor", "object_encoder/layers/{i}"
    background = "object_encoder/background_embedding"
    point_mlp = f"{torch}.point_vos_query_extractor.layers"  # counts the activations between the dense layers, too
    return [
        *(rule for i in range(3) for rule in linear(f"{point_mlp}.{2 * i}", f"object_encoder/point_mlp/layers/{i}")),
        TensorRule(f"{torch}.bg_query_embed", background),
        TensorRule(f"{torch}.bg_grid_size", background, derive=lambda _: np.asarray(config.background_grid, np.int64)),
        TensorRule(f"{torch}.mask_object_query_embed", "object_encoder/mask_embedding"),
        TensorRule(f"{torch}.point_object_query_embed", "object_encoder/point_embedding"),
        *attention(f"{torch}.cross_attn_layers.{{i}}.attn", f"{layer}/cross_attention"),
        *affine(f"{torch}.cross_attn_layers.{{i}}.norm", f"{layer}/cross_norm"),
        *attention(f"{torch}.self_attn_layers.{{i}}.attn", f"{layer}/self_attention"),
        *affine(f"{torch}.self_attn_layers.{{i}}.norm", f"{layer}/self_norm"),
        *linear(f"{torch}.ffn_layers.{{i}}.mlp.0", f"{layer}/ffn/linear1"),
        *linear(f"{torch}.ffn_layers.{{i}}.mlp.2", f"{layer}/ffn/linear2"),
        *affine(f"{torch}.ffn_layers.{{i}}.norm", f"{layer}/ffn/norm"),
        *linear(f"{torch}.proj_point_features.{{i}}", "object_encoder/point_projections/{i}"),
    ]
