"""Mask volumes: labels as they are, and what exporting and resampling made of two of them."""

import numpy as np
import pytest
from scipy.ndimage import zoom

from cbseg.data.labels import read_classes
from cbseg.errors import InputError
from cbseg.points import IGNORE

MASK = np.zeros((6, 32, 32))
MASK[2:4, 5:20, 8:17] = 1
ONE, THREE = {1: 1}, {1: 1, 2: 1, 3: 1}


class Stack:
    name, spacing, orientation = "mask.nii.gz", (1.0, 1.0, 1.0), "LPS"

    def __init__(self, values):
        self.values = np.asarray(values, np.float32)
        self.shape = self.values.shape

    def slice(self, k):
        return self.values[k]


def read(values, labels):
    return np.stack(list(read_classes(Stack(values), labels)))


@pytest.mark.parametrize("values", [MASK, MASK * 255, MASK * 0.9999, MASK * 1.0001, MASK * np.float16(0.999)])
@pytest.mark.parametrize("labels", [ONE, THREE])
def test_masks_of_two_values_read_to_the_same(values, labels, caplog):
    assert (read(values, labels) == MASK).all()
    assert not caplog.text


@pytest.mark.parametrize("scale", [1, 255])
@pytest.mark.parametrize("order", [1, 3])
def test_interpolated_masks_are_cut_at_half_with_a_word(scale, order, caplog):
    fine = zoom(MASK * scale, (1, 2, 2), order=order, mode="nearest", grid_mode=True)
    if scale == 255:
        fine = np.round(fine).clip(0, 255)
    found = read(fine, ONE)
    assert (found == (fine >= scale / 2)).all()
    assert abs(found.mean() - MASK.mean()) < 0.01
    assert f"mask.nii.gz: holds values between 0 and {scale}" in caplog.text


def test_labels_of_several_classes_keep_them_and_are_never_interpolated():
    mask = MASK.copy()
    mask[3] *= 2
    assert (read(mask * 0.9999, {1: 1, 2: 2}) == mask).all()
    with pytest.raises(InputError, match=r"slice 3: holds \[1\.5"):
        read(np.where(mask == 2, 1.5, mask), {1: 1, 2: 2})


@pytest.mark.parametrize(
    "values",
    [MASK * 9, MASK * 2, MASK * 200, np.where(MASK > 0, 255, np.arange(32) == 3), -MASK, MASK + (np.arange(32) == 9)],
)
def test_other_values_are_refused_with_their_slice(values):
    with pytest.raises(InputError, match=r"mask\.nii\.gz, slice \d: holds .*another structure's mask"):
        read(values, ONE)


def test_a_mask_over_most_of_the_slices_is_warned_of(caplog):
    read(1 - MASK, ONE)
    assert "mask.nii.gz: infection covers most of 6 slices" in caplog.text


def test_a_label_may_say_that_nobody_looked_as_scribbles_have_it():
    scribbles = Stack([[[0, 1, 2], [3, 4, 4]]])
    assert next(read_classes(scribbles, {1: 1, 2: 2, 3: 3, 4: IGNORE})).tolist() == [[0, 1, 2], [3, 255, 255]]
    assert next(read_classes(scribbles, {0: IGNORE, 1: 1, 2: 2, 3: 0, 4: 0})).tolist() == [[255, 1, 2], [0, 0, 0]]
