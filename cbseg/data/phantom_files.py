"""A phantom's volumes: drawn, and written as CT series or NIfTI."""

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from cbseg.data.chest import Chest, scan_slice

WIDTH, HEIGHT = 350.0, 300.0  # of the drawn space, mm
_IMAGE_TYPE = ["DERIVED", "SECONDARY", "AXIAL"]


def draw_volume(seed: int, scan: int, slices: int, size: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Draw one chest as a scanner gives it, infected in about half of its height.

    Returns:
        HU and mask (1 ground glass, 2 consolidation), both (slices, size, size), from foot to head.
    """
    rng = np.random.default_rng([seed, scan])
    bottom = rng.uniform(0.15, 0.6)
    chest = Chest(int(rng.integers(2**32)), infected=(bottom, bottom + 0.22))
    planes = [chest.slice(z, size) for z in np.linspace(0.03, 0.97, slices)]
    noise = rng.uniform(15, 35)
    hu = np.stack([scan_slice(plane, rng, noise) for plane, _ in planes])
    return np.clip(hu, -1024, 3000).round().astype(np.int16), np.stack([mask for _, mask in planes])


def drawn_volumes(scans: int, seed: int, size: int) -> Iterator[tuple[int, NDArray[np.int16], NDArray[np.uint8]]]:
    """Draw chests one after the other: number, HU and mask of each; see :func:`draw_volume`."""
    for scan in range(1, scans + 1):
        yield scan, *draw_volume(seed, scan, slices=max(size // 5, 20) + scan % 4, size=size)


def write_series(folder: Path, hu: NDArray[np.int16], seed: int, scan: int) -> None:
    """Write a CT series; its slices are numbered from the head, as some scanners do.

    Args:
        folder: Is made.
        hu: From foot to head, (slices, rows, columns).
        seed: Decides the UIDs, together with the scan.
        scan: Its number.
    """
    folder.mkdir(parents=True)
    series = generate_uid(entropy_srcs=[str(seed), str(scan)])
    for k in range(len(hu)):
        number = len(hu) - k
        dataset = dicom_slice((hu[k] + 1024).astype(np.uint16), series, number, f"phantom-{seed}-{scan}")
        dataset.SOPClassUID, dataset.Modality, dataset.ImageType = CTImageStorage, "CT", _IMAGE_TYPE
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [-WIDTH / 2, -WIDTH / 2, round(k * HEIGHT / len(hu), 4)]
        dataset.SliceThickness = round(HEIGHT / len(hu), 4)
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = -1024, 1, "HU"
        dataset.save_as(folder / f"phantom{scan}s{number:04d}.dcm", enforce_file_format=True)


def dicom_slice(stored: NDArray[np.uint16], series: str, number: int, patient: str) -> pydicom.Dataset:
    """Make what the slices of both have in common: UIDs, spacing and 12-bit values."""
    rows, columns = stored.shape
    dataset = pydicom.Dataset()
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[series, str(number)])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[series, "study"])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[series, "frame"])
    dataset.SeriesInstanceUID = series
    dataset.PatientName = dataset.PatientID = patient
    dataset.SeriesNumber, dataset.InstanceNumber = 1, number
    dataset.PixelSpacing = [WIDTH / rows, WIDTH / columns]
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth = -500, 1500
    dataset.PixelData = stored.astype("<u2").tobytes()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def write_nifti(path: Path, volume: NDArray[np.int16] | NDArray[np.uint8], mirrored: bool) -> None:
    """Write a volume from foot to head, stored as LPS or, mirrored, as RAS."""
    path.parent.mkdir(exist_ok=True)
    slices, rows, columns = volume.shape
    spacing = (WIDTH / columns, WIDTH / rows, HEIGHT / slices)
    stored, direction = volume.T, -1
    if mirrored:
        stored, direction = stored[::-1, ::-1], 1
    affine = np.diag([direction * spacing[0], direction * spacing[1], spacing[2], 1.0])
    affine[:2, 3] = -direction * WIDTH / 2
    nib.save(nib.Nifti1Image(np.ascontiguousarray(stored), affine), path)
