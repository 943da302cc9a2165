"""Compressed files as streams of plain bytes, in bounded memory whatever the files claim.

gzip: RFC 1952, any number of members. Zstandard: RFC 8878, any number of frames, skippable ones
among them, and the dictionary frame of IIPC's "Zstandard Compression for WARC Files 1.0".
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
#: The second to fourth byte of a skippable frame, whose first byte is 0x50 to 0x5f.
_SKIPPABLE = b"\x2a\x4d\x18"
_DICTIONARY_FRAME = b"\x5d" + _SKIPPABLE
_RAW_DICTIONARY = b"\x37\xa4\x30\xec"
#: Larger than any dictionary that pays; the specification advises well under a megabyte.
MAX_DICTIONARY_BYTES = 16 << 20

_READ_BYTES = 64 << 10
_OUTPUT_BYTES = 1 << 20
#: Less, for what gzip damage denies of a member is all that came with it.
_GZIP_OUTPUT_BYTES = 64 << 10
#: A zstd block of 4 bytes can become 128 KiB: this much input becomes 64 MiB at most.
_ZSTD_INPUT_BYTES = 2 << 10
#: Text compresses worse than gzip's limit (1032 to 1); what exceeds that is a bomb.
MAX_RATIO = 1100
#: How much of a member to look at to see what it begins with.
_PROBE_BYTES = 4 << 10
_FIRST_BYTES = 32
#: How much of a file may be decompressed again, counted with what it becomes (of a large file 4
#: times its size), to find members that a damaged one swallowed. After that they are lost with it.
_RETRY_BYTES = 1 << 30
#: Counted for each attempt: what one takes that fails at once.
_RETRY_COST_BYTES = 16 << 10
#: What may be between members.
_PADDING = b"\0\r\n"
BOMB_BYTES = 1 << 30


class DamagedStreamError(Exception):
    """Compressed data that cannot be read on; `offset` is that of its member in the file."""

    def __init__(self, offset: int, error: str):
        super().__init__(error)
        self.offset = offset


def describe_damage(error: BaseException) -> str:
    """Say in one line what reading a damaged file raised; the disk's errors are raised again."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return " ".join(str(error).split()) or type(error).__name__


def open_input(path: str) -> BinaryIO:
    """Open an input file for reading and seeking; every reader of input comes through here."""
    return open(path, "rb")


def compression_of(head: bytes) -> Compression:
    """Tell a file's compression from its first bytes (four are enough)."""
    if head and head.startswith(GZIP_MAGIC[: len(head)]):
        return "gzip"
    if head.startswith(ZSTD_MAGIC) or (head[1:4] == _SKIPPABLE and 0x50 <= head[0] < 0x60):
        return "zstd"
    return "none"


def zstd_dictionary(file: BinaryIO) -> zstandard.ZstdCompressionDict | None:
    """Read the dictionary that a zstd file may begin with, None if it has none.

    Raises:
        DamagedStreamError: there is one and it cannot be read, or is absurdly large.
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
        return None  # somebody else's skippable frame
    return zstandard.ZstdCompressionDict(data)


class DecompressedStream(io.RawIOBase):
    """Reads a file from an offset on, decompressed; knows where its members begin.

    A member is a gzip member or a zstd frame.

    Args:
        file: the file; its position belongs to the stream from now on.
        compression: how it is compressed.
        start: where to begin, the offset of a member.
        dictionary: what `zstd_dictionary` found.
        one_member: end where the first member does.
        damage: why nothing can be read, if that is known.
        max_window: a zstd frame with a larger window is damaged, and no more than half as much
            comes out at a time; 0 allows what zstd does.
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
        # Members by where their content begins in the stream, and where they are in the file.
        self._contents = [0]
        self._members = [start]
        #: Whether the reader is within a record: then the stream ends where a member begins that
        #: begins a record, lest a length that lies swallow what follows.
        self.in_record = False
        self._ended = False

    @property
    def file_offset(self) -> int:
        """Up to where the file was decoded."""
        return self._input_offset

    @property
    def member_bytes(self) -> int:
        """How much of the current member was decoded, and how much that became."""
        return self._input_offset - self._members[-1] + self._decoded - self._contents[-1]

    @property
    def member(self) -> int:
        """Offset in the file of the member that the last byte came from."""
        return self._members[-1]

    def tell(self) -> int:
        """How many decompressed bytes were read."""
        return self._position

    def locate(self, position: int) -> int:
        """Tell which member holds a byte of the decompressed stream.

        Forgets the members before it. A file that is not compressed is one member.
        """
        index = bisect.bisect_right(self._contents, position) - 1
        del self._contents[:index], self._members[:index]
        return self._members[0]

    def buffered(self) -> BinaryIO:
        """The stream as a file that has lines."""
        return io.BufferedReader(self, _READ_BYTES)

    def readable(self) -> bool:
        """Tell Python's own readers."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, as Python's own readers do."""
        data = self.read(len(buffer))
        self.locate(self._position)  # forgets the members before: there may be millions
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes: at least one and at most `size`, none at the end.

        Raises:
            DamagedStreamError: the file is damaged here, or expands beyond reason.
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
        """Decompress some more, possibly nothing; False at the end of the file."""
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
            self._damage = self._damaged("it expands beyond reason")
        return True

    def _begin_member(self) -> bool:
        """Start a decoder for the next member; False if only padding is at hand."""
        member = self._input.lstrip(_PADDING)
        self._consume(len(self._input) - len(member))
        if not member:
            return False
        if self._contents[-1] == self._decoded:  # the member before had no content
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
        """Give the decoder some input; where that fails, nothing comes out of it."""
        decoder, given = self._decoder, self._input
        try:
            if self._compression == "zstd":
                given = given[: self._zstd_input_bytes]
                output, left = decoder.decompress(given), decoder.unused_data
            else:
                output = decoder.decompress(given, _GZIP_OUTPUT_BYTES)
                left = decoder.unused_data or decoder.unconsumed_tail
        except (zlib.error, zstandard.ZstdError) as error:
            self._damage = self._damaged(str(error))
            return b""
        self._consume(len(given) - len(left))
        if decoder.eof:
            self._decoder = None
            self._ended = self._one_member
        elif not given and not output:
            self._damage = self._damaged("the file ends too early")
        return output

    def _damaged(self, error: str) -> DamagedStreamError:
        return DamagedStreamError(self._members[-1], error)


class Members:
    """An input file that may be compressed, and where to read on in it after damage.

    Behind damage a gzip file is read on at its next member that begins well; what the damaged
    member still holds is lost. Nothing is read behind damage of a zstd file.

    Attributes:
        compression: how the file is compressed.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._left_bytes = max(_RETRY_BYTES, 4 * file.seek(0, os.SEEK_END))
        file.seek(0)
        self.compression: Compression = compression_of(file.read(4))
        self._dictionary: zstandard.ZstdCompressionDict | None = None
        self._damage: DamagedStreamError | None = None
        if self.compression == "zstd":
            try:
                self._dictionary = zstd_dictionary(file)
            except DamagedStreamError as damaged:  # without it nothing can be read
                self._damage = damaged

    def open(self, member: int = 0, *, one_member: bool = False) -> DecompressedStream:
        """Read from a member on."""
        return DecompressedStream(
            self._file, self.compression, member, self._dictionary, one_member, self._damage
        )

    def find_next(
        self, stream: DecompressedStream, start: int, begins: Callable[[bytes], object]
    ) -> int | None:
        """Find the member to read on from after damage.

        Args:
            stream: what was read up to the damage.
            start: from where on to look, while what the damaged member swallowed may be read again.
            begins: takes the first bytes of a member's content; tells whether to read on there.
        """
        if self.compression != "gzip":
            return None
        self._left_bytes -= _RETRY_COST_BYTES + stream.member_bytes
        if self._left_bytes <= 0:
            start = max(stream.file_offset, stream.member + _READ_BYTES)
        return next((at for at, first in find_members(self._file, start) if begins(first)), None)


def find_members(file: BinaryIO, start: int) -> Iterator[tuple[int, bytes]]:
    """Yield where, from `start` on, a gzip member seems to begin: its first bytes decompress.

    Members without content do not count. The file's position may change in between.

    Yields:
        The offset, and the first bytes of the content without white space before them.
    """
    while True:
        file.seek(start)
        block = file.read(_READ_BYTES + _PROBE_BYTES)
        found = block.find(GZIP_MAGIC)
        while 0 <= found < _READ_BYTES:
            if first := _first_bytes(block[found : found + _PROBE_BYTES]):
                yield start + found, first.lstrip()
            found = block.find(GZIP_MAGIC, found + 1)
        if len(block) <= _READ_BYTES:
            return
        start += _READ_BYTES


def _first_bytes(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(data, _FIRST_BYTES)
    except zlib.error:
        return b""
