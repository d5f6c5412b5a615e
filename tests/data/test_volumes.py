"""What counts as HU: air and soft tissue in the whole volume; padding is air, whatever the format."""

import nibabel as nib
import numpy as np
import pytest

from cbseg.data.nifti import NiftiVolume
from cbseg.data.phantom_files import draw_volume
from cbseg.data.volumes import AIR, grey_window, padding_to_air, window_to_uint8
from cbseg.errors import InputError

WINDOW = (-1250.0, 250.0)
HU = draw_volume(4, 1, slices=21, size=64)[0]
RAW = HU.astype(int) + 1024
OUTSIDE = np.hypot(*(np.mgrid[:64, :64] - 31.5)) > 31


class Stack:
    """Slices in memory as a volume."""

    name, spacing, orientation = "ct", (1.0, 1.0, 1.0), "LPS"

    def __init__(self, values):
        self.values = np.asarray(values, np.float32)
        self.shape = self.values.shape

    def slice(self, k):
        return padding_to_air(self.values[k])


def one_voxel(values, low):
    values = np.array(values, float)
    values[11, 0, 0] = low
    return values


def calibrated(slope, intercept):
    return HU * slope + intercept


NO_HU = {
    "raw with padding": np.where(OUTSIDE, -2000, RAW),
    "raw with padding of -1000": np.where(OUTSIDE, -1000, RAW),
    "raw with padding of -1024": np.where(OUTSIDE, -1024, RAW),
    "raw, one voxel below 0": one_voxel(RAW, -0.5),
    "raw, one voxel at -3000": one_voxel(RAW, -3000),
    "z-scored": (HU - HU.mean()) / HU.std(),
    "scaled to -1…1": np.clip(HU, -1000, 400) / 700 + 3 / 7,
    "grey 0…255 less their mean": window_to_uint8(HU.astype(float), WINDOW) - 128.0,
    "grey 0…255, one voxel below 0": one_voxel(window_to_uint8(HU.astype(float), WINDOW), -0.5),
    "attenuation, 1/mm": one_voxel(calibrated(0.02 / 1000, 0.02), -1e-4),
    "attenuation, 1/m": one_voxel(calibrated(0.02, 20), -0.1),
    "attenuation, 1/m, above 0": np.maximum(calibrated(0.02, 20), 0),
    "per cent": np.clip(HU / 20 + 50, 0, 100),
    "intercept applied twice": HU.astype(int) - 1024,
    "intercept added": RAW + 1024,
    "a soft tissue window": np.clip(HU, -160, 240),
    "constant": np.full(HU.shape, -500),
    "air alone": np.full(HU.shape, -1000) + np.random.default_rng(0).normal(0, 20, HU.shape),
}


@pytest.mark.parametrize("values", NO_HU.values(), ids=NO_HU)
def test_values_that_are_no_hu_are_refused_though_some_lie_below_0(values):
    with pytest.raises(InputError, match=r"ct: .*(are no HU|neither HU)"):
        grey_window(Stack(values), "window", WINDOW)


CT = {
    "as the scanner gives it": HU,
    "with padding of -2000": np.where(OUTSIDE, -2000, HU),
    "with padding of 63536": np.where(OUTSIDE, 63536 - 1024, HU),
    "clipped to -1000…400": np.clip(HU, -1000, 400),
    "cropped to the lungs": HU[3:-3, 14:50, 8:56],
    "with metal": one_voxel(HU, 30_000),
    "one slice": HU[10:11],
}


@pytest.mark.parametrize("values", [*CT.values()], ids=[*CT])
def test_ct_in_hu_is_windowed(values):
    assert grey_window(Stack(values), "window", WINDOW) == WINDOW
    assert grey_window(Stack(values), "raw", WINDOW) == (-1024.0, 3071.0)


def test_every_slice_is_looked_at_and_not_some_of_them():
    values = HU.astype(float)
    values[7] += 1024  # one slice without its intercept
    with pytest.raises(InputError, match=r"ct: slices [67] and [78] from the foot differ by 10\d\d HU"):
        grey_window(Stack(values), "window", WINDOW)
    grey = window_to_uint8(HU.astype(float), WINDOW).astype(float)
    assert grey_window(Stack(grey), "window", WINDOW) == (0.0, 255.0)
    with pytest.raises(InputError, match="neither HU"):
        grey_window(Stack(one_voxel(grey, 256)), "window", WINDOW)


@pytest.mark.parametrize("padding", [-2000, -32768, -1025])
def test_padding_of_a_nifti_volume_is_air(tmp_path, padding):
    padded = np.where(OUTSIDE, padding, HU).astype(np.int16)
    nib.save(nib.Nifti1Image(padded.transpose(2, 1, 0), np.diag([-2.0, -3.0, 4.0, 1.0])), tmp_path / "v.nii.gz")
    volume = NiftiVolume(tmp_path / "v.nii.gz")
    for k in range(21):
        assert (volume.slice(k)[OUTSIDE] == AIR).all()
        assert (volume.slice(k)[~OUTSIDE] == HU[k][~OUTSIDE]).all()
