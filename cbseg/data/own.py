"""People's own CT: a folder of NIfTI files and DICOM series as they lie there, with clicks and masks beside them."""

import difflib
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cbseg.data.annotation import Annotation, ClassNames
from cbseg.data.dicom import DicomSeries, dicom_files
from cbseg.data.dicom_series import axial_ct, find_series, is_ct, series_names
from cbseg.data.inputs import is_dicom_file, open_volume
from cbseg.data.markups import SUFFIX
from cbseg.data.nifti import SUFFIXES, NiftiVolume, is_nifti
from cbseg.data.volume_scan import VolumeScan, with_reading
from cbseg.errors import InputError
from cbseg.points import IGNORE

log = logging.getLogger(__name__)

CLASSES: Mapping[str, int | str] = {"infection": 1, "background": 0, "healthy": "all"}
_MAPS = (*SUFFIXES, ".seg.nrrd")
_CLICKS, _MASKS = (tuple(f".{kind}{suffix}" for suffix in _MAPS) for kind in ("clicks", "mask"))
_NOT_TAKEN = {
    ".fcsv": "points in Slicer's former format; save the list as <scan>.mrk.json",
    ".seg.nrrd": "neither clicks nor a mask by its name; call it <scan>.clicks.seg.nrrd or <scan>.mask.seg.nrrd",
    ".nrrd": "a volume in NRRD, which is not read; save it as NIfTI (.nii.gz)",
}


class OwnCT(NamedTuple):
    """One CT of a folder.

    Attributes:
        place: Its path without suffix, of a series of a study that of its subfolder or number: what belongs to it lies
            at ``<place>.mrk.json`` and so on.
        name: Unique in the folder: the place below it, ``-`` for ``/``.
        path: The NIfTI file, or the folder with its DICOM files.
        files: All of its files.
    """

    place: Path
    name: str
    path: Path
    files: tuple[Path, ...]

    def open(self) -> NiftiVolume | DicomSeries:
        """Open the volume.

        Raises:
            InputError: If it cannot be read, or is a series on no even grid, on which nothing has one place.
        """
        volume = open_volume(self.path, self.files)
        if isinstance(volume, DicomSeries):
            volume.require_grid()
        return volume


def find_cts(root: str | Path) -> list[OwnCT]:
    """Find all CT volumes below a folder, annotated or not.

    Each NIfTI file that is no annotation is one; so is each axial CT series below each of the folder's entries.

    Raises:
        InputError: If the folder cannot be read, a DICOM file is damaged, or two CTs would have one name.
    """
    root = Path(root)
    volumes: list[tuple[Path, Path, tuple[Path, ...]]] = []
    studies: dict[Path, list[Path]] = defaultdict(list)
    for path in dicom_files(root):
        inside = path.relative_to(root)
        if _is_annotation(path):
            continue
        if is_nifti(path):
            volumes.append((_stem(inside, SUFFIXES), path, (path,)))
        else:
            studies[root / inside.parts[0] if len(inside.parts) > 1 else root].append(path)
    for study, files in studies.items():
        if any(map(is_dicom_file, files)):
            volumes += [
                (place.relative_to(root), study, found) for place, found in _series(study, files, study == root)
            ]
    cts = [OwnCT(root / place, "-".join(place.parts), path, files) for place, path, files in sorted(volumes)]
    name, count = Counter(ct.name for ct in cts).most_common(1)[0] if cts else ("", 0)
    if count > 1:
        first, second = [ct.path for ct in cts if ct.name == name][:2]
        raise InputError(f"{first} and {second}: two scans that would both be called {name}; rename one of them")
    return cts


def _series(study: Path, files: list[Path], is_root: bool) -> list[tuple[Path, tuple[Path, ...]]]:
    """Return the place and the files of each CT series of a study."""
    found = list(find_series(files).values())
    if not any(map(is_ct, found)):
        log.warning("%s: holds no CT series, left out", study)
        return []
    series = axial_ct(found, str(study))
    places = [study / name for name in series_names(series, study)]
    if len(series) == 1:
        places = [study / study.resolve().name if is_root else study]
    return [
        (place, tuple(dict.fromkeys(one.path for one in slices))) for place, slices in zip(places, series, strict=True)
    ]


def find_scans(
    root: str | Path, window: Sequence[float] = (-1250, 250), classes: Mapping[str, int | str] | None = None
) -> list[VolumeScan]:
    """Find the annotated scans below a folder; those with neither clicks nor a mask are counted, and left out.

    Beside a scan lie, all optional: ``<scan>.mrk.json`` and ``<scan>.<any>.mrk.json``, points of 3D Slicer;
    ``<scan>.clicks.nii.gz`` and ``<scan>.clicks.seg.nrrd``, labelled voxels, where 0 is what nobody looked at; and
    ``<scan>.mask.nii.gz`` and ``<scan>.mask.seg.nrrd``, a whole mask. Reads names and headers only.

    Args:
        root: Holds CTs in any form; see :func:`find_cts`.
        window: The HU that become grey values 0 and 255.
        classes: What a point's or a segment's name means; see :class:`cbseg.data.annotation.ClassNames`.

    Returns:
        The scans by name; the subset of those with clicks is ``train``, that of those with a mask ``test``.

    Raises:
        InputError: As :func:`find_cts`; also if a file belongs to no scan, or no scan has clicks.
    """
    root, names = Path(root), ClassNames(CLASSES if classes is None else classes)
    cts = find_cts(root)
    if not cts:
        raise InputError(f"{root}: holds no CT; put NIfTI files or folders with CT series there")
    annotations = find_annotations(root, cts)
    scans, bare = [], []
    for ct in cts:
        found = annotations[ct]
        masks = [path for path in found if path.name.lower().endswith(_MASKS)]
        if not found:
            bare.append(ct.name)
        elif masks and len(masks) < len(found):
            log.warning("%s: has a mask, so its clicks take no part; to train on them, take the mask away", ct.place)
        if len(masks) > 1:
            raise InputError(f"{masks[1]}: {masks[0].name} is there too; keep one mask of a scan")
        if found:
            scans.append(_scan(ct, masks or found, names, whole=bool(masks)))
    if bare:
        log.warning(
            "%s: %d of %d scans have neither clicks nor a mask, and take no part: %s",
            root, len(bare), len(cts), ", ".join(bare),
        )  # fmt: skip
    if not any(scan.subset == "train" for scan in scans):
        raise InputError(
            f"{root}: no scan has clicks to train on; of {len(cts)} scans, such as {cts[0].name}, {len(scans)} have a "
            f"mask. Save points as {cts[0].place.name}{SUFFIX} beside the scan"
        )
    return with_reading(scans, window, "window", "raw", None)


def _scan(ct: OwnCT, files: list[Path], names: ClassNames, whole: bool) -> VolumeScan:
    return VolumeScan(
        ct.name,
        (*ct.files, *files),
        ct.open,
        partial(Annotation, files, names, whole),
        {IGNORE: IGNORE} | {k: k for k in range(1, names.foreground + 1)},
        subset="test" if whole else "train",
        naming=repr(names),
    )


def find_annotations(root: Path, cts: list[OwnCT]) -> dict[OwnCT, list[Path]]:
    """Find the annotation files of each CT below a folder.

    Raises:
        InputError: If one belongs to no CT.
    """
    by_place = {ct.place: ct for ct in cts}
    found: dict[OwnCT, list[Path]] = {ct: [] for ct in cts}
    for path in filter(_is_annotation, dicom_files(root)):
        suffix = next((end for end in (*_CLICKS, *_MASKS, SUFFIX) if path.name.lower().endswith(end)), None)
        if suffix is None:
            end = next(end for end in _NOT_TAKEN if path.name.lower().endswith(end))
            raise InputError(f"{path}: is {_NOT_TAKEN[end]}")
        stem = path.name[: -len(suffix)]
        stems = [stem] if suffix != SUFFIX else [stem[:k] for k in range(len(stem), 0, -1) if stem[k:][:1] in ("", ".")]
        ct = next((by_place[path.with_name(name)] for name in stems if path.with_name(name) in by_place), None)
        if ct is None:
            close = difflib.get_close_matches(str(path.with_name(stem)), map(str, by_place), 1, cutoff=0)
            raise InputError(
                f"{path}: belongs to no scan; {Path(close[0]).name if close else 'none'} would have "
                f"{close[0] if close else root / '<scan>'}{suffix}: rename the file, or add its scan"
            )
        found[ct].append(path)
    return found


def _is_annotation(path: Path) -> bool:
    return path.name.lower().endswith((*_CLICKS, *_MASKS, SUFFIX, *_NOT_TAKEN))


def _stem(path: Path, suffixes: Sequence[str]) -> Path:
    """Return a path without the longest of some suffixes that it has."""
    suffix = max((end for end in suffixes if path.name.lower().endswith(end)), key=len)
    return path.with_name(path.name[: -len(suffix)])
