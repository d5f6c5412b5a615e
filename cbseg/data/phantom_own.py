"""A phantom of people's own CT: NIfTI and DICOM, mixed and nested, with clicks of 3D Slicer and no masks to see."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cbseg.data.markups import MarkedPoint, write_markups
from cbseg.data.own import OwnCT, find_cts
from cbseg.data.phantom_files import drawn_volumes, write_nifti, write_series
from cbseg.points import is_infection, sample_points
from cbseg.seeds import derived_seed

HIDDEN = ".hidden"
"""Where the masks are, to score by what nobody was shown."""

_UNCLICKED = 4  # every fourth scan has no clicks


def write_own(root: Path, scans: int, seed: int, size: int) -> None:
    """Write CTs with clicks in every second slice; every fourth CT has none, and all masks are hidden."""
    for scan, hu, mask in drawn_volumes(scans, seed, size):
        if scan % 2:
            write_nifti(root / f"chest{scan}.nii.gz", hu, mirrored=scan % 4 == 1)
        else:
            write_series(root / f"patient{scan}" / "study" / "series2", hu, seed, scan)
        (root / HIDDEN).mkdir(exist_ok=True)
        np.save(root / HIDDEN / f"{'chest' if scan % 2 else 'patient'}{scan}.npy", (mask > 0).astype(np.uint8))
    write_clicks(root, every=2, unclicked=_UNCLICKED)


def write_clicks(root: Path, every: int, unclicked: int = _UNCLICKED) -> None:
    """Click in a phantom's scans, as somebody would who sees the masks; earlier clicks are replaced.

    Args:
        root: Holds what :func:`write_own` wrote.
        every: Every how many slices are clicked in: a point in each region and as many on the background, and one that
            says that a slice is healthy.
        unclicked: Every how many scans have no clicks.
    """
    for number, ct in enumerate(find_cts(root), 1):
        if number % unclicked:
            points = _clicks(ct, hidden_mask(root, ct), every)
            write_markups(ct.place.with_name(f"{ct.place.name}.mrk.json"), points)


def hidden_mask(root: str | Path, ct: OwnCT) -> NDArray[np.uint8]:
    """Read a phantom's mask, (slices, rows, columns) of 0 and 1, from the foot."""
    return np.load(Path(root) / HIDDEN / f"{ct.name}.npy")


def _clicks(ct: OwnCT, mask: NDArray[np.uint8], every: int) -> list[MarkedPoint]:
    grid, points = ct.open().grid, []
    for k in range(0, len(mask), every):
        if is_infection(mask[k]).any():
            clicked = sample_points(mask[k], seed=derived_seed(0, f"{ct.name} {k}"))
            voxels = [(k, row, column) for row, column in np.argwhere(clicked < 2)]
            names = ["infection" if mask[voxel] else "background" for voxel in voxels]
        else:
            voxels, names = [(k, mask.shape[1] // 2, mask.shape[2] // 2)], ["healthy"]
        positions = grid.positions_of(voxels).round(4).tolist()
        points += [MarkedPoint(name, (x, y, z), 2.0) for name, (x, y, z) in zip(names, positions, strict=True)]
    return points
