"""A chest in CT, drawn from a seed: body, ribs, spine, lungs with vessels and airways, and infection.

A chest is a set of functions of (z, y, x), so its anatomy is continuous from slice to slice. Vessels and airways look
like infection to a careless network; ground glass has blurred edges, consolidation is dense.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.transform import resize

Field = NDArray[np.float64]

AIR, LUNG, FAT, TISSUE, BONE = -1000.0, -840.0, -90.0, 45.0, 500.0  # HU
GROUND_GLASS, CONSOLIDATION = 1, 2  # classes of the chest's mask, as in MedSeg's release of COVID-19-B


class SmoothNoise:
    """A smooth random field over the chest, about N(0, 1).

    Args:
        rng: Draws it.
        cells: Its detail: how many independent values lie along each axis.
    """

    def __init__(self, rng: np.random.Generator, cells: int) -> None:
        self.grid = rng.normal(size=(cells + 1, cells, cells))

    def __call__(self, z: float, size: int) -> Field:
        """Return the field in the plane ``z``, (size, size)."""
        layer, t = divmod(z * (len(self.grid) - 2), 1)
        t = t * t * (3 - 2 * t)
        plane = (1 - t) * self.grid[int(layer)] + t * self.grid[int(layer) + 1]
        return resize(plane, (size, size), order=3, mode="reflect")


class Chest:
    """One patient's chest. Coordinates are -1…1 from the patient's right to left (x) and front to back (y), 0…1 up (z).

    Args:
        seed: Decides everything about it.
        infected: The heights between which lesions have their centres.
    """

    def __init__(self, seed: int, infected: tuple[float, float] = (0.0, 1.0)) -> None:
        rng = np.random.default_rng(seed)
        self._body = np.array([rng.uniform(0.93, 0.99), rng.uniform(0.72, 0.82)])
        self._lung_width, self._lung_depth = rng.uniform(0.37, 0.42), rng.uniform(0.54, 0.62)
        self._heart = np.array([rng.uniform(0.08, 0.16), rng.uniform(-0.22, -0.1)])
        self._lung_value = LUNG + rng.uniform(-40, 60)
        self._outline, self._patchy, self._ragged, self._texture = (SmoothNoise(rng, n) for n in (5, 14, 36, 60))
        self._vessels = [v for side in (-1, 1) for z in (0.25, 0.5, 0.75) for v in self._grow(rng, side, z)]
        self._airways = [
            (np.array([side * rng.uniform(0.16, 0.3), rng.uniform(-0.05, 0.2)]), rng.uniform(0.015, 0.04))
            for side in (-1, 1)
            for _ in range(2)
        ]
        self._lesions = [self._infect(rng, infected) for _ in range(rng.integers(35, 140))]

    def _grow(self, rng: np.random.Generator, side: int, z: float) -> list[tuple[Field, Field, float]]:
        """Grow a vessel tree from the hilum into one lung: segments from, to, and radius; (x, y, z)."""
        segments = []
        tips = [(np.array([side * 0.2, 0.05, z]), np.array([side, *rng.normal(0, (0.5, 0.15))]), 0.026)]
        while tips:
            start, direction, radius = tips.pop()
            end = start + direction / np.linalg.norm(direction) * rng.uniform(0.08, 0.2)
            segments.append((start, end, radius))
            if radius > 0.006 and len(segments) < 120:
                for _ in range(2):
                    turned = end - start + rng.normal(0, (0.1, 0.1, 0.04))
                    tips.insert(0, (end, turned, radius * rng.uniform(0.68, 0.86)))
        return segments

    def _infect(self, rng: np.random.Generator, heights: tuple[float, float]) -> dict[str, float]:
        """Draw a lesion: mostly in the back and near the pleura, mostly small and of ground glass."""
        angle, reach = rng.uniform(-0.6, np.pi * 1.1), rng.uniform(0.35, 1.0) ** 0.6
        side = rng.choice([-1, 1])
        size = float(np.clip(np.exp(rng.normal(-3.3, 0.75)), 0.015, 0.3))
        dense = rng.random() < 0.25
        return {
            "x": side * (0.46 + 0.34 * reach * np.cos(angle)),
            "y": 0.02 + 0.54 * reach * np.sin(angle),
            "z": rng.uniform(*heights),
            "rx": size * rng.uniform(0.7, 1.6),
            "ry": size * rng.uniform(0.7, 1.6),
            "rz": size * rng.uniform(0.5, 1.0),
            "rough": rng.uniform(0.15, 0.5),
            "soft": 0.06 if dense else rng.uniform(0.1, 0.35),
            "value": rng.uniform(-150, 30) if dense else rng.uniform(-640, -360),
            "kind": CONSOLIDATION if dense else GROUND_GLASS,
        }

    def slice(self, z: float, size: int) -> tuple[Field, NDArray[np.uint8]]:
        """Draw the axial plane at height ``z``, without noise; row 0 is anterior, column 0 the patient's right.

        Returns:
            HU, and the mask: 0, 1 ground glass, 2 consolidation; both (size, size).
        """
        y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
        wobble = self._outline(z, size)
        round_body = np.hypot(x / self._body[0], y / self._body[1]) + 0.015 * wobble
        hu = np.where(round_body < 1, FAT, AIR)
        hu[round_body < 0.93] = TISSUE

        lungs = self._lungs(x, y, z, wobble)
        self._bones(hu, x, y, z)
        tissue = self._lung_value + 70 * (y + 0.3) + 22 * self._texture(z, size) + 25 * self._patchy(z, size)
        hu = np.where(lungs, tissue, hu)
        infection, mask = self._infection(x, y, z, size, hu)
        hu = np.where(lungs, infection, hu)
        mask[~lungs] = 0
        self._tubes(hu, lungs, x, y, z)
        return hu, mask

    def _lungs(self, x: Field, y: Field, z: float, wobble: Field) -> NDArray[np.bool_]:
        narrow = np.sqrt(max(1 - (2 * z - 0.85) ** 2 / 1.6, 0.05))  # lungs narrow towards both ends
        outside = np.hypot((np.abs(x) - 0.46) / (self._lung_width * narrow), (y - 0.02) / (self._lung_depth * narrow))
        heart = np.hypot((x - self._heart[0]) / (0.36 * (1.2 - z)), (y - self._heart[1]) / (0.34 * (1.2 - z)))
        return (outside + 0.05 * wobble < 1) & (heart + 0.05 * wobble > 1)

    def _bones(self, hu: Field, x: Field, y: Field, z: float) -> None:
        spine = np.hypot(x, y - 0.5) / 0.13
        hu[spine < 1] = BONE * 0.5
        hu[(spine < 1) & (spine > 0.8)] = BONE
        angles = np.linspace(0, 2 * np.pi, 14, endpoint=False) + 2.5 * z
        for angle in angles:
            cx, cy = np.array([0.86, 0.88]) * self._body * (np.cos(angle), np.sin(angle))
            along = (x - cx) * -np.sin(angle) + (y - cy) * np.cos(angle)
            across = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
            hu[np.hypot(along / 0.1, across / 0.03) < 1] = BONE

    def _infection(self, x: Field, y: Field, z: float, size: int, hu: Field) -> tuple[Field, NDArray[np.uint8]]:
        mask = np.zeros(hu.shape, np.uint8)
        edge = 0.7 * self._patchy(z, size) + 0.5 * self._ragged(z, size)
        highest = edge.max()
        for lesion in self._lesions:
            dz = (z - lesion["z"]) / lesion["rz"]
            if abs(dz) > 1 + lesion["rough"] * highest + 12 * lesion["soft"]:
                continue  # it would change no pixel by 0.01 HU
            dx, dy = (x - lesion["x"]) / lesion["rx"], (y - lesion["y"]) / lesion["ry"]
            inside = 1 - np.sqrt(dx**2 + dy**2 + dz**2) + lesion["rough"] * edge
            share = 1 / (1 + np.exp(-np.clip(inside / lesion["soft"], -30, 30)))
            hu = hu + np.clip(lesion["value"] - hu, 0, None) * share
            mask[inside > 0] = np.maximum(mask[inside > 0], lesion["kind"])
        return hu, mask

    def _tubes(self, hu: Field, lungs: NDArray[np.bool_], x: Field, y: Field, z: float) -> None:
        places = np.stack([x[lungs], y[lungs], np.full(lungs.sum(), z)], -1)
        values = hu[lungs]
        for start, end, radius in self._vessels:
            if min(start[2], end[2]) - radius > z or max(start[2], end[2]) + radius < z:
                continue
            p, d = places - start, end - start
            t = np.clip(p @ d / (d @ d), 0, 1)
            away = p - t[:, None] * d
            inside = np.einsum("ij,ij->i", away, away) < radius**2
            values[inside] = np.maximum(values[inside], TISSUE - 60)
        hu[lungs] = values
        for centre, radius in self._airways:
            distance = np.hypot(x - centre[0], y - centre[1]) / radius
            hu[lungs & (distance < 1.5)] = TISSUE - 40
            hu[lungs & (distance < 1)] = AIR + 30


def scan_slice(hu: Field, rng: np.random.Generator, noise: float = 28.0) -> Field:
    """Scan a plane: blur it slightly and add correlated noise of ``noise`` HU."""
    grain = gaussian_filter(rng.normal(size=hu.shape), 0.7)
    return gaussian_filter(hu, 0.6) + noise * grain / grain.std()
