"""Every LTX file that the Go tools wrote decodes, encodes to the same bytes, and applies to the state they reached."""

from typing import Any

import pytest

from litefs.errors import ChecksumError, FormatError, NeedMoreData
from litefs.formats.checksum import CHECKSUM_FLAG, EMPTY_DATABASE_CHECKSUM, database_checksum, page_checksums
from litefs.formats.ltx import HEADER_SIZE, LtxHeader, LtxTrailer, image_name
from litefs.formats.ltx_compactor import compact
from litefs.formats.ltx_decoder import LtxDecoder, decode_image
from litefs.formats.ltx_encoder import LtxEncoder, encode_image
from litefs.formats.position import ZERO_POS, Checksum, Pos, Txid
from tests.unit.formats import golden

MANIFEST = golden.load("ltx/manifest.json")
LIBRARY = golden.load("ltx-library/manifest.json")
NOT_SNAPSHOTS = {"ltx-library/snapshot-too-few-pages.ltx", "ltx-library/snapshot-wrong-post-apply.ltx"}
FILES = {**MANIFEST["files"], **LIBRARY["files"]}
GOOD = sorted(FILES.keys() - NOT_SNAPSHOTS)


def database_sum(data: bytes | bytearray, page_size: int) -> int:
    return database_checksum(page_checksums(data, page_size, 1))


def apply(database: bytes, image: bytes) -> bytes:
    """Applies an image and checks the database before and after."""
    header, pages, trailer = decode_image(image)
    size = header.page_size
    assert header.is_snapshot or database_sum(database, size) == header.pre_apply
    content = bytearray(database).ljust(header.commit * size, b"\0")
    for pgno, page in pages:
        content[(pgno - 1) * size : pgno * size] = page
    content = content[: header.commit * size]
    if database_sum(content, size) != trailer.post_apply:
        raise ChecksumError("the image does not lead to the checksum it states")
    return bytes(content)


def test_the_golden_files_are_complete() -> None:
    folders = (golden.ROOT / "ltx", golden.ROOT / "ltx-library")
    on_disk = {path.relative_to(golden.ROOT).as_posix() for folder in folders for path in folder.rglob("*.ltx")}
    assert on_disk == FILES.keys() | LIBRARY["damaged"].keys()
    for path, entry in {**FILES, **LIBRARY["damaged"]}.items():
        assert golden.sha256(golden.read(path)) == entry["sha256"], path


@pytest.mark.parametrize("path", GOOD)
def test_decodes_to_what_ltx_dump_says(path: str) -> None:
    data, go = golden.read(path), FILES[path]["go"]
    header, pages, trailer = decode_image(data)
    assert go["verify"] == "ok"
    assert go["pages"] == [pgno for pgno, _ in pages]
    dump = go["dump"]
    assert header.flags == int(dump["Flags"], 16)
    assert header.page_size == int(dump["Page size"])
    assert header.commit == int(dump["Commit"])
    assert f"{header.min_txid:016x} ({header.min_txid})" == dump["Min TXID"]
    assert f"{header.max_txid:016x} ({header.max_txid})" == dump["Max TXID"]
    assert dump["Timestamp"].endswith(f"({header.timestamp_ms})")
    assert f"{header.pre_apply:016x}" == dump["Pre-apply"]
    assert header.wal_offset == int(dump["WAL offset"])
    assert header.wal_size == int(dump["WAL size"])
    assert f"{header.wal_salt1:08x} {header.wal_salt2:08x}" == dump["WAL salt"]
    assert f"{trailer.post_apply:016x}" == dump["Post-apply"]
    if "File Checksum" in dump:
        assert f"{trailer.file_checksum:016x}" == dump["File Checksum"]
    if "node_id" in FILES[path]:
        assert f"{header.node_id:016X}" == FILES[path]["node_id"]


@pytest.mark.parametrize("path", GOOD)
def test_encodes_to_the_same_bytes(path: str) -> None:
    data = golden.read(path)
    header, pages, trailer = decode_image(data)
    encoder = LtxEncoder(header)
    parts = [encoder.header_bytes(), *(encoder.page(pgno, page) for pgno, page in pages)]
    parts.append(encoder.finish(trailer.post_apply))
    for encoded in (encode_image(header, pages, trailer.post_apply), b"".join(parts)):
        if header.is_lz4:
            # Two LZ4 writers find different matches; all but the blocks is the same.
            assert encoded[: HEADER_SIZE + 7] == data[: HEADER_SIZE + 7]
            assert encoded[-16:] == data[-16:]
            assert decode_image(encoded) == (header, pages, trailer)
        else:
            assert encoded == data


@pytest.mark.parametrize("path", GOOD)
def test_decodes_byte_by_byte(path: str) -> None:
    data = golden.read(path)
    decoder, pages = LtxDecoder(), []
    for piece in golden.pieces(data, 1 if len(data) < 20_000 else 1021):
        pages += decoder.feed(piece)
    assert decoder.done
    assert (decoder.header, pages, decoder.trailer) == decode_image(data)


@pytest.mark.parametrize("scenario", MANIFEST["scenarios"], ids=lambda scenario: scenario["scenario"])
def test_applying_the_files_leads_through_the_states_of_the_primary(scenario: dict[str, Any]) -> None:
    states = dict.fromkeys(scenario["databases"], b"")
    positions = dict.fromkeys(scenario["databases"], ZERO_POS)
    for step in scenario["steps"]:
        for path in step["ltx"]:
            name = path.split("/")[2]
            header, _, trailer = decode_image(golden.read(path))
            assert header.is_snapshot or header.pre_apply_pos == positions[name]
            states[name] = state_after(states[name], path)
            positions[name] = Pos(txid=header.max_txid, checksum=trailer.post_apply)
        for name, state in step["state"].items():
            assert len(states[name]) == state["db_size"]
            assert (golden.sha256(states[name]) if states[name] else None) == state["db_sha256"]
            assert not state["pos"] or state["pos"] == str(positions[name])


def state_after(database: bytes, path: str) -> bytes:
    """Returns the database after a file of the Go version, which lost the change of page 1 when it left WAL mode."""
    entry, image = MANIFEST["files"][path], golden.read(path)
    if not entry.get("broken"):
        return apply(database, image)
    with pytest.raises(ChecksumError):
        apply(database, image)
    return golden.read(entry["database_after"])


def test_file_names_are_those_of_the_go_version() -> None:
    for path in MANIFEST["files"]:
        if "snapshot-from-stream" not in path:
            header = LtxHeader.decode(golden.read(path))
            assert path.endswith("/" + image_name(header.min_txid, header.max_txid))


# ---- refusals ----


def test_a_snapshot_with_a_wrong_post_apply_checksum_is_refused_as_by_go() -> None:
    path = "ltx-library/snapshot-wrong-post-apply.ltx"
    assert "does not match calculated checksum" in FILES[path]["go"]["verify"]
    with pytest.raises(ChecksumError):
        decode_image(golden.read(path))


def test_a_snapshot_that_lacks_pages_is_refused_although_go_accepts_it() -> None:
    # No encoder of Go's makes one; whoever applied it would learn only at the end that pages are missing.
    path = "ltx-library/snapshot-too-few-pages.ltx"
    assert FILES[path]["go"]["verify"] == "ok"
    with pytest.raises(FormatError, match="pages, 3 expected"):
        decode_image(golden.read(path))


@pytest.mark.parametrize("path", sorted(LIBRARY["damaged"]), ids=lambda path: path.rsplit("/")[-1])
def test_damaged_files_get_the_verdict_of_go(path: str) -> None:
    data, verdict = golden.read(path), LIBRARY["damaged"][path]["ltx_verify"]
    decoder = LtxDecoder()
    if verdict == "ok":
        decoder.feed(data)
        assert decoder.done
        assert len(decoder.unused) == 1
        return
    with pytest.raises((FormatError, NeedMoreData)):
        decode_image(data)
    if "checksum mismatch" in verdict:
        with pytest.raises(ChecksumError):
            decode_image(data)
    if "EOF" in verdict or "cut-in" in path:
        with pytest.raises(NeedMoreData):
            decode_image(data)


# ---- compaction ----


def test_compacts_as_the_go_library_does() -> None:
    inputs = [golden.read(f"ltx-library/compact-in-{n}.ltx") for n in (1, 2, 3)]
    assert b"".join(compact([[data] for data in inputs])) == golden.read("ltx-library/compact-out.ltx")
    assert b"".join(compact([golden.pieces(data, 7) for data in inputs])) == golden.read("ltx-library/compact-out.ltx")


def test_compacts_as_the_backup_of_the_go_version_does() -> None:
    scenario = next(each for each in MANIFEST["scenarios"] if "compacted" in each)
    written = [path for step in scenario["steps"] for path in step["ltx"]]
    inputs = {int(LtxHeader.decode(golden.read(path)).min_txid): golden.read(path) for path in written}
    compared = 0
    for path in scenario["compacted"]:
        expected = golden.read(path)
        header = LtxHeader.decode(expected)
        run = [[inputs[txid]] for txid in range(header.min_txid, header.max_txid + 1)]
        compacted = b"".join(compact(run, header.flags))
        if header.is_snapshot:  # the first push is a snapshot and no compaction
            assert decode_image(compacted)[1] == decode_image(expected)[1]
        else:
            assert compacted == expected
            compared += 1
    assert compared == 3


# ---- single checksums that the Go version's tests state ----


@pytest.mark.parametrize(("flags", "file_checksum"), [(0, 0xC8D8C55BDE12FE8D), (1, 0xBDC35CF8B5A3384C)])
def test_file_checksum_of_a_snapshot_is_that_of_go(flags: int, file_checksum: int) -> None:
    header = LtxHeader(
        flags=flags,
        page_size=512,
        commit=2,
        min_txid=Txid(1),
        max_txid=Txid(4),
        timestamp_ms=0,
        pre_apply=Checksum(0),
    )
    image = encode_image(header, [(1, b"\x03" * 512), (2, b"\x02" * 512)], CHECKSUM_FLAG + 3000)
    assert LtxTrailer.decode(image[-16:]).file_checksum == file_checksum


def test_file_checksum_of_a_drop_is_that_of_go() -> None:
    header = LtxHeader(
        page_size=4096,
        commit=0,
        min_txid=Txid(2),
        max_txid=Txid(2),
        timestamp_ms=0,
        pre_apply=Checksum(CHECKSUM_FLAG + 1),
    )
    image = encode_image(header, [], EMPTY_DATABASE_CHECKSUM)
    assert LtxTrailer.decode(image[-16:]).file_checksum == 0xA5B07BA28B323BF4
