"""One DICOM file: its tags and its pixels, whatever encodes them."""

import logging
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import generate_frames, get_frame
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from cbseg.data.codestream import Claim, read_claim
from cbseg.data.reading import reading
from cbseg.errors import InputError

_MOST_INFLATED = 2**30  # bytes, of a deflated file
_META = 132 + 12  # bytes before the file meta group: preamble, prefix, and its length
_OFFSETS = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
_DECODERS = {  # those that end no process, where there is a choice
    **dict.fromkeys((uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit), "pillow"),
    **dict.fromkeys((uid.JPEGLossless, uid.JPEGLosslessSV1), "gdcm"),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, "pyjpegls"),
    **dict.fromkeys((*uid.JPEG2000TransferSyntaxes, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K), "pylibjpeg"),
}

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # it logs tracebacks of what is told as one error


def read_header(path: Path) -> pydicom.Dataset:
    """Read all of a DICOM file's tags but its pixels; a file without preamble is read too.

    Raises:
        InputError: If it is no DICOM file.
    """
    with reading(path, "not a DICOM file", "remove it or export it again"):
        _require_bounded(path)
        return _read(path, stop_before_pixels=True)


def has_pixels(path: Path) -> bool:
    """Tell whether a DICOM file holds an image; the image is not read."""
    return "PixelData" in _read(path, defer_size=1024, specific_tags=["PixelData"])


def storage_class(header: pydicom.Dataset) -> UID:
    """Return what kind of object a file says it is; empty where it does not."""
    return UID(str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""))


def read_stored(path: Path, tags: pydicom.Dataset, frame: int | None = None) -> NDArray[Any]:
    """Decode a slice's pixels.

    Args:
        path: The file.
        tags: Of the slice, see :class:`DicomSlice`.
        frame: Which one of a multi-frame file.

    Shape:
        - output: :math:`(H, W)`, as stored; bits beyond BitsStored, such as old overlays, are left out.

    Raises:
        InputError: If they cannot be decoded, are not one slice of numbers, or a codestream claims another size than
            the tags; nothing is decoded then.
    """
    with reading(path, "its pixels cannot be decoded"):
        decoder = _DECODERS.get(tags.file_meta.TransferSyntaxUID, "")
        if frame is None:
            dataset = _read(path)
            if decoder:
                _require_claims(path, tags, generate_frames(dataset.PixelData, number_of_frames=1))
            stored = pixel_array(dataset, decoding_plugin=decoder)
        else:
            if decoder:
                _require_claims(path, tags, [_frame(path, frame)])
            stored = pixel_array(path, index=frame, decoding_plugin=decoder)
        bits, signed = int(tags.get("BitsStored") or 16), int(tags.get("PixelRepresentation") or 0)
        if not signed and bits < 8 * stored.dtype.itemsize:
            stored = stored & stored.dtype.type(2**bits - 1)
    if stored.ndim != 2:
        raise InputError(
            f"{path}: holds {' × '.join(map(str, stored.shape))} values, a slice has rows × columns; export colour or "
            "multi-frame images as grey values, a file for each slice"
        )
    return stored


def _read(path: Path, **how: Any) -> pydicom.Dataset:
    """Read a file, with or without preamble, and say how its pixels are encoded where it does not."""
    try:
        dataset = pydicom.dcmread(path, **how)
    except InvalidDicomError:
        dataset = pydicom.dcmread(path, force=True, **how)
        if not how.get("specific_tags") and not ("Rows" in dataset or "SOPClassUID" in dataset):
            raise
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def _frame(path: Path, frame: int) -> bytes:
    """Return one frame of a compressed multi-frame file as it is stored."""
    with path.open("rb") as file:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["NumberOfFrames", *_OFFSETS])
        offsets = tuple(header[key].value for key in _OFFSETS) if _OFFSETS[0] in header else None
        file.seek(12, os.SEEK_CUR)  # tag, value representation and length of PixelData
        return get_frame(file, frame, number_of_frames=int(header.NumberOfFrames), extended_offsets=offsets)


def _require_claims(path: Path, tags: pydicom.Dataset, streams: Iterable[bytes]) -> None:
    """Refuse a codestream that claims other pixels than the tags."""
    allocated = int(tags.BitsAllocated)
    right = Claim(int(tags.Rows), int(tags.Columns), int(tags.get("SamplesPerPixel") or 1), allocated)
    for stream in streams:
        claim = read_claim(stream)
        if claim[:3] != right[:3] or claim.bits > allocated:
            raise InputError(f"{path}: its codestream holds {claim}, its header claims {right}; export it again")


def _require_bounded(path: Path) -> None:
    """Refuse a deflated file that grows beyond what a CT has; its bytes are counted and not kept."""
    try:
        meta = read_file_meta_info(path)
    except InvalidDicomError:
        return
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as file:
        file.seek(_META + meta.FileMetaInformationGroupLength)
        while (piece := inflate.unconsumed_tail or file.read(2**16)) and not inflate.eof:
            size += len(inflate.decompress(piece, 2**20))
            if size > _MOST_INFLATED:
                raise InputError(f"{path}: is deflated and grows beyond {_MOST_INFLATED} bytes; export it uncompressed")
