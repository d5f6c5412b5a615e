"""Loading VGG16's weights into an FCN8, from torchvision or from a file."""

import logging
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import VGG16_Weights

from cbseg.checkpoint import read_tensors
from cbseg.errors import ArgumentError, InputError

log = logging.getLogger(__name__)

# torchvision's fully connected layers, and the convolutions that they become
_CLASSIFIER = {"classifier.0.": "fc6.", "classifier.3.": "fc7."}


def load_vgg16(net: nn.Module, weights: str) -> None:
    """Fill a network's VGG16 layers in place and log which were filled and which were not.

    Args:
        net: Has ``features`` with torchvision's numbering, ``fc6`` and ``fc7``.
        weights: ``imagenet``, ``none`` or a path. An fc6 or fc7 of another width stays at random.

    Raises:
        InputError: If ImageNet's weights cannot be downloaded, or the file is missing, is no plain state dict, holds
            no layer of VGG16, or a convolution of another shape.
    """
    if weights == "none":
        return
    if weights == "imagenet":
        state, source = _download_imagenet(), "torchvision's ImageNet VGG16"
    else:
        state, source = _read_state_dict(Path(weights)), weights
    wanted = {name: p for name, p in net.named_parameters() if name.startswith(("features.", "fc6.", "fc7."))}
    filled = []
    with torch.no_grad():
        for name, tensor in state.items():
            for old, new in _CLASSIFIER.items():
                name = name.replace(old, new)
            if name not in wanted:
                continue
            parameter = wanted[name]
            # A fully connected layer's rows are its convolution's kernels, flattened.
            flattened = tensor.ndim == 2 and parameter.ndim == 4 and tensor.shape == parameter.flatten(1).shape
            if tensor.shape != parameter.shape and not flattened:
                if name.startswith("fc"):
                    continue  # model.fc_channels says so
                raise InputError(
                    f"{source}: {name} has shape {tuple(tensor.shape)}, this model needs {tuple(parameter.shape)}; "
                    "use weights of the same network, or model.weights=none"
                )
            parameter.copy_(tensor.reshape(parameter.shape))
            filled.append(name)
    if not filled:
        raise InputError(
            f"{source}: holds none of VGG16's layers (features.0.weight, …) but {_listed(list(state))}; "
            "save a state dict with torchvision's names"
        )
    rest = [name for name in wanted if name not in filled]
    log.info(
        "weights %s: filled %s; at random: %s",
        source,
        _layers(filled),
        _layers(rest) or "only the score layers",
    )


def _download_imagenet() -> dict[str, Tensor]:
    try:
        return VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise ArgumentError(
            f"weights=imagenet: torchvision could not download VGG16 ({error}). Offline, give the file with "
            "model.weights=<path of a VGG16 state dict>, or train from scratch with model.weights=none"
        ) from error


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ArgumentError(f"weights={path}: no such file; give imagenet, none or the path of a VGG16 state dict")
    state = read_tensors(path, "Save it with torch.save(model.state_dict(), path)")
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"{path}: holds {type(state).__name__}, not a state dict; save it with torch.save(model.state_dict(), path)"
        )
    return state


def _layers(names: list[str]) -> str:
    """Name these parameters' layers: ``features.0, features.2, fc6``."""
    return ", ".join(dict.fromkeys(name.rsplit(".", 1)[0] for name in names))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
