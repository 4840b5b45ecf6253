"""`litefs ltx` on files, directories and log segments."""

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from litefs.cli import main as cli
from litefs.formats.checksum import CHECKSUM_FLAG, page_checksum
from litefs.formats.ltx import FLAG_LZ4, LtxHeader, image_name
from litefs.formats.ltx_encoder import encode_image
from litefs.formats.position import Checksum, Txid
from litefs.storage.log_format import (
    RecordState,
    encode_record_header,
    encode_segment_header,
    padded,
    segment_name,
)

PAGE_SIZE = 512
SEGMENT_ID = 77


def page(value: int) -> bytes:
    return struct.pack(">Q", value) * (PAGE_SIZE // 8)


def checksum_after(txid: int) -> int:
    """Of a database whose only page holds the number of its last transaction."""
    return CHECKSUM_FLAG | page_checksum(1, page(txid)) if txid else 0


def image(txid: int, *, pre_apply: int | None = None, flags: int = 0) -> bytes:
    header = LtxHeader(
        page_size=PAGE_SIZE,
        commit=1,
        min_txid=Txid(txid),
        max_txid=Txid(txid),
        timestamp_ms=1_700_000_000_000,
        pre_apply=Checksum(checksum_after(txid - 1) if pre_apply is None else pre_apply),
        flags=flags,
    )
    return encode_image(header, [(1, page(txid))], checksum_after(txid))


def segment(images: Sequence[bytes], segment_id: int = SEGMENT_ID, tail: bytes = b"\0" * 4096) -> bytes:
    data = encode_segment_header(segment_id)
    for body in images:
        header = LtxHeader.decode(body)
        checksum = checksum_after(header.max_txid)
        data += encode_record_header(
            RecordState.LIVE, len(body), header.min_txid, header.max_txid, 0, checksum, segment_id, 0
        )
        data += body.ljust(padded(len(body)), b"\0")
    return data + tail


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for txid in (1, 2, 3):
        flags = FLAG_LZ4 if txid == 2 else 0
        (tmp_path / image_name(txid, txid)).write_bytes(image(txid, flags=flags))
    (tmp_path / "unrelated.txt").touch()
    return tmp_path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The log directory of the database app.db, in the data directory `tmp_path`."""
    directory = tmp_path / "dbs" / "app.db" / "log"
    directory.mkdir(parents=True)
    return directory


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = cli.run(["ltx", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_lists_images(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "list", files)
    assert code == 0
    lines = [line.split() for line in text.splitlines()]
    assert lines[0][0] == "IMAGE"
    assert [line[0] for line in lines[1:]] == [f"{txid:016x}-{txid:016x}" for txid in (1, 2, 3)]
    assert [line[8] for line in lines[1:]] == ["snapshot", "lz4", "-"]
    assert [line[2] for line in lines[1:]] == [f"{checksum_after(txid):016x}" for txid in (1, 2, 3)]


def test_lists_an_image_whose_time_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = image(2)
    path = tmp_path / image_name(2, 2)
    path.write_bytes(whole[:32] + b"\x7f" * 8 + whole[40:])
    code, text = run(capsys, "list", path)
    assert (code, text.split()[-3]) == (0, "-"), text


@pytest.mark.parametrize("verb", ["list", "dump", "verify"])
def test_an_image_that_retention_removes_meanwhile_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    (tmp_path / image_name(2, 2)).symlink_to("gone")  # it is in the directory, and not there when it is opened
    code, text = run(capsys, verb, tmp_path)
    assert (code, text) == (
        1,
        f"ERROR: {tmp_path / image_name(2, 2)}: removed meanwhile, as retention does: try again\n",
    )


def test_dumps_pages_with_their_checksums(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "dump", files / image_name(2, 2))
    assert code == 0
    assert f"  page          1  {page_checksum(1, page(2)):016x}\n" in text
    assert f"  pre-apply     {checksum_after(1):016x}\n" in text
    assert f"  post-apply    {checksum_after(2):016x}\n" in text
    assert "  compression   lz4\n" in text


def test_verifies_files(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "verify", files)
    assert (code, text.split(",")[0]) == (0, "OK  3 images")


def test_verify_finds_every_flipped_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / image_name(2, 2)
    whole = image(2)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        code, text = run(capsys, "verify", path)
        assert code == 1, at
        assert text.startswith(f"BAD  {path}: "), at


def test_verify_finds_every_truncation_and_what_follows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / image_name(2, 2)
    whole = image(2)
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert run(capsys, "verify", path)[0] == 1, size
    path.write_bytes(whole + b"x")
    assert run(capsys, "verify", path) == (1, f"BAD  {path}: LTX image: 1 bytes behind it\n")


def test_verify_names_the_first_bad_image(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for txid in (2, 3):
        (files / image_name(txid, txid)).write_bytes(b"junk")
    assert f"BAD  {files / image_name(2, 2)}: " in run(capsys, "verify", files)[1]


def test_verify_finds_a_gap_and_a_fork(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / image_name(3, 3)).write_bytes(image(3, pre_apply=checksum_after(9)))
    code, text = run(capsys, "verify", files)
    assert code == 1
    assert f"{image_name(3, 3)}: follows {checksum_after(9):016x}, the one before leads to" in text
    (files / image_name(2, 2)).unlink()
    code, text = run(capsys, "verify", files)
    assert code == 1
    assert "begins at 0000000000000003, the one before ends at 0000000000000001" in text


def test_reads_the_log_of_a_data_directory(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (log / segment_name(1)).write_bytes(segment([image(1), image(2)]))
    (log / segment_name(3)).write_bytes(segment([image(3)], segment_id=78))
    data_dir = log.parents[2]
    assert run(capsys, "verify", "-data", data_dir)[1].startswith("OK  3 images")
    assert run(capsys, "verify", "-data", data_dir, "-name", "app.db")[1].startswith("OK  3 images")
    assert run(capsys, "verify", log / segment_name(3))[1].startswith("OK  1 images")
    assert f"{log / segment_name(1)}@136\n" in run(capsys, "dump", "-data", data_dir)[1]


def test_reads_the_log_of_one_database(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (log / segment_name(1)).write_bytes(segment([image(1)]))
    assert run(capsys, "verify", log.parent) == run(capsys, "verify", log)
    assert run(capsys, "verify", log.parent)[1].startswith("OK  1 images")


def test_finds_the_data_directory_by_the_configuration(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (log / segment_name(1)).write_bytes(segment([image(1)]))
    config = log / "litefs.yml"
    config.write_text(f"data: {{dir: {log.parents[2]}}}\nlease: {{type: static}}\n")
    assert run(capsys, "verify", "-config", config)[1].startswith("OK  1 images")


def test_the_records_of_a_recycled_segment_do_not_count(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = log / segment_name(1)
    earlier_life = segment([image(8), image(9)], segment_id=1)[64:]
    path.write_bytes(segment([image(1)], tail=earlier_life))
    assert run(capsys, "verify", path)[1].startswith("OK  1 images")


def test_verify_finds_every_flipped_byte_of_a_segment(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = log / segment_name(1)
    whole = segment([image(1), image(2)], tail=b"")
    image_end = 64 + 2 * 72 + len(image(1)) + padded(len(image(1))) - len(image(1)) + len(image(2))
    undetected = []
    for at in range(image_end):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        code, text = run(capsys, "verify", path)
        if code == 0:
            undetected.append((at, text))
    # Zeros that fill up an image, and the header of the last record: a log without it is a shorter log.
    first_end = 64 + 72 + len(image(1))
    second_start = 64 + 72 + padded(len(image(1)))
    expected = [*range(first_end, second_start), *range(second_start, second_start + 72)]
    assert [at for at, _ in undetected] == expected


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["verify", "none.ltx"], 1, "none.ltx: no such file or directory"),
        (["list", "-data", ".", "-name", "no.db"], 1, "there is no database no.db"),
        (["verify", "empty"], 1, "empty: no images in it"),
        (["list", "unrelated.txt"], 1, "unrelated.txt: neither .ltx nor .ltxlog nor a directory"),
        (["list", "bad.ltx"], 1, "bad.ltx: 4 bytes are no image"),
        (["dump", "bad.ltx"], 1, "bad.ltx: 4 bytes are no image"),
        (["list", "bad.ltxlog"], 1, "bad.ltxlog: no log segment"),
        (["verify", "-data", ".", "x.ltx"], 2, "give either PATH… or -data or -config"),
    ],
)
def test_says_what_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("dbs", "empty"):
        (tmp_path / name).mkdir()
    for name in ("bad.ltx", "bad.ltxlog", "unrelated.txt"):
        (tmp_path / name).write_text("junk")
    assert run(capsys, *arguments)[0] == code
    assert message in run(capsys, *arguments)[1]
