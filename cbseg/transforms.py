"""The transforms t_k: the paper's exact flips and rotations (§3), and zooms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cbseg.errors import ArgumentError
from cbseg.points import IGNORE

_MOST_ZOOM = 8


@dataclass(frozen=True)
class FlipRotation:
    """A horizontal flip (or none), then a counter-clockwise rotation: one element of the square's symmetry group.

    It moves pixels and computes none, so it acts alike on images, logits, masks and points, and has an exact inverse.

    Args:
        flip: Whether to mirror left and right first.
        quarter_turns: How many times to rotate by 90°, counter-clockwise.

    Shape:
        - input: :math:`(*, H, W)`; output: the same, or :math:`(*, W, H)` for an odd number of quarter turns.

    >>> t = FlipRotation(flip=True, quarter_turns=1)
    >>> t(torch.tensor([[1, 2], [3, 4]]))
    tensor([[1, 3],
            [2, 4]])
    """

    flip: bool
    quarter_turns: int

    def __call__(self, x: Tensor) -> Tensor:
        """Move the pixels of the last two dimensions."""
        if self.flip:
            x = x.flip(-1)
        return torch.rot90(x, self.quarter_turns, dims=(-2, -1))

    def inverse(self) -> "FlipRotation":
        """Return the transform that undoes this one.

        >>> t = FlipRotation(flip=False, quarter_turns=1)
        >>> t.inverse()(t(torch.tensor([[1, 2], [3, 4]])))
        tensor([[1, 2],
                [3, 4]])
        """
        # A flip followed by a rotation is a reflection, and a reflection undoes itself.
        return self if self.flip else FlipRotation(False, -self.quarter_turns % 4)


@dataclass(frozen=True)
class Zoom:
    """Enlarge a part of an image to the image's size.

    Args:
        top, left: Where the part begins, pixels.
        height, width: Its size, pixels.

    Shape:
        - input, output: :math:`(*, H, W)`.

    >>> points = torch.tensor([[255, 1, 255, 255], [255, 255, 0, 255]])
    >>> Zoom(top=0, left=1, height=2, width=2).points(points)
    tensor([[255,   1, 255, 255],
            [255, 255, 255,   0]])
    """

    top: int
    left: int
    height: int
    width: int

    def __call__(self, x: Tensor) -> Tensor:
        """Enlarge an image or logits, bilinearly, or a mask of integers, by its nearest pixels."""
        size = x.shape[-2:]
        part = self._part(x).reshape(1, -1, self.height, self.width)
        if part.is_floating_point():
            return F.interpolate(part, size, mode="bilinear").reshape(x.shape)
        return F.interpolate(part.float(), size, mode="nearest-exact").to(x.dtype).reshape(x.shape)

    def points(self, points: Tensor) -> Tensor:
        """Move points (H, W): each that lies in the part stays one pixel, amid what its pixel becomes."""
        height, width = points.shape
        rows = (2 * torch.arange(self.height, device=points.device) + 1) * height // (2 * self.height)
        columns = (2 * torch.arange(self.width, device=points.device) + 1) * width // (2 * self.width)
        to = rows[:, None] * width + columns  # no two to one, as nothing is made smaller
        moved = torch.full_like(points, IGNORE).flatten()
        return moved.scatter_(0, to.flatten(), self._part(points).flatten()).view_as(points)

    def _part(self, x: Tensor) -> Tensor:
        return x[..., self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Transform:
    """One of the set T: a flip and a rotation, then a zoom, if there is one."""

    flip_rotation: FlipRotation
    zoom: Zoom | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Transform an image, logits or a mask."""
        x = self.flip_rotation(x)
        return x if self.zoom is None else self.zoom(x)

    def points(self, points: Tensor) -> Tensor:
        """Transform points (H, W)."""
        points = self.flip_rotation(points)
        return points if self.zoom is None else self.zoom.points(points)


@dataclass(frozen=True)
class RandomTransform:
    """The set T of transforms (§3), sampled uniformly, one for each image (Alg. 1, line 6).

    The paper flips and rotates. Beyond it, the network shall say of a part of the image, seen near by, what it says of
    it amid the whole.

    Args:
        flip: Whether every transform begins with a horizontal flip.
        rotations: The angles to choose from, in degrees, counter-clockwise; multiples of 90.
        image_size: The size of the images to come, (height, width) or one number for both. Given, it is
            checked at once that the rotations suit it.
        zoom: How many times a part of the image, drawn at random, is enlarged at most; 1 leaves the image whole.

    Raises:
        InputError: If an angle is no multiple of 90, there is no angle, 90° or 270° meets a size that is not square, or
            the zoom is not from 1 to 8.
    """

    flip: bool = True
    rotations: Sequence[int] = (0,)
    image_size: int | Sequence[int] | None = None
    zoom: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool):
            raise ArgumentError(f"flip={self.flip}: give true or false")
        angles = list(self.rotations) if isinstance(self.rotations, Sequence) else []
        if not angles or any(not isinstance(angle, int) or angle % 90 for angle in angles):
            raise ArgumentError(f"rotations={self.rotations}: give multiples of 90, such as [0, 90, 180, 270]")
        size = self.image_size
        if isinstance(size, Sequence) and len(set(size)) > 1 and any(angle % 180 for angle in angles):
            raise ArgumentError(
                f"rotations={angles}: an image of {list(size)} pixels is not square, and would change its shape; "
                "give [0,180], take loss=cb_flip, or train on square images (data.image_size)"
            )
        if not (isinstance(self.zoom, int | float) and 1 <= self.zoom <= _MOST_ZOOM):
            raise ArgumentError(f"zoom={self.zoom}: give a number from 1 (the whole image) to {_MOST_ZOOM}")

    def sample(self, count: int, size: Sequence[int], generator: torch.Generator | None = None) -> list[Transform]:
        """Draw ``count`` transforms of images of a size (height, width); equal generators give equal draws."""
        chosen = torch.randint(len(self.rotations), (count,), generator=generator).tolist()
        zooms: list[Zoom | None] = [None] * count
        if self.zoom > 1:
            zooms = [self._zoom(size, *x) for x in torch.rand(count, 3, generator=generator).tolist()]
        flips = [FlipRotation(self.flip, self.rotations[k] // 90 % 4) for k in chosen]
        return [Transform(flip, zoom) for flip, zoom in zip(flips, zooms, strict=True)]

    def _zoom(self, size: Sequence[int], times: float, down: float, right: float) -> Zoom:
        """Choose a part of an image by three numbers from 0 to 1: its size, and where it lies."""
        height, width = (round(side / (1 + (self.zoom - 1) * times)) for side in size)
        return Zoom(int(down * (size[0] - height + 1)), int(right * (size[1] - width + 1)), height, width)


def apply_each(transforms: Sequence[Callable[[Tensor], Tensor]], batch: Tensor) -> Tensor:
    """Apply each image's own transform.

    Shape:
        - batch: :math:`(B, *, H, W)` with B transforms; output: the same shape.
    """
    return torch.stack([transform(x) for transform, x in zip(transforms, batch, strict=True)])
