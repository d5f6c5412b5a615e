"""How much of a patient is infected: millilitres, and the share of each lung, which a severity report says."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from cbseg.data.dicom import DicomSeries
from cbseg.data.nifti import NiftiVolume, open_nifti_mask
from cbseg.errors import InputError
from cbseg.prediction.segmentation import Segmentation

log = logging.getLogger(__name__)

LUNGS = ("right", "left")  # labels 1 and 2, as lungmask gives them

_MOST_OUTSIDE = 0.2  # of the infection, as lung labels leave out dense parts
_MOST_OF_BODY = 0.25  # infection by tissue: white lungs of 3 l in a chest of 20 l are 0.15


class Lungs:
    """Labels of a CT's lungs: 1 is right, 2 left.

    Args:
        path: A NIfTI file.
        volume: The CT.

    Raises:
        InputError: If it cannot be read or lies on another grid than the CT.
    """

    def __init__(self, path: Path, volume: NiftiVolume | DicomSeries) -> None:
        self.path, self._labels = path, open_nifti_mask(path, volume)
        if self._labels.shape != volume.shape:
            raise InputError(
                f"{path}: has {' × '.join(map(str, self._labels.shape))} slices × rows × columns, {volume.name} "
                f"{' × '.join(map(str, volume.shape))}; give lung labels of this CT, on its own grid"
            )

    def measure(self, segmentation: Segmentation, voxel: float) -> dict[str, float]:
        """Measure the lungs, and how much of each is infected; warn where infection exceeds them.

        Args:
            segmentation: What was predicted for the CT.
            voxel: Its volume, ml.

        Returns:
            See :func:`measure`.

        Raises:
            InputError: If the labels cannot be read, or others than 0, 1 and 2 occur.
        """
        lungs, infected, columns = np.zeros(3), np.zeros(3), np.zeros(3)
        for k, classes in enumerate(segmentation.classes):
            labels = self._labels.slice(k).astype(np.int64)
            if labels.min() < 0 or labels.max() > len(LUNGS):
                raise InputError(
                    f"{self.path}, slice {k}: holds labels {labels.min()}…{labels.max()}; lungs are 1, right, and 2, "
                    "left (lungmask's model R231; not lobes)"
                )
            lungs += np.bincount(labels.ravel(), minlength=3)
            infected += np.bincount(labels[classes > 0], minlength=3)
            columns += np.bincount(labels.ravel(), np.tile(np.arange(labels.shape[1]), len(labels)), minlength=3)
        if not lungs[1:].all():
            raise InputError(f"{self.path}: lacks label 1 or 2; lungs are 1, right, and 2, left")
        if columns[1] / lungs[1] > columns[2] / lungs[2]:
            log.warning("%s: its label 1 lies to the patient's left; are right and left exchanged?", self.path)
        if infected[0] > _MOST_OUTSIDE * infected.sum():
            log.warning(
                "%s: %.0f %% of the infection lie outside of these lungs, and count for neither; look at the picture",
                self.path,
                100 * infected[0] / infected.sum(),
            )
        shares = 100 * infected / lungs
        return {
            "right_lung_ml": round(lungs[1] * voxel, 1),
            "left_lung_ml": round(lungs[2] * voxel, 1),
            "right_infected_percent": round(shares[1], 2),
            "left_infected_percent": round(shares[2], 2),
            "lungs_infected_percent": round(100 * infected[1:].sum() / lungs[1:].sum(), 2),
        }


NO_LUNGS = dict.fromkeys(
    ("right_lung_ml", "left_lung_ml", "right_infected_percent", "left_infected_percent", "lungs_infected_percent")
)


def measure(
    segmentation: Segmentation, classes: tuple[str, ...], volume: NiftiVolume | DicomSeries | None, lungs: Lungs | None
) -> dict[str, Any]:
    """Measure infection in millilitres, by class where there are several, and as a share of the lungs.

    Args:
        segmentation: What was predicted.
        classes: The names of the classes but background.
        volume: The CT; a picture has none.
        lungs: Labels of its lungs, if there are any.

    Returns:
        Cells of ``predictions.csv``; none where nothing is known.
    """
    names = [f"{name}_ml" for name in classes] if len(classes) > 1 else []
    if volume is None:
        return dict.fromkeys(["volume_ml", *names]) | NO_LUNGS
    voxel = float(np.prod(volume.spacing)) / 1000
    pixels = np.sum([np.bincount(one.ravel(), minlength=len(classes) + 1) for one in segmentation.classes], axis=0)
    infected = int(pixels[1:].sum())
    if infected > _MOST_OF_BODY * segmentation.body:
        log.warning(
            "%s: has %.2g times as much infection as tissue, implausibly much; does the run fit? Look at the picture",
            volume.name,
            infected / max(segmentation.body, 1),
        )
    by_class = {name: round(count * voxel, 3) for name, count in zip(names, pixels[1:], strict=False)}
    shares = NO_LUNGS if lungs is None else lungs.measure(segmentation, voxel)
    return {"volume_ml": round(infected * voxel, 3)} | by_class | shares
