"""The Go tool reads what we write. Needs LITEFS_GO_LTX, a build of github.com/superfly/ltx/cmd/ltx at v0.3.14."""

import os
import subprocess
from pathlib import Path

import pytest

from litefs.formats.ltx_compactor import compact
from litefs.formats.ltx_decoder import decode_image
from litefs.formats.ltx_encoder import LtxEncoder
from tests.unit.formats import golden
from tests.unit.formats.images import IMAGES, Image

GO_LTX = os.environ.get("LITEFS_GO_LTX", "")
pytestmark = pytest.mark.skipif(not GO_LTX, reason="LITEFS_GO_LTX names no build of the Go ltx tool")


def run(*args: str | Path) -> str:
    result = subprocess.run([GO_LTX, *map(str, args)], capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_go_verifies_and_lists_our_images(image: Image, tmp_path: Path) -> None:
    encoder = LtxEncoder(image.header)
    streamed = [encoder.header_bytes(), *(encoder.page(pgno, data) for pgno, data in image.pages)]
    streamed.append(encoder.finish(image.post_apply))
    for data in (image.encode(), b"".join(streamed)):
        path = tmp_path / "image.ltx"
        path.write_bytes(data)
        run("verify", path)
        dump = run("dump", path)
        assert f"{image.post_apply:016x}" in dump
        assert f"{decode_image(data)[2].file_checksum:016x}" in dump
        for pgno, _ in image.pages:
            assert str(pgno) in dump


def test_go_verifies_what_we_compacted(tmp_path: Path) -> None:
    inputs = [[golden.read(f"ltx-library/compact-in-{n}.ltx")] for n in (1, 2, 3)]
    for flags in (0, 1):
        path = tmp_path / "compacted.ltx"
        path.write_bytes(b"".join(compact(inputs, flags)))
        run("verify", path)


def test_go_still_refuses_what_we_refuse(tmp_path: Path) -> None:
    path = tmp_path / "damaged.ltx"
    data = bytearray(IMAGES[0].encode())
    data[300] ^= 1
    path.write_bytes(data)
    result = subprocess.run([GO_LTX, "verify", path], capture_output=True, timeout=30, check=False)
    assert result.returncode != 0
