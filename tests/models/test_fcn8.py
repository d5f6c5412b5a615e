"""The FCN8: shapes, symmetry, the original's cropping, and the loading of weights."""

import logging
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from cbseg.errors import InputError
from cbseg.models.fcn8 import FCN8, _bilinear

SMALL = {"channels": (4, 4, 6, 8, 8), "fc_channels": 12}


def small(**settings):
    torch.manual_seed(0)
    return FCN8(**(SMALL | settings)).eval()


def give_scores_random_weights(net):
    for module in (net.score_fc7, net.score_pool4, net.score_pool3):
        nn.init.normal_(module.weight)


@pytest.mark.parametrize("padding", ["same", "caffe"])
@pytest.mark.parametrize("size", [(64, 64), (96, 32), (50, 71), (33, 40)])
def test_logits_have_the_images_size(padding, size):
    logits = small(padding=padding, num_classes=3)(torch.zeros(2, 3, *size))
    assert logits.shape == (2, 3, *size)


@pytest.mark.parametrize("flip", [-1, -2])
def test_with_same_padding_and_mirror_symmetric_kernels_the_network_commutes_with_flips(flip):
    net = small()
    give_scores_random_weights(net)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_((module.weight + module.weight.flip(flip)) / 2)
        image = torch.randn(1, 3, 64, 96)
        assert net(image).std() > 0.01
        torch.testing.assert_close(net(image.flip(flip)), net(image).flip(flip))


def test_with_caffe_padding_it_does_not():
    net = small(padding="caffe")
    give_scores_random_weights(net)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_((module.weight + module.weight.flip(-1)) / 2)
        image = torch.randn(1, 3, 64, 64)
        assert (net(image.flip(-1)) - net(image).flip(-1)).abs().max() > 0.01


def test_caffe_padding_cuts_31_pixels_on_one_side_and_57_on_the_other_at_352():
    net = small(padding="caffe")
    widths = []
    net.up_pool3.register_forward_hook(lambda module, args, out: widths.append(out.shape[-1]))
    net(torch.zeros(1, 3, 352, 352))
    assert widths == [31 + 352 + 57]


def test_transposed_convolutions_start_as_bilinear_upsampling():
    up = _bilinear(2, 2, padding=1)
    x = torch.randn(1, 2, 8, 8)
    inner = (..., slice(2, -2), slice(2, -2))
    expected = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(up(x)[inner], expected[inner])


def test_every_parameter_has_a_gradient():
    net = small().train()
    give_scores_random_weights(net)
    net(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


BACKWARD = """
import torch
from cbseg.models.fcn8 import FCN8
net = FCN8(channels=(4, 4, 8, 8, 8), convolutions=(1, 1, 1, 1, 1), fc_channels=4096)
for _ in range(4):
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(torch.zeros(2, 3, 64, 64))
    logits.sum().backward()
"""


def test_fc7_of_full_width_trains_in_bfloat16():
    """With scores in bfloat16, a processor with AMX wrote past a buffer, and the process was killed."""
    done = subprocess.run([sys.executable, "-c", BACKWARD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_scores_are_computed_in_single_precision_under_autocast():
    net, dtypes = small(), []
    for score in (net.score_fc7, net.score_pool4, net.score_pool3):
        score.register_forward_hook(lambda module, inputs, scores: dtypes.append(scores.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.zeros(1, 3, 32, 32))
    assert dtypes == [torch.float32] * 3
    assert small().to(torch.bfloat16)(torch.zeros(1, 3, 32, 32, dtype=torch.bfloat16)).dtype == torch.float32


def test_it_runs_on_the_meta_device_as_tools_that_count_operations_ask():
    with torch.device("meta"):
        assert FCN8(**SMALL)(torch.empty(1, 3, 64, 64)).shape == (1, 2, 64, 64)


def test_it_has_vgg16s_layers_under_torchvisions_names():
    with torch.device("meta"):
        vgg = torchvision.models.vgg16()
    theirs = {name: p.shape for name, p in vgg.features.named_parameters()}
    net = FCN8(fc_channels=8)
    assert {name: p.shape for name, p in net.features.named_parameters()} == theirs


def state_of_a_small_vgg():
    """A VGG of the small network's widths in torchvision's form: features, and a classifier over 7 × 7."""
    torch.manual_seed(1)
    state = {f"features.{name}": torch.randn_like(p) for name, p in small().features.named_parameters()}
    channels, width = SMALL["channels"][-1], SMALL["fc_channels"]
    state |= {"classifier.0.weight": torch.randn(width, channels * 49), "classifier.0.bias": torch.randn(width)}
    state |= {"classifier.3.weight": torch.randn(width, width), "classifier.3.bias": torch.randn(width)}
    return state | {"classifier.6.weight": torch.randn(10, width), "classifier.6.bias": torch.randn(10)}


def test_fc6_and_fc7_as_convolutions_compute_what_the_classifier_computes(tmp_path):
    state = state_of_a_small_vgg()
    torch.save(state, tmp_path / "vgg.pth")
    net = small(weights=str(tmp_path / "vgg.pth"), padding="caffe")
    pooled = torch.randn(1, SMALL["channels"][-1], 7, 7)
    fc6 = pooled.flatten(1) @ state["classifier.0.weight"].T + state["classifier.0.bias"]
    torch.testing.assert_close(net.fc6(pooled).flatten(1), fc6)
    fc7 = fc6 @ state["classifier.3.weight"].T + state["classifier.3.bias"]
    torch.testing.assert_close(net.fc7(net.fc6(pooled)).flatten(1), fc7)


def test_a_features_only_file_fills_those_layers_and_says_so(tmp_path, caplog):
    state = {name: x.half() for name, x in state_of_a_small_vgg().items() if name.startswith("features.")}
    torch.save(state, tmp_path / "features.pth")
    caplog.set_level(logging.INFO)
    net = small(weights=str(tmp_path / "features.pth"))
    assert torch.equal(net.features[0].weight, state["features.0.weight"].float())
    assert "filled features.0, features.2" in caplog.text
    assert "at random: fc6, fc7" in caplog.text


def test_weights_of_another_shape_are_refused_with_both_shapes(tmp_path):
    torch.save({"features.0.weight": torch.zeros(5, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth.*features\.0\.weight.*\(5, 3, 3, 3\).*\(4, 3, 3, 3\)"):
        small(weights=str(tmp_path / "other.pth"))


def test_fc6_and_fc7_of_another_width_stay_at_random(tmp_path, caplog):
    caplog.set_level("INFO")
    torch.save(state_of_a_small_vgg(), tmp_path / "vgg.pth")
    net = small(weights=str(tmp_path / "vgg.pth"), fc_channels=SMALL["fc_channels"] // 2)
    assert torch.equal(net.features[0].weight, state_of_a_small_vgg()["features.0.weight"])
    assert "at random: fc6, fc7" in caplog.text


def test_a_file_without_vggs_layers_is_refused_with_what_it_holds(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(InputError, match=r"resnet\.pth.*conv1\.weight"):
        small(weights=str(tmp_path / "resnet.pth"))


class Payload:
    """Unpickled carelessly, this makes a folder."""

    def __reduce__(self):
        return os.mkdir, (os.environ["CBSEG_PAYLOAD"],)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("CBSEG_PAYLOAD", str(tmp_path / "harm"))
    torch.save({"features.0.weight": Payload()}, tmp_path / "evil.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Payload()))
    for name in ("evil.pth", "evil.pkl"):
        with pytest.raises(InputError, match=f"{name}.*nothing in it was run"):
            small(weights=str(tmp_path / name))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 a broken zip"])
def test_a_broken_weights_file_is_refused(tmp_path, content):
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.pth"):
        small(weights=str(tmp_path / "broken.pth"))


def test_no_damage_to_a_weights_file_escapes_as_another_error(tmp_path):
    rng = np.random.default_rng(0)
    torch.save(state_of_a_small_vgg(), tmp_path / "whole.pth")
    whole = np.frombuffer((tmp_path / "whole.pth").read_bytes(), np.uint8)
    for k in range(60):
        damaged = whole[: rng.integers(1, len(whole))] if k % 2 else rng.integers(0, 256, 300, np.uint8)
        (tmp_path / "damaged.pth").write_bytes(damaged.tobytes())
        with pytest.raises(InputError, match=r"damaged\.pth"):
            small(weights=str(tmp_path / "damaged.pth"))


def test_a_missing_weights_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        small(weights=str(tmp_path / "none.pth"))


def test_imagenet_offline_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.VGG16_Weights.IMAGENET1K_V1
    monkeypatch.setattr(weights.value, "url", "http://127.0.0.1:9/vgg16-397923af.pth")
    with pytest.raises(InputError, match=r"model\.weights=<path.*model\.weights=none"):
        FCN8(weights="imagenet", **SMALL)


def test_imagenet_is_fetched_and_reshaped(tmp_path, monkeypatch):
    """From a server on this machine, with the checksum in the file's name that torchvision verifies."""
    import hashlib
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    state = state_of_a_small_vgg()
    torch.save(state, tmp_path / "vgg.pth")
    digest = hashlib.sha256((tmp_path / "vgg.pth").read_bytes()).hexdigest()[:8]
    (tmp_path / "vgg.pth").rename(tmp_path / f"vgg16-{digest}.pth")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    weights = torchvision.models.VGG16_Weights.IMAGENET1K_V1
    monkeypatch.setattr(weights.value, "url", f"http://127.0.0.1:{server.server_port}/vgg16-{digest}.pth")
    try:
        net = small(weights="imagenet")
    finally:
        server.shutdown()
    assert torch.equal(net.fc6.weight.flatten(1), state["classifier.0.weight"])


@pytest.mark.parametrize(("dropout_of", "whole"), [("channels", True), ("elements", False)])
def test_what_falls_out_at_once(dropout_of, whole):
    net = FCN8(channels=(4, 4, 8, 8, 8), fc_channels=64, dropout_of=dropout_of)
    torch.manual_seed(0)
    kept = net.dropout(torch.ones(1, 64, 5, 5))[0] > 0
    assert bool((kept.flatten(1).all(1) | ~kept.flatten(1).any(1)).all()) == whole
    assert 0.3 < kept.float().mean() < 0.7


def test_settings_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="same, caffe"):
        FCN8(padding="valid")
    with pytest.raises(InputError, match=r"^dropout_of=pixels.*channels, elements"):
        FCN8(dropout_of="pixels")
    with pytest.raises(InputError, match="five stages"):
        FCN8(channels=(4, 4))
