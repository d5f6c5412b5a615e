"""Segment new CT with a trained run: ``python -m cbseg.predict <run's folder> <CT> … --out <folder>``.

A CT is a NIfTI file, a folder with one DICOM series or more, or an 8-bit picture of an axial slice; see
:func:`cbseg.data.inputs.list_cts`. Labels of a volume are written as NIfTI that lies where the volume lies, and holds
nothing else of it, those of a picture as PNG; beside them a picture to look at, and what else was asked for.
``predictions.csv`` has a row for each CT.
"""

import argparse
import importlib.util
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from cbseg.console import prepare_console
from cbseg.data.dicom import DicomSeries
from cbseg.data.inputs import CT, each_series, list_cts, open_volume
from cbseg.data.scans import is_picture, read_grey
from cbseg.errors import InputError
from cbseg.hardware import device_name, keep_freed_memory
from cbseg.prediction.files import Wishes, picture_writers, refuse_existing, volume_writers, write_whole
from cbseg.prediction.predictor import WEIGHTS, Predictor
from cbseg.prediction.segmentation import segment
from cbseg.prediction.severity import Lungs, measure
from cbseg.prediction.table import SUMMARY, append

_EXTRA = {"dicom_seg": "highdicom", "seg_nrrd": "slicerio"}  # what these options need of the extra ``viewer``


def predict(predictor: Predictor, ct: CT, out: Path, wishes: Wishes = Wishes()) -> dict[str, Any]:  # noqa: B008
    """Segment one CT, and write its labels, a picture, what was asked for, and its row of ``predictions.csv``.

    Args:
        predictor: The network.
        ct: A NIfTI file, a DICOM file or a series' folder, or a picture.
        out: The folder for the labels; it exists.
        wishes: What else is to be written.

    Returns:
        The row: ``regions`` are 8-connected components, counted slice by slice; ``volume_ml`` is that of the infection.

    Raises:
        InputError: If the CT cannot be read, its results are there already, or they cannot be written. None are then.
    """
    started = time.perf_counter()
    lungs = None
    if is_picture(ct.path):
        volume, picture = None, read_grey(ct.path)
        writers = picture_writers(predictor.classes, wishes)
    else:
        volume = open_volume(ct.path, ct.files)
        if isinstance(volume, DicomSeries):
            volume.require_grid()
        if wishes.lungs is not None:
            lungs = Lungs(wishes.lungs / ct.labels if wishes.lungs.is_dir() else wishes.lungs, volume)
        writers = volume_writers(volume, predictor.classes, str(predictor.run), wishes)
    paths = [out / ct.result(suffix) for suffix in writers]
    refuse_existing(paths)
    count, grey = (1, lambda k: picture) if volume is None else (volume.shape[0], predictor.grey(volume))
    segmentation = segment(predictor, count, grey, wishes.probabilities)
    row = {
        "ct": str(ct.path),
        "labels": str(paths[0]),
        **segmentation.counts(),
        **measure(segmentation, predictor.classes, volume, lungs),
        "run": str(predictor.run),
        "weights": predictor.weights,
        "seconds": round(time.perf_counter() - started, 2),
    }
    try:
        write_whole(
            {path: partial(write, segmentation) for path, write in zip(paths, writers.values(), strict=True)},
            lambda: append(out / SUMMARY, row),
        )
    except OSError as error:
        raise InputError(f"{out}: {ct.labels} or {SUMMARY} cannot be written ({error.strerror})") from error
    return row


def described(row: dict[str, Any], classes: tuple[str, ...]) -> str:
    """Say in a line what a row of ``predictions.csv`` says.

    Args:
        row: See :func:`predict`.
        classes: The names of the classes but background.
    """
    text = f"{row['labels']}: infection in {row['infected_slices']} of {row['slices']} slices, {row['regions']} regions"
    if row["volume_ml"] is not None:
        each = ", ".join(f"{name} {row[f'{name}_ml']:.1f}" for name in classes) if len(classes) > 1 else ""
        text += f", {row['volume_ml']:.1f} ml" + (f" ({each})" if each else "")
    if row["lungs_infected_percent"] is not None:
        both, right, left = (row[f"{which}_infected_percent"] for which in ("lungs", "right", "left"))
        text += f", {both:.1f} % of the lungs (right {right:.1f}, left {left:.1f})"
    return f"{text}, {row['seconds']:.1f} s"


def main() -> None:
    """Run the command line; a CT that cannot be segmented is named, the others are, and the exit code is 1."""
    arguments = _parser().parse_args()
    prepare_console()
    keep_freed_memory()
    wishes = Wishes(arguments.dicom_seg, arguments.seg_nrrd, arguments.probabilities, arguments.lungs)
    try:
        _require_extras(wishes)
        predictor = Predictor(arguments.run, arguments.weights, arguments.device, arguments.trust)
        arguments.out.mkdir(parents=True, exist_ok=True)
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {arguments.out}: cannot be made ({error.strerror}); give another folder with --out")
    print(f"{arguments.run}: segments on {device_name(predictor.device)}", file=sys.stderr)
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
                print(described(predict(predictor, one, arguments.out, wishes), predictor.classes), flush=True)
            except Exception as error:
                failed += 1
                _report(one, error)
    sys.exit(f"{failed} of {count} could not be segmented" if failed else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Segment new CT with a trained run. Not for diagnosis.")
    add = parser.add_argument
    add("run", type=Path, help="the run's folder, runs/<data>/<loss>/seed<k>")
    add(
        "ct",
        type=Path,
        nargs="+",
        help="NIfTI or DICOM files, pictures, study folders of DICOM series, or folders of NIfTI files or pictures",
    )
    add("--out", type=Path, default=Path("predictions"), help="where labels go (default: predictions)")
    add("--dicom-seg", action="store_true", help="write a DICOM Segmentation too, for PACS; it names the patient")
    add("--seg-nrrd", action="store_true", help="write a segmentation for 3D Slicer too")
    add("--probabilities", action="store_true", help="write each class's probability too")
    add("--lungs", type=Path, metavar="LABELS", help="lungs as NIfTI (1 right, 2 left), or a folder of them by CT")
    add("--weights", choices=WEIGHTS, default=WEIGHTS[0], help="of the best or the last epoch (default: best)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:<n> (default: auto, a GPU if there is one)")
    trust = "a network that the run's config names and is none of cbseg's, or its module; it may run code"
    add("--trust", action="append", default=[], metavar="NAME", help=trust)
    return parser


def _require_extras(wishes: Wishes) -> None:
    """Refuse a wish that needs a package that is not installed.

    Raises:
        InputError: With how to install it.
    """
    for option, package in _EXTRA.items():
        if getattr(wishes, option) and importlib.util.find_spec(package) is None:
            raise InputError(f"--{option.replace('_', '-')}: needs {package}; pip install -e '.[viewer]'")


def _report(ct: CT, error: Exception) -> None:
    """Print why a CT could not be segmented."""
    message = str(error) if isinstance(error, InputError) else f"{ct.path}: {type(error).__name__}: {error}"
    print(f"error: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
