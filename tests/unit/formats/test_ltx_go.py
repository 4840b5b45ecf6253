"""The Go tool reads what we write. `tests/support/go_tools.py` says where it comes from."""

import subprocess
from pathlib import Path

import pytest

from litefs.formats.ltx_compactor import compact
from litefs.formats.ltx_decoder import decode_image
from litefs.formats.ltx_encoder import LtxEncoder
from tests.support import go_tools
from tests.unit.formats import golden
from tests.unit.formats.images import IMAGES, Image


@pytest.fixture(scope="module")
def go_ltx() -> Path:
    try:
        return go_tools.find(go_tools.LTX)
    except go_tools.NoGoToolError as error:
        pytest.skip(str(error))


def run(program: Path, *args: str | Path) -> str:
    result = subprocess.run([program, *args], capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_go_verifies_and_lists_our_images(go_ltx: Path, image: Image, tmp_path: Path) -> None:
    encoder = LtxEncoder(image.header)
    streamed = [encoder.header_bytes(), *(encoder.page(pgno, data) for pgno, data in image.pages)]
    streamed.append(encoder.finish(image.post_apply))
    for data in (image.encode(), b"".join(streamed)):
        path = tmp_path / "image.ltx"
        path.write_bytes(data)
        run(go_ltx, "verify", path)
        dump = run(go_ltx, "dump", path)
        assert f"{image.post_apply:016x}" in dump
        assert f"{decode_image(data)[2].file_checksum:016x}" in dump
        for pgno, _ in image.pages:
            assert str(pgno) in dump


def test_go_verifies_what_we_compacted(go_ltx: Path, tmp_path: Path) -> None:
    inputs = [[golden.read(f"ltx-library/compact-in-{n}.ltx")] for n in (1, 2, 3)]
    for flags in (0, 1):
        path = tmp_path / "compacted.ltx"
        path.write_bytes(b"".join(compact(inputs, flags)))
        run(go_ltx, "verify", path)


def test_go_still_refuses_what_we_refuse(go_ltx: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.ltx"
    data = bytearray(IMAGES[0].encode())
    data[300] ^= 1
    path.write_bytes(data)
    result = subprocess.run([go_ltx, "verify", path], capture_output=True, timeout=30, check=False)
    assert result.returncode != 0
