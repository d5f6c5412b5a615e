"""The bench and the profile, at a tiny size: the plain step computes what ours does, and both are measured."""

import json

import pytest
import torch

from cbseg.config import build
from cbseg.losses.consistency import Consistency
from cbseg.losses.lcfcn import LCFCNLoss
from cbseg.losses.point import PointLoss
from cbseg.models.fcn8 import FCN8
from cbseg.transforms import RandomTransform
from experiments import bench, step_profile
from experiments.benchmarks import prediction, training

TINY = ("model=fcn8_tiny",)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(training, "SIZE", 64)
    monkeypatch.setattr(training, "STEPS", 2)
    real = training._config
    monkeypatch.setattr(training, "_config", lambda loss, *overrides: real(loss, *TINY, *overrides))


@pytest.mark.parametrize("supervised", [PointLoss(), LCFCNLoss()])
def test_one_pass_over_both_views_gives_the_loss_and_gradients_of_two(supervised):
    torch.manual_seed(0)
    net = FCN8(channels=(4, 4, 8, 8, 8), convolutions=(1, 1, 1, 1, 1), fc_channels=8, dropout=0.0).double()
    for score in (net.score_fc7, net.score_pool4, net.score_pool3):
        torch.nn.init.normal_(score.weight)
    points = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    points[:, 4:28:8, 5], points[:, 4:28:8, 20] = 1, 0
    batch = {"image": torch.randn(3, 3, 32, 32).double(), "mask": (points == 1).long(), "points": points}
    loss = Consistency(supervised, RandomTransform(True, [0, 90, 180, 270]), weight=2.0)
    terms = {}
    for name, passes in {"one": loss, "two": lambda *some: training.two_passes(net, loss, *some[1:])}.items():
        net.zero_grad()
        terms[name] = passes(net, batch, torch.Generator().manual_seed(1))
        terms[name]["loss"].backward()
        terms[name] = {key: value.item() for key, value in terms[name].items() if key != "inconsistency"}
        terms[name]["gradient"] = torch.cat([p.grad.flatten() for p in net.parameters()])
    gradients = [terms[name].pop("gradient") for name in terms]
    assert terms["one"] == pytest.approx(terms["two"], rel=1e-9)
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("loss", ["full", "cb_fliprot"])
def test_training_and_testing_are_measured_plain_and_as_a_run_does_them(loss, tmp_path):
    for measured in (training.ours(loss, tmp_path), training.plain(loss)):
        assert set(measured) == {"images", "tested", "memory"}
        assert all(value > 0 for value in measured.values())


def test_a_loss_of_two_views_costs_twice_the_operations():
    once = training.flops_per_image("pl")
    assert once > 0
    assert training.flops_per_image("cb_flip") == 2 * once


def test_the_operations_of_a_convolution_are_counted_as_by_hand(monkeypatch):
    def build(config, key):
        return torch.nn.Conv2d(3, 5, 3, padding=1) if key == "model" else PointLoss()

    monkeypatch.setattr(training, "build", build)
    forward = 2 * 64 * 64 * 5 * 3 * 9
    assert training.flops_per_image("pl") == 2 * forward  # the image needs no gradient


def test_the_profile_lists_operators_by_their_time(monkeypatch, tmp_path):
    monkeypatch.setattr(step_profile, "ROWS", 1000)
    lines = step_profile.profile_ours("pl", tmp_path, (), tmp_path / "trace.json").splitlines()
    assert lines[0].split() == ["operator", "ms", "a", "step", "share", "calls"]
    layers = build(training._config("pl").model, "model").modules()
    convolutions = sum(isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d) for layer in layers)
    (calls,) = [line.split()[-1] for line in lines if line.startswith("aten::convolution_backward ")]
    assert float(calls) == convolutions  # a step's, not all steps'
    shares = [float(line.split()[-2].rstrip("%")) for line in lines[2:-1]]
    assert shares == sorted(shares, reverse=True)
    assert (tmp_path / "trace.json").is_file()


def test_a_parts_results_are_shown_a_column_for_each_loss(capsys):
    bench.show("Training", {"pl": {"ratio": 4.0, "TFLOP/s": 0.5}, "cb_flip": {"ratio": 6.0, "TFLOP/s": 0.25}})
    assert [line.split() for line in capsys.readouterr().out.splitlines()[2:]] == [
        ["pl", "cb_flip"], ["-------", "----", "---------"], ["ratio", "4.00", "6.00"], ["TFLOP/s", "0.50", "0.25"],
    ]  # fmt: skip


def test_the_file_holds_how_it_was_measured_machine_and_results(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "apart", lambda measure, *arguments: {"1 region, ratio": 4.0})
    monkeypatch.setattr("sys.argv", ["bench", "--only", "lcfcn", "--out", str(tmp_path / "runs/bench.json")])
    bench.main()
    written = json.loads((tmp_path / "runs/bench.json").read_text())
    assert written["results"] == {"lcfcn": {"1 region, ratio": 4.0}}
    assert written["measured_with"]["batch_size"] == training.BATCH
    assert {"machine", "versions", "git"} < set(written)
    assert "1 region, ratio" in capsys.readouterr().out


def test_prediction_is_measured_plain_and_as_predict_does_it_and_what_a_large_volume_takes(monkeypatch, tmp_path):
    small = {"MODEL": "fcn8_tiny", "SIZE": 64, "SIDE": 256, "SLICES": 3, "PLAIN_SLICES": 2, "LARGE": 4}
    for name, value in small.items():
        monkeypatch.setattr(prediction, name, value)
    speed = prediction.speed(tmp_path)
    assert speed["ratio"] == pytest.approx(speed["predict, slices/s"] / speed["plain, slices/s"])
    memory = prediction.memory(tmp_path)
    assert memory["4 slices: peak, MiB"] >= memory["4 slices: before, MiB"] > 0
    assert memory["4 slices: CT and labels alone, MiB"] == 4 * 3 / 16
    assert (tmp_path / "out/large.nii.gz").is_file()
