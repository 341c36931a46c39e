"""Shared models on the Hugging Face hub; the only user of `huggingface_hub`, which is optional."""

import pathlib
import re

from tarvis_jax.weights.folder import CONFIG_FILE, WEIGHTS_FILE

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def is_hub_id(text: str) -> bool:
    """Whether a text reads "owner/name" or "owner/name@revision"."""
    return _HUB_ID.fullmatch(text) is not None and not text.startswith(".")


def download(hub_id: str) -> pathlib.Path:
    """The folder (in the hub's cache) of a model on the hub: model.safetensors and config.json.

    Args:
      hub_id: "owner/name" or "owner/name@revision" (a branch, a tag or a commit).

    Raises:
      ValueError: the package is missing, or the hub does not give these files.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError(
            f"{hub_id}: there is no such file or folder here, and to look on the hub the package huggingface_hub is "
            "needed: pip install huggingface_hub"
        ) from None
    name, _, revision = hub_id.partition("@")
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision or None, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]
        )
    except Exception as error:  # its errors have no common class: network, HTTP and validation errors
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{hub_id}: no such file or folder here, and the hub did not give it: {type(error).__name__}: {reason}"
        ) from error
    return pathlib.Path(folder)
