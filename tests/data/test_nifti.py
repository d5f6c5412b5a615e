"""NIfTI volumes: one canonical orientation, lazy slices, and every kind of bad file."""

import gzip
import itertools
import struct

import nibabel as nib
import numpy as np
import pytest

from cbseg.data.nifti import NiftiVolume, open_nifti_mask
from cbseg.data.volumes import AIR
from cbseg.errors import InputError


@pytest.fixture
def volume():
    """HU from foot to head, rows to the back, columns to the left: no two voxels alike."""
    return np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) - 50


def save(path, volume, codes="LPS", **header):
    """Store a canonical volume with its axes running to ``codes``."""
    lps = nib.Nifti1Image(volume.T, np.diag([-2.0, -3.0, 4.0, 1.0]))
    change = nib.orientations.ornt_transform(nib.io_orientation(lps.affine), nib.orientations.axcodes2ornt(codes))
    image = lps.as_reoriented(change)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


CODES = ["".join(c) for p in itertools.permutations(["LR", "AP", "IS"]) for c in itertools.product(*p)]


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_stored_orientation_reads_to_the_same_slices(tmp_path, volume, codes, suffix):
    read = NiftiVolume(save(tmp_path / f"v{suffix}", volume, codes))
    assert read.orientation == codes
    assert read.shape == volume.shape
    assert read.spacing == pytest.approx((4, 3, 2))
    for k in range(len(volume)):
        assert (read.slice(k) == volume[k]).all()


@pytest.mark.parametrize("codes", CODES)
def test_labels_go_back_onto_the_stored_grid(tmp_path, volume, codes):
    stored = nib.load(save(tmp_path / "v.nii.gz", volume, codes, scl_slope=2.0, scl_inter=-1024.0, cal_max=500.0))
    labels = (volume % 3).astype(np.uint8)
    nib.save(NiftiVolume(tmp_path / "v.nii.gz").to_nifti(labels), tmp_path / "labels.nii.gz")
    back = nib.load(tmp_path / "labels.nii.gz")
    assert back.get_data_dtype() == np.uint8
    assert back.shape == stored.shape
    assert (back.affine == stored.affine).all()
    assert (back.get_fdata() == np.asarray(stored.dataobj.get_unscaled()) % 3).all()
    assert back.header["cal_max"] == 0


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_scaling_in_the_header_is_applied(tmp_path, volume, suffix):
    image = nib.Nifti1Image(volume.T, np.diag([-2.0, -3.0, 4.0, 1.0]))
    image.header.set_slope_inter(2.0, -1024.0)
    nib.save(image, tmp_path / f"v{suffix}")
    direct = nib.load(tmp_path / f"v{suffix}").get_fdata()
    np.testing.assert_allclose(
        NiftiVolume(tmp_path / f"v{suffix}").slice(1), np.maximum(direct[:, :, 1].T, AIR), rtol=1e-6
    )


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 2)])
def test_other_than_three_dimensions_are_refused_by_name(tmp_path, shape):
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), tmp_path / "v.nii.gz")
    with pytest.raises(InputError, match=rf"v\.nii\.gz: has {len(shape)} dimensions"):
        NiftiVolume(tmp_path / "v.nii.gz")


def test_an_oblique_volume_is_refused(tmp_path, volume):
    turned = nib.affines.from_matvec(nib.eulerangles.euler2mat(x=np.radians(40)) @ np.diag([-2.0, -3.0, 4.0]))
    nib.save(nib.Nifti1Image(volume.T, turned), tmp_path / "v.nii.gz")
    with pytest.raises(InputError, match=r"v\.nii\.gz: is oblique, 40°"):
        NiftiVolume(tmp_path / "v.nii.gz")


def test_a_truncated_file(tmp_path):
    noise = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    path = save(tmp_path / "v.nii.gz", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"v\.nii\.gz: ends early or is damaged"):
        NiftiVolume(path).slice(0)
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match=r"v\.nii\.gz: not a readable NIfTI"):
        NiftiVolume(path)
    with pytest.raises(InputError, match=r"none\.nii: no such file"):
        NiftiVolume(tmp_path / "none.nii")


def test_a_volume_of_nans(tmp_path):
    path = save(tmp_path / "v.nii.gz", np.full((4, 5, 6), np.nan, np.float32))
    with pytest.raises(InputError, match=r"v\.nii\.gz, slice 0: 100 % of its values are NaN"):
        NiftiVolume(path).slice(0)


def test_a_mask_that_lies_elsewhere_than_its_image(tmp_path, volume):
    image = NiftiVolume(save(tmp_path / "image.nii.gz", volume))
    nib.save(nib.Nifti1Image(volume.T, np.diag([-2.5, -3.0, 4.0, 1.0])), tmp_path / "mask.nii.gz")
    with pytest.raises(InputError, match=r"mask\.nii\.gz: lies elsewhere than its image image\.nii\.gz"):
        open_nifti_mask(tmp_path / "mask.nii.gz", image)


def test_a_mask_whose_header_was_rounded_is_its_images_and_one_off_at_a_corner_is_not(tmp_path, volume):
    image = NiftiVolume(save(tmp_path / "image.nii.gz", volume))
    affine = np.diag([-2.0, -3.0, 4.0, 1.0])
    affine[:3, 3] = 0.04
    nib.save(nib.Nifti1Image(volume.T, affine), tmp_path / "mask.nii.gz")
    assert (open_nifti_mask(tmp_path / "mask.nii.gz", image).slice(1) == volume[1]).all()
    affine[0, 0] = -2.25  # of 6 columns
    nib.save(nib.Nifti1Image(volume.T, affine), tmp_path / "mask.nii.gz")
    with pytest.raises(
        InputError, match=r"lies elsewhere than its image image\.nii\.gz \(voxels are up to 1\.\d+ mm apart"
    ):
        open_nifti_mask(tmp_path / "mask.nii.gz", image)


def test_a_mask_is_its_images_where_it_lies_and_not_how_it_is_stored(tmp_path, volume):
    image = NiftiVolume(save(tmp_path / "image.nii.gz", volume))
    for codes in ("RAS", "SAR"):
        stored = nib.load(save(tmp_path / "mask.nii.gz", volume, codes))
        assert (open_nifti_mask(tmp_path / "mask.nii.gz", image).slice(1) == volume[1]).all()
        moved = stored.affine.copy()
        moved[:3, 3] += 500
        nib.save(nib.Nifti1Image(stored.dataobj, moved), tmp_path / "mask.nii.gz")
        with pytest.raises(InputError, match="lies elsewhere"):
            open_nifti_mask(tmp_path / "mask.nii.gz", image)


def test_distances_are_those_of_the_grid_in_mm_whatever_the_header_has_beside_it(tmp_path, volume):
    sheared = np.diag([-2.0, -3.0, 4.0, 1.0])
    sheared[1, 2] = 1.0
    image = nib.Nifti1Image(volume.T, sheared)
    image.header["pixdim"][1:4] = 1
    image.header["qform_code"] = 0
    nib.save(image, tmp_path / "v.nii")
    assert NiftiVolume(tmp_path / "v.nii").spacing == pytest.approx((4, 3, 2))
    metres = nib.Nifti1Image(volume.T, np.diag([-0.002, -0.003, 0.004, 1.0]))
    metres.header.set_xyzt_units("meter")
    nib.save(metres, tmp_path / "v.nii")
    assert NiftiVolume(tmp_path / "v.nii").spacing == pytest.approx((4, 3, 2))


def test_a_header_that_does_not_say_how_the_volume_lies_is_warned_of(tmp_path, volume, caplog):
    nib.save(nib.Nifti1Image(volume.T, None), tmp_path / "v.nii.gz")
    assert NiftiVolume(tmp_path / "v.nii.gz").orientation == "LAS"
    assert "v.nii.gz: its header does not say how it lies" in caplog.text
    caplog.clear()
    NiftiVolume(save(tmp_path / "v.nii.gz", volume))
    assert not caplog.text


def test_an_affine_of_nans_and_values_that_are_no_greys_are_refused(tmp_path, volume):
    path = save(tmp_path / "v.nii", volume)
    content = bytearray(path.read_bytes())
    content[280:284] = np.float32(np.nan).tobytes()  # srow_x[0]
    path.write_bytes(content)
    with pytest.raises(InputError, match="does not say how it is oriented"):
        NiftiVolume(path)
    colours = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for values in (colours, np.zeros((4, 5, 6), np.complex64)):
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)
        with pytest.raises(InputError, match=r"v\.nii: holds .* values, colours or complex"):
            NiftiVolume(path)


def test_the_real_volume_reads_to_what_nibabel_gives(shared):
    path = shared / "data/nifti/chest_ct_cropped.nii.gz"
    read, direct = NiftiVolume(path), nib.load(path).get_fdata()
    assert read.orientation == "LPS"
    assert read.spacing == pytest.approx((1.5, 1.5, 1.5))
    for k in range(0, 112, 10):
        assert (read.slice(k) == np.maximum(direct[:, :, k].T, AIR)).all()


def patched(path, at, data):
    """Overwrite bytes of a header."""
    zipped = path.suffix == ".gz"
    content = bytearray(gzip.decompress(path.read_bytes()) if zipped else path.read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(gzip.compress(bytes(content)) if zipped else bytes(content))
    return path


@pytest.mark.parametrize("excess", [1e-7, 1e-6, 2e-5])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_quaternion_that_rounding_made_too_long_is_read_and_not_passed_on(tmp_path, volume, suffix, excess):
    image = nib.Nifti1Image(volume.T, np.diag([-2.0, -3.0, 4.0, 1.0]))
    image.set_qform(image.affine, 1)
    image.set_sform(None, 0)
    nib.save(image, tmp_path / f"v{suffix}")
    patched(tmp_path / f"v{suffix}", 256, struct.pack("<3f", 0, 0, 1 + excess))  # a half turn about the long axis
    read = NiftiVolume(tmp_path / f"v{suffix}")
    assert read.orientation == "LPS"
    assert (read.slice(1) == volume[1]).all()
    nib.save(read.to_nifti(np.zeros(volume.shape, np.uint8)), tmp_path / "labels.nii")
    header = nib.load(tmp_path / "labels.nii").header
    assert header["qform_code"] == 1
    assert sum(float(header[f"quatern_{x}"]) ** 2 for x in "bcd") <= 1 + 1e-7


REFUSED = {
    "NaN intercept": (112, struct.pack("<2f", 1, np.nan)),
    "infinite intercept": (112, struct.pack("<2f", 1, np.inf)),
    "data type 0": (70, struct.pack("<h", 0)),
    "data type of no meaning": (70, struct.pack("<h", 77)),
    "offset 100": (108, struct.pack("<f", 100)),
    "offset NaN": (108, struct.pack("<f", np.nan)),
    "offset beyond the file": (108, struct.pack("<f", 1e9)),
    "negative sizes": (40, struct.pack("<8h", 3, -6, 5, 4, 1, 1, 1, 1)),
    "nine dimensions": (40, struct.pack("<h", 9)),
    "another magic": (344, b"xyz"),
    "quaternion far too long": (256, struct.pack("<3f", 0.9, 0.9, 0.9)),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("at", "data"), REFUSED.values(), ids=REFUSED)
def test_a_header_that_cannot_be_is_one_error_that_names_the_file(tmp_path, volume, suffix, at, data):
    image = nib.Nifti1Image(volume.T, np.diag([-2.0, -3.0, 4.0, 1.0]))
    image.set_qform(image.affine, 1)
    image.set_sform(None, 0)
    nib.save(image, tmp_path / f"v{suffix}")
    patched(tmp_path / f"v{suffix}", at, data)
    with pytest.raises(InputError, match=rf"v\{suffix}"):
        [NiftiVolume(tmp_path / f"v{suffix}").slice(k) for k in range(4)]


def test_a_unit_of_no_meaning_is_taken_for_millimetres(tmp_path, volume):
    read = NiftiVolume(patched(save(tmp_path / "v.nii", volume), 123, b"\xdf"))
    assert read.spacing == pytest.approx((4, 3, 2))
    assert read.to_nifti(np.zeros(volume.shape, np.uint8)).header.get_xyzt_units()[0] == "unknown"


@pytest.mark.parametrize("shape", [(6, 5, 4, 1), (6, 5, 4, 1, 1), (6, 5, 4, 1, 1, 1, 1)])
@pytest.mark.parametrize("name", ["v.nii", "v.NII.GZ", "V.Nii"])
def test_one_time_point_and_capitals_are_read(tmp_path, volume, shape, name):
    nib.save(nib.Nifti1Image(volume.T.reshape(shape), np.diag([-2.0, -3.0, 4.0, 1.0])), tmp_path / "v.nii.gz")
    if name.lower().endswith(".gz"):
        (tmp_path / "v.nii.gz").rename(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(gzip.decompress((tmp_path / "v.nii.gz").read_bytes()))
    read = NiftiVolume(tmp_path / name)
    assert read.shape == volume.shape
    assert (read.slice(2) == volume[2]).all()
    assert read.to_nifti(np.zeros(volume.shape, np.uint8)).shape == (6, 5, 4)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(30_000, 30_000, 30_000), (2000, 2000, 1000), (64, 64, 9000)])
def test_a_header_that_claims_more_than_the_file_or_the_memory_can_hold_is_refused_unread(
    tmp_path, volume, suffix, shape
):
    path = save(tmp_path / f"v{suffix}", volume)
    patched(path, 40, struct.pack("<8h", 3, *shape, 1, 1, 1, 1))
    with pytest.raises(InputError, match=rf"v\{suffix}: .*its header claims"):
        NiftiVolume(path)


def test_what_another_of_nibabels_formats_would_read_is_not_opened(tmp_path, volume):
    nib.save(nib.MGHImage(volume.T.astype(np.float32), np.eye(4)), tmp_path / "v.mgz")
    (tmp_path / "v.mgz").rename(tmp_path / "v.nii.gz")
    with pytest.raises(InputError, match=r"v\.nii\.gz: not a readable NIfTI"):
        NiftiVolume(tmp_path / "v.nii.gz")


def test_nifti_2_is_read(tmp_path, volume):
    nib.save(nib.Nifti2Image(volume.T, np.diag([-2.0, -3.0, 4.0, 1.0])), tmp_path / "v.nii")
    assert (NiftiVolume(tmp_path / "v.nii").slice(1) == volume[1]).all()


def test_a_sheared_volume_and_forms_that_disagree_are_warned_of(tmp_path, volume, caplog):
    sheared = np.diag([-2.0, -3.0, 4.0, 1.0])
    sheared[1, 2] = 1.0
    nib.save(nib.Nifti1Image(volume.T, sheared), tmp_path / "v.nii")
    NiftiVolume(tmp_path / "v.nii")
    assert "v.nii: its slices are not stacked at right angles" in caplog.text
    image = nib.Nifti1Image(volume.T, np.diag([-2.0, -3.0, 4.0, 1.0]))
    image.set_qform(np.diag([2.0, -3.0, 4.0, 1.0]), 1)
    nib.save(image, tmp_path / "w.nii")
    assert NiftiVolume(tmp_path / "w.nii").orientation == "LPS"
    assert "w.nii: its sform and its qform place it differently" in caplog.text


@pytest.mark.parametrize("codes", ["LPS", "RAS", "RAI", "PSL", "SAR"])
@pytest.mark.parametrize("form", ["sform", "qform", "both"])
def test_labels_lie_where_itk_reads_the_volume(tmp_path, volume, codes, form):
    itk = pytest.importorskip("SimpleITK")
    save(tmp_path / "v.nii.gz", volume, codes)
    stored = nib.load(tmp_path / "v.nii.gz")
    stored.set_qform(stored.affine, int(form != "sform"))
    stored.set_sform(stored.affine, int(form != "qform"))
    nib.save(stored, tmp_path / "v.nii.gz")
    labels = (volume % 3).astype(np.uint8)
    nib.save(NiftiVolume(tmp_path / "v.nii.gz").to_nifti(labels), tmp_path / "labels.nii.gz")
    image, back = (itk.ReadImage(str(tmp_path / name)) for name in ("v.nii.gz", "labels.nii.gz"))
    assert (itk.GetArrayFromImage(image) % 3 == itk.GetArrayFromImage(back)).all()
    for get in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(image, get)(), getattr(back, get)(), atol=1e-5)


@pytest.mark.parametrize(("suffix", "name"), [(".nii", "x.nii.gz"), (".nii.gz", "x.nii")])
def test_what_is_compressed_is_told_by_content_as_names_lie(tmp_path, volume, suffix, name):
    renamed = save(tmp_path / f"v{suffix}", volume).rename(tmp_path / name)
    assert all((NiftiVolume(renamed).slice(k) == volume[k]).all() for k in range(len(volume)))
