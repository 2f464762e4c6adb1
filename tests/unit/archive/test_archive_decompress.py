from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import random
import zlib
from collections.abc import Callable
from contextlib import closing

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.archive.admit import Budget
from buildit.archive.compress import XZ_PIECE, XzWriter, decompressed
from buildit.errors import BuildError, IntegrityError
from tests.scale import examples

pytestmark = pytest.mark.unit

Encoder = Callable[[bytes], bytes]
ENCODERS: dict[str, Encoder] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
    "none": bytes,
}
CODECS = [name for name in ENCODERS if name != "none"]
TEXT = random.Random(4).randbytes(40_000) + b"plain text, again and again. " * 9000


def plain(data: bytes, budget: Budget = Budget()) -> bytes:  # noqa: B008
    with decompressed(io.BytesIO(data), budget, "a.tar") as stream:
        return stream.read()


@pytest.mark.parametrize("codec", ENCODERS)
@given(data=st.binary(max_size=300))
@settings(max_examples=examples(12), deadline=None)
def test_round_trip(codec: str, data: bytes) -> None:
    assert plain(ENCODERS[codec](b"-" + data)) == b"-" + data


class Slow:
    """Gives a stream one byte, then seven, at a time."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def read(self, size: int = -1, /) -> bytes:
        return self._stream.read(min(size, 1 if self._stream.tell() < 40 else 7))


@pytest.mark.parametrize("codec", ENCODERS)
def test_short_reads_change_nothing(codec: str) -> None:
    text = TEXT[39_000:46_000]
    with decompressed(Slow(ENCODERS[codec](text)), Budget()) as stream:
        assert stream.read() == text


@pytest.mark.scale
@pytest.mark.parametrize("codec", CODECS)
def test_large_and_very_compressible_data_comes_out_whole(codec: str) -> None:
    whole = bytes(5 << 20) + TEXT + bytes((1 << 20) - 1)
    assert plain(ENCODERS[codec](whole), Budget(ratio=10**6)) == whole


@pytest.mark.parametrize("codec", CODECS)
def test_members_are_read_one_after_the_other(codec: str) -> None:
    encode = ENCODERS[codec]
    assert plain(encode(TEXT) + encode(b"") + encode(b"end")) == TEXT + b"end"


@pytest.mark.parametrize("codec", CODECS)
def test_truncated_anywhere_is_an_error(codec: str) -> None:
    data = ENCODERS[codec](TEXT[:3000])
    for size in [*range(6, 40), *range(40, len(data), 97), *range(len(data) - 12, len(data))]:
        with pytest.raises(IntegrityError, match="truncated") as caught:
            plain(data[:size])
        assert caught.value.place == "a.tar"


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("after", [b"garbage", b"\0\0\0\0x", b"\x1f\x8a", b"PK\3\4"])
def test_what_follows_the_last_member_is_an_error(codec: str, after: bytes) -> None:
    with pytest.raises(IntegrityError, match="other bytes follow"):
        plain(ENCODERS[codec](TEXT) + after)


@pytest.mark.parametrize("codec", CODECS)
def test_another_codec_does_not_follow(codec: str) -> None:
    other = ENCODERS["xz" if codec != "xz" else "gzip"]
    with pytest.raises(IntegrityError, match="other bytes follow"):
        plain(ENCODERS[codec](TEXT) + other(TEXT))


@pytest.mark.scale
@pytest.mark.parametrize("codec", CODECS)
def test_a_flipped_bit_never_gives_other_bytes(codec: str) -> None:
    checked: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
    data = zstd.compress(TEXT, options=checked) if codec == "zstd" else ENCODERS[codec](TEXT)
    for at in range(10, len(data), len(data) // 15):
        bent = bytearray(data)
        bent[at] ^= 0x10
        with contextlib.suppress(IntegrityError):
            assert plain(bytes(bent)) == TEXT


@pytest.mark.parametrize("codec", ENCODERS)
def test_the_limit_of_bytes(codec: str) -> None:
    with pytest.raises(BuildError, match="total_bytes = 1000"):
        plain(ENCODERS[codec](TEXT), Budget(total_bytes=1000))


@pytest.mark.parametrize("codec", CODECS)
def test_the_limit_of_the_ratio(codec: str) -> None:
    data = ENCODERS[codec](bytes(3 << 20))
    assert len(plain(data, Budget(ratio=20, ratio_free=4 << 20))) == 3 << 20
    with pytest.raises(BuildError, match="ratio = 20"):
        plain(data, Budget(ratio=20, ratio_free=1 << 20))


def test_the_limit_of_memory() -> None:
    window: dict[int, int] = {zstd.CompressionParameter.window_log: 27}
    long_window = zstd.ZstdCompressor(options=window)
    large = long_window.compress(TEXT) + long_window.flush()
    for data in (large, lzma.compress(TEXT, preset=9)):
        assert plain(data) == TEXT
        with pytest.raises(BuildError, match="memory = 1048576"):
            plain(data, Budget(memory=1 << 20))


def test_zstd_skippable_frames_are_skipped() -> None:
    skip = b"\x50\x2a\x4d\x18\x05\0\0\0hello"
    assert plain(skip + zstd.compress(TEXT) + skip) == TEXT


def test_a_raw_deflate_stream_is_plain_bytes() -> None:
    data = zlib.compress(b"x")
    assert plain(data) == data


@pytest.mark.parametrize("size", [0, 1, XZ_PIECE, XZ_PIECE + 1, 3 * XZ_PIECE])
def test_xz_has_the_same_bytes_in_any_number_of_threads(size: int) -> None:
    content = (b"what is repeated " * 99 + os.urandom(64)) * (size // 1700 + 1)
    made = set()
    for threads in (1, 2, 5):
        out = io.BytesIO()
        with closing(XzWriter(out, threads=threads)) as writer:
            for at in range(0, size, 1 << 20):
                writer.write(content[at : min(size, at + (1 << 20))])
        made.add(out.getvalue())
    (packed,) = made
    assert lzma.decompress(packed) == content[:size]
    with decompressed(io.BytesIO(packed), Budget()) as plain:
        assert plain.read() == content[:size]
