"""NIfTI volumes, whatever way they are stored."""

import gzip
import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from cbseg.data.grid import Grid
from cbseg.data.reading import reading, require_room
from cbseg.data.volumes import Volume, padding_to_air, require_numbers
from cbseg.errors import InputError

log = logging.getLogger(__name__)

SUFFIXES = (".nii", ".nii.gz")
_SAME_PLACE = 0.1  # of the voxel's shortest side, at any corner
_DISAGREEMENT = 0.1  # mm, of sform and qform, in any entry
_UNITS = {1: ("meter", 1000.0), 2: ("mm", 1.0), 3: ("micron", 0.001)}  # a header's code of length: its name, and mm
_LONGEST_HEADER = 540  # bytes, of NIfTI-2
_PIECE = 2**24  # bytes, that are unpacked at a time
_MOST_DEFLATED = 1032  # bytes that one byte of a .gz file can hold


class _Header1(nib.Nifti1Header):
    """Takes a quaternion that rounding made a little too long, as other readers do."""

    quaternion_threshold: Any = -1e-4


class _Header2(nib.Nifti2Header):
    quaternion_threshold: Any = -1e-4


class _Image1(nib.Nifti1Image):
    header_class = _Header1


class _Image2(nib.Nifti2Image):
    header_class = _Header2


class NiftiVolume:
    """A NIfTI file as axial slices; see :class:`cbseg.data.volumes.Volume`.

    The header is read at once. An uncompressed file is read slice by slice; a compressed one is unpacked at the first
    slice, in its stored type. Axes of length 1 beyond the third are left out.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file.

    Raises:
        InputError: If the file is missing, is no NIfTI, claims more than it can hold, has not three dimensions of
            numbers, or is oblique.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        if not path.exists():
            raise InputError(f"{path}: no such file")
        with reading(path, "not a readable NIfTI file", "download or export it again"):
            self._compressed = _is_zipped(path)
            self.image = _load(path, self._compressed)
            kind = self.image.get_data_dtype().kind
        shape: tuple[int, ...] = self.image.shape
        if len(shape) < 3 or max(shape[3:], default=1) > 1 or min(shape) < 1:
            raise InputError(
                f"{path}: has {len(shape)} dimensions {shape}, a CT volume has three; save one volume a file"
            )
        if kind not in "iuf":
            raise InputError(f"{path}: holds {kind} values, colours or complex numbers; save the CT's own values")
        self._require_room(shape)
        _, millimetres = self._unit
        self.grid = Grid(np.diag([*[millimetres] * 3, 1.0]) @ self.image.affine, shape[:3], self.name)
        self.orientation, self.shape, self.spacing = self.grid.orientation, self.grid.shape, self.grid.spacing
        self._warn_of_codes()

    def _require_room(self, shape: tuple[int, ...]) -> None:
        voxels, bytes_each = int(np.prod(shape, dtype=object)), self.image.get_data_dtype().itemsize
        require_room(self.path, voxels, bytes_each)
        with reading(self.path):
            holds = self.path.stat().st_size * (_MOST_DEFLATED if self._compressed else 1)
        if voxels * bytes_each > holds:
            raise InputError(
                f"{self.path}: ends early or is damaged (its header claims {voxels * bytes_each} bytes, it can hold "
                f"{holds} at most); download or copy it again"
            )

    def _warn_of_codes(self) -> None:
        header = self.image.header
        sform = int(header["sform_code"])
        if not (sform or header["qform_code"]):
            log.warning(
                "%s: its header does not say how it lies (sform_code and qform_code are 0), so it is read as %s; "
                "where that is wrong its slices lie upside down: set sform or qform",
                self.path,
                self.orientation,
            )
        other = _qform(self.image)
        if sform and other is not None and np.abs(other - self.image.affine).max() > _DISAGREEMENT:
            log.warning(
                "%s: its sform and its qform place it differently; the sform is taken, other programs may take the "
                "qform, and would show it elsewhere or mirrored: make both alike",
                self.path,
            )

    @property
    def _unit(self) -> tuple[str, float]:
        """The header's unit of length, and how many mm it is; without a known one it is taken for mm."""
        return _UNITS.get(int(self.image.header["xyzt_units"]) & 7, ("unknown", 1.0))

    @cached_property
    def _stored(self) -> Any:
        """Stored values, not yet scaled: lazy for an uncompressed file, in memory for a compressed one."""
        proxy = self.image.dataobj
        if self._compressed:
            return self._unpacked()
        return np.memmap(self.path, proxy.dtype, "r", proxy.offset, proxy.shape, order="F")

    def _unpacked(self) -> NDArray[Any]:
        """Unpack a compressed file's values, piece by piece: nibabel would hold them twice for a moment.

        Raises:
            EOFError: If the file ends early.
        """
        proxy = self.image.dataobj
        stored = np.empty(proxy.shape, proxy.dtype, order="F")
        content = memoryview(stored.reshape(-1, order="F").view(np.uint8))  # type: ignore[arg-type]
        with gzip.open(self.path) as file:
            file.seek(proxy.offset)
            for start in range(0, len(content), _PIECE):
                piece = content[start : start + _PIECE]
                if file.readinto(piece) != len(piece):
                    raise EOFError("its values are cut off")
        return stored

    def slice(self, k: int) -> NDArray[np.floating]:
        """Read slice ``k`` from the foot, (H, W) float32; row 0 is anterior, column 0 the patient's right.

        Raises:
            InputError: If the file ends early or is damaged, or the slice holds NaN.
        """
        where: list[Any] = [slice(None)] * 3 + [0] * (len(self.image.shape) - 3)
        axis, index = self.grid.stored_slice(k)
        where[axis] = index
        with reading(self.path, "ends early or is damaged", "download or copy it again"):
            values = np.asarray(self._stored[tuple(where)], np.float32)
        values = values * np.float32(self.image.dataobj.slope) + np.float32(self.image.dataobj.inter)
        values = self.grid.to_canonical(values)
        require_numbers(values, f"{self.path}, slice {k}")
        return padding_to_air(values)

    def to_nifti(self, labels: NDArray[np.uint8]) -> nib.Nifti1Image:
        """Make an image of its slices' labels on the file's own grid; of its header only the geometry.

        Shape:
            - labels: :math:`(S, H, W)`, as :meth:`slice` gives slices; output: the file's shape.
        """
        header = self.image.header
        image = nib.Nifti1Image(self.grid.to_stored(labels), None)
        image.header["pixdim"][1:4] = header["pixdim"][1:4]
        image.header.set_xyzt_units(self._unit[0])
        sform, qform = int(header["sform_code"]), _qform(self.image)
        image.set_qform(qform, 0 if qform is None else int(header["qform_code"]))
        image.set_sform(self.image.affine if sform else None, sform)
        return image


def _is_zipped(path: Path) -> bool:
    """Tell whether a file is compressed by its content, as names lie."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _load(path: Path, zipped: bool) -> Any:
    """Read the header of a single NIfTI-1 or NIfTI-2 file, in which no other of nibabel's formats is looked for."""
    with gzip.open(path) if zipped else path.open("rb") as file:
        beginning = file.read(_LONGEST_HEADER)
        for kind in (_Image1, _Image2):
            if kind.header_class.may_contain_header(beginning):
                file.seek(0)
                return kind.from_file_map({"image": nib.FileHolder(fileobj=file)})
    raise ValueError("its header is not that of a NIfTI file")


def _qform(image: Any) -> NDArray[np.float64] | None:
    """Return the affine that an image's qform gives, or none where it has none or it is malformed."""
    try:
        return image.header.get_qform() if image.header["qform_code"] else None
    except ValueError:
        return None


def nifti_files(folder: Path) -> list[Path]:
    """Find the NIfTI files in a folder, compressed or not, sorted by name, but hidden ones, such as macOS's.

    Raises:
        InputError: If there is none, or the folder cannot be read.
    """
    with reading(folder, advice="check the folder and its permissions"):
        found = sorted(path for path in folder.iterdir() if is_nifti(path))
    if not found:
        raise InputError(f"{folder}: holds no NIfTI files; put the dataset's there")
    return found


def is_nifti(path: Path) -> bool:
    """Tell whether a file's name is that of a NIfTI file.

    >>> is_nifti(Path("CT.NII.GZ")), is_nifti(Path("._ct.nii"))
    (True, False)
    """
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def open_nifti_mask(path: Path, image: Volume) -> NiftiVolume:
    """Open a NIfTI mask of an image.

    Raises:
        InputError: If the mask cannot be read, or lies elsewhere in space than its image, where that has a grid.
    """
    mask = NiftiVolume(path)
    grid: Grid | None = getattr(image, "grid", None)
    apart = mask.grid.distance_to(grid) if grid is not None and mask.shape == image.shape else 0.0
    if grid is not None and apart > _SAME_PLACE * min(grid.spacing):
        raise InputError(
            f"{path}: lies elsewhere than its image {Path(image.name).name} (voxels are up to {apart:.3g} mm "
            "apart); resample the mask to the image, or correct its header"
        )
    return mask
