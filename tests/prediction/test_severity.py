"""Millilitres and the share of each lung, as counted by hand."""

import nibabel as nib
import numpy as np
import pytest

from cbseg.data.nifti import NiftiVolume
from cbseg.errors import InputError
from cbseg.prediction.segmentation import Segmentation
from cbseg.prediction.severity import Lungs, measure

AFFINE = np.diag([-2.0, -3.0, 5.0, 1.0])  # columns to the left, rows to the back; a voxel is 0.03 ml


def save(path, array, affine=AFFINE):
    """Save slices (S, H, W) as NIfTI."""
    nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), affine), path)
    return path


@pytest.fixture
def ct(tmp_path):
    return NiftiVolume(save(tmp_path / "ct.nii.gz", np.zeros((2, 10, 20), np.int16)))


@pytest.fixture
def lungs():
    """Right 2 · 40 voxels, left 2 · 50."""
    labels = np.zeros((2, 10, 20), np.uint8)
    labels[:, 1:9, 2:7], labels[:, :, 12:17] = 1, 2
    return labels


def predicted(classes, body=10_000):
    return Segmentation(lambda k: classes[k], classes, np.empty((0, *classes.shape), np.uint8), 1, body)


def test_the_share_of_each_lung_is_that_of_its_voxels(ct, lungs, tmp_path):
    classes = np.zeros(ct.shape, np.uint8)
    classes[0, 1:5, 2:7] = 1  # 20 of 80
    classes[1, 0, 12:17] = 2  # 5 of 100
    found = measure(predicted(classes), ("ggo", "consolidation"), ct, Lungs(save(tmp_path / "l.nii", lungs), ct))
    assert found == {
        "volume_ml": 0.75, "ggo_ml": 0.6, "consolidation_ml": 0.15, "right_lung_ml": 2.4, "left_lung_ml": 3.0,
        "right_infected_percent": 25, "left_infected_percent": 5, "lungs_infected_percent": 13.89,
    }  # fmt: skip
    assert measure(predicted(classes), ("infection",), None, None)["volume_ml"] is None


def test_lungs_of_another_orientation_are_read_by_where_they_lie(ct, lungs, tmp_path):
    turned = nib.Nifti1Image(lungs.transpose(2, 1, 0), AFFINE).as_reoriented([[1, -1], [0, -1], [2, -1]])
    nib.save(turned, tmp_path / "turned.nii")
    classes = np.zeros(ct.shape, np.uint8)
    classes[0, 1:5, 2:7] = 1
    assert Lungs(tmp_path / "turned.nii", ct).measure(predicted(classes), 1)["right_infected_percent"] == 25


def test_infection_outside_the_lungs_lungs_exchanged_and_too_much_of_the_body_are_warned_of(
    ct, lungs, tmp_path, caplog
):
    classes = np.zeros(ct.shape, np.uint8)
    classes[0, 1:5, 2:7] = 1
    inside = Lungs(save(tmp_path / "l.nii", lungs), ct)
    measure(predicted(classes, body=80), ("infection",), ct, inside)
    assert not caplog.text
    classes[1, 9, 2:10] = 1
    measure(predicted(classes, body=100), ("infection",), ct, inside)
    assert "l.nii: 29 % of the infection lie outside of these lungs" in caplog.text
    assert "ct.nii.gz: has 0.28 times as much infection as tissue, implausibly much" in caplog.text
    exchanged = np.array([0, 2, 1], np.uint8)[lungs]
    measure(predicted(classes), ("infection",), ct, Lungs(save(tmp_path / "x.nii", exchanged), ct))
    assert "x.nii: its label 1 lies to the patient's left; are right and left exchanged?" in caplog.text


def test_labels_that_are_no_lungs_of_this_ct_are_refused(ct, lungs, tmp_path):
    nothing = predicted(np.zeros(ct.shape, np.uint8))
    with pytest.raises(InputError, match="gone.nii: no such file"):
        Lungs(tmp_path / "gone.nii", ct)
    with pytest.raises(
        InputError, match=r"short.nii: has 1 × 10 × 20 slices × rows × columns, .*ct.nii.gz 2 × 10 × 20"
    ):
        Lungs(save(tmp_path / "short.nii", lungs[:1]), ct)
    moved = AFFINE.copy()
    moved[0, 3] = 4
    with pytest.raises(InputError, match="moved.nii: lies elsewhere than its image ct.nii.gz"):
        Lungs(save(tmp_path / "moved.nii", lungs, moved), ct)
    with pytest.raises(InputError, match=r"lobes.nii, slice 0: holds labels 0…4; lungs are 1, right, and 2, left"):
        Lungs(save(tmp_path / "lobes.nii", 2 * lungs), ct).measure(nothing, 1)
    with pytest.raises(InputError, match="one.nii: lacks label 1 or 2"):
        Lungs(save(tmp_path / "one.nii", (lungs == 1).astype(np.uint8)), ct).measure(nothing, 1)
