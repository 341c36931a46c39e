"""Layer by layer against another library, for the backbones that no golden file of the reference covers.

Real widths, heads and windows, at most two blocks a stage: further blocks are the same code again.
`tests/tools/backbone_report.py` runs them at full depth.
"""

import pytest

pytest.importorskip("transformers", reason="the peer is a model of the package transformers, which is not installed")

from tests.model.backbones import peers  # noqa: E402


@pytest.mark.parametrize(
    "name",
    [
        "ResNet101",
        "SwinSmall",
        # The same with more channels.
        pytest.param("SwinBase", marks=pytest.mark.long),
        pytest.param("SwinLarge", marks=pytest.mark.long),
        "ConvNextSmall",
        pytest.param("ConvNextBase", marks=pytest.mark.long),
        pytest.param("ConvNextLarge", marks=pytest.mark.long),
        pytest.param("ConvNextXLarge", marks=pytest.mark.long),
    ],
)
def test_every_layer_equals_the_peers(name):
    errors = peers.compare(peers.shortened(name, 2), peers.image_size(name))
    assert len(errors) == (15 if name.startswith("Swin") else 12)
    worst = max(errors, key=lambda layer: layer.error)
    assert worst.error <= 2e-6, worst
