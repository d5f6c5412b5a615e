"""The phantom: seeded, continuous, like COVID-19-A in what matters, and never written over anything else."""

import json

import numpy as np
import pytest
from PIL import Image

from cbseg.data import phantom
from cbseg.data.chest import AIR, Chest
from cbseg.data.covid_a import find_scans
from cbseg.errors import InputError


def test_equal_seeds_draw_equal_files_and_other_seeds_others(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        phantom.generate(tmp_path / name, "covidA", scans=2, seed=seed, size=80)
    files = [sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*g"))]
    for relative in files[0]:
        assert (tmp_path / "a" / relative).read_bytes() == (tmp_path / "b" / relative).read_bytes()
        assert (tmp_path / "a" / relative).read_bytes() != (tmp_path / "c" / relative).read_bytes()


def test_slices_are_as_varied_as_the_real_ones(tmp_path):
    """The real 98 slices: 1 to 34 regions a slice (median 7), 1 to 42 % infected, each of another size."""
    phantom.generate(tmp_path / "covidA", "covidA", scans=12, size=200)
    slices = [slice_ for scan in find_scans(tmp_path / "covidA") for slice_ in scan.read()]
    regions = [phantom_regions(mask) for _, _, mask in slices]
    shares = [(mask > 0).mean() for _, _, mask in slices]
    assert 3 <= np.median(regions) <= 12
    assert max(regions) > min(regions) + 3
    assert 0.005 < min(shares) < max(shares) < 0.5
    assert max(shares) > 3 * min(shares)
    assert len({mask.shape for _, _, mask in slices}) > 8


def phantom_regions(mask):
    from cbseg.points import find_regions

    return find_regions(mask)[1]


def test_anatomy_is_continuous_from_slice_to_slice():
    chest = Chest(3)
    here, near, far = (chest.slice(z, 100)[0] for z in (0.5, 0.503, 0.7))
    assert np.abs(here - near).mean() < 0.25 * np.abs(here - far).mean()


def test_tissues_have_their_hounsfield_units_and_infection_lies_in_the_lungs():
    chest = Chest(5)
    hu, mask = chest.slice(0.5, 160)
    assert hu[0, 0] == AIR
    lung = (hu > -960) & (hu < -700) & (mask == 0)
    assert 0.15 < lung.mean() < 0.6
    chest._lesions = []
    healthy, nothing = chest.slice(0.5, 160)
    assert nothing.max() == 0
    assert (healthy[mask > 0] < -600).mean() > 0.8  # the rest are vessels in the lung
    assert np.median(hu[mask > 0]) > np.median(healthy[mask > 0]) + 50


def test_a_phantom_that_is_there_is_kept_and_one_of_other_settings_replaced(tmp_path):
    root = tmp_path / "covidA"
    phantom.generate(root, "covidA", scans=2, size=80)
    written = (root / "phantom.json").stat().st_mtime_ns
    phantom.generate(root, "covidA", scans=2, size=80)
    assert (root / "phantom.json").stat().st_mtime_ns == written
    phantom.generate(root, "covidA", scans=4, size=80)
    assert json.loads((root / "phantom.json").read_text())["scans"] == 4
    assert len(find_scans(root)) == 4


def test_a_folder_that_is_no_phantom_is_not_touched(tmp_path):
    root = tmp_path / "covidA"
    root.mkdir()
    (root / "precious").write_text("real data")
    with pytest.raises(InputError, match="no phantom"):
        phantom.generate(root, "covidA", scans=2, size=80)
    assert (root / "precious").read_text() == "real data"


def test_an_interrupted_phantom_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    real, saved = Image.Image.save, []

    def save(self, path, **settings):
        saved.append(path)
        if len(saved) == 3:
            raise KeyboardInterrupt
        real(self, path, **settings)

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(KeyboardInterrupt):
        phantom.generate(tmp_path / "covidA", "covidA", scans=2, size=80)
    assert not (tmp_path / "covidA").exists()
    monkeypatch.undo()
    phantom.generate(tmp_path / "covidA", "covidA", scans=2, size=80)
    assert len(find_scans(tmp_path / "covidA")) == 2
