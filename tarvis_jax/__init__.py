"""TarViS in JAX: one network that segments any set of targets in video.

    import tarvis_jax

    model = tarvis_jax.load("runs/quickstart")  # or a .pth of the PyTorch original, a shared folder, an id on the hub
    session = model.session("vos")
    session.add_target(frame_index=0, id="ball", point_yx=(30, 40))
    for result in session.run("frames/"):
        for each in result.objects:
            print(result.frame, each.id, each.mask.sum())

docs/api.md has the whole interface. The import is light: JAX and the network come with the first use of a name.
"""

import importlib
from typing import Any

_MODULES = {
    "DatasetSpec": "tarvis_jax.datasets",
    "InferenceConfig": "tarvis_jax.inference.session",
    "Model": "tarvis_jax.api",
    "ModelConfig": "tarvis_jax.model.config",
    "create": "tarvis_jax.api",
    "from_pretrained": "tarvis_jax.api",
    "load": "tarvis_jax.api",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'tarvis_jax' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
