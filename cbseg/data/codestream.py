"""What a compressed picture says of itself in its first bytes, told without decoding it.

Decoders make room for what a codestream claims, whatever its DICOM file says, and some end the process where the two
contradict each other.
"""

from typing import NamedTuple

_SCAN = 0xDA  # JPEG's marker of the first values
_NONE_BEFORE_A_SCAN = {0x00, 0x01, *range(0xD0, 0xDB)}
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # JPEG's SOFn, and JPEG-LS'
_END, _PADDING = b"\xff\xd9", 64  # the last marker, and bytes within which it stands
_JP2 = b"\0\0\0\x0cjP  "


class Claim(NamedTuple):
    """What a codestream says that it decodes to.

    Attributes:
        rows: Its height.
        columns: Its width.
        components: Values a pixel.
        bits: Of one value, the most of all components.
    """

    rows: int
    columns: int
    components: int
    bits: int

    def __str__(self) -> str:
        return f"{self.rows} × {self.columns} pixels of {self.components} × {self.bits} bits"


def read_claim(stream: bytes) -> Claim:
    """Read what a JPEG, JPEG-LS or JPEG 2000 codestream claims (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2, 15444-1 A.5.1).

    Raises:
        ValueError: If it is none of these, malformed, or a JPEG or JPEG-LS codestream without its end, in search of
            which a decoder may never return.
    """
    try:
        if stream[:2] == b"\xff\xd8":
            if _END not in stream[-_PADDING:]:
                raise ValueError("it ends early")
            return _jpeg(stream)
        start = _contiguous(stream) if stream.startswith(_JP2) else 0
        if stream[start : start + 4] == b"\xff\x4f\xff\x51":
            return _jpeg_2000(stream[start + 4 : start + 4 + 2**16])
    except IndexError:
        pass
    raise ValueError("it does not begin as a JPEG, JPEG-LS or JPEG 2000 codestream does")


def _jpeg(stream: bytes) -> Claim:
    """Walk through the segments up to the first scan."""
    at, claim = 2, None
    while True:
        marker = stream[at + 1]
        if claim and marker == _SCAN and stream[at] == 0xFF:
            return claim
        if stream[at] != 0xFF or marker in _NONE_BEFORE_A_SCAN or (claim and marker in _FRAMES):
            raise IndexError
        if marker == 0xFF:  # fills
            at += 1
            continue
        if marker in _FRAMES:
            claim = Claim(_number(stream, at + 5, 2), _number(stream, at + 7, 2), stream[at + 9], stream[at + 4])
        at += 2 + max(_number(stream, at + 2, 2), 2)


def _jpeg_2000(size: bytes) -> Claim:
    """Read the SIZ segment, from its length on."""
    right, bottom, left, top = (_number(size, at, 4) for at in (4, 8, 12, 16))
    components = _number(size, 36, 2)
    if not components:
        raise IndexError
    return Claim(bottom - top, right - left, components, max((size[38 + 3 * k] & 0x7F) + 1 for k in range(components)))


def _contiguous(stream: bytes) -> int:
    """Return where the codestream begins in a JP2 file."""
    at = 0
    while stream[at + 4 : at + 8] != b"jp2c":
        at += max(_number(stream, at, 4), 8)
    return at + 8


def _number(stream: bytes, at: int, size: int) -> int:
    if at + size > len(stream):
        raise IndexError
    return int.from_bytes(stream[at : at + size], "big")
