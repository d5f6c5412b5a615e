"""FCN8 on VGG16 (paper §4.2; Long et al. 2015)."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cbseg.errors import ArgumentError, check_choice
from cbseg.models.weights import load_vgg16

_MOST_CONVOLUTIONS = 100  # in a stage
_CAFFE_PAD = 100
_CAFFE_CROP = {"pool4": 5, "pool3": 9, "image": 31}


def _bilinear(channels: int, stride: int, padding: int) -> nn.ConvTranspose2d:
    """Make a transposed convolution that starts as bilinear upsampling by ``stride``, each channel by itself."""
    size = 2 * stride
    up = nn.ConvTranspose2d(channels, channels, size, stride, padding, bias=False)
    slope = 1 - (torch.arange(size) - (size - 1) / 2).abs() / stride
    with torch.no_grad():
        up.weight.copy_(torch.eye(channels)[:, :, None, None] * torch.outer(slope, slope))
    return up


class _Score(nn.Conv2d):
    """Each pixel's class scores, in the weights' own precision under autocast too.

    oneDNN 3.12 writes past its buffer on processors with AMX where it computes the gradient of bfloat16 weights from
    more than 2048 channels to fewer than 16.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(channels, num_classes, 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of each class."""
        device = x.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            return super().forward(x.to(self.weight.dtype))


def _crop_like(x: Tensor, reference: Tensor, offset: int) -> Tensor:
    """Return the window of ``x`` with ``reference``'s height and width that begins ``offset`` pixels in."""
    height, width = reference.shape[-2:]
    return x[..., offset : offset + height, offset : offset + width]


class FCN8(nn.Module):
    """VGG16's convolutions, fc6 and fc7 as convolutions, and skips from pool3 and pool4.

    Args:
        num_classes: C, with background.
        weights: ``imagenet`` (torchvision's VGG16, fc6 and fc7 included), ``none``, or the path of a state dict with
            torchvision's names; one that holds only some layers fills those.
        padding: ``same``, which pads each side alike, so that mirror-symmetric kernels make the whole network commute
            with flips; or ``caffe``, which pads by 100 and crops, as the original and the authors' code do.
        channels: Width of VGG's five stages.
        convolutions: Convolutions in each stage.
        fc_channels: Width of fc6 and fc7.
        dropout: Probability, after fc6 and fc7.
        dropout_of: What falls out at once: ``channels``, which pixels of one feature share; or ``elements``.

    Shape:
        - input: :math:`(B, 3, H, W)`, ImageNet-normalised, any H and W; output: logits :math:`(B, C, H, W)`, float32
          also under bfloat16 autocast.

    Raises:
        InputError: If the padding does not exist, or the weights cannot be had or do not fit.

    >>> net = FCN8(weights="none", channels=(4, 4, 8, 8, 8), fc_channels=16)
    >>> net(torch.zeros(1, 3, 50, 70)).shape
    torch.Size([1, 2, 50, 70])
    """

    def __init__(
        self,
        num_classes: int = 2,
        weights: str = "none",
        padding: str = "same",
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        convolutions: Sequence[int] = (2, 2, 3, 3, 3),
        fc_channels: int = 4096,
        dropout: float = 0.5,
        dropout_of: str = "channels",
    ) -> None:
        super().__init__()
        check_choice("padding", padding, ["same", "caffe"])
        check_choice("dropout_of", dropout_of, ["channels", "elements"])
        if len(channels) != 5 or len(convolutions) != 5:
            raise ArgumentError(f"channels={list(channels)}, convolutions={list(convolutions)}: five stages each")
        if min(num_classes, fc_channels, *channels, *convolutions) < 1:
            raise ArgumentError(
                f"fc_channels={fc_channels}, channels={list(channels)}, convolutions={list(convolutions)}, "
                f"num_classes={num_classes}: 1 or more each"
            )
        if max(convolutions) > _MOST_CONVOLUTIONS:
            raise ArgumentError(f"convolutions={list(convolutions)}: {_MOST_CONVOLUTIONS} or fewer in each stage")
        if not 0 <= dropout <= 1:
            raise ArgumentError(f"dropout={dropout}: give a probability, 0 to 1")
        self.padding = padding
        caffe = padding == "caffe"

        layers: list[nn.Module] = []
        self._pools: list[int] = []  # where each stage ends in self.features, which has torchvision's numbering
        width = 3
        for stage, (new_width, count) in enumerate(zip(channels, convolutions, strict=True)):
            for k in range(count):
                pad = _CAFFE_PAD if caffe and stage == k == 0 else 1
                layers += [nn.Conv2d(width, new_width, 3, padding=pad), nn.ReLU(inplace=True)]
                width = new_width
            layers.append(nn.MaxPool2d(2, ceil_mode=caffe))
            self._pools.append(len(layers))
        self.features = nn.Sequential(*layers)
        self.fc6 = nn.Conv2d(width, fc_channels, 7, padding=0 if caffe else 3)
        self.fc7 = nn.Conv2d(fc_channels, fc_channels, 1)
        self.dropout = nn.Dropout2d(dropout) if dropout_of == "channels" else nn.Dropout(dropout)

        self.score_fc7 = _Score(fc_channels, num_classes)
        self.score_pool4 = _Score(channels[3], num_classes)
        self.score_pool3 = _Score(channels[2], num_classes)
        self.up_fc7 = _bilinear(num_classes, 2, padding=0 if caffe else 1)
        self.up_pool4 = _bilinear(num_classes, 2, padding=0 if caffe else 1)
        self.up_pool3 = _bilinear(num_classes, 8, padding=0 if caffe else 4)

        for module in [*self.features, self.fc6, self.fc7]:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        load_vgg16(self, weights)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits, at the image's own size."""
        height, width = image.shape[-2:]
        top, left = (-height % 32) // 2, (-width % 32) // 2
        if self.padding == "same":  # poolings halve evenly only what divides by 32
            image = F.pad(image, (left, -width % 32 - left, top, -height % 32 - top))
        pool3 = self.features[: self._pools[2]](image)
        pool4 = self.features[self._pools[2] : self._pools[3]](pool3)
        pool5 = self.features[self._pools[3] :](pool4)
        fc6 = self.dropout(self.fc6(pool5).relu())
        fc7 = self.dropout(self.fc7(fc6).relu())

        if self.padding == "caffe":
            crop = _CAFFE_CROP
            up = self.up_fc7(self.score_fc7(fc7))
            up = self.up_pool4(up + _crop_like(self.score_pool4(pool4), up, crop["pool4"]))
            up = self.up_pool3(up + _crop_like(self.score_pool3(pool3), up, crop["pool3"]))
            logits = _crop_like(up, image, crop["image"])
        else:
            up = self.up_fc7(self.score_fc7(fc7)) + self.score_pool4(pool4)
            up = self.up_pool4(up) + self.score_pool3(pool3)
            logits = self.up_pool3(up)[..., top : top + height, left : left + width]
        return logits if logits.dtype == torch.float64 else logits.float()
