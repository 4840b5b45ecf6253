"""The images themselves."""

import pytest

from e2e import images
from e2e.figures import Figures
from e2e.target import Target

SIDECAR_BYTES_MAX = 120_000_000
"""Unpacked, beyond the base: what a node has to fetch."""


def test_the_sidecar_is_small(target: Target, figures: Figures) -> None:
    if not target.is_own:
        pytest.skip("the image comes from elsewhere")
    sizes = {name: images.size_beyond_base(image) for name, image in images.own_images().items()}
    for name, size in sizes.items():
        figures.note(f"{name}, unpacked, beyond the slim base: {size / 1e6:.0f} MB")
    assert sizes["sidecar"] <= SIDECAR_BYTES_MAX
