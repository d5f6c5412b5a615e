"""The exact flips and rotations t_k of the paper (§3), one code path for images, logits, masks and points."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cbseg.errors import ArgumentError


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
class RandomFlipRotation:
    """The set T of transforms (§3), sampled uniformly, one for each image (Alg. 1, line 6).

    Args:
        flip: Whether every transform begins with a horizontal flip.
        rotations: The angles to choose from, in degrees, counter-clockwise; multiples of 90.
        image_size: The size of the images to come, (height, width) or one number for both. Given, it is
            checked at once that the rotations suit it.

    Raises:
        InputError: If an angle is no multiple of 90, there is no angle, or 90° or 270° meets a size that is not square.
    """

    flip: bool = True
    rotations: Sequence[int] = (0,)
    image_size: int | Sequence[int] | None = None

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

    def sample(self, count: int, generator: torch.Generator | None = None) -> list[FlipRotation]:
        """Draw ``count`` transforms; equal generators give equal draws."""
        chosen = torch.randint(len(self.rotations), (count,), generator=generator).tolist()
        return [FlipRotation(self.flip, self.rotations[k] // 90 % 4) for k in chosen]


def apply_each(transforms: Sequence[FlipRotation], batch: Tensor) -> Tensor:
    """Apply each image's own transform.

    Shape:
        - batch: :math:`(B, *, H, W)` with B transforms; output: the same shape.
    """
    return torch.stack([transform(x) for transform, x in zip(transforms, batch, strict=True)])
