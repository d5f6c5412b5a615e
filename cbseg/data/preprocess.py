"""What is done to a slice's grey values before the network sees them, in training and prediction alike."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from cbseg.errors import ArgumentError

_LARGEST = 4096  # pixels of a side
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def height_and_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Return both sides of ``image_size``, which may be one number for both.

    Raises:
        InputError: If it is neither one number nor two, or a side is too small or too large for the network.
    """
    size = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(size) != 2 or not all(isinstance(side, int) and 32 <= side <= _LARGEST for side in size):
        raise ArgumentError(f"image_size={image_size}: give one number or [height,width], 32 to {_LARGEST} pixels")
    return size[0], size[1]


def normalise(image: Tensor) -> Tensor:
    """Bring grey values to what an ImageNet network expects (paper §4.1.1).

    Shape:
        - image: :math:`(B, H, W)` uint8; output: :math:`(B, 3, H, W)` float32.
    """
    grey = image.float() / 255
    return torch.stack([(grey - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)], 1)


def grey_values(image: Tensor) -> Tensor:
    """Bring a normalised image back to grey values, 0 to 1: undo :func:`normalise`.

    Shape:
        - image: :math:`(B, 3, H, W)`; output: :math:`(B, H, W)`.

    >>> grey_values(normalise(torch.tensor([[[0, 51, 255]]], dtype=torch.uint8))).round(decimals=3)
    tensor([[[0.0000, 0.2000, 1.0000]]])
    """
    return image[:, 0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]


def resized(
    x: NDArray[np.uint8], size: tuple[int, int], interpolation: InterpolationMode = InterpolationMode.BILINEAR
) -> NDArray[np.uint8]:
    """Bring a slice to training size.

    Shape:
        - x: :math:`(H, W)` uint8; output: ``size``.
    """
    return resize(torch.tensor(x)[None], list(size), interpolation, antialias=True)[0].numpy()
