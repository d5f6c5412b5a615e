"""People's own CT: what is found in a folder, that clicks lie where they were made, and what is refused."""

import json
import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import BasicTextSRStorage, MRImageStorage

from cbseg.config import build, compose
from cbseg.data.annotation import ClassNames
from cbseg.data.check import check
from cbseg.data.markups import MarkedPoint, write_markups
from cbseg.data.own import find_cts, find_scans
from cbseg.data.phantom_own import hidden_mask
from cbseg.data.splits import by_annotation
from cbseg.data.store import SliceInfo
from cbseg.errors import ArgumentError, InputError
from cbseg.points import IGNORE

slicerio = pytest.importorskip("slicerio")


@pytest.fixture
def root(drawn, tmp_path):
    """A copy of the phantom ``drawn``."""
    return shutil.copytree(drawn, tmp_path / "own")


def masks(root, name, **settings):
    """A scan's masks by slice, with what nobody looked at."""
    scan = next(scan for scan in find_scans(root, **settings) if scan.name == name)
    return {item.name: item.mask for item in scan.read()}


def ct_of(root, name):
    return next(ct for ct in find_cts(root) if ct.name == name)


def click(root, name, *points):
    """Replace a scan's clicks by others: (label, slice, row, column)."""
    grid = ct_of(root, name).open().grid
    marked = [MarkedPoint(label, tuple(grid.positions_of([voxel])[0].tolist())) for label, *voxel in points]
    write_markups(root / f"{name}.mrk.json", marked)


def label_map(root, name, labels, file):
    """Save labels, from the foot, on a CT's own grid."""
    ct_of(root, name).open().to_nifti(labels).to_filename(root / file)


def segmentation(root, name, file, cropped=0, layers=1, **segments):
    """Save segments as Slicer does, on a part of the grid and turned: names, and their voxels from the foot."""
    volume = ct_of(root, name).open()
    shape = (*volume.shape[::-1],)
    voxels = np.zeros((layers, *shape), np.uint8)
    for k, where in enumerate(segments.values()):
        voxels[k % layers][where.transpose(2, 1, 0)] = k + 1
    voxels = voxels[:, cropped:, :, ::-1]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.grid.canonical_affine
    affine = affine @ np.array([[1, 0, 0, cropped], [0, 1, 0, 0], [0, 0, -1, shape[2] - 1], [0, 0, 0, 1.0]])
    named = [{"id": f"s{k}", "name": name, "labelValue": k + 1, "layer": k % layers} for k, name in enumerate(segments)]
    content = {"voxels": voxels if layers > 1 else voxels[0], "ijkToLPS": affine, "segments": named}
    slicerio.write_segmentation(str(root / file), content)


def test_nifti_and_dicom_are_found_as_they_lie_there_and_scans_without_clicks_are_counted(root, caplog):
    assert [ct.name for ct in find_cts(root)] == ["chest1", "chest3", "patient2", "patient4"]
    scans = find_scans(root)
    assert [(scan.name, scan.subset) for scan in scans] == [
        (name, "train") for name in ("chest1", "chest3", "patient2")
    ]
    assert "1 of 4 scans have neither clicks nor a mask, and take no part: patient4" in caplog.text


def test_clicks_lie_where_they_were_made_in_every_format_and_orientation(root):
    for ct in find_cts(root)[:3]:
        truth = hidden_mask(root, ct)
        found = masks(root, ct.name)
        assert len(found) == -(-len(truth) // 2)  # every second slice was clicked in, others are left out
        for k, mask in zip(range(0, len(truth), 2), found.values(), strict=True):
            known = mask != IGNORE
            assert (mask[known] == truth[k][known]).all()
            assert known.all() != truth[k].any()  # slices without infection were marked as healthy


def test_a_pacs_study_is_taken_apart_and_what_is_no_ct_is_left_out(root, tmp_path):
    study = root / "patient2" / "study"
    slices = sorted((study / "series2").iterdir())
    for number, kind in ((7, "CT"), (8, "MR"), (9, "LOCALIZER"), (10, "SR")):
        (study / f"series{number}").mkdir()
        for path in slices[: 1 if kind in ("SR", "LOCALIZER") else None]:
            dataset = pydicom.dcmread(path)
            dataset.SeriesInstanceUID = dataset.SeriesInstanceUID[:60] + f".{number}"
            dataset.SOPInstanceUID = dataset.SOPInstanceUID[:60] + f".{number}"
            if kind == "MR":
                dataset.SOPClassUID, dataset.Modality = MRImageStorage, "MR"
            elif kind == "LOCALIZER":
                dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            elif kind == "SR":
                dataset.SOPClassUID, dataset.Modality = BasicTextSRStorage, "SR"
                del dataset.PixelData, dataset.Rows
            dataset.save_as(study / f"series{number}" / path.name, enforce_file_format=True)
    (root / "patient2" / "notes.txt").write_text("hello")
    assert [ct.name for ct in find_cts(root)][2:4] == ["patient2-study-series2", "patient2-study-series7"]
    (root / "patient2.mrk.json").rename(study / "series7.mrk.json")
    assert "patient2-study-series7" in [scan.name for scan in find_scans(root)]
    shutil.copytree(study / "series7", tmp_path / "one")
    assert [(ct.name, ct.place.name) for ct in find_cts(tmp_path / "one")] == [("one", "one")]


def test_a_folder_without_ct_is_named(root, caplog, tmp_path):
    for path in (root / "patient4").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID, dataset.Modality = MRImageStorage, "MR"
        dataset.save_as(path, enforce_file_format=True)
    assert "patient4" not in [ct.name for ct in find_cts(root)]
    assert "patient4: holds no CT series, left out" in caplog.text
    shutil.copytree(root / "patient4", tmp_path / "mr" / "p")
    with pytest.raises(InputError, match="mr: holds no CT; put NIfTI files or folders with CT series there"):
        find_scans(tmp_path / "mr")


def test_several_files_of_a_scan_are_one_annotation(root):
    click(root, "chest1", ("infection", 3, 5, 6), ("healthy", 9, 0, 0))
    (root / "chest1.mrk.json").rename(root / "chest1.first.mrk.json")
    click(root, "chest1", ("background", 3, 9, 9))
    labels = np.zeros(ct_of(root, "chest1").open().shape, np.uint8)
    labels[4, 10:12, 10:20], labels[4, 20, 20], labels[10, 0, 0] = 1, 2, 3
    label_map(root, "chest1", labels, "chest1.clicks.nii.gz")
    found = masks(root, "chest1")
    assert list(found) == ["chest1-03", "chest1-04", "chest1-09", "chest1-10"]
    third, fourth, ninth, tenth = found.values()
    assert (third[5, 6], third[9, 9], (third != IGNORE).sum()) == (1, 0, 2)
    assert ((fourth == 1).sum(), fourth[20, 20], (fourth != IGNORE).sum()) == (20, 0, 21)
    assert (ninth == 0).all()
    assert (tenth == 0).all()


@pytest.mark.parametrize("name", ["chest1", "chest3", "patient2"])
@pytest.mark.parametrize("cropped", [0, 5])
def test_slicers_segmentations_lie_where_they_were_drawn_cropped_and_turned(root, name, cropped):
    (root / f"{name}.mrk.json").unlink()
    truth = hidden_mask(root, ct_of(root, name))
    truth[:, :, :cropped] = 0
    outside = np.zeros_like(truth)
    outside[3:5, 2, 10:15] = 1
    parts = {"infection": truth > 0, "Background_1": outside > 0}
    segmentation(root, name, f"{name}.clicks.seg.nrrd", cropped, **parts)
    for item, mask in masks(root, name).items():
        k = int(item.rpartition("-")[2])
        assert (mask == np.where(truth[k] > 0, 1, np.where(outside[k] > 0, 0, IGNORE))).all()
    assert len(masks(root, name)) == len(np.flatnonzero((truth + outside).any((1, 2))))


def test_masks_are_whole_and_go_before_clicks(root, caplog):
    truth = hidden_mask(root, ct_of(root, "chest1"))
    label_map(root, "chest1", truth, "chest1.mask.nii.gz")
    segmentation(root, "patient4", "patient4.mask.seg.nrrd", infection=hidden_mask(root, ct_of(root, "patient4")) > 0)
    scans = {scan.name: scan.subset for scan in find_scans(root)}
    assert scans == {"chest1": "test", "chest3": "train", "patient2": "train", "patient4": "test"}
    assert "chest1: has a mask, so its clicks take no part" in caplog.text
    assert (np.stack(list(masks(root, "chest1").values())) == truth).all()
    assert (np.stack(list(masks(root, "patient4").values())) == hidden_mask(root, ct_of(root, "patient4"))).all()


def test_two_kinds_of_infection_are_classes_of_their_own_and_the_network_follows(root):
    click(root, "chest1", ("ggo", 3, 5, 6), ("consolidation", 3, 8, 8), ("infection", 4, 4, 4))
    kinds = {"ggo": 1, "consolidation": 2, "infection": 1, "background": 0, "healthy": "all"}
    assert sorted(np.unique(masks(root, "chest1", classes=kinds)["chest1-03"]).tolist()) == [1, 2, IGNORE]
    config = compose(["data=own", "+data.find_scans.classes={ggo:1,consolidation:2}"])
    assert config.model.num_classes == config.data.annotate.num_classes == 3


def refused(root, message):
    with pytest.raises(InputError, match=message):
        [list(scan.read()) for scan in find_scans(root)]


def test_clicks_that_cannot_be_right_are_refused_with_their_file_and_point(root):
    click(root, "chest1", ("infection", 3, 5, 6), ("infection", 99, 5, 6))
    refused(
        root, r"chest1\.mrk\.json: point infection-2 at .* lies outside .*chest1\.nii\.gz: slice 99.*another scan's"
    )
    click(root, "chest1", ("lesion", 3, 5, 6))
    refused(
        root, r"point lesion-1 is of the class 'lesion'.* there are infection, background, healthy.*classes\.lesion"
    )
    click(root, "chest1", ("infection", 3, 5, 6), ("background", 3, 5, 6))
    refused(root, r"chest1\.mrk\.json: two classes on a voxel: slice 3 .*row 5, column 6 .*class 0 and class 1")
    click(root, "chest1", ("infection", 3, 5, 6), ("healthy", 3, 0, 0))
    refused(root, r"slice 3 from the foot is marked as healthy, and has infection")
    labels = np.zeros(ct_of(root, "chest1").open().shape, np.uint8)
    labels[3, 5, 6] = 2
    click(root, "chest1", ("infection", 3, 5, 6))
    label_map(root, "chest1", labels, "chest1.clicks.nii.gz")
    refused(root, r"two classes on a voxel: slice 3")
    label_map(root, "chest1", labels + 7, "chest1.clicks.nii.gz")
    refused(root, r"chest1\.clicks\.nii\.gz, slice 0: holds \[7.*holds 0 and 1, 2, 3")


def test_label_maps_on_another_grid_are_refused(root):
    image = nib.load(root / "chest1.nii.gz")
    labels = np.zeros(image.shape, np.uint8)
    nib.save(nib.Nifti1Image(labels[:, :, 1:], image.affine), root / "chest1.clicks.nii.gz")
    refused(root, r"chest1\.clicks\.nii\.gz: has 20 × 32 × 32 .* its CT .* 21 × 32 × 32; draw on the CT itself")
    moved = image.affine.copy()
    moved[0, 3] += 3
    nib.save(nib.Nifti1Image(labels, moved), root / "chest1.clicks.nii.gz")
    refused(root, r"chest1\.clicks\.nii\.gz: lies elsewhere than its")
    (root / "chest1.clicks.nii.gz").unlink()
    truth = hidden_mask(root, ct_of(root, "chest1")) > 0
    segmentation(root, "chest1", "chest1.mask.seg.nrrd", infection=truth)
    content = slicerio.read_segmentation(str(root / "chest1.mask.seg.nrrd"))
    for change, message in ((1.3, "lies on another grid"), (1.0, "reaches beyond its CT")):
        affine = content["ijkToLPS"].copy()
        affine[:3, :3] *= change
        affine[:3, 3] += affine[:3, 0] * 20
        slicerio.write_segmentation(str(root / "chest1.mask.seg.nrrd"), content | {"ijkToLPS": affine})
        refused(root, rf"chest1\.mask\.seg\.nrrd: .*{message}")


def test_segments_that_overlap_or_have_no_known_name_are_refused(root):
    truth = hidden_mask(root, ct_of(root, "chest1")) > 0
    segmentation(root, "chest1", "chest1.clicks.seg.nrrd", infection=truth, layers=2, background=truth)
    refused(root, r"two classes on a voxel: \d+ voxels of the segment background")
    segmentation(root, "chest1", "chest1.clicks.seg.nrrd", Segment_1=truth)
    refused(root, r"chest1\.clicks\.seg\.nrrd: a segment is of the class 'segment'.*there are infection")
    (root / "chest1.clicks.seg.nrrd").write_bytes(b"NRRD0004\ntype: unsigned char\n")
    refused(root, r"chest1\.clicks\.seg\.nrrd: not a readable segmentation")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("chest1.fcsv", r"chest1\.fcsv: is points in Slicer's former format; save the list as <scan>\.mrk\.json"),
        ("chest9.mrk.json", r"chest9\.mrk\.json: belongs to no scan; chest\d would have .*own/chest\d\.mrk\.json"),
        ("infection.mrk.json", r"infection\.mrk\.json: belongs to no scan"),
        ("patient2/x.mask.nii.gz", r"x\.mask\.nii\.gz: belongs to no scan"),
        ("chest1.seg.nrrd", r"chest1\.seg\.nrrd: is neither clicks nor a mask by its name"),
        ("chest4.nrrd", r"chest4\.nrrd: is a volume in NRRD"),
        ("chest1.nii", r"chest1\.nii and .*chest1\.nii\.gz: two scans that would both be called chest1"),
    ],
)
def test_files_that_belong_to_nothing_are_named(root, file, message):
    (root / file).write_text("")
    refused(root, message)


def test_a_folder_in_which_nobody_clicked_says_how_to_begin(root):
    for path in root.glob("*.mrk.json"):
        path.unlink()
    refused(
        root, r"own: no scan has clicks to train on; of 4 scans, such as chest1, 0 have a mask\. .*chest1\.mrk\.json"
    )


@pytest.mark.parametrize("classes", [{"infection": 2}, {"infection": "some"}, {"background": 0}, {"infection": 1.5}])
def test_classes_that_are_none_are_refused(classes):
    with pytest.raises(ArgumentError, match="classes="):
        ClassNames(classes)


def test_the_check_counts_clicks_draws_them_and_says_what_they_cost(drawn, tmp_path):
    config = compose(["data=own", f"data.root={drawn}"])
    report = list(check(build(config.data, "data"), tmp_path / "sheet.png"))
    assert not [line for line in report if line.startswith("problem:")]
    truth = hidden_mask(drawn, ct_of(drawn, "chest1"))
    healthy = sum(not truth[k].any() for k in range(0, len(truth), 2))
    points = [point for point in json.loads((drawn / "chest1.mrk.json").read_text())["markups"][0]["controlPoints"]]
    on = sum(point["label"].startswith("infection") for point in points)
    assert f"{healthy} known everywhere; pixels known in the others: {on} background, {on} infection" in report[0]
    assert any(line.startswith("clicks: ") and "2.0 s each" in line for line in report)
    assert (tmp_path / "sheet.png").is_file()


def slices(**scans):
    """Slices of scans by name: how many, and of which subset."""
    return [
        SliceInfo(f"{name}-{k}", name, subset, k, (4, 4), 1, 0)
        for name, (count, subset) in scans.items()
        for k in range(count)
    ]


def test_masks_validate_and_test_and_clicks_train():
    split = by_annotation(slices(a=(3, "train"), b=(2, "test"), c=(2, "test"), d=(4, "test")), val=0.5, held_out=0.1)
    assert (split.train, split.val, split.test) == ([0, 1, 2], [3, 4], [5, 6, 7, 8, 9, 10])


def test_without_masks_clicks_are_held_out_of_the_last_scans_or_of_slices_where_scans_are_few():
    many = {f"s{k}": (2, "train") for k in range(6)}
    split = by_annotation(slices(**many), val=0.5, held_out=0.1)
    assert (split.train, split.val, split.test) == (list(range(10)), [10, 11], [10, 11])
    split = by_annotation(slices(a=(20, "train"), b=(5, "test")), val=0.5, held_out=0.1)
    assert (split.val, split.test) == ([1, 11], [20, 21, 22, 23, 24])  # one mask tests alone
    assert len(split.train) == 18
    with pytest.raises(InputError, match="1 slices with clicks: mark at least two"):
        by_annotation(slices(a=(1, "train")), val=0.5, held_out=0.1)
    with pytest.raises(ArgumentError, match="held_out=0"):
        by_annotation(slices(a=(9, "train")), val=0.5, held_out=0)
