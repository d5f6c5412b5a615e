"""Prediction as ``python -m cbseg.predict`` does it, and plainly, a slice at a time; and what a large volume takes."""

import resource
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch.nn.functional import interpolate

from cbseg.config import compose
from cbseg.data.inputs import CT, open_volume
from cbseg.data.preprocess import normalise
from cbseg.data.volumes import grey_window, window_to_uint8
from cbseg.hardware import keep_freed_memory
from cbseg.parts import build_module, build_network
from cbseg.predict import predict
from cbseg.prediction.predictor import Predictor
from cbseg.prediction.segmentation import segment
from experiments.benchmarks.noise import SIZE
from experiments.benchmarks.training import GPU

MODEL = "fcn8"
SIDE = 512  # pixels of a CT's slice
SLICES = 512 if GPU else 8
PLAIN_SLICES = 64 if GPU else 4
LARGE = 1200


def speed(folder: Path) -> dict[str, float]:
    """Measure slices a second of a volume that is on disk, read and windowed: plainly, and as predict does."""
    volume, run = _volume(folder, SLICES), _run(folder, f"model={MODEL}", f"data.image_size={SIZE}")
    plain = _plain(volume)
    predictor = Predictor(run)
    keep_freed_memory()
    seconds = []
    for _ in range(2):  # the first warms up
        started = time.perf_counter()
        opened = open_volume(volume)
        segment(predictor, SLICES, predictor.grey(opened), False)
        seconds.append(time.perf_counter() - started)
    ours = SLICES / seconds[-1]
    return {"plain, slices/s": plain, "predict, slices/s": ours, "ratio": ours / plain}


def memory(folder: Path) -> dict[str, float]:
    """Measure the peak memory, MiB, of predicting a compressed volume of 1,200 slices with a tiny network."""
    volume, run = _volume(folder, LARGE), _run(folder, "model=fcn8_tiny", "data.image_size=64")
    keep_freed_memory()
    predictor = Predictor(run, device="cpu")
    before = _peak()
    (folder / "out").mkdir()
    predict(predictor, CT(volume, Path("large.nii.gz")), folder / "out")
    stored = LARGE * SIDE**2 / 2**20
    return {
        f"{LARGE} slices: before, MiB": before,
        f"{LARGE} slices: peak, MiB": _peak(),
        f"{LARGE} slices: CT and labels alone, MiB": 3 * stored,
    }


def _plain(volume: Path) -> float:
    """Predict slice by slice, in single precision, from an image in memory; slices a second."""
    device = torch.device("cuda" if GPU else "cpu")
    net = build_network(compose([f"model={MODEL}", "model.weights=none", "loss=pl"])).eval().to(device)
    net.to(memory_format=torch.contiguous_format)
    opened = open_volume(volume)
    window = grey_window(opened, "window", (-1250.0, 250.0))
    started = time.perf_counter()
    with torch.no_grad():
        for k in range(PLAIN_SLICES):
            grey = torch.from_numpy(window_to_uint8(opened.slice(k), window))[None].to(device)
            image = interpolate(normalise(grey), (SIZE, SIZE), mode="bilinear", antialias=True)
            interpolate(net(image), (SIDE, SIDE), mode="bilinear").argmax(1).cpu()
    return PLAIN_SLICES / (time.perf_counter() - started)


def _volume(folder: Path, slices: int) -> Path:
    """Write a CT of air and soft tissue, with noise, in int16."""
    random = np.random.default_rng(0)
    few = [_slice(random) for _ in range(8)]
    stored = np.empty((SIDE, SIDE, slices), np.int16, order="F")
    for k in range(slices):
        stored[..., k] = few[k % len(few)]
    path = folder / f"ct{slices}.nii.gz"
    nib.save(nib.Nifti1Image(stored, np.diag([-0.7, -0.7, 1.0, 1.0])), path)
    return path


def _slice(random: np.random.Generator) -> NDArray[np.int16]:
    hu = np.full((SIDE, SIDE), -1000)
    hu[64:-64, 32:-32] = 40
    hu[128:-128, 96:-96] = -800
    return (hu + random.integers(-24, 25, hu.shape)).astype(np.int16)


def _run(folder: Path, *overrides: str) -> Path:
    """Write the folder of a run on volumes, with a network as it begins."""
    composed = compose(["data=covidB_sep", "loss=pl", "model.weights=none", *overrides])
    config = DictConfig(OmegaConf.to_container(composed, resolve=True))
    run = folder / "runs/covidB_sep/pl/seed0"
    run.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, run / "config.yaml")
    torch.save({"state_dict": build_module(config).state_dict()}, run / "best.ckpt")
    (run / "metrics.json").write_text("{}")
    return run


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
