"""What the page asks for, and what it is answered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cbseg.click.clicks import PixelClick
from cbseg.click.predictions import Predictions, ScanPrediction
from cbseg.click.scans import ClickScans
from cbseg.errors import InputError

_LONGEST = 60.0  # seconds that a click takes; longer is a pause


@dataclass(frozen=True)
class Study:
    """The scans of a folder with their clicks and predictions. Each method answers one request of the page.

    Their arguments come from the browser: they may lack keys, and hold anything.

    Args:
        scans: What is clicked on.
        classes: What the names of clicks mean; see :class:`cbseg.data.annotation.ClassNames`.
        predictions: What the last run predicts, if there is one.
    """

    scans: ClickScans
    classes: Mapping[str, int | str]
    predictions: Predictions | None = None

    def overview(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the page shows at first: scans with the number of their clicks, classes, and the run."""
        found = []
        for scan in self.scans.scans:
            try:
                found.append({"name": scan.ct.name, "clicks": scan.clicks.count()})
            except InputError as error:
                found.append({"name": scan.ct.name, "error": str(error)})
        run = None if self.predictions is None else str(self.predictions.predictor.run)
        return {"scans": found, "classes": dict(self.classes), "run": run}

    def scan(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Open a scan: shape, spacing in mm, names of the windows, and clicks.

        Raises:
            InputError: If it or its clicks cannot be read.
        """
        number = self._number(asked)
        opened = self.scans.opened(number)
        volume = opened.volume
        about = {"shape": volume.shape, "spacing": volume.spacing, "windows": list(opened.windows)}
        return about | {"clicks": self._clicks(number)}

    def picture(self, asked: Mapping[str, Any]) -> bytes:
        """Return a slice as a PNG."""
        return self.scans.png(self._number(asked), int(asked["slice"]), asked["window"])

    def prediction(self, asked: Mapping[str, Any]) -> bytes | None:
        """Return a slice's prediction as a transparent PNG, or nothing where it is not known yet."""
        known, k = self._predicted(asked).overlays, int(asked["slice"])
        return known[k] if 0 <= k < len(known) else None

    def doubts(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return how unsure the run is in each slice, as far as that is known."""
        known = self._predicted(asked)
        return {"doubts": known.doubts, "error": known.error}

    def add(self, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Add a click; return all that are there now.

        Raises:
            InputError: If it is refused, or cannot be written.
        """
        number, seconds = self._number(asked), asked["seconds"]
        known = isinstance(seconds, int | float) and 0 <= seconds <= _LONGEST
        grid = self.scans.opened(number).volume.grid
        self.scans.scans[number].clicks.add(grid, _click(asked), float(seconds) if known else None)
        return self._clicks(number)

    def remove(self, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Remove a click; return all that are there now.

        Raises:
            InputError: If it is gone already, or the others cannot be written.
        """
        number = self._number(asked)
        self.scans.scans[number].clicks.remove(self.scans.opened(number).volume.grid, _click(asked))
        return self._clicks(number)

    def _clicks(self, number: int) -> list[dict[str, Any]]:
        grid = self.scans.opened(number).volume.grid
        return [click._asdict() for click in self.scans.scans[number].clicks.read(grid)]

    def _predicted(self, asked: Mapping[str, Any]) -> ScanPrediction:
        number = self._number(asked)
        return ScanPrediction() if self.predictions is None else self.predictions.of(number)

    def _number(self, asked: Mapping[str, Any]) -> int:
        number = int(asked["scan"])
        if not 0 <= number < len(self.scans.scans):
            raise IndexError(f"scan {number}")
        return number


def _click(asked: Mapping[str, Any]) -> PixelClick:
    place = [int(asked[key]) for key in ("slice", "row", "column")]
    return PixelClick(place[0], place[1], place[2], str(asked["name"]), str(asked.get("label", "")))


Answer = Callable[[Study, Mapping[str, Any]], Any]

GET: dict[str, Answer] = {
    "study": Study.overview,
    "scan": Study.scan,
    "slice.png": Study.picture,
    "prediction.png": Study.prediction,
    "doubts": Study.doubts,
}
POST: dict[str, Answer] = {"add": Study.add, "remove": Study.remove}
