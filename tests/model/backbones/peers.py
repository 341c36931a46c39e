"""The same backbones in another library (transformers, PyTorch), to compare ours with layer by layer."""

import dataclasses
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import nnx

from tarvis_jax.model import backbones
from tarvis_jax.model.backbones.convnext import ConvNext
from tarvis_jax.model.backbones.resnet import ResNet
from tarvis_jax.model.backbones.swin import Swin
from tarvis_jax.model.variables import fill, flatten
from tarvis_jax.weights.pytorch import rules
from tarvis_jax.weights.pytorch.mapping import convert_weights

_SWIN_BLOCK = r"swin\.encoder\.layers\.(\d)\.blocks\.(\d+)\."
_STAGE_LAYER = r"encoder\.stages\.(\d)\.layers\.(\d+)\."
_STAGES = ("stage1", "stage2", "stage3", "stage4")

# (pattern of the peer's names, the reference's name with the pattern's numbers); what follows the match is the same.
_NAMES = {
    backbones.ResNetConfig: (
        (r"embedder\.embedder\.normalization", lambda: "stem.conv1.norm"),
        (r"embedder\.embedder\.convolution", lambda: "stem.conv1"),
        (
            r"encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.normalization",
            lambda i, j: f"res{i + 2}.{j}.shortcut.norm",
        ),
        (r"encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.convolution", lambda i, j: f"res{i + 2}.{j}.shortcut"),
        (
            _STAGE_LAYER + r"layer\.(\d)\.normalization",
            lambda i, j, k: f"res{i + 2}.{j}.conv{k + 1}.norm",
        ),
        (
            _STAGE_LAYER + r"layer\.(\d)\.convolution",
            lambda i, j, k: f"res{i + 2}.{j}.conv{k + 1}",
        ),
    ),
    backbones.SwinConfig: (
        (r"swin\.embeddings\.patch_embeddings\.projection", lambda: "patch_embed.proj"),
        (r"swin\.embeddings\.norm", lambda: "patch_embed.norm"),
        (r"swin\.encoder\.layers\.(\d)\.downsample", lambda i: f"layers.{i}.downsample"),
        (_SWIN_BLOCK + r"layernorm_before", lambda i, j: f"layers.{i}.blocks.{j}.norm1"),
        (_SWIN_BLOCK + r"layernorm_after", lambda i, j: f"layers.{i}.blocks.{j}.norm2"),
        (_SWIN_BLOCK + r"attention\.[qkv]_proj", lambda i, j: f"layers.{i}.blocks.{j}.attn.qkv"),
        (_SWIN_BLOCK + r"attention\.o_proj", lambda i, j: f"layers.{i}.blocks.{j}.attn.proj"),
        (_SWIN_BLOCK + r"attention\.relative_position_bias", lambda i, j: f"layers.{i}.blocks.{j}.attn"),
        (_SWIN_BLOCK + r"mlp", lambda i, j: f"layers.{i}.blocks.{j}.mlp"),
        (r"hidden_states_norms\.stage(\d)", lambda i: f"norm{i - 1}"),
    ),
    backbones.ConvNextConfig: (
        (r"embeddings\.patch_embeddings", lambda: "downsample_layers.0.0"),
        (r"embeddings\.layernorm", lambda: "downsample_layers.0.1"),
        (r"encoder\.stages\.(\d)\.downsampling_layer", lambda i: f"downsample_layers.{i}"),
        (_STAGE_LAYER + r"layernorm", lambda i, j: f"stages.{i}.{j}.norm"),
        (_STAGE_LAYER + r"layer_scale_parameter", lambda i, j: f"stages.{i}.{j}.gamma"),
        (_STAGE_LAYER + r"(?=dwconv|pwconv)", lambda i, j: f"stages.{i}.{j}."),
        (r"hidden_states_norms\.stage(\d)", lambda i: f"../norm_layers.res{i + 1}"),
    ),
}
_CLASSES = {backbones.ResNetConfig: ResNet, backbones.SwinConfig: Swin, backbones.ConvNextConfig: ConvNext}


@dataclasses.dataclass(frozen=True)
class LayerError:
    """Relative L2 difference of one layer's outputs, given the same input."""

    name: str
    error: float


def shortened(name: str, most: int) -> backbones.BackboneConfig:
    """The configuration of a backbone with at most so many blocks per stage."""
    config = backbones.backbone_config(name)
    return dataclasses.replace(config, depths=tuple(min(depth, most) for depth in config.depths))


def image_size(name: str) -> tuple[int, int]:
    """A small size for both: the peer shrinks a Swin window that is larger than a map, the reference does not."""
    if not name.startswith("Swin"):
        return 64, 96
    smallest = 32 * (backbones.backbone_config(name).window + 1)
    return smallest, smallest + 32


def compare(config: backbones.BackboneConfig, size: tuple[int, int], seed: int = 0) -> list[LayerError]:
    """Every block, and every output of the whole, against the peer with the same random weights on a random image."""
    ours, peer = _pair(config, seed)
    blocks = dict(_blocks(config, ours, peer))
    records: dict[str, tuple[torch.Tensor, tuple | None, torch.Tensor]] = {}

    def recorder(name: str):
        def record(module, args, kwargs, output):
            args = args + tuple(kwargs.values())
            dimensions = next((tuple(a) for a in args[1:] if isinstance(a, tuple) and len(a) == 2), None)
            records[name] = args[0], dimensions, output[0] if isinstance(output, tuple) else output

        return record

    for name, (_, module) in blocks.items():
        module.register_forward_hook(recorder(name), with_kwargs=True)
    image = np.random.default_rng(seed).standard_normal((1, *size, 3)).astype(np.float32)
    with torch.no_grad():
        maps = peer(torch.tensor(image).permute(0, 3, 1, 2)).feature_maps

    errors = []
    with jax.default_matmul_precision("highest"):
        for name, (block, _) in blocks.items():
            inputs, dimensions, expected = records[name]
            errors.append(LayerError(name, _distance(_run(block, _to_nhwc(inputs, dimensions)), expected, dimensions)))
        graph, state = nnx.split(ours)
        features = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, image)
    for (stride, found), expected in zip(features.items(), maps, strict=True):
        errors.append(LayerError(f"features of stride {stride}", _distance(np.asarray(found), expected, None)))
    return errors


def _pair(config: backbones.BackboneConfig, seed: int) -> tuple[nnx.Module, torch.nn.Module]:
    """Our backbone and the peer with the same random weights."""

    class OnlyBackbone(nnx.Module):  # puts the backbone under the path that it has in TarViS
        def __init__(self):
            kwargs = {"compute_dtype": jnp.float32, "drop_path": 0.0, "remat": "none"}
            self.backbone = _CLASSES[type(config)](config, **kwargs, rngs=nnx.Rngs(0))

    peer = _peer(config).eval()
    peer_weights = peer.state_dict()
    model = nnx.eval_shape(OnlyBackbone)
    rng = np.random.default_rng(seed)
    weights = {}
    for reference_name, names in _weight_names(config, peer_weights).items():
        parts = []
        for name in names:
            shape = tuple(peer_weights[name].shape)
            fan_in = max(int(np.prod(shape[1:])), 1)
            values = rng.standard_normal(shape, np.float32) * (0.1 if len(shape) == 1 else fan_in**-0.5)
            if len(shape) == 1 and name.endswith(("norm.weight", "normalization.weight", "running_var")):
                values = 1 + np.abs(values)
            peer_weights[name] = torch.tensor(values)
            parts.append(values)
        weights[reference_name] = np.concatenate(parts)
    peer.load_state_dict(peer_weights)
    kept = [rule for rule in rules.backbone_rules(config) if rule.derive is None]
    return fill(model, convert_weights(weights, flatten(model), kept)).backbone, peer


def _peer(config: backbones.BackboneConfig) -> torch.nn.Module:
    depths = list(config.depths)
    if isinstance(config, backbones.SwinConfig):
        settings = transformers.SwinConfig(
            embed_dim=config.channels,
            depths=depths,
            num_heads=list(config.num_heads),
            window_size=config.window,
            layer_norm_eps=1e-5,
            out_features=list(_STAGES),
        )
        return transformers.SwinBackbone(settings)
    if isinstance(config, backbones.ConvNextConfig):
        channels = list(config.channels)
        settings = transformers.ConvNextConfig(hidden_sizes=channels, depths=depths, out_features=list(_STAGES))
        return transformers.ConvNextBackbone(settings)
    channels = list(config.channels)
    settings = transformers.ResNetConfig(
        embedding_size=config.stem[0][2], hidden_sizes=channels, depths=depths, out_features=list(_STAGES)
    )
    return transformers.ResNetBackbone(settings)


def _weight_names(config: backbones.BackboneConfig, peer_weights: dict) -> dict[str, list[str]]:
    """The reference's name of each tensor -> the peer's tensors that, concatenated, are it."""
    unused = {name for name in peer_weights if not name.endswith(("num_batches_tracked", "relative_position_index"))}
    unused -= {"swin.layernorm.weight", "swin.layernorm.bias"}  # the classifier's, which a backbone does not apply
    names: dict[str, list[str]] = {}
    for name in unused:
        names.setdefault(_reference_name(config, name), []).append(name)
    for parts in names.values():
        parts.sort(key=lambda name: "qkv".find(name.split("_proj")[0][-1]))  # query, key, value
    return names


def _reference_name(config: backbones.BackboneConfig, name: str) -> str:
    for pattern, rename in _NAMES[type(config)]:
        if match := re.match(pattern, name):
            reference = f"backbone.backbone.{rename(*map(int, match.groups()))}{name[match.end() :]}"
            return reference.replace("backbone.backbone.../", "backbone.")
    raise ValueError(f"no name for the peer's {name}")


def _blocks(
    config: backbones.BackboneConfig, ours: nnx.Module, peer: torch.nn.Module
) -> Iterator[tuple[str, tuple[nnx.Module, torch.nn.Module]]]:
    """(name, (our block, the peer's)) from input to output; Swin's patch merging counts as a block."""
    is_swin = isinstance(config, backbones.SwinConfig)
    stages = peer.swin.encoder.layers if is_swin else peer.encoder.stages
    for i, stage in enumerate(stages):
        for j, module in enumerate(stage.blocks if is_swin else stage.layers):
            yield f"stage {i} block {j}", (ours.stages[i][j], module)
        if is_swin and i < 3:
            yield f"merging {i}", (ours.merges[i], stage.downsample)


_COMPILED = jax.jit(lambda graph, state, x: nnx.merge(graph, state)(x), static_argnums=0)


def _run(block: nnx.Module, x: np.ndarray) -> np.ndarray:
    graph, state = nnx.split(block)
    return np.asarray(_COMPILED(graph, state, x))


def _to_nhwc(x: torch.Tensor, dimensions: tuple[int, int] | None) -> np.ndarray:
    """The peer's maps [N, C, H, W] or tokens [N, H * W, C] as [N, H, W, C]."""
    x = x.detach().numpy()
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x.reshape(len(x), *dimensions, -1)


def _distance(found: np.ndarray, expected: torch.Tensor, dimensions: tuple[int, int] | None) -> float:
    expected = expected.detach().numpy()
    expected = expected.transpose(0, 2, 3, 1) if expected.ndim == 4 else expected.reshape(found.shape)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
