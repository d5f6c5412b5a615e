"""COVID-19-A: pairing, reading, and every kind of bad file."""

import shutil

import numpy as np
import pytest
from PIL import Image

from cbseg.data.covid_a import FOLDERS, find_scans
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
    Image.fromarray(rng.integers(0, 255, (30, 30, 3), np.uint8)).save(train(root) / "GT/3.png")
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
