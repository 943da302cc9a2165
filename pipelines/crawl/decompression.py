"""Decompresses files as streams, in bounded memory even if the files are hostile.

gzip: RFC 1952, any number of members. Zstandard: RFC 8878, any number of frames, also skippable
ones and the dictionary frame of IIPC's "Zstandard Compression for WARC Files 1.0".
"""

import bisect
import io
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Literal

import zstandard

Compression = Literal["none", "gzip", "zstd"]

GZIP_MAGIC = b"\x1f\x8b\x08"
RECORD_START = b"WARC/"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
#: Second to fourth byte of a skippable frame; the first byte is 0x50 to 0x5f.
_SKIPPABLE = b"\x2a\x4d\x18"
_DICTIONARY_FRAME = b"\x5d" + _SKIPPABLE
_RAW_DICTIONARY = b"\x37\xa4\x30\xec"
#: Useful dictionaries are smaller; the specification advises well under a megabyte.
MAX_DICTIONARY_BYTES = 16 << 20

_READ_BYTES = 64 << 10
_OUTPUT_BYTES = 1 << 20
#: Bytes of gzip output per call: few, because a call that meets damage returns nothing.
_GZIP_OUTPUT_BYTES = 64 << 10
#: Bytes of zstd input per call: at most 64 MiB of output, since 4 bytes can become 128 KiB.
_ZSTD_INPUT_BYTES = 2 << 10
#: Highest ratio of decompressed to compressed bytes. Text stays below gzip's limit (1032 to 1);
#: data above this ratio is a bomb.
MAX_RATIO = 1100
#: Bytes to read from a member, and bytes of content to decompress, to see how the member begins.
_PROBE_BYTES = 4 << 10
_FIRST_BYTES = 32
#: Maximum bytes, input plus output, to decompress again in search of good gzip members within
#: damaged ones. If 4 times the file's size is more, this is the maximum. Beyond the maximum, good
#: members within damaged members are lost.
_RETRY_BYTES = 1 << 30
#: Bytes added to the count of `_RETRY_BYTES` for each attempt to decompress, even a failed one.
_RETRY_COST_BYTES = 16 << 10
#: Padding that may occur between compressed members.
_PADDING = b"\0\r\n"
BOMB_BYTES = 1 << 30


class DamagedStreamError(Exception):
    """Compressed data that cannot be read further; `offset` is its member's place in the file."""

    def __init__(self, offset: int, error: str):
        super().__init__(error)
        self.offset = offset


def describe_damage(error: BaseException) -> str:
    """Return a line about an error from reading a damaged file; re-raise errors of the disk."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return " ".join(str(error).split()) or type(error).__name__


def open_input(path: str) -> BinaryIO:
    """Open an input file for reading and seeking; every reader of input calls this."""
    return open(path, "rb")


def detect_compression(head: bytes) -> Compression:
    """Return a file's compression, given its first bytes (four are enough)."""
    if head and head.startswith(GZIP_MAGIC[: len(head)]):
        return "gzip"
    if head.startswith(ZSTD_MAGIC) or (head[1:4] == _SKIPPABLE and 0x50 <= head[0] < 0x60):
        return "zstd"
    return "none"


def read_zstd_dictionary(file: BinaryIO) -> zstandard.ZstdCompressionDict | None:
    """Read the dictionary at the beginning of a zstd file; return None if there is none.

    Raises:
        DamagedStreamError: the dictionary cannot be read, or is absurdly large.
    """
    file.seek(0)
    head = file.read(8)
    if not head.startswith(_DICTIONARY_FRAME) or len(head) < 8:
        return None
    size = int.from_bytes(head[4:], "little")
    data = file.read(min(size, MAX_DICTIONARY_BYTES + 1))
    if data.startswith(ZSTD_MAGIC):
        try:
            reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=False)
            data = reader.read(MAX_DICTIONARY_BYTES + 1)
        except zstandard.ZstdError as error:
            raise DamagedStreamError(0, f"the zstd dictionary: {error}") from error
    elif len(data) < size <= MAX_DICTIONARY_BYTES:
        raise DamagedStreamError(0, "the zstd dictionary is cut off")
    if len(data) > MAX_DICTIONARY_BYTES:
        raise DamagedStreamError(0, "the zstd dictionary is too large")
    if not data.startswith(_RAW_DICTIONARY):
        return None
    return zstandard.ZstdCompressionDict(data)


class DecompressedStream(io.RawIOBase):
    """Reads a file from an offset on, decompressed, and records where its members begin.

    Args:
        file: the file; only the stream may move its position from now on.
        compression: compression of the file.
        start: offset of the first member (a gzip member or a zstd frame) to read.
        dictionary: the result of `read_zstd_dictionary`.
        one_member: end after the first member.
        damage: the reason if nothing can be read.
        max_window: largest window of a zstd frame; a frame with a larger one counts as damaged, and
            each step yields at most half as much. 0 means zstd's own limit.
    """

    def __init__(
        self,
        file: BinaryIO,
        compression: Compression,
        start: int = 0,
        dictionary: zstandard.ZstdCompressionDict | None = None,
        one_member: bool = False,
        damage: DamagedStreamError | None = None,
        max_window: int = 0,
    ):
        file.seek(start)
        self._file = file
        self._compression = compression
        self._decompressor = zstandard.ZstdDecompressor(
            dict_data=dictionary, max_window_size=max_window
        )
        self._zstd_input_bytes = max_window >> 16 or _ZSTD_INPUT_BYTES
        self._decoder: Any = None
        self._input = b""
        self._input_offset = start
        self._output = memoryview(b"")
        self._position = 0
        self._decoded = 0
        self._one_member = one_member
        self._damage = damage
        # Where each member's content begins in the stream, and where the member begins in the file.
        self._contents = [0]
        self._members = [start]
        #: Whether a record is being read. Its stated length may be too large. So the stream ends
        #: before the next compressed member that begins with a record.
        self.in_record = False
        self._ended = False

    @property
    def file_offset(self) -> int:
        """Offset up to which the file was decoded."""
        return self._input_offset

    @property
    def member_bytes(self) -> int:
        """Cost of reading the current member so far: its compressed plus its decompressed bytes."""
        return self._input_offset - self._members[-1] + self._decoded - self._contents[-1]

    @property
    def member(self) -> int:
        """File offset of the compressed member that contains the last decompressed byte."""
        return self._members[-1]

    def tell(self) -> int:
        """Return the number of decompressed bytes read."""
        return self._position

    def locate(self, position: int) -> int:
        """Return the offset of the member that contains a byte of the decompressed stream.

        Forget earlier members. A file that is not compressed is a single member.
        """
        index = bisect.bisect_right(self._contents, position) - 1
        del self._contents[:index], self._members[:index]
        return self._members[0]

    def buffered(self) -> BinaryIO:
        """Return the stream as a file that can read lines."""
        return io.BufferedReader(self, _READ_BYTES)

    def readable(self) -> bool:
        """Return True, as Python's readers require."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, as Python's readers require."""
        data = self.read(len(buffer))
        self.locate(self._position)  # drops offsets of earlier members, perhaps millions
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes: at least one and at most `size`; b"" at the end.

        Raises:
            DamagedStreamError: the file is damaged here, or its output is unreasonably large.
        """
        if self._compression == "none":
            data = self._file.read(size if size >= 0 else _OUTPUT_BYTES)
            self._position += len(data)
            return data
        while not self._output:
            if self._damage:
                raise self._damage
            if self._ended or not self._fill():
                return b""
        cut = len(self._output) if size < 0 else size
        data = bytes(self._output[:cut])
        self._output = self._output[cut:]
        self._position += len(data)
        return data

    def _fill(self) -> bool:
        """Decompress some more data, possibly none; return False at the end of the file."""
        if not self._input:
            self._input = self._file.read(_READ_BYTES)
        if self._decoder is None and not self._begin_member():
            return bool(self._input)
        self._output = memoryview(b"")  # frees the memory
        output = self._decode()
        begins = self._decoded == self._contents[-1]
        if self.in_record and begins and output.lstrip(b"\r\n").startswith(RECORD_START):
            self._ended = True
            return False
        self._decoded += len(output)
        self._output = memoryview(output)
        content = self._decoded - self._contents[-1]
        spent = self._input_offset - self._members[-1]
        if content > BOMB_BYTES and content > MAX_RATIO * spent:
            self._damage = self._make_damage("it expands beyond reason")
        return True

    def _begin_member(self) -> bool:
        """Start to decompress the next member; return False if the input is only padding."""
        member = self._input.lstrip(_PADDING)
        self._consume(len(self._input) - len(member))
        if not member:
            return False
        if self._contents[-1] == self._decoded:  # the previous member had no content
            self._members[-1] = self._input_offset
        else:
            self._contents.append(self._decoded)
            self._members.append(self._input_offset)
        if self._compression == "gzip":
            self._decoder = zlib.decompressobj(wbits=31)
        else:
            self._decoder = self._decompressor.decompressobj()
        return True

    def _consume(self, count: int) -> None:
        self._input = self._input[count:]
        self._input_offset += count

    def _decode(self) -> bytes:
        """Decode some input; if it is damaged, record the damage and return b""."""
        decoder, given = self._decoder, self._input
        try:
            if self._compression == "zstd":
                given = given[: self._zstd_input_bytes]
                output, left = decoder.decompress(given), decoder.unused_data
            else:
                output = decoder.decompress(given, _GZIP_OUTPUT_BYTES)
                left = decoder.unused_data or decoder.unconsumed_tail
        except (zlib.error, zstandard.ZstdError) as error:
            self._damage = self._make_damage(str(error))
            return b""
        self._consume(len(given) - len(left))
        if decoder.eof:
            self._decoder = None
            self._ended = self._one_member
        elif not given and not output:
            self._damage = self._make_damage("the file ends too early")
        return output

    def _make_damage(self, error: str) -> DamagedStreamError:
        return DamagedStreamError(self._members[-1], error)


class Members:
    """An input file that may be compressed; finds the place to continue after damage."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._left_bytes = max(_RETRY_BYTES, 4 * file.seek(0, os.SEEK_END))
        file.seek(0)
        self.compression: Compression = detect_compression(file.read(4))
        self._dictionary: zstandard.ZstdCompressionDict | None = None
        self._damage: DamagedStreamError | None = None
        if self.compression == "zstd":
            try:
                self._dictionary = read_zstd_dictionary(file)
            except DamagedStreamError as damaged:  # zstd cannot decode without its dictionary
                self._damage = damaged

    def open(self, member: int = 0, *, one_member: bool = False) -> DecompressedStream:
        """Return a stream that reads the file from the member at offset `member` on."""
        return DecompressedStream(
            self._file, self.compression, member, self._dictionary, one_member, self._damage
        )

    def find_next(
        self, stream: DecompressedStream, start: int, begins: Callable[[bytes], object]
    ) -> int | None:
        """Find the gzip member at which to continue reading after damage.

        `stream` met the damage. Search from offset `start`, as long as bytes of the damaged member
        may be read again. `begins` returns whether to continue at a member, given the first bytes
        of its content.
        """
        if self.compression != "gzip":
            return None
        self._left_bytes -= _RETRY_COST_BYTES + stream.member_bytes
        if self._left_bytes <= 0:
            start = max(stream.file_offset, stream.member + _READ_BYTES)
        return next((at for at, first in find_members(self._file, start) if begins(first)), None)


def find_members(file: BinaryIO, start: int) -> Iterator[tuple[int, bytes]]:
    """Yield each possible start of a gzip member, at or after the file offset `start`.

    The bytes there decompress. Members without content do not count. The caller may change the
    file's position meanwhile.

    Yields:
        The offset, and the first bytes of the content without leading white space.
    """
    while True:
        file.seek(start)
        block = file.read(_READ_BYTES + _PROBE_BYTES)
        place = block.find(GZIP_MAGIC)
        while 0 <= place < _READ_BYTES:
            if first := _read_first_bytes(block[place : place + _PROBE_BYTES]):
                yield start + place, first.lstrip()
            place = block.find(GZIP_MAGIC, place + 1)
        if len(block) <= _READ_BYTES:
            return
        start += _READ_BYTES


def _read_first_bytes(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(data, _FIRST_BYTES)
    except zlib.error:
        return b""
