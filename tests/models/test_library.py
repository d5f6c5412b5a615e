"""Networks of libraries, by config alone."""

import importlib.util
import json

import pytest
import torch
from torch import nn

from cbseg.errors import InputError
from cbseg.models.library import LibraryNetwork
from cbseg.parts import check_network

LRASPP = {
    "_target_": "torchvision.models.segmentation.lraspp_mobilenet_v3_large",
    "weights": "null", "weights_backbone": "null", "num_classes": "${model.num_classes}",
}  # fmt: skip
UNET = {
    "_target_": "monai.networks.nets.UNet", "spatial_dims": "2", "in_channels": "3",
    "out_channels": "${model.num_classes}", "channels": "[8,16]", "strides": "[2]",
}  # fmt: skip


def given(network, **arguments):
    """A model's config as overrides."""
    inner = ",".join(f"{key}:{value}" for key, value in network.items())
    return [
        "model=library",
        f"model.network={{{inner}}}",
        *(f"model.{key}={value}" for key, value in arguments.items()),
    ]


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(given(LRASPP, output="out"), id="torchvision"),
        pytest.param(
            given(UNET),
            id="MONAI",
            marks=pytest.mark.skipif(importlib.util.find_spec("monai") is None, reason="MONAI is not installed"),
        ),
    ],
)
def test_a_librarys_network_trains_by_config_alone(train, model):
    folder = train("loss=pl", "trainer.max_epochs=1", *model)
    assert json.loads((folder / "metrics.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (given(LRASPP), "model: gives a OrderedDict, not logits; .*LibraryNetwork"),
        (given(LRASPP | {"num_classes": 3}, output="out"), r"model: gives \(1, 3, 64, 64\) for one image, not \(1, 2,"),
        (given(LRASPP, output="logits"), "model.output=logits: is not there; the network gives a dict of out"),
        (
            given({"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 2, "kernel_size": 1}, output=5),
            "model.output=5: is not there; the network gives a Tensor",
        ),
    ],
)
def test_what_gives_no_logits_of_the_classes_is_refused_before_training(train, tmp_path, model, expected):
    with pytest.raises(InputError, match=expected):
        train("loss=pl", *model)
    assert not list(tmp_path.glob("runs/*/*/*/config.yaml"))


@pytest.mark.parametrize("output", [1, "logits"])
def test_logits_are_taken_by_position_or_name(output):
    class Around(nn.Module):
        def forward(self, image):
            given = {0: None, 1: image, "logits": image}
            return given if output == "logits" else [None, image]

    image = torch.rand(1, 3, 4, 4)
    assert torch.equal(LibraryNetwork(Around(), output)(image), image)


def test_looking_at_a_network_leaves_it_and_the_random_numbers_as_they_were():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout())
    net[1].eval()
    before, state = {key: x.clone() for key, x in net.state_dict().items()}, torch.get_rng_state()
    check_network(net, (8, 8), 2)
    assert [part.training for part in net] == [True, False, True]
    assert all(torch.equal(x, before[key]) for key, x in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
