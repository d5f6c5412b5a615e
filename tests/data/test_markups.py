"""Slicer's points: where they lie, against SimpleITK on real volumes; what is written; and what is refused."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cbseg.data import phantom
from cbseg.data.inputs import open_volume
from cbseg.data.markups import MarkedPoint, read_markups, write_markups
from cbseg.errors import InputError

sitk = pytest.importorskip("SimpleITK")


def saved(path, *markups):
    """Write a file as Slicer does; gives its path."""
    defaults = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "name": "infection"}
    content = {"@schema": "https://…/markups-schema-v1.0.3.json#", "markups": [{**defaults, **m} for m in markups]}
    path.write_text(json.dumps(content))
    return path


def marked(*position, label="infection-1", **more):
    return {"label": label, "position": list(position), **more}


def itk_image(path):
    if path.is_file():
        return sitk.ReadImage(str(path))
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path))
    return sitk.ReadImage(files)


def places_in_itk(image, count, seed):
    """Random places in an image, and the voxel that ITK finds at each: positions (LPS) and stored indices."""
    rng = np.random.default_rng(seed)
    inside = rng.uniform(-0.49, np.array(image.GetSize()) - 0.51, (count, 3))
    positions = [image.TransformContinuousIndexToPhysicalPoint(place.tolist()) for place in inside]
    return positions, [image.TransformPhysicalPointToIndex(position) for position in positions]


def agree(volume, image, tmp_path):
    """Compare 1,000 voxels with ITK's, by files in LPS and RAS, mm and µm; and their values."""
    positions, indices = places_in_itk(image, 1000, seed=3)
    found = []
    for system, sign in (("LPS", 1), ("RAS", np.array([-1, -1, 1]))):
        for unit, scale in (("mm", 1), ("um", 1000)):
            points = [marked(*(np.array(position) * sign * scale).tolist()) for position in positions]
            path = tmp_path / f"{system}{unit}.mrk.json"
            saved(path, {"coordinateSystem": system, "coordinateUnits": unit, "controlPoints": points})
            found.append(volume.grid.voxels_at([point.position for point in read_markups(path)]))
    assert all((voxels == found[0]).all() for voxels in found)
    stored = volume.grid.to_stored(np.arange(np.prod(volume.shape)).reshape(volume.shape))
    ours = [np.ravel_multi_index(voxel, volume.shape) for voxel in found[0]]
    assert ours == [stored[index] for index in indices]
    theirs = volume.grid.positions_of(found[0])
    centres = [image.TransformIndexToPhysicalPoint(index) for index in indices]
    assert np.abs(theirs - centres).max() < 1e-3
    values = sitk.GetArrayFromImage(image)
    for (k, row, column), index in zip(found[0][:50], indices, strict=False):
        assert volume.slice(k)[row, column] == max(values[index[::-1]], -1024)


@pytest.mark.parametrize("name", ["dicom_series", "nifti"])
def test_a_thousand_points_lie_where_simpleitk_says_on_real_ct(shared, name, tmp_path):
    path = shared / "data" / name
    path = path if name == "dicom_series" else next(path.glob("*.nii.gz"))
    agree(open_volume(path), itk_image(path), tmp_path)


@pytest.mark.parametrize("layout", ["covidB", "covidC"])
def test_a_thousand_points_lie_where_simpleitk_says_on_phantoms(layout, tmp_path):
    phantom.generate(tmp_path / layout, layout, scans=2, size=32)
    pattern = {"covidB": "OpenSourceDCMs/*", "covidC": "COVID-19-CT-Seg_20cases/*"}[layout]
    for path in sorted((tmp_path / layout).glob(pattern)):  # the second NIfTI is stored mirrored
        agree(open_volume(path), itk_image(path), tmp_path)


def test_a_volume_in_metres_is_placed_in_millimetres_as_itk_does(tmp_path):
    image = nib.Nifti1Image(np.zeros((5, 6, 7), np.int16), np.diag([-0.002, 0.003, 0.004, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "ct.nii.gz")
    volume = open_volume(tmp_path / "ct.nii.gz")
    assert volume.spacing == pytest.approx((4, 3, 2))
    assert volume.grid.voxels_at([[2.0, -9.0, 8.0]]).tolist() == [[2, 2, 1]]
    itk = itk_image(tmp_path / "ct.nii.gz")
    assert itk.TransformPhysicalPointToIndex((2.0, -9.0, 8.0)) == (1, 3, 2)


def test_what_is_written_is_read_back_with_labels_and_seconds(tmp_path):
    path = tmp_path / "ct.mrk.json"
    points = [
        MarkedPoint("infection", (1.5, -2.25, 3.0), 2.5),
        MarkedPoint("background-7", (0.0, 0.1, -4.0)),
        MarkedPoint("infection", (9.0, 9.0, 9.0), 0.9),
    ]
    write_markups(path, points)
    back = read_markups(path)
    assert [point.label for point in back] == ["infection-1", "background-7", "infection-2"]
    assert [point[1:] for point in back] == [point[1:] for point in points]
    (markup,) = json.loads(path.read_text())["markups"]  # one list, which Slicer saves to where it found it
    assert markup["name"] == "infection"
    write_markups(path, back)
    assert read_markups(path) == back


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "ct.mrk.json"
    write_markups(path, [MarkedPoint("infection-1", (0, 0, 0))])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"ct\.mrk\.json: cannot be written \(No space left"):
        write_markups(path, [])
    assert len(read_markups(path)) == 1
    assert [entry.name for entry in Path(tmp_path).iterdir()] == ["ct.mrk.json"]


def test_points_without_a_defined_position_are_left_out_and_units_may_be_a_code(tmp_path):
    points = [
        marked(1, 2, 3),
        marked(0, 0, 0, label="infection-2", positionStatus="undefined"),
        {"label": "infection-3", "positionStatus": "preview"},
        {"position": [4, 5, 6], "positionStatus": "defined"},
    ]
    units = ["um", "UCUM", "micrometer"]
    path = saved(tmp_path / "ct.mrk.json", {"coordinateUnits": units, "controlPoints": points}, {"name": "empty"})
    found = read_markups(path)
    assert [point.label for point in found] == ["infection-1", "infection-4"]
    assert found[0].position == pytest.approx((0.001, 0.002, 0.003))


@pytest.mark.parametrize(
    ("label", "name"),
    [("infection-1", "infection"), ("infection_1-2", "infection"), ("ggo", "ggo"), ("Healthy slice", "healthy")],
)
def test_the_class_is_the_label_up_to_the_first_separator(label, name):
    assert MarkedPoint(label, (0, 0, 0)).class_name == name


@pytest.mark.parametrize(
    ("markup", "message"),
    [
        ({"type": "Curve", "name": "outline"}, "outline is of type Curve, and not of points"),
        ({"type": "Plane"}, "is of type Plane"),
        ({"coordinateSystem": "IJK"}, "its coordinates are IJK in mm; save it in LPS or RAS"),
        ({"coordinateUnits": "cm"}, "its coordinates are LPS in cm"),
        ({"controlPoints": [marked(1, 2)]}, "point infection-1 has no position of three numbers"),
        ({"controlPoints": [marked(1, 2, float("nan"))]}, "point infection-1 has no position"),
        ({"controlPoints": [{"label": "infection-9"}]}, "point infection-9 has no position"),
        ({"controlPoints": [marked(1, 2, 3, positionStatus="maybe")]}, "positionStatus maybe"),
    ],
)
def test_what_is_no_list_of_points_is_refused(markup, message, tmp_path):
    with pytest.raises(InputError, match=rf"ct\.mrk\.json: .*{message}"):
        read_markups(saved(tmp_path / "ct.mrk.json", markup))


def test_a_file_that_is_cut_off_or_holds_something_else_is_refused(tmp_path):
    path = saved(tmp_path / "ct.mrk.json", {"controlPoints": [marked(1, 2, 3)]})
    whole = path.read_text()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_text(whole[:length])
        with pytest.raises(InputError, match=r"ct\.mrk\.json: not a whole markups file"):
            read_markups(path)
    for other in ("[]", '{"points": []}', '{"markups": 3}', "3"):
        path.write_text(other)
        with pytest.raises(InputError, match=r"ct\.mrk\.json: holds no markups"):
            read_markups(path)
