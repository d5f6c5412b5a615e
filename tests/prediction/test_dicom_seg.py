"""DICOM Segmentations and Slicer's: read back by others, voxel for voxel."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import EnhancedCTImageStorage, generate_uid

from cbseg.data import phantom
from cbseg.data.dicom import DicomSeries
from cbseg.data.nifti import NiftiVolume
from cbseg.errors import InputError
from cbseg.prediction.dicom_seg import dicom_seg
from cbseg.prediction.seg_nrrd import write_seg_nrrd

itk = pytest.importorskip("SimpleITK")
pytest.importorskip("highdicom")
DCMQI = shutil.which(Path(sys.executable).with_name("segimage2itkimage"))
TWO = ("ggo", "consolidation")


@pytest.fixture
def series(tmp_path):
    """A phantom's folder of 21 slices."""
    phantom.generate(tmp_path / "covidB", "covidB", scans=1, seed=4, size=64)
    return tmp_path / "covidB/OpenSourceDCMs/DCM1"


def read(folder):
    return DicomSeries(sorted(folder.iterdir()), folder.name)


def turned(folder):
    """Turn each slice by 180°, so that it shows the same patient."""
    for path in folder.iterdir():
        one = pydicom.dcmread(path)
        right, down = np.array(one.ImageOrientationPatient, float).reshape(2, 3)
        rows, columns = (float(side) for side in one.PixelSpacing)
        far = right * columns * (one.Columns - 1) + down * rows * (one.Rows - 1)
        one.PixelData = one.pixel_array[::-1, ::-1].tobytes()
        one.ImagePositionPatient = (np.array(one.ImagePositionPatient, float) + far).round(4).tolist()
        one.ImageOrientationPatient = [*-right, *-down]
        one.save_as(path)


def labelled(shape):
    """Classes 0 to 2 here and there, on neither the first nor the last slices."""
    classes = np.zeros(shape, np.uint8)
    classes[3:9, 10:30, 5:50] = np.random.default_rng(0).integers(0, 3, (6, 20, 45))
    classes[15, 1, 2] = 2
    return classes


@pytest.mark.skipif(DCMQI is None, reason="dcmqi is not installed")
@pytest.mark.parametrize("turn", [False, True])
def test_dcmqi_reads_each_segment_back_voxel_for_voxel(series, tmp_path, turn):
    if turn:
        turned(series)
    volume = read(series)
    assert volume.orientation == ("RAS" if turn else "LPS")
    classes = labelled(volume.shape)
    dicom_seg(volume, classes, TWO, "run").save_as(tmp_path / "ct.seg.dcm")
    volume.to_nifti(classes).to_filename(tmp_path / "ct.nii.gz")
    command = [DCMQI, "--inputDICOM", tmp_path / "ct.seg.dcm", "--outputDirectory", tmp_path, "--outputType", "nrrd"]
    subprocess.run(command, check=True, capture_output=True)
    labels = itk.ReadImage(str(tmp_path / "ct.nii.gz"))
    for k in (1, 2):
        segment = itk.ReadImage(str(tmp_path / f"{k}.nrrd"))
        back = itk.Resample(segment, labels, itk.Transform(), itk.sitkNearestNeighbor, 0)
        assert (classes == k).sum() > 1000
        assert ((itk.GetArrayFromImage(back) > 0) == (itk.GetArrayFromImage(labels) == k)).all()
        assert (itk.GetArrayFromImage(segment) > 0).sum() == (classes == k).sum()


def test_there_is_a_segment_for_each_class_that_occurs_with_its_term(series):
    volume = read(series)
    classes = np.where(labelled(volume.shape) == 2, 2, 0).astype(np.uint8)
    seg = dicom_seg(volume, classes, TWO, "runs/own/cb_fliprot/seed0")
    (segment,) = seg.SegmentSequence
    assert (seg.SegmentationType, segment.SegmentNumber, segment.SegmentLabel) == ("BINARY", 1, "consolidation")
    assert (seg.StudyInstanceUID, seg.PatientID) == (volume.slices[0].text("StudyInstanceUID"), "phantom-4-1")
    assert [
        segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue,
        segment.SegmentedPropertyTypeCodeSequence[0].CodeValue,
        segment.AnatomicRegionSequence[0].CodeValue,
    ] == ["49755003", "112001", "39607008"]
    assert seg.pixel_array.sum() == (classes == 2).sum()
    both = dicom_seg(volume, labelled(volume.shape), TWO, "run").SegmentSequence
    assert [one.SegmentedPropertyTypeCodeSequence[0].CodeValue for one in both] == ["112120", "112001"]


def test_attributes_that_may_be_empty_are_filled_and_uids_that_are_missing_named(series):
    for path in series.iterdir():
        one = pydicom.dcmread(path)
        del one.PatientName
        one.PatientID = None
        one.save_as(path)
    classes = labelled(read(series).shape)
    seg = dicom_seg(read(series), classes, TWO, "run")
    assert all(key in seg for key in ("PatientName", "PatientBirthDate", "AccessionNumber", "ReferringPhysicianName"))
    with pytest.raises(InputError, match="DCM1: has no infection"):
        dicom_seg(read(series), np.zeros_like(classes), TWO, "run")
    path = sorted(series.iterdir())[4]
    one = pydicom.dcmread(path)
    one.FrameOfReferenceUID = one.StudyInstanceUID = ""
    one.save_as(path)
    with pytest.raises(InputError, match=f"{path.name}: its StudyInstanceUID, FrameOfReferenceUID are empty"):
        dicom_seg(read(series), classes, TWO, "run")


def test_an_enhanced_multi_frame_file_gets_one_too_whatever_the_order_of_its_frames(series, tmp_path):
    slices = [pydicom.dcmread(path) for path in sorted(series.iterdir())]
    order = np.random.default_rng(1).permutation(len(slices))
    enhanced = pydicom.Dataset()
    enhanced.file_meta = slices[0].file_meta
    for key in ("PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality"):
        enhanced[key] = slices[0][key]
    for key in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"):
        enhanced[key] = slices[0][key]
    enhanced.PhotometricInterpretation, enhanced.SeriesNumber = "MONOCHROME2", 3
    enhanced.SOPClassUID = enhanced.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    enhanced.SOPInstanceUID = enhanced.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    enhanced.NumberOfFrames = len(slices)

    def item(**tags):
        dataset = pydicom.Dataset()
        dataset.update(tags)
        return dataset

    shared = item()
    shared.PlaneOrientationSequence = [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    measures = {key: slices[0][key].value for key in ("PixelSpacing", "SliceThickness")}
    shared.PixelMeasuresSequence = [item(**measures)]
    shared.PixelValueTransformationSequence = [item(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")]
    enhanced.SharedFunctionalGroupsSequence = [shared]
    enhanced.PerFrameFunctionalGroupsSequence = []
    for k in order:
        group = item()
        group.PlanePositionSequence = [item(ImagePositionPatient=slices[k].ImagePositionPatient)]
        group.FrameContentSequence = [item(StackID="1", InStackPositionNumber=int(k) + 1)]
        enhanced.PerFrameFunctionalGroupsSequence.append(group)
    enhanced.PixelData = b"".join(slices[k].PixelData for k in order)
    enhanced.save_as(tmp_path / "enhanced.dcm", enforce_file_format=True)
    volume = DicomSeries([tmp_path / "enhanced.dcm"], "enhanced")
    classes = labelled(volume.shape)
    seg = dicom_seg(volume, classes, TWO, "run")
    for frame, pixels in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        slice_, _, _ = volume.grid.voxels_at([place])[0]
        segment = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert (pixels == (classes[slice_] == segment)).all()


@pytest.mark.parametrize("kind", ["dicom", "nifti", "microns"])
def test_slicers_segmentation_lies_where_the_labels_lie_with_a_named_segment_for_each_class(series, tmp_path, kind):
    slicerio = pytest.importorskip("slicerio")
    volume = read(series)
    if kind != "dicom":
        image = volume.to_nifti(np.zeros(volume.shape, np.uint8)).as_reoriented([[1, -1], [2, 1], [0, -1]])
        image = type(image)(image.get_fdata().astype(np.int16), image.affine * (1000 if kind == "microns" else 1))
        image.header.set_xyzt_units("micron" if kind == "microns" else "mm")
        image.to_filename(tmp_path / "other.nii")
        volume = NiftiVolume(tmp_path / "other.nii")
    classes = labelled(volume.shape)
    write_seg_nrrd(tmp_path / "ct.seg.nrrd", volume.to_nifti(classes), TWO)
    read_back = slicerio.read_segmentation(str(tmp_path / "ct.seg.nrrd"))
    assert slicerio.segment_names(read_back) == list(TWO)
    assert [one["labelValue"] for one in read_back["segments"]] == [1, 2]
    picture = itk.ReadImage(str(tmp_path / "ct.seg.nrrd"))
    found = itk.GetArrayFromImage(picture)
    assert (found > 0).sum() == (classes > 0).sum()
    places = np.argwhere(found)[::97]
    lps = [picture.TransformIndexToPhysicalPoint([int(x) for x in place[::-1]]) for place in places]
    assert [classes[tuple(voxel)] for voxel in volume.grid.voxels_at(lps)] == [found[tuple(place)] for place in places]
