"""Compressed slices: read as they were, and refused by name before a decoder meets what contradicts their header."""

import io
import random
import shutil
import struct

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    EnhancedCTImageStorage,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from cbseg.data import dicom_file, phantom
from cbseg.data.codestream import read_claim
from cbseg.data.dicom import DicomSeries
from cbseg.data.phantom_files import draw_volume
from cbseg.errors import InputError

JPEGS = {"jpeg lossless": "JPEGLosslessProcess14_1", "jpeg-ls": JPEGLSLossless}
CODECS = {"jpeg 2000": JPEG2000Lossless, **JPEGS, "jpeg lossless 14": "JPEGLosslessProcess14", "rle": RLELossless}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Three slices of a phantom for each codec, and the HU that they were written from."""
    root = tmp_path_factory.mktemp("codestreams")
    phantom.generate(root / "covidB", "covidB", scans=1, seed=4, size=64)
    for name, syntax in CODECS.items():
        (root / name).mkdir()
        for path in sorted((root / "covidB/OpenSourceDCMs/DCM1").iterdir())[:3]:
            shutil.copy(path, root / name)
            compress(root / name / path.name, syntax)
    return root, draw_volume(4, 1, slices=21, size=64)[0]


@pytest.fixture
def series(drawn, tmp_path):
    """Gives a copy of a codec's series to spoil."""
    return lambda name: sorted(shutil.copytree(drawn[0] / name, tmp_path / name).iterdir())


def compress(path, syntax):
    if syntax in ("JPEGLosslessProcess14", "JPEGLosslessProcess14_1"):  # pydicom has no encoder
        gdcm = pytest.importorskip("gdcm")
        reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    else:
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax)
        dataset.save_as(path)


def stream_of(path):
    return get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)


def set_streams(path, streams, **tags):
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate(streams)
    dataset["PixelData"].is_undefined_length = True
    for key, value in tags.items():
        setattr(dataset, key, value)
    dataset.save_as(path)


def read_all(files):
    volume = DicomSeries(files, "series")
    return np.stack([volume.slice(k) for k in range(volume.shape[0])])


def claiming(stream, rows, columns, components=1, bits=None):
    """A JPEG 2000, JPEG or JPEG-LS codestream whose first bytes say something else."""
    stream = bytearray(stream)
    if stream[:2] == b"\xff\x4f":
        at = stream.index(b"\xff\x51")
        size = struct.pack(">2I", columns, rows)
        one = bytes([(bits - 1) if bits else stream[at + 40]]) + stream[at + 41 : at + 43]
        stream[at + 6 : at + 14] = stream[at + 22 : at + 30] = size
        stream[at + 40 : at + 43] = one * components
        stream[at + 2 : at + 4], stream[at + 38 : at + 40] = (
            struct.pack(">H", n) for n in (38 + 3 * components, components)
        )
    else:
        at = next(stream.index(bytes([0xFF, frame])) for frame in (0xC0, 0xC3, 0xF7) if bytes([0xFF, frame]) in stream)
        stream[at + 4] = bits or stream[at + 4]
        stream[at + 5 : at + 10] = struct.pack(">2HB", rows, columns, components)
    return bytes(stream)


@pytest.mark.parametrize("name", CODECS)
def test_compressed_series_read_the_same(drawn, series, name):
    files = series(name)
    assert pydicom.dcmread(files[0]).file_meta.TransferSyntaxUID.is_compressed
    whole = drawn[1]
    for path, hu in zip(files, read_all(files)[::-1], strict=True):
        assert (hu == whole[[(hu == one).all() for one in whole].index(True)]).all(), path


CLAIMS = {
    "one row more": (65, 64),
    "one pixel": (1, 1),  # which numpy would spread over the whole slice
    "as many pixels": (32, 128),
    "none": (0, 64),
    "a bomb": (60_000, 60_000),
    "three components": (64, 64, 3),
    "200 components": (64, 64, 200),
    "24 bits": (64, 64, 1, 24),
}


@pytest.mark.parametrize("name", ["jpeg 2000", *JPEGS])
@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_codestream_that_claims_another_size_than_its_header_is_refused_undecoded(series, monkeypatch, name, claim):
    files = series(name)
    set_streams(files[1], [claiming(stream_of(files[1]), *claim)])
    monkeypatch.setattr(dicom_file, "pixel_array", lambda *args, **options: pytest.fail("was decoded"))
    with pytest.raises(InputError, match=rf"{files[1].name}: its codestream holds {claim[0]} × {claim[1]} pixels of"):
        DicomSeries([files[1]], "one").slice(0)


def test_each_frame_of_a_multi_frame_file_is_compared(series, drawn, tmp_path):
    files = series("jpeg 2000")
    streams = [stream_of(path) for path in files]
    frames, shared = [], pydicom.Dataset()
    for path in files:
        place, frame = pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = pydicom.dcmread(path).ImagePositionPatient
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    whole = {"SOPClassUID": EnhancedCTImageStorage, "NumberOfFrames": 3}
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    before = read_all(files)
    set_streams(files[0], streams, **whole, **groups)
    assert (read_all([files[0]]) == before).all()
    set_streams(files[0], [streams[0], claiming(streams[1], 32, 32), streams[2]], **whole, **groups)
    with pytest.raises(InputError, match=rf"{files[0].name}: its codestream holds 32 × 32"):
        read_all([files[0]])


def test_a_colour_jpeg_in_a_grey_file_is_refused(series):
    """The first third of its values would be read as the slice's."""
    files = series("rle")
    content = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(content, "JPEG")
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID, dataset.BitsAllocated = JPEGBaseline8Bit, 8
        dataset.BitsStored, dataset.HighBit = 8, 7
        dataset.save_as(path)
        set_streams(path, [content.getvalue()])
    with pytest.raises(
        InputError, match="its codestream holds 64 × 64 pixels of 3 × 8 bits, its header claims 64 × 64"
    ):
        read_all(files)


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_codestream_that_ends_early_is_refused_as_a_decoder_may_never_return(series, name, kept):
    files = series(name)
    stream = stream_of(files[1])
    set_streams(files[1], [stream[: int(len(stream) * kept)]])
    with pytest.raises(InputError, match=rf"{files[1].name}: its pixels cannot be decoded \(it ends early"):
        read_all(files)


@pytest.mark.parametrize("name", ["jpeg 2000", *JPEGS])
def test_damage_anywhere_ends_neither_the_process_nor_in_another_error(series, name, capfd):
    path = series(name)[1]
    whole = stream_of(path)
    damage = random.Random(0)
    refused = 0
    for _ in range(60):
        stream = bytearray(whole)
        for _ in range(3):
            stream[damage.randrange(damage.choice([60, len(whole)]))] = damage.randrange(256)
        set_streams(path, [bytes(stream)])
        try:
            read_all([path])
        except InputError as error:
            refused += path.name in str(error)
    assert refused > 20
    assert "Traceback" not in "".join(capfd.readouterr())


def test_what_pillow_and_a_jp2_file_claim_is_read(drawn):
    content = io.BytesIO()
    Image.new("RGB", (30, 20)).save(content, "JPEG", progressive=True)
    assert read_claim(content.getvalue())[:] == (20, 30, 3, 8)
    for options in ({"no_jp2": True}, {}):
        content = io.BytesIO()
        Image.new("L", (30, 20)).save(content, "JPEG2000", **options)
        assert read_claim(content.getvalue())[:] == (20, 30, 1, 8)
    stream = stream_of(sorted((drawn[0] / "jpeg lossless").iterdir())[0])
    assert read_claim(stream[:2] + b"\xff\xff\xff\xe0\0\4ab" + stream[2:])[:] == (64, 64, 1, 16)  # fill bytes, APP0
    for nothing in (
        b"",
        b"\xff\xd8\xff\xd9",
        b"\xff\x4f\xff\x51\0",
        b"\0\0\0\x0cjP  \r\n\x87\n",
        stream[:2] + stream[4:],
    ):
        with pytest.raises(ValueError, match="does not begin as a JPEG"):
            read_claim(nothing)
