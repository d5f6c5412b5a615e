"""Seeded phantom datasets for demos and tests: what cannot be downloaded everywhere can be drawn.

``python -m cbseg.data.phantom covidA <folder>`` writes drawn chests (``chest.py``) in one dataset's layout.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import NuclearMedicineImageStorage, generate_uid

from cbseg.data import covid_b, covid_c
from cbseg.data.chest import Chest, scan_slice
from cbseg.data.covid_a import FOLDERS
from cbseg.data.phantom_files import HEIGHT, dicom_slice, drawn_volumes, write_nifti, write_series
from cbseg.data.phantom_own import write_own
from cbseg.data.volumes import window_to_uint8
from cbseg.errors import InputError, check_choice

_MARKER = "phantom.json"
_VERSION = 2  # raise it when the same arguments draw something else


def _write_covid_a(root: Path, scans: int, seed: int, size: int) -> None:
    """Write COVID-19-A's layout: half train, half test; as published, cropped to the lungs, on their side, in JPEG."""
    for k in range(scans):
        rng = np.random.default_rng([seed, k])
        chest = Chest(int(rng.integers(2**32)))
        while True:
            hu, mask = chest.slice(rng.uniform(0.15, 0.9), int(size * rng.uniform(0.9, 1.15)))
            if (mask > 0).mean() > 0.006:
                break
        hu = scan_slice(hu, rng, rng.uniform(15, 40))
        low, high = rng.uniform(-1100, -950), rng.uniform(50, 500)  # published with windows that differ
        grey = np.clip((hu - low) / (high - low), 0, 1) * 255
        rows, columns = (np.flatnonzero((hu > -300).any(axis)) for axis in (1, 0))
        top, left = (int(0.1 * len(side)) for side in (rows, columns))
        crop = np.s_[rows[0] + top : rows[-1] - top, columns[0] + left // 2 : columns[-1] - left // 2]
        folder = root / "Dataset" / FOLDERS["train" if k < (scans + 1) // 2 else "test"]
        for name, picture, suffix in (("Imgs", grey, "jpg"), ("GT", (mask > 0) * 255, "png")):
            (folder / name).mkdir(parents=True, exist_ok=True)
            lying = np.ascontiguousarray(np.rot90(picture[crop]).round().astype(np.uint8))
            Image.fromarray(lying).save(folder / name / f"{k}.{suffix}", quality=92)


def _write_covid_b_hu(root: Path, scans: int, seed: int, size: int) -> None:
    """Write COVID-19-B's layout with real CT series."""
    for scan, hu, mask in drawn_volumes(scans, seed, size):
        write_series(root / covid_b.DICOM / f"DCM{scan}", hu, seed, scan)
        for k in range(len(hu)):
            _write_png_mask(root, scan, len(hu) - k, mask[k])


def _write_covid_b_exported(root: Path, scans: int, seed: int, size: int) -> None:
    """Write COVID-19-B as the authors had it: slices numbered from the foot, without a place, 8-bit grey on 12 bits."""
    for scan, hu, mask in drawn_volumes(scans, seed, size):
        folder = root / covid_b.DICOM / f"DCM{scan}"
        folder.mkdir(parents=True)
        for k in range(len(hu)):
            grey = window_to_uint8(hu[k].astype(np.float32), (-1250, 250))
            series = generate_uid(entropy_srcs=[str(seed), str(scan), str(k // 15)])  # several a scan
            stored = (grey.astype(np.float64) * (4095 / 255)).round().astype(np.uint16)
            dataset = dicom_slice(stored, series, k + 1, "Unknown")
            dataset.SOPClassUID, dataset.Modality = NuclearMedicineImageStorage, "NM"
            dataset.NumberOfFrames, dataset.Manufacturer = 1, "(X)MedCon"
            dataset.SliceThickness = dataset.SpacingBetweenSlices = round(HEIGHT / len(hu), 4)
            dataset.RescaleIntercept, dataset.RescaleSlope = 0, 1
            dataset.save_as(folder / f"m{scan:03d}-s{k + 1:04d}-{scan}.dcm", enforce_file_format=True)
            _write_png_mask(root, scan, k + 1, mask[k])


def _write_png_mask(root: Path, scan: int, number: int, mask: NDArray[np.uint8]) -> None:
    """Write a mask as the authors have it: scaled by its own highest label, mirrored and turned."""
    (root / covid_b.PNG).mkdir(exist_ok=True)
    scaled = (mask.astype(int) * 255 // max(mask.max(), 1)).astype(np.uint8)
    stored = np.ascontiguousarray(np.fliplr(np.rot90(scaled, -1)))
    Image.fromarray(stored).save(root / covid_b.PNG / f"{scan}_z{number:03d}.png")


def _write_covid_b_nifti(root: Path, scans: int, seed: int, size: int) -> None:
    """Write MedSeg's layout of COVID-19-B."""
    for scan, hu, mask in drawn_volumes(scans, seed, size):
        write_nifti(root / covid_b.NIFTI / f"{scan}.nii.gz", hu, mirrored=scan % 2 == 0)
        write_nifti(root / covid_b.NIFTI_MASKS / f"{scan}.nii.gz", mask, mirrored=scan % 2 == 0)


def _write_covid_c(root: Path, scans: int, seed: int, size: int) -> None:
    """Write COVID-19-C's layout: half in HU, half in 0…255, with names that differ between image and mask."""
    for scan, hu, mask in drawn_volumes(scans, seed, size):
        half = (scans + 1) // 2
        if scan <= half:
            image_name, mask_name = f"coronacases_org_{scan:03d}", f"coronacases_{scan:03d}"
            image: NDArray[np.int16] | NDArray[np.uint8] = hu
        else:
            number = f"{scan - half}_{85000 + scan}_{scan % 2}"
            image_name, mask_name = f"radiopaedia_org_covid-19-pneumonia-{number}-dcm", f"radiopaedia_{number}"
            image = window_to_uint8(hu.astype(np.float32), (-1250, 250))
        write_nifti(root / covid_c.IMAGES / f"{image_name}.nii.gz", image, mirrored=scan % 2 == 0)
        write_nifti(root / covid_c.MASKS / f"{mask_name}.nii.gz", (mask > 0).astype(np.uint8), mirrored=scan % 2 == 0)


class Layout(NamedTuple):
    """How a dataset is written, and what is drawn where the caller does not say: enough for its splits."""

    write: Callable[[Path, int, int, int], None]
    scans: int
    size: int


LAYOUTS = {
    "covidA": Layout(_write_covid_a, 64, 400),
    "covidB": Layout(_write_covid_b_hu, 9, 128),
    "covidB_authors": Layout(_write_covid_b_exported, 9, 128),
    "covidB_nifti": Layout(_write_covid_b_nifti, 9, 128),
    "covidC": Layout(_write_covid_c, 20, 128),
    "own": Layout(write_own, 8, 128),
}


def generate(root: str | Path, layout: str, scans: int | None = None, seed: int = 0, size: int | None = None) -> None:
    """Write a phantom dataset, whole or not at all; do nothing if it is there already.

    Args:
        root: The dataset's folder. A phantom there that was drawn otherwise is replaced.
        layout: Whose files to write: ``covidA``; ``covidB``, its layout with CT series in HU; ``covidB_authors``, with
            grey values as the authors exported them; ``covidB_nifti``, MedSeg's layout; ``covidC``; or ``own``, NIfTI
            and DICOM with clicks beside them and masks in ``.hidden``.
        scans: How many chests; by default 64 for COVID-19-A, 9 for B, 20 for C and 8 of one's own.
        seed: Decides them all.
        size: Width of a slice, pixels; by default 400 for COVID-19-A, where it varies, and 128 for volumes.

    Raises:
        InputError: If the layout does not exist, or ``root`` holds something that is no phantom.
    """
    check_choice("layout", layout, list(LAYOUTS))
    root = Path(root)
    write, usual_scans, usual_size = LAYOUTS[layout]
    scans, size = scans or usual_scans, size or usual_size
    drawn = {"version": _VERSION, "layout": layout, "scans": scans, "seed": seed, "size": size}
    marker = root / _MARKER
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{root}.lock"):
            if marker.is_file() and json.loads(marker.read_text()) == drawn:
                return
            if root.exists() and not marker.is_file():
                raise InputError(
                    f"{root}: exists and is no phantom; choose another folder for the phantom (data.root=<folder>)"
                )
            part, old = (root.with_name(f"{root.name}.{suffix}") for suffix in ("part", "old"))
            for left_behind in (part, old):
                shutil.rmtree(left_behind, ignore_errors=True)
            part.mkdir()
            write(part, scans, seed, size)
            (part / _MARKER).write_text(json.dumps(drawn))
            if root.exists():
                root.rename(old)
            part.rename(root)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{root}: cannot be written ({error}); free some space or choose another folder") from error


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write a phantom dataset.")
    parser.add_argument("layout", choices=list(LAYOUTS))
    parser.add_argument("root", type=Path)
    parser.add_argument("--scans", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int)
    arguments = parser.parse_args()
    try:
        generate(**vars(arguments))
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
