"""The store: what it holds, when it is built anew, and that nothing half-written is ever read."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cbseg.data import covid_b, phantom
from cbseg.data import store as store_module
from cbseg.data.covid_a import FOLDERS, find_scans
from cbseg.data.scans import SliceData
from cbseg.data.store import SliceStore, prepare
from cbseg.errors import InputError
from cbseg.points import IGNORE, count_regions

SIZE = (48, 64)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_it_holds_images_and_masks_at_training_size_and_masks_at_native_size(covid_a, tmp_path):
    store = SliceStore(prepare(find_scans(covid_a), SIZE, tmp_path, "covidA"))
    slices = [slice_ for scan in find_scans(covid_a) for slice_ in scan.read()]
    assert store.images.shape == store.masks.shape == (16, *SIZE)
    assert len({item.shape for item in store.slices}) > 1  # the phantom's sizes differ
    for i, (name, image, mask) in enumerate(slices):
        assert store.slices[i].name == name
        assert (store.native_mask(i) == mask).all()
        rows = ((np.arange(SIZE[0]) + 0.5) * mask.shape[0] / SIZE[0]).astype(int)
        columns = ((np.arange(SIZE[1]) + 0.5) * mask.shape[1] / SIZE[1]).astype(int)
        assert (store.masks[i] == mask[np.ix_(rows, columns)]).all()
        reference = Image.fromarray(image).resize(SIZE[::-1], Image.Resampling.BILINEAR)
        assert np.abs(store.images[i].astype(int) - np.asarray(reference)).max() <= 2


def test_statistics_count_what_table_1_counts(covid_a, tmp_path):
    store = SliceStore(prepare(find_scans(covid_a), SIZE, tmp_path, "covidA"))
    statistics = store.statistics()
    assert (statistics["cases"], statistics["slices"], statistics["slices_with_infections"]) == (16, 16, 16)
    assert statistics["infected_regions"] == sum(item.regions for item in store.slices) > 32


def test_it_is_built_once_and_anew_only_when_contents_or_how_they_are_read_change(covid_a, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(covid_a, root)
    first = prepare(find_scans(root), SIZE, tmp_path, "covidA")
    built = (first / "index.json").stat().st_mtime_ns
    os.utime(root / "Dataset" / FOLDERS["train"] / "Imgs/3.jpg")
    shutil.copytree(root, tmp_path / "moved")
    assert prepare(find_scans(tmp_path / "moved"), SIZE, tmp_path, "covidA") == first
    assert (first / "index.json").stat().st_mtime_ns == built
    assert prepare(find_scans(root), (48, 48), tmp_path, "covidA") != first
    Image.open(root / "Dataset" / FOLDERS["train"] / "GT/3.png").transpose(0).save(
        root / "Dataset" / FOLDERS["train"] / "GT/3.png"
    )
    assert prepare(find_scans(root), SIZE, tmp_path, "covidA") != first


def test_files_that_change_names_make_another_store_as_names_pair_them(tmp_path):
    root = tmp_path / "covidB"
    phantom.generate(root, "covidB", scans=1, seed=4, size=64)
    *masks, last = sorted((root / covid_b.PNG).iterdir(), key=lambda path: int(path.stem.split("_z")[1]))
    last.unlink()
    first = prepare(covid_b.find_scans(root), SIZE, tmp_path, "covidB")
    for mask, above in zip(reversed(masks), reversed([*masks[1:], last]), strict=True):
        mask.rename(above)
    second = prepare(covid_b.find_scans(root), SIZE, tmp_path, "covidB")
    assert second != first
    assert not np.array_equal(SliceStore(second).masks, SliceStore(first).masks)


def test_a_full_disk_leaves_nothing_and_says_what_to_do(covid_a, tmp_path, monkeypatch):
    real = store_module.count_regions
    calls = []

    def full(mask):
        calls.append(mask)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(mask)

    monkeypatch.setattr(store_module, "count_regions", full)
    with pytest.raises(InputError, match=r"No space left on device.*store="):
        prepare(find_scans(covid_a), SIZE, tmp_path, "covidA")
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_bad_scan_leaves_nothing(covid_a, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(covid_a, root)
    (root / "Dataset" / FOLDERS["test"] / "Imgs/9.jpg").write_text("hello")
    with pytest.raises(InputError, match=r"9\.jpg"):
        prepare(find_scans(root), SIZE, tmp_path / "store", "covidA")
    assert [path.suffix for path in (tmp_path / "store").iterdir()] == [".lock"]


def slow_prepare(root, parent):
    real = store_module.count_regions

    def slow(mask):
        time.sleep(0.02)
        return real(mask)

    store_module.count_regions = slow
    torch.set_num_threads(1)
    prepare(find_scans(root), SIZE, Path(parent), "covidA")


def test_after_a_kill_at_any_moment_the_next_build_ends_with_the_same_store(covid_a, tmp_path):
    reference = contents(prepare(find_scans(covid_a), SIZE, tmp_path / "reference", "covidA"))
    context = multiprocessing.get_context("fork")
    moments = random.Random(0)
    interrupted = 0
    for k in range(20):
        parent = tmp_path / str(k)
        process = context.Process(target=slow_prepare, args=(covid_a, parent))
        process.start()
        while not list(parent.glob("*.part")):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.15))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if list(parent.glob("*.part")):
            interrupted += 1
            assert not list(parent.glob("covidA-*/index.json"))
        assert contents(prepare(find_scans(covid_a), SIZE, parent, "covidA")) == reference
        assert not list(parent.glob("*.part"))
    assert interrupted > 5


def test_a_store_without_its_index_is_built_anew(covid_a, tmp_path):
    folder = prepare(find_scans(covid_a), SIZE, tmp_path, "covidA")
    reference = contents(folder)
    (folder / "index.json").unlink()
    assert contents(prepare(find_scans(covid_a), SIZE, tmp_path, "covidA")) == reference


@pytest.mark.parametrize("name", ["images.u8", "masks.u8", "native_masks.u8"])
def test_a_damaged_store_is_refused(covid_a, tmp_path, name):
    folder = prepare(find_scans(covid_a), SIZE, tmp_path, "covidA")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="is damaged.*delete"):
        SliceStore(folder)


def test_processes_that_prepare_at_once_build_once(covid_a, tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=slow_prepare, args=(covid_a, tmp_path)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    (folder,) = tmp_path.glob("covidA-*/")
    assert len(json.loads((folder / "index.json").read_text())["slices"]) == 16


@pytest.mark.parametrize("name", ["images.u8", "masks.u8", "native_masks.u8"])
def test_a_store_with_more_in_a_file_than_its_index_says_is_refused(covid_a, tmp_path, name):
    folder = prepare(find_scans(covid_a), SIZE, tmp_path, "covidA")
    with (folder / name).open("ab") as file:
        file.write(bytes(48 * 64))
    with pytest.raises(InputError, match=rf"is damaged \({name} has .*delete"):
        SliceStore(folder)


class Coloured:
    """A scan whose slices have three channels."""

    name, subset, identity, files = "colour", "", "", ()

    def read(self):
        yield SliceData("colour-0", np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))


def test_slices_that_are_not_rows_by_columns_never_enter_a_store(tmp_path):
    scan = Coloured()
    scan.files = (tmp_path / "colour.dcm",)
    scan.files[0].write_bytes(b"")
    with pytest.raises(InputError, match=r"colour\.dcm: slice colour-0 is \(8, 8, 3\).*rows × columns"):
        prepare([scan], SIZE, tmp_path / "store", "covidA")


def test_names_that_are_no_utf_8_are_prepared(covid_a, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(covid_a, root)
    for folder, suffix in (("Imgs", "jpg"), ("GT", "png")):
        path = root / "Dataset" / FOLDERS["train"] / folder / f"3.{suffix}"
        path.rename(path.with_name(os.fsdecode(b"M\xfcller." + suffix.encode())))
    store = SliceStore(prepare(find_scans(root), SIZE, tmp_path, "covidA"))
    assert r"train-M\xfcller" in [item.name for item in store.slices]


def test_a_mask_that_is_known_in_part_keeps_its_clicks_at_training_size(tmp_path):
    mask = np.full((96, 128), IGNORE, np.uint8)
    mask[5, 5], mask[50:53, 60:90], mask[90, 120] = 1, 0, 2

    class Scan:
        name, subset, files, identity = "one", "", (), ""

        def read(self):
            yield SliceData("one-0", np.zeros((96, 128), np.uint8), mask)
            yield SliceData("one-1", np.zeros((96, 128), np.uint8), np.zeros((96, 128), np.uint8))

    store = SliceStore(prepare([Scan()], SIZE, tmp_path, "own"))
    assert sorted(np.unique(store.masks[0]).tolist()) == [0, 1, 2, IGNORE]
    assert ((store.masks[0] == 1).sum(), (store.masks[0] == 2).sum()) == (1, 1)
    first, second = store.slices
    assert (first.regions, first.unknown, second.unknown, second.share_known) == (2, 96 * 128 - 92, 0, 1)


@pytest.mark.parametrize("size", [(352, 352), (128, 128), (40, 40)])
def test_a_mask_that_is_known_for_the_most_is_resized_as_masks_are_and_keeps_its_lone_clicks(tmp_path, size):
    whole = np.zeros((128, 128), np.uint8)
    whole[40:60, 40:60] = 1
    mask = whole.copy()
    mask[:, :30] = IGNORE
    mask[8, 8], mask[80, 80] = 1, 1  # clicks: where nobody looked else, and on what is known

    class Scan:
        name, subset, files, identity = "one", "", (), ""

        def read(self):
            for k, of_slice in enumerate((mask, whole)):
                yield SliceData(f"one-{k}", np.zeros((128, 128), np.uint8), of_slice)

    found, truth = SliceStore(prepare([Scan()], size, tmp_path, "own")).masks
    known = found != IGNORE
    assert known.mean() == pytest.approx(98 / 128, abs=0.02)
    clicks = known & (found != truth)
    assert count_regions(clicks.astype(np.uint8)) == 2
    assert clicks.sum() <= 2 * max(1, np.ceil(size[0] / 128) ** 2)
