"""COVID-19-A: pairing, reading, and every kind of bad file."""

import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cbseg.data.covid_a import FOLDERS, find_scans
from cbseg.data.scans import read_binary_mask, read_grey
from cbseg.errors import InputError


@pytest.fixture
def root(covid_a, tmp_path):
    """A copy of the phantom to spoil."""
    shutil.copytree(covid_a, tmp_path / "covidA")
    return tmp_path / "covidA"


def read_all(root):
    return [slice_ for scan in find_scans(root) for slice_ in scan.read()]


def train(root):
    return root / "Dataset" / FOLDERS["train"]


def test_scans_come_training_first_and_sorted_by_name_as_text(root):
    for old, new in ((0, 10), (1, 9)):
        for folder, suffix in (("Imgs", "jpg"), ("GT", "png")):
            (train(root) / folder / f"{old}.{suffix}").rename(train(root) / folder / f"{new}_.{suffix}")
    names = [scan.name for scan in find_scans(root)]
    assert names[:8] == ["train-10_", "train-2", "train-3", "train-4", "train-5", "train-6", "train-7", "train-9_"]
    assert names[8:] == ["test-10", "test-11", "test-12", "test-13", "test-14", "test-15", "test-8", "test-9"]


def test_slices_are_grey_values_and_a_mask_of_zero_and_one(root):
    for name, image, mask in read_all(root):
        assert name
        assert image.dtype == mask.dtype == np.uint8
        assert image.shape == mask.shape
        assert set(np.unique(mask)) == {0, 1}
        assert np.ptp(image) > 100


def test_the_dataset_folder_itself_is_a_root_too(root):
    assert [scan.name for scan in find_scans(root / "Dataset")] == [scan.name for scan in find_scans(root)]


def test_a_root_of_any_name_that_holds_the_two_sets_is_a_root_too(root, tmp_path):
    shutil.copytree(root / "Dataset", tmp_path / "mine")
    (tmp_path / "Dataset").mkdir()
    scans = find_scans(tmp_path / "mine")
    assert len(scans) == 16
    assert all((tmp_path / "mine") in scan.image.parents for scan in scans)


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.*no such folder.*data\.root"):
        find_scans(tmp_path / "nowhere")


def test_a_folder_with_another_layout_says_what_is_expected(tmp_path):
    with pytest.raises(InputError, match="Doctor-label.*Imgs,GT"):
        find_scans(tmp_path)


def test_an_empty_folder(root):
    for path in (train(root) / "Imgs").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="Imgs: holds no pictures"):
        find_scans(root)


def test_an_image_without_a_mask(root):
    (train(root) / "GT/3.png").unlink()
    with pytest.raises(InputError, match=r"Imgs/3\.jpg: has no mask; add .*GT/3\.png"):
        find_scans(root)


def test_a_mask_without_an_image(root):
    (train(root) / "Imgs/3.jpg").unlink()
    with pytest.raises(InputError, match=r"GT/3\.png: has no image"):
        find_scans(root)


def test_two_images_with_one_stem(root):
    shutil.copy(train(root) / "Imgs/3.jpg", train(root) / "Imgs/3.png")
    with pytest.raises(InputError, match="same stem"):
        find_scans(root)


def test_image_and_mask_of_different_size(root):
    Image.new("L", (50, 40)).save(train(root) / "GT/3.png")
    with pytest.raises(InputError, match=r"GT/3\.png: is 50 × 40 pixels, its image 3\.jpg"):
        read_all(root)


def test_a_file_that_is_no_image(root):
    (train(root) / "Imgs/3.jpg").write_text("hello")
    with pytest.raises(InputError, match=r"Imgs/3\.jpg: not a picture"):
        read_all(root)


@pytest.mark.parametrize("name", ["Imgs/3.jpg", "GT/3.png"])
def test_a_truncated_file(root, name):
    path = train(root) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"{name}: cannot be read to its end"):
        read_all(root)


def test_an_rgb_photo_as_a_mask(root):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 255, (30, 30, 3), np.uint8)
    Image.fromarray(photo).save(train(root) / "GT/3.png")
    with pytest.raises(InputError, match=r"GT/3\.png: its red, green and blue differ"):
        read_all(root)
    Image.fromarray(photo[..., 0]).save(train(root) / "GT/3.png")
    with pytest.raises(InputError, match=r"GT/3\.png: holds \d+ different values"):
        read_all(root)


def test_a_mask_saved_as_rgb_black_and_white_is_a_mask(root):
    path = train(root) / "GT/3.png"
    mask = np.asarray(Image.open(path))
    Image.open(path).convert("RGB").save(path)
    again = next(scan for scan in find_scans(root) if scan.name == "train-3").read()
    assert ((mask > 0) == next(again).mask).all()


def test_a_16_bit_picture(root):
    Image.fromarray(np.zeros((30, 30), np.uint16)).save(train(root) / "GT/3.png")
    with pytest.raises(InputError, match=r"GT/3\.png: a picture of mode I;16"):
        read_all(root)


def png16(path, values, kind):
    """Write 16 bits a channel, which Pillow cannot: kind 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bits_a_channel_are_refused_whatever_the_channels(root, kind, channels):
    path = train(root) / "GT/3.png"
    png16(path, np.full((30, 30, channels), 4095), kind)
    with pytest.raises(InputError, match=r"GT/3\.png: a picture of mode .*16.*convert it to 8-bit grey"):
        read_all(root)


def disc():
    return (np.hypot(*(np.mgrid[:64, :64] - 30)) < 9).astype(np.uint8)


def rgba(colour, alpha):
    return Image.fromarray(np.dstack([*colour, alpha]).astype(np.uint8))


def palette(mask, *colours):
    image = Image.fromarray(mask, "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


ON, ALL = disc(), np.ones((64, 64), np.uint8)
NO_MASK = {
    "1 in red alone": Image.fromarray(np.dstack([ON, 0 * ON, 0 * ON])),
    "green on black": Image.fromarray(np.dstack([0 * ON, 255 * ON, 0 * ON])),
    "in the alpha channel": rgba([0 * ON] * 3, 255 * ON),
    "white, the ground transparent": rgba([255 * ALL] * 3, 255 * ON),
    "half transparent": rgba([255 * ON] * 3, 128 + 127 * ON),
    "grey and alpha": Image.fromarray(np.dstack([255 * ALL, 255 * ON]), "LA"),
    "palette, black on white": palette(ON, (255, 255, 255), (0, 0, 0)),
    "palette, its numbers swapped": palette(1 - ON, (255, 255, 255), (0, 0, 0)),
}


@pytest.mark.parametrize("picture", NO_MASK.values(), ids=NO_MASK)
def test_a_mask_that_can_be_read_in_two_ways_is_refused(tmp_path, picture):
    picture.save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"mask\.png: (its red|is transparent|in its palette).*8-bit grey"):
        read_binary_mask(tmp_path / "mask.png")


MASKS = {
    "0 and 1": Image.fromarray(ON),
    "0 and 255": Image.fromarray(255 * ON),
    "1 bit": Image.fromarray(ON > 0),
    "RGB": Image.fromarray(np.dstack([255 * ON] * 3)),
    "opaque RGBA": rgba([255 * ON] * 3, 255 * ALL),
    "palette of colours on black": palette(ON, (0, 0, 0), (128, 0, 0)),
}


@pytest.mark.parametrize("picture", MASKS.values(), ids=MASKS)
def test_masks_of_every_usual_kind_read_to_the_same(tmp_path, picture, caplog):
    picture.save(tmp_path / "mask.PNG")
    assert (read_binary_mask(tmp_path / "mask.PNG") == ON).all()
    assert not caplog.text


def test_a_mask_over_most_of_the_slice_or_its_border_is_warned_of(tmp_path, caplog):
    frame = np.ones((64, 64), np.uint8)
    frame[3:-3, 3:-3] = 0
    for mask in (1 - ON, frame):
        Image.fromarray(255 * mask).save(tmp_path / "mask.png")
        assert (read_binary_mask(tmp_path / "mask.png") == mask).all()
        assert "mask.png: infection covers most of the slice, or of its border; is the mask inverted?" in caplog.text
        caplog.clear()


def test_a_picture_of_more_pixels_than_a_slice_is_refused_before_it_is_unpacked(tmp_path):
    for size, much in ((14_000, "exceeds limit"), (9_000, "9000 × 9000 pixels")):
        Image.new("L", (size, size)).save(tmp_path / "big.png", compress_level=1)
        with pytest.raises(InputError, match=rf"big\.png: has .*{much}.*scale it down"):
            read_grey(tmp_path / "big.png")
    notes = PngImagePlugin.PngInfo()
    notes.add_text("bomb", "0" * 2**26, zip=True)
    Image.new("L", (64, 64)).save(tmp_path / "text.png", pnginfo=notes)
    with pytest.raises(InputError, match=r"text\.png: "):
        read_grey(tmp_path / "text.png")


def test_what_is_named_png_and_is_another_program_s_input_is_not_opened(tmp_path):
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(InputError, match=r"x\.png: not a picture"):
        read_grey(tmp_path / "x.png")


def test_hidden_files_and_capitals_in_suffixes(root):
    (train(root) / "GT/._3.png").write_bytes(b"\0\5\x16\7")
    (train(root) / "GT/3.png").rename(train(root) / "GT/3.PNG")
    assert len(read_all(root)) == 16


def test_marks_of_colour_in_an_image_are_warned_of(tmp_path, caplog):
    picture = np.full((64, 64, 3), 90, np.uint8)
    picture[3:9, 3] = 255, 0, 0
    Image.fromarray(picture).save(tmp_path / "1.png")
    assert read_grey(tmp_path / "1.png")[40, 40] == 90
    assert "1.png: is coloured in places" in caplog.text


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_picture_that_viewers_turn_is_refused(tmp_path, suffix):
    for orientation in (1, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(255 * disc()).save(tmp_path / f"{orientation}.{suffix}", exif=exif)
    assert read_grey(tmp_path / f"1.{suffix}").shape == (64, 64)
    with pytest.raises(InputError, match=rf"6\.{suffix}: is shown turned by its EXIF orientation"):
        read_grey(tmp_path / f"6.{suffix}")
