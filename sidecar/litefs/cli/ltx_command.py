"""`litefs ltx list|dump|verify`: what is in transaction images, and whether it can be believed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from litefs.cli.exit_codes import FAILURE
from litefs.cli.flags import Arguments, Flag, HelpRequestedError, Usage
from litefs.cli.status_command import format_time, table
from litefs.cli.stored_images import StoredImage, images_in
from litefs.cli.units import format_size
from litefs.errors import ConfigError, FormatError, LiteFSError
from litefs.formats.checksum import page_checksum
from litefs.formats.ltx import HEADER_SIZE, TRAILER_SIZE, LtxHeader, LtxTrailer, image_name
from litefs.formats.ltx_decoder import LtxDecoder
from litefs.storage.log_format import RecordState

_OVERVIEW = """litefs ltx shows transaction images: .ltx files, log segments, directories of them, or a data directory.

usage: litefs ltx list|dump|verify [flags] [PATH…]

  list      one line per image: transactions, checksums, size
  dump      header, pages with their checksums, and trailer of every image
  verify    decode every image, check its checksums, and that each follows the one before
"""

_FLAGS = (
    Flag(name="data", value_name="DIR", help="data directory, when no PATH is given"),
    Flag(name="config", value_name="PATH", help="configuration that names the data directory"),
    Flag(name="name", value_name="DATABASE", help="this database of the data directory only"),
)


def _usage(verb: str, text: str) -> Usage:
    return Usage(synopsis=f"litefs ltx {verb} [flags] [PATH…]", text=text, flags=_FLAGS, word_n=(0, None))


_USAGES = {
    "list": _usage(
        "list",
        """
Lists images without reading their pages. Works while the node runs.

examples:
  litefs ltx list -data /var/lib/litefs -name app.db
  litefs ltx list 0000000000000001-0000000000000001.ltx

exit codes: 0 listed, 1 a header or path is bad, 2 wrong usage
""",
    ),
    "dump": _usage(
        "dump",
        """
Prints header, pages and trailer of images.

examples:
  litefs ltx dump 0000000000000001-0000000000000001.ltx

exit codes: 0 printed, 1 an image is damaged, 2 wrong usage
""",
    ),
    "verify": _usage(
        "verify",
        """
Decodes every image and checks all its checksums; within a directory, that each image follows the one before.
The last image of a running node's log may still be being written: verify it again before you believe the worst.

examples:
  litefs ltx verify -data /var/lib/litefs
  litefs ltx verify /backup/app.db/*.ltx

exit codes: 0 all good, 1 the first bad image is named, 2 wrong usage
""",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verified:
    """An image whose checksums hold."""

    image: StoredImage
    header: LtxHeader
    trailer: LtxTrailer


def run(arguments: Sequence[str]) -> int:
    """Runs one of the three verbs.

    Raises:
        ConfigError: wrong usage.
        LiteFSError: a path is no place of images, or retention removed an image before it was read.
        FormatError: `list` or `dump` met a bad image.
    """
    verb = arguments[0] if arguments else ""
    if verb in {"", "help", "-h", "-help", "--help"}:
        raise HelpRequestedError(_OVERVIEW.rstrip())
    if verb not in _USAGES:
        raise ConfigError(f"litefs ltx {verb}: unknown command\n\n{_OVERVIEW.rstrip()}")
    parsed = _USAGES[verb].parse(arguments[1:])
    images = _images(parsed)
    try:
        return {"list": _list, "dump": _dump, "verify": _verify}[verb](images)
    except FileNotFoundError as error:
        raise LiteFSError(f"{error.filename}: removed meanwhile, as retention does: try again") from error


def _images(parsed: Arguments) -> Iterator[StoredImage]:
    paths = [Path(word) for word in parsed.words]
    if paths and (parsed.texts["data"] or parsed.texts["config"]):
        raise ConfigError("give either PATH… or -data or -config")
    if not paths and parsed.texts["data"]:
        paths = [Path(parsed.texts["data"])]
    elif not paths:
        # Reading YAML takes a fifth of a second, which the other ways need not pay.
        from litefs.cli.config import find_config, load_config  # noqa: PLC0415

        config = load_config(Path(parsed.texts["config"]) if parsed.texts["config"] else find_config())
        paths = [Path(config.data.dir)]
    for path in paths:
        yield from images_in(path, parsed.texts["name"])


def _list(images: Iterator[StoredImage]) -> int:
    header = ("IMAGE", "PRE-APPLY", "POST-APPLY", "PAGE SIZE", "COMMIT", "BYTES", "TIME", "NOTES", "IN")
    print(table(header, map(_list_row, images)))
    return 0


def _list_row(image: StoredImage) -> tuple[str, ...]:
    header, trailer = _header_and_trailer(image)
    notes = [word for word, holds in (("snapshot", header.is_snapshot), ("lz4", header.is_lz4)) if holds]
    if image.state is not RecordState.LIVE:
        notes.append(image.state.name.lower())
    return (
        image_name(header.min_txid, header.max_txid).removesuffix(".ltx"),
        f"{header.pre_apply:016x}",
        f"{trailer.post_apply:016x}",
        str(header.page_size),
        str(header.commit),
        str(image.size_bytes),
        format_time(header.timestamp_ms),
        ",".join(notes) or "-",
        str(image.path),
    )


def _header_and_trailer(image: StoredImage) -> tuple[LtxHeader, LtxTrailer]:
    """Reads the two ends of an image; nothing is verified."""
    with image.path.open("rb") as file:
        file.seek(image.offset)
        head = file.read(HEADER_SIZE)
        file.seek(image.offset + max(image.size_bytes - TRAILER_SIZE, 0))
        tail = file.read(TRAILER_SIZE)
    if image.size_bytes < HEADER_SIZE + TRAILER_SIZE:
        raise FormatError(f"{image.label}: {image.size_bytes} bytes are no image")
    try:
        return LtxHeader.decode(head), LtxTrailer.decode(tail)
    except FormatError as error:
        raise FormatError(f"{image.label}: {error}") from error


def _dump(images: Iterator[StoredImage]) -> int:
    for image in images:
        decoder = LtxDecoder()
        header, _ = _header_and_trailer(image)
        print("\n".join(_header_lines(image, header)))
        try:
            for pgno, page in image.decode(decoder):
                print(f"  page {pgno:>10}  {page_checksum(pgno, page):016x}")
        except FormatError as error:
            raise FormatError(f"{image.label}: {error}") from error
        assert decoder.trailer is not None
        print(f"  post-apply    {decoder.trailer.post_apply:016x}")
        print(f"  file checksum {decoder.trailer.file_checksum:016x}\n")
    return 0


def _header_lines(image: StoredImage, header: LtxHeader) -> Iterator[str]:
    yield f"{image.label}"
    yield f"  transactions  {header.min_txid:016x}-{header.max_txid:016x}"
    yield f"  state         {image.state.name.lower()}"
    yield f"  page size     {header.page_size}"
    yield f"  commit        {header.commit} pages" if header.commit else "  commit        0, the database was dropped"
    yield f"  time          {format_time(header.timestamp_ms)}"
    yield f"  node          {header.node_id:016X}"
    yield f"  compression   {'lz4' if header.is_lz4 else 'none'}"
    if header.wal_size:
        yield f"  wal           offset {header.wal_offset}, {header.wal_size} bytes, "
        yield f"                salts {header.wal_salt1:08x} {header.wal_salt2:08x}"
    yield f"  pre-apply     {header.pre_apply:016x}"


def _verify(images: Iterator[StoredImage]) -> int:
    image_n = size_bytes = 0
    previous: _Verified | None = None
    try:
        for image in images:
            verified = _verified(image)
            if previous is not None and previous.image.series == image.series:
                _check_follows(verified, previous)
            image_n += 1
            size_bytes += image.size_bytes
            previous = verified
    except FormatError as error:
        print(f"BAD  {error}")
        return FAILURE
    print(f"OK  {image_n} images, {format_size(size_bytes)}")
    return 0


def _verified(image: StoredImage) -> _Verified:
    decoder = LtxDecoder()
    try:
        for _ in image.decode(decoder):
            pass
    except FormatError as error:
        raise FormatError(f"{image.label}: {error}") from error
    assert decoder.header is not None
    assert decoder.trailer is not None
    return _Verified(image=image, header=decoder.header, trailer=decoder.trailer)


def _check_follows(current: _Verified, previous: _Verified) -> None:
    """Checks that an image goes on where the image before it in the same directory ended.

    Raises:
        FormatError: it does not. A snapshot follows nothing.
    """
    if current.header.is_snapshot:
        return
    min_txid, max_txid = current.header.min_txid, previous.header.max_txid
    if min_txid != max_txid + 1:
        raise FormatError(f"{current.image.label}: begins at {min_txid:016x}, the one before ends at {max_txid:016x}")
    pre_apply, post_apply = current.header.pre_apply, previous.trailer.post_apply
    if pre_apply != post_apply:
        raise FormatError(f"{current.image.label}: follows {pre_apply:016x}, the one before leads to {post_apply:016x}")
