"""Which points each slice of a store gets, made once for all training slices."""

import difflib
import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from cbseg.clicks import Click, read_points
from cbseg.data.store import SliceStore
from cbseg.errors import InputError, check_choice, check_whole
from cbseg.points import IGNORE, KNOWN, is_infection, is_lone, place_points, resize_points, sample_points
from cbseg.seeds import derived_seed
from cbseg.whole_file import whole

log = logging.getLogger(__name__)

Mask = NDArray[np.uint8]


class PointAnnotator:
    """Gives each slice its point annotation: made from its native mask, or read from a file of people's clicks.

    Points made from masks are a pure function of mask, name and arguments.

    Args:
        sampler: See :func:`cbseg.points.sample_points`.
        seed: Another seed, other points.
        seed_per_slice: Whether each slice draws its own background points, or all draw with the same seed.
        points_on: The mask that is annotated: ``native``, at its own size, and the points are brought to training size;
            or ``resized``, at training size, where small regions may be lost.
        empty: What a slice without regions gives, ``background`` or ``ignore``.
        num_classes: How many classes points may have, with background.
        file: People's clicks, see :func:`cbseg.clicks.read_points`; the masks are then not looked at.

    Raises:
        InputError: If the sampler or ``empty`` does not exist, or the file is bad.
    """

    def __init__(
        self,
        sampler: str,
        seed: int,
        seed_per_slice: bool,
        empty: str,
        num_classes: int,
        file: str | None = None,
        points_on: str = "native",
    ) -> None:
        check_whole("seed", seed, least=0)
        sample_points(np.zeros((1, 1), np.uint8), sampler, seed, empty)  # refuses what does not exist
        self.sampler, self.seed, self.seed_per_slice, self.empty = sampler, seed, seed_per_slice, empty
        check_choice("points_on", points_on, ["native", "resized"])
        self.points_on, self.num_classes, self.file = points_on, num_classes, file
        self.clicks = None if file is None else read_points(Path(file).expanduser())
        self._reviewed: set[Path] = set()

    @property
    def by_people(self) -> bool:
        """Whether people marked what they saw, and not each region of a mask was clicked on."""
        return self.clicks is not None or self.sampler == KNOWN

    def __call__(self, store: SliceStore, i: int) -> Mask:
        """Return the points of slice ``i`` at training size, (H, W) uint8.

        Raises:
            InputError: If the file places a point outside the slice, or a point's class does not exist; or as
                :meth:`review`.
        """
        self.review(store)
        item = store.slices[i]
        if self.clicks is None:
            seed = derived_seed(self.seed, item.name) if self.seed_per_slice else self.seed
            mask = store.native_mask(i) if self.points_on == "native" else store.masks[i]
            points = sample_points(mask, self.sampler, seed, self.empty)
        else:
            try:
                points = place_points(self.clicks[item.name], item.shape, self.empty)
            except ValueError as error:
                raise InputError(f"{self.file}: slice {item.name}: {error}") from error
        highest = points[points != IGNORE].max(initial=0)
        if highest >= self.num_classes:
            source = self.file or "its mask"
            raise InputError(
                f"{source}: slice {item.name} has a point of class {highest}, but data.annotate.num_classes="
                f"{self.num_classes}, background included; correct the point or raise data.annotate.num_classes"
            )
        if self.clicks is None and self.sampler == KNOWN:
            return np.array(store.masks[i])
        return resize_points(points, store.images.shape[1:])

    def review(self, store: SliceStore) -> None:
        """Compare people's clicks with the store's slices, once, and with the masks of those where one was drawn.

        Raises:
            InputError: If a slice does not exist, or the clicks fit the masks with row and column swapped alone.
        """
        if self.clicks is None or store.folder in self._reviewed:
            return
        self._reviewed.add(store.folder)
        places = {item.name: i for i, item in enumerate(store.slices)}
        if unknown := [name for name in self.clicks if name not in places]:
            near = difflib.get_close_matches(unknown[0], places, 1) or list(places)[:1]
            raise InputError(
                f"{self.file}: names {len(unknown)} slice(s) that do not exist, such as {unknown[0]}; slices are named "
                f"as {near[0]} is: correct the names, or check data.root"
            )
        fits = [_fits(clicks, store.native_mask(places[name])) for name, clicks in self.clicks.items() if clicks]
        infected, direct, swapped = np.concatenate([*fits, np.empty((0, 3), bool)]).T
        wrong = int((~direct).sum())
        if not wrong:
            return
        found = f"{self.file}: {wrong} of {len(direct)} clicks contradict the masks that are drawn"
        if infected.any() and direct[infected].mean() < 0.5 and swapped[infected].all():
            raise InputError(f"{found}, and on infection none does with row and column swapped; swap the two columns")
        log.warning("%s; check their slices, rows and columns, and classes", found)

    @property
    def identity(self) -> str:
        """All that decides the points beside the store."""
        made = (self.sampler, self.seed, self.seed_per_slice, self.empty, self.points_on)
        return repr((*made, self.num_classes, self.clicks))

    def covers(self, store: SliceStore, i: int) -> bool:
        """Tell whether anything of slice ``i`` is annotated: not what a file of clicks leaves out, or nobody looked at.

        Not clicked is not healthy: such a slice takes no part in training.
        """
        item = store.slices[i]
        return item.share_known > 0 if self.clicks is None else item.name in self.clicks

    def is_clicked(self, store: SliceStore, i: int) -> bool:
        """Tell whether slice ``i`` is annotated by clicks, or as healthy by one, and not by strokes or areas."""
        if self.clicks is not None or self.sampler != KNOWN:
            return True
        mask = store.native_mask(i)
        return not mask.any() or bool(is_lone(mask)[mask != IGNORE].all())


def _fits(clicks: Sequence[Click], mask: Mask) -> NDArray[np.bool_]:
    """Tell whether each click is of infection, fits the mask, and fits it with row and column swapped.

    Shape:
        - output: :math:`(N, 3)`, of the clicks within the slice; none where nothing is drawn.
    """
    rows, columns, classes = np.array(clicks).T
    if not is_infection(mask).any():
        return np.empty((0, 3), bool)

    def fits(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        within = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
        known = np.where(within, mask[rows * within, columns * within], IGNORE)
        return (known == classes) | (within & (known == IGNORE))

    return np.stack([classes > 0, fits(rows, columns), fits(columns, rows)], axis=1)


def prepare_points(store: SliceStore, indices: Sequence[int], annotate: PointAnnotator) -> Mask:
    """Make the points of some slices at training size, once, and keep them beside the store.

    Args:
        store: Holds the masks.
        indices: Which slices.
        annotate: Makes their points; another identity makes another file.

    Shape:
        - output: :math:`(N, H, W)`, memory-mapped, in the order of ``indices``.

    Raises:
        InputError: If a slice cannot be annotated, or the file cannot be written.
    """
    annotate.review(store)
    key = hashlib.sha256(repr((list(indices), annotate.identity)).encode()).hexdigest()[:12]
    path = store.folder / f"points-{key}.u8"
    shape = (len(indices), *store.images.shape[1:])
    try:
        if not path.is_file():  # a store that is read-only allows no lock
            with FileLock(f"{path}.lock"):
                if not path.is_file():
                    with whole(path) as part, part.open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
                        for points in pool.map(lambda i: annotate(store, i), indices):
                            file.write(points.tobytes())
        return np.memmap(path, np.uint8, "r", shape=shape)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error}); free some space or set store=<another folder>"
        ) from error
