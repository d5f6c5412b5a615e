"""Segment new CT with a trained run: ``python -m cbseg.predict <run's folder> <CT> … --out <folder>``.

A CT is a NIfTI file, a folder with one DICOM series, or an 8-bit picture of an axial slice; see
:func:`cbseg.data.inputs.list_cts`. Labels of a volume are written as NIfTI that lies where the volume lies, and holds
nothing else of it, those of a picture as PNG; ``predictions.csv`` has a row for each.
"""

import argparse
import contextlib
import csv
import io
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from PIL import Image
from rich.progress import track

from cbseg.data.dicom import DicomSeries
from cbseg.data.inputs import CT, each_series, list_cts, open_volume
from cbseg.data.nifti import NiftiVolume
from cbseg.data.preprocess import height_and_width, normalise, resized
from cbseg.data.scans import is_picture, read_grey
from cbseg.data.volumes import Volume, grey_window, window_to_uint8
from cbseg.errors import InputError
from cbseg.hardware import keep_freed_memory
from cbseg.models.weights import damage_refused
from cbseg.module import predict_mask
from cbseg.parts import build_network
from cbseg.points import count_regions
from cbseg.run_folder import RunFolder

log = logging.getLogger(__name__)

SUMMARY = "predictions.csv"

Labels = NDArray[np.uint8]


class Predictor:
    """A run's network with the weights of its best epoch, in single precision, on a GPU if there is one.

    Args:
        run: The run's folder.

    Raises:
        InputError: If it holds no readable weights, or was trained on slices that were read in its dataset's own way.
    """

    def __init__(self, run: Path) -> None:
        folder = RunFolder(run)
        if not folder.best.is_file() or not folder.config.is_file():
            raise InputError(
                f"{run}: holds no {folder.best.name} or no {folder.config.name}; give a run's folder, "
                "runs/<data>/<loss>/seed<k>"
            )
        if not folder.metrics.is_file():
            log.warning("%s: is not finished; its best weights so far are taken", run)
        self.run = run
        config: Any = OmegaConf.load(folder.config)
        reading = config.data.find_scans
        for key, usual in (("intensity", "window"), ("crop", None)):
            if reading.get(key, usual) != usual:
                raise InputError(
                    f"{run}: was trained with data.find_scans.{key}={reading[key]}, which fits its dataset alone; "
                    "give a run of protocol=paper"
                )
        self.window: tuple[float, float] | None = tuple(reading.window) if "window" in reading else None
        self.size = height_and_width(config.data.image_size)
        self.batch_size: int = config.data.batch_size
        self.num_classes: int = config.model.num_classes
        if "weights" in config.model:
            config.model.weights = "none"
        self.net = build_network(config).eval()
        with damage_refused(folder.best, "Run it again with rerun=true"):
            state = torch.load(folder.best, map_location="cpu", weights_only=True)["state_dict"]
            self.net.load_state_dict({k.removeprefix("net."): x for k, x in state.items() if k.startswith("net.")})
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.net.to(self.device)

    @torch.inference_mode()
    def slices(self, count: int, grey: Callable[[int], Labels]) -> Labels:
        """Segment some slices of one size.

        Args:
            count: How many.
            grey: Gives slice ``k``, (H, W) uint8.

        Returns:
            (count, H, W) uint8.
        """
        classes: list[Labels] = []
        starts = range(0, count, self.batch_size)
        for start in track(starts, "segmenting", transient=True, disable=not sys.stdout.isatty()):
            images = [grey(k) for k in range(start, min(start + self.batch_size, count))]
            batch = torch.from_numpy(np.stack([resized(image, self.size) for image in images]))
            for logits, image in zip(self.net(normalise(batch.to(self.device))), images, strict=True):
                classes.append(predict_mask(logits, image.shape).to(torch.uint8).cpu().numpy())
        return np.stack(classes)

    def volume(self, volume: Volume) -> Labels:
        """Segment a volume's slices from foot to head: classes, (S, H, W) uint8.

        Raises:
            InputError: If a slice cannot be read, or the run was trained on pictures.
        """
        if self.window is None:
            raise InputError(
                f"{volume.name}: is a volume, but {self.run} has no data.find_scans.window, so it was trained on "
                "pictures (COVID-19-A's are cropped to the lungs and turned); give pictures like those, or a run of "
                "data=covidB_… or covidC_…"
            )
        window = grey_window(volume, "window", self.window)
        return self.slices(volume.shape[0], lambda k: window_to_uint8(volume.slice(k), window))


def predict(predictor: Predictor, ct: CT, out: Path) -> dict[str, Any]:
    """Segment one CT, and write its labels and its row of ``predictions.csv``.

    Args:
        predictor: The network.
        ct: A NIfTI file, a DICOM file or a series' folder, or a picture.
        out: The folder for the labels; it exists.

    Returns:
        The row: ``regions`` are 8-connected components, counted slice by slice; ``volume_ml`` is that of the infection.

    Raises:
        InputError: If the CT cannot be read, its labels are there already, or they cannot be written. None are then.
    """
    written = out / ct.labels
    if written.exists():
        raise InputError(f"{written}: is there already; move it, give another folder with --out, or rename the CT")
    millilitres: float | None = None
    if is_picture(ct.path):
        grey = read_grey(ct.path)
        labels = predictor.slices(1, lambda k: grey)
        write: Callable[[Path], Any] = Image.fromarray(labels[0] * (255 // (predictor.num_classes - 1))).save
    else:
        volume = _open(ct.path, ct.files)
        labels = predictor.volume(volume)
        write = volume.to_nifti(labels).to_filename
        millilitres = round(np.count_nonzero(labels) * float(np.prod(volume.spacing)) / 1000, 3)
    row = {
        "ct": str(ct.path),
        "labels": str(written),
        "slices": len(labels),
        "infected_slices": np.count_nonzero(labels.any((1, 2))),
        "regions": sum(map(count_regions, labels)),
        "infected_pixels": np.count_nonzero(labels),
        "volume_ml": millilitres,
        "run": str(predictor.run),
    }
    part = written.with_name(f".part-{written.name}")
    try:
        written.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        _append(out / SUMMARY, row)
        part.replace(written)
    except OSError as error:
        raise InputError(f"{out}: {ct.labels} or {SUMMARY} cannot be written ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return row


def _open(path: Path, files: Sequence[Path] = ()) -> NiftiVolume | DicomSeries:
    """Open a volume on whose grid labels can be written."""
    volume = open_volume(path, files)
    if isinstance(volume, DicomSeries):
        volume.require_grid()
    return volume


def _append(table: Path, row: dict[str, Any]) -> None:
    """Add a row to a CSV file, in which no name is one that a spreadsheet would execute."""
    with table.open("a", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, list(row), quoting=csv.QUOTE_NONNUMERIC)
        if not file.tell():
            writer.writeheader()
        writer.writerow({key: _harmless(value) if isinstance(value, str) else value for key, value in row.items()})


def _harmless(text: str) -> str:
    """Make text of what a spreadsheet would take for a formula.

    >>> _harmless("=cmd|' /C calc'!A0"), _harmless("ct/1.nii.gz")
    ("'=cmd|' /C calc'!A0", 'ct/1.nii.gz')
    """
    return f"'{text}" if text.lstrip()[:1] in tuple("=+-@") or text[:1] in tuple("\t\r\n") else text


def main() -> None:
    """Run the command line; a CT that cannot be segmented is named, the others are, and the exit code is 1."""
    parser = argparse.ArgumentParser(description="Segment new CT with a trained run. Not for diagnosis.")
    parser.add_argument("run", type=Path, help="the run's folder, runs/<data>/<loss>/seed<k>")
    parser.add_argument(
        "ct",
        type=Path,
        nargs="+",
        help="NIfTI or DICOM files, pictures, folders with a DICOM series each, or folders of NIfTI files or pictures",
    )
    parser.add_argument("--out", type=Path, default=Path("predictions"), help="where labels go (default: predictions)")
    arguments = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names are bytes, and not always UTF-8
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    keep_freed_memory()
    try:
        predictor = Predictor(arguments.run)
        arguments.out.mkdir(parents=True, exist_ok=True)
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {arguments.out}: cannot be made ({error.strerror}); give another folder with --out")
    count = failed = 0
    for ct in list_cts(arguments.ct):
        try:
            series = each_series(ct)
        except Exception as error:  # whatever it is, it is this CT's, and the others go on
            count, failed = count + 1, failed + 1
            _report(ct, error)
            continue
        for one in series:
            count += 1
            try:
                row = predict(predictor, one, arguments.out)
            except Exception as error:
                failed += 1
                _report(one, error)
                continue
            volume = "" if row["volume_ml"] is None else f", {row['volume_ml']:.1f} ml"
            print(
                f"{row['labels']}: infection in {row['infected_slices']} of {row['slices']} slices, "
                f"{row['regions']} regions{volume}",
                flush=True,
            )
    sys.exit(f"{failed} of {count} could not be segmented" if failed else 0)


def _report(ct: CT, error: Exception) -> None:
    """Print why a CT could not be segmented."""
    message = str(error) if isinstance(error, InputError) else f"{ct.path}: {type(error).__name__}: {error}"
    print(f"error: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
