"""The DataModule: splits, points and batches; the same whatever the order, machine or number of workers."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from cbseg.config import build, compose
from cbseg.data.preprocess import normalise
from cbseg.data.samplers import EpochSampler
from cbseg.data.splits import published
from cbseg.data.store import SliceInfo
from cbseg.errors import InputError
from cbseg.points import IGNORE


@pytest.fixture
def make(covid_a, store):
    """``make("data.batch_size=4", …)`` gives the DataModule of the composed config, set up."""

    def one(*overrides):
        config = compose(
            ["experiment=phantom", "data.image_size=64", "data.split.val=2", "data.generate=null",
             f"data.root={covid_a}", f"store={store}", *overrides]
        )  # fmt: skip
        datamodule = build(config.data, "data")
        datamodule.setup()
        return datamodule

    return one


def batches(datamodule, epoch=0):
    loader = datamodule.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def info(name, subset):
    return SliceInfo(name, name, subset, 0, (4, 4), 1, 0)


def test_covid_a_splits_into_45_5_and_48():
    slices = [info(f"train-{k}", "train") for k in range(50)] + [info(f"test-{k}", "test") for k in range(48)]
    split = published(slices, val=5)
    assert (len(split.train), len(split.val), len(split.test)) == (45, 5, 48)
    assert split.train == list(range(45))
    assert sorted([*split.train, *split.val, *split.test]) == list(range(98))


def test_labelled_slices_alone_train_and_all_others_stay_as_they_are(make):
    whole, few = make(), make("data.labelled=2")
    assert len(few.split.train) == len(few.training_set) == 2
    assert set(few.split.train) < set(whole.split.train)
    assert (few.split.val, few.split.test, few.fingerprint) == (whole.split.val, whole.split.test, whole.fingerprint)
    names = {name for batch in batches(few) for name in batch["name"]}
    assert names == {few.store.slices[i].name for i in few.split.train}
    assert make("data.labelled=7").split == whole.split


def test_unlabelled_slices_fill_their_part_of_each_batch(make):
    datamodule = make("data.labelled=3", "data.batch_size=4", "data.unlabelled=2")
    labelled = {datamodule.store.slices[i].name for i in datamodule.split.train}
    for epoch in (0, 1):
        found = batches(datamodule, epoch)
        assert [len(batch["name"]) for batch in found] == [4, 3]
        assert sorted(name for batch in found for name in batch["name"] if name in labelled) == sorted(labelled)
        for batch in found:
            known = torch.tensor([name in labelled for name in batch["name"]])
            assert (~known).sum() == 2
            for key in ("points", "mask"):
                assert (batch[key][~known] == IGNORE).all()
            assert (batch["mask"][known] != IGNORE).all()
            assert (batch["points"][known] != IGNORE).flatten(1).any(1).all()
    assert batches(datamodule, 0)[0]["name"] != batches(datamodule, 1)[0]["name"]
    names = {name for epoch in range(9) for batch in batches(datamodule, epoch) for name in batch["name"]}
    assert len(names) == 6


def test_an_epoch_of_a_number_of_samples_counts_unlabelled_ones_too(make):
    found = batches(make("data.labelled=3", "data.batch_size=4", "data.unlabelled=1", "data.epoch=16"))
    assert [len(batch["name"]) for batch in found] == [4, 4, 4, 4]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("samples", [2, 5, 7, 9])
def test_processes_get_as_many_batches_with_unlabelled_slices_as_they_are_told(make, monkeypatch, processes, samples):
    datamodule = make("data.labelled=3", "data.batch_size=4", "data.unlabelled=2", f"data.epoch={2 * samples}")
    for rank in range(processes):
        monkeypatch.setattr(datamodule, "_share", lambda rank=rank: (rank, processes))
        loader = datamodule.train_dataloader()
        found = batches(datamodule)
        assert len(loader) == len(found)
        unlabelled = [int((batch["points"] == IGNORE).flatten(1).all(1).sum()) for batch in found]
        assert unlabelled == [2 // processes] * len(found)


def test_labelled_slices_meet_other_unlabelled_ones_in_each_epoch(make):
    datamodule = make("data.labelled=3", "data.batch_size=2", "data.unlabelled=1")
    partners = {}
    for epoch in range(9):
        for batch in batches(datamodule, epoch):
            partners.setdefault(batch["name"][0], set()).add(batch["name"][1])
    assert all(len(others) > 1 for others in partners.values())


def test_unlabelled_slices_that_do_not_exist_are_refused(make):
    with pytest.raises(InputError, match="data.unlabelled=1: each of the 6 training slices is labelled"):
        make("data.unlabelled=1")


def test_a_class_that_no_validation_slice_holds_is_warned_of(make, caplog):
    make()
    assert not caplog.records
    make("data.annotate.num_classes=3")
    assert "covidA: no validation slice holds class 2, so Dice is undefined" in caplog.text


@pytest.mark.parametrize(
    ("known", "dice", "mae"),
    [
        ([1, 1], True, True),
        ([1, 0], True, True),  # of the second nobody knows anything
        ([1, 0.01], False, True),  # beside clicks, of which Dice is undefined
        ([0.9, 0.9], True, False),  # regions may go on where nobody looked
        ([0.01, 0.01], False, False),
        ([0, 0], False, False),
    ],
)
def test_a_score_selects_where_the_validation_slices_tell_it(make, known, dice, mae):
    datamodule = make()
    for i, share in zip(datamodule.split.val, known, strict=True):
        item = datamodule.store.slices[i]
        unknown = round((1 - share) * math.prod(item.shape))
        datamodule.store.slices[i] = replace(item, regions=int(share > 0), unknown=unknown)
    assert [datamodule.can_select(f"val/{score}") for score in ("dice", "sens")] == [dice, dice]
    assert [datamodule.can_select(f"val/{score}") for score in ("mae", "game")] == [mae, mae]


def test_more_processes_than_slices_to_score_are_refused(make, monkeypatch):
    datamodule = make()
    monkeypatch.setattr(datamodule, "_share", lambda: (0, 3))
    with pytest.raises(InputError, match=r"trainer\.devices=3: there are 2 slices to score"):
        datamodule.val_dataloader()


@pytest.mark.parametrize(("val", "message"), [(2, "each part needs"), (3, "each part needs"), (0, "1 or more")])
def test_too_few_slices_for_the_split_are_refused(val, message):
    with pytest.raises(InputError, match=message):
        published([info("a", "train"), info("b", "train"), info("c", "test")], val)


def test_training_batches_hold_images_masks_and_points_at_training_size(make):
    (batch,) = batches(make())
    assert batch["image"].shape == batch["mask"].shape == batch["points"].shape == (6, 64, 64)
    assert {name.split("-")[0] for name in batch["name"]} == {"train"}
    for mask, points in zip(batch["mask"], batch["points"], strict=True):
        annotated = points != IGNORE
        assert 0 < annotated.sum() < 40
        assert (points[annotated] == 1).any()
        assert (points[annotated] == 0).any()
        # a point is true of the native mask; at training size it can lie just across an edge
        assert (mask[points == 1] == 1).float().mean() > 0.7


def test_evaluation_keeps_masks_at_native_size_and_reads_each_slice_once(make):
    datamodule = make("data.batch_size=3")
    items = [
        (i, mask)
        for batch in datamodule.test_dataloader()
        for i, mask in zip(batch["index"], batch["mask"], strict=True)
    ]
    assert [i for i, _ in items] == datamodule.split.test
    assert all((mask.numpy() == datamodule.store.native_mask(i)).all() for i, mask in items)


def test_batches_are_the_same_for_any_number_of_workers(make):
    for a, b in zip(batches(make()), batches(make("data.num_workers=2")), strict=True):
        assert a["name"] == b["name"]
        assert all(torch.equal(a[key], b[key]) for key in ("image", "mask", "points"))


def test_slices_that_live_on_a_device_make_the_same_batches(make):
    read, resident = make(), make()
    resident.training_set.move_to(torch.device("cpu"))
    resident.store.images = resident.store.masks = None  # no longer needed
    for a, b in zip(batches(read), batches(resident), strict=True):
        assert a["name"] == b["name"]
        assert all(torch.equal(a[key], b[key]) for key in ("image", "mask", "points"))
    assert read.training_set.nbytes == 3 * 6 * 64 * 64


@pytest.mark.parametrize(("free", "moved"), [(10**9, [torch.device("cuda")]), (10**5, [])])
def test_slices_move_to_a_gpu_that_has_room_for_them(make, monkeypatch, free, moved):
    datamodule, to = make(), []
    monkeypatch.setattr(datamodule, "_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    monkeypatch.setattr(datamodule.training_set, "move_to", to.append)
    datamodule.train_dataloader()
    assert to == moved


def test_masks_to_score_stay_where_regions_are_counted(make):
    datamodule = make()
    batch = next(iter(datamodule.test_dataloader()))
    moved = datamodule.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved["image"].device.type == "meta"
    assert {mask.device.type for mask in moved["mask"]} == {"cpu"}


def test_the_runs_seed_changes_the_order_and_not_the_points(make):
    first, second = batches(make("data.batch_size=6"))[0], batches(make("data.batch_size=6", "seed=3"))[0]
    assert first["name"] != second["name"]
    one, other = (dict(zip(batch["name"], batch["points"], strict=True)) for batch in (first, second))
    assert all(torch.equal(one[name], other[name]) for name in one)
    another = batches(make("data.batch_size=6", "data.annotate.seed=2"))[0]
    assert not all(
        torch.equal(one[name], points) for name, points in zip(another["name"], another["points"], strict=True)
    )


def test_points_do_not_depend_on_the_image_size_but_in_their_grid(make):
    small, large = make(), make("data.image_size=128")
    for a, b in zip(small.training_set.points, large.training_set.points, strict=True):
        assert (a == 1).sum() == (b == 1).sum()


def test_the_epoch_is_the_training_set_once_and_each_epoch_has_its_own_order(make):
    datamodule = make()
    orders = [[name for batch in batches(datamodule, epoch) for name in batch["name"]] for epoch in (0, 1, 0)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert len(set(orders[0])) == 6
    assert orders[0] == orders[2] != orders[1]


def test_the_released_epoch_is_twice_the_test_set_with_replacement(make):
    names = [name for batch in batches(make("protocol=released")) for name in batch["name"]]
    assert len(names) == 16
    assert len(set(names)) <= 6
    assert list(EpochSampler(range(6), 16, True, 0)) == list(EpochSampler(range(6), 16, True, 0))


def test_the_last_batch_is_left_out_if_it_is_not_full_and_the_protocol_says_so(make):
    sizes = lambda *overrides: [len(b["name"]) for b in batches(make("data.batch_size=4", *overrides))]  # noqa: E731
    assert sizes() == [4, 2]
    assert sizes("data.drop_last=true") == [4]
    with pytest.raises(InputError, match=r"data\.batch_size=8: an epoch has 6 samples, and no full batch"):
        batches(make("data.drop_last=true"))


def test_points_made_on_the_resized_mask_lie_on_it(make):
    native, resized = (make(f"data.annotate.points_on={mask}") for mask in ("native", "resized"))
    assert native.fingerprint != resized.fingerprint
    for i, points in zip(resized.split.train, resized.training_set.points, strict=True):
        assert (points[points != IGNORE] == resized.store.masks[i][points != IGNORE]).all()


def test_an_epoch_of_a_number_of_samples_draws_none_again_before_all_others(make):
    names = [name for batch in batches(make("data.epoch=16")) for name in batch["name"]]
    assert len(names) == 16
    assert sorted(Counter(names).values()) == [2, 2, 3, 3, 3, 3]
    assert len(set(names[:6])) == len(set(names[6:12])) == 6
    few = [name for batch in batches(make("data.epoch=4")) for name in batch["name"]]
    assert len(set(few)) == 4


def test_images_are_normalised_by_imagenets_statistics():
    image = normalise(torch.tensor([[[0, 255]]], dtype=torch.uint8))
    np.testing.assert_allclose(image[0, :, 0, 0], [-2.1179, -2.0357, -1.8044], atol=1e-3)
    np.testing.assert_allclose(image[0, :, 0, 1], [2.2489, 2.4286, 2.6400], atol=1e-3)


def test_peoples_clicks_replace_the_masks(make, tmp_path):
    file = tmp_path / "clicks.csv"
    names = ["train-0", "train-1", "train-2", "train-3", "train-4", "train-5"]
    file.write_text("slice,row,column,class\n" + "\n".join(f"{name},10,20,1\n{name},0,0,0" for name in names))
    (batch,) = batches(make(f"data.annotate.file={file}"))
    assert ((batch["points"] == 1).sum((1, 2)) == 1).all()
    assert (batch["points"][:, 0, 0] == 0).all()


def test_a_click_of_a_class_that_the_network_lacks_is_refused(make, tmp_path):
    file = tmp_path / "clicks.csv"
    lines = [f"train-{k},10,20,{2 if k == 3 else 1}" for k in range(6)]
    file.write_text("\n".join(["\ufeffslice,row,column,class", *lines]), encoding="utf-8")
    make(f"data.annotate.file={file}", "data.annotate.num_classes=3")
    with pytest.raises(InputError, match=r"slice train-3 has a point of class 2.*data\.annotate\.num_classes=2"):
        make(f"data.annotate.file={file}")


def test_a_training_slice_without_clicks_takes_no_part_as_not_clicked_is_not_healthy(make, tmp_path, caplog):
    file = tmp_path / "clicks.csv"
    file.write_text("slice,row,column,class\ntrain-0,10,20,1\ntrain-4,,,\n")
    (batch,) = batches(make(f"data.annotate.file={file}"))
    assert sorted(batch["name"]) == ["train-0", "train-4"]
    assert "clicks.csv: of 6 training slices 2 are annotated; the others take no part" in caplog.text
    file.write_text("slice,row,column,class\ntest-9,10,20,1\n")
    with pytest.raises(InputError, match=r"clicks\.csv: none of the 6 training slices, such as train-0, is annotated"):
        make(f"data.annotate.file={file}")
    file.write_text("slice,row,column,class\ntrain-0,1000,20,1\n")
    with pytest.raises(InputError, match=r"slice train-0.*row 1000"):
        make(f"data.annotate.file={file}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.image_size=16", "32 to 4096 pixels"),
        ("data.image_size=[64]", "one number or"),
        ("data.image_size=[64,abc]", "one number or"),
        ("data.image_size=64.5", "one number or"),
        ("data.num_workers=-1", "whole number, 0 or more"),
        ("data.batch_size=0", "whole number, 1 or more"),
        ("data.labelled=0", "data.labelled=0: give a whole number, 1 or more"),
        ("data.unlabelled=-1", "data.unlabelled=-1: give a whole number, 0 or more"),
        ("data.unlabelled=8", "data.unlabelled=8: of each batch of 8; give less"),
        ("data.epoch=twice", "once, released, or a number"),
        ("data.annotate.points_on=paper", r"data\.annotate\.points_on=paper.*native, resized"),
        ("data.epoch=0", "once, released, or a number"),
        ("data.annotate.sampler=middle", r"data\.annotate\.sampler=middle.*distance_transform, uniform, centroid"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_read(make, override, message):
    with pytest.raises(InputError, match=message):
        make(override, "data.root=/nowhere")
