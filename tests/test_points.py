"""Point annotations: one a region, inside it; as many on the background; the same everywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt
from skimage.measure import label

from cbseg.clicks import read_points
from cbseg.errors import InputError
from cbseg.points import IGNORE, SAMPLERS, count_regions, place_points, resize_points, sample_points

masks = arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.integers(0, 1))
class_masks = arrays(np.uint8, (12, 17), elements=st.integers(0, 2))


def crescent():
    y, x = np.mgrid[:40, :40]
    return ((np.hypot(y - 20, x - 20) < 16) & (np.hypot(y - 20, x - 26) > 14)).astype(np.uint8)


def rings():
    y, x = np.mgrid[:41, :41]
    r = np.hypot(y - 20, x - 20)
    return ((r < 3) | ((r > 8) & (r < 11)) | ((r > 15) & (r < 18))).astype(np.uint8)


@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(max_examples=60, deadline=None)
@given(mask=st.one_of(masks, class_masks), seed=st.integers(0, 2**63 - 1))
def test_each_region_has_one_point_inside_it_and_the_background_as_many(sampler, mask, seed):
    points = sample_points(mask, sampler, seed)
    regions, count = label(mask, connectivity=2, return_num=True)
    if count == 0:
        assert (points == 0).all()
        return
    annotated = points != IGNORE
    assert (points[annotated] == mask[annotated]).all()
    assert sorted(regions[annotated & (mask > 0)]) == list(range(1, count + 1))
    assert (annotated & (mask == 0)).sum() == min(count, (mask == 0).sum())


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("mask", [crescent(), rings()], ids=["crescent", "rings"])
def test_points_lie_inside_crescents_and_rings(sampler, mask):
    regions, count = label(mask, connectivity=2, return_num=True)
    points = sample_points(mask, sampler)
    assert sorted(regions[points == 1]) == list(range(1, count + 1))


@settings(max_examples=60, deadline=None)
@given(mask=masks)
def test_distance_transform_takes_the_pixel_farthest_from_the_edge(mask):
    points = sample_points(mask, "distance_transform")
    regions, count = label(mask, connectivity=2, return_num=True)
    if mask.all():
        return
    for k in range(1, count + 1):
        depth = distance_transform_edt(regions == k)
        assert depth[(points == 1) & (regions == k)] == depth.max()


def test_a_mask_that_is_all_infection_gets_its_middle():
    points = sample_points(np.ones((5, 7), np.uint8))
    assert points[2, 2:5].min() == 1
    assert (points != IGNORE).sum() == 1


def test_uniform_reaches_every_pixel_of_a_region_about_as_often():
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 1:4] = 1
    hits = sum((sample_points(mask, "uniform", seed) == 1).astype(int) for seed in range(3000))
    assert (hits[mask == 0] == 0).all()
    assert hits[mask == 1].min() > 400
    assert hits[mask == 1].max() < 600


def test_points_depend_on_mask_sampler_and_seed_alone():
    mask = rings()
    for sampler in SAMPLERS:
        np.random.seed(3)  # noqa: NPY002 - the global state must not matter
        first = sample_points(mask, sampler, seed=5)
        np.random.random(7)  # noqa: NPY002
        assert (first == sample_points(mask.astype(np.int64), sampler, seed=5)).all()
        assert (first != sample_points(mask, sampler, seed=6)).any()


def test_the_draws_are_the_same_on_every_machine():
    points = sample_points(rings(), "uniform", seed=1)
    assert [tuple(map(int, at)) for at in np.argwhere(points == 1)] == POINTS_OF_SEED_1
    assert [tuple(map(int, at)) for at in np.argwhere(points == 0)] == BACKGROUND_OF_SEED_1


POINTS_OF_SEED_1 = [(11, 7), (19, 21), (24, 13)]
BACKGROUND_OF_SEED_1 = [(7, 36), (32, 17), (32, 25)]


def test_background_points_do_not_depend_on_the_sampler():
    background = [sample_points(rings(), sampler, seed=2) == 0 for sampler in SAMPLERS]
    assert (background[0] == background[1]).all()
    assert (background[0] == background[2]).all()


def test_a_slice_without_regions_is_all_background_or_not_annotated():
    healthy = np.zeros((3, 4), np.uint8)
    assert (sample_points(healthy, empty="background") == 0).all()
    assert (sample_points(healthy, empty="ignore") == IGNORE).all()


@settings(max_examples=60, deadline=None)
@given(mask=masks, height=st.integers(1, 40), width=st.integers(1, 40))
def test_resizing_points_loses_no_region(mask, height, width):
    points = sample_points(mask)
    resized = resize_points(points, (height, width))
    infected = int(((points != IGNORE) & (points > 0)).sum())
    assert ((resized != IGNORE) & (resized > 0)).sum() == min(infected, height * width)
    if infected == 0:
        assert (resized == 0).all()


def test_resizing_to_the_same_size_changes_nothing():
    points = sample_points(rings())
    assert (resize_points(points, points.shape) == points).all()


def test_peoples_clicks_are_read_and_placed(tmp_path):
    file = tmp_path / "clicks.csv"
    file.write_text("slice,row,column,class\ntrain-1,3,4,1\ntrain-1,0,0,0\ntrain-2,,,\n")
    clicks = read_points(file)
    points = place_points(clicks["train-1"], (5, 6))
    assert (points[3, 4], points[0, 0], (points != IGNORE).sum()) == (1, 0, 2)
    assert (place_points(clicks["train-2"], (5, 6)) == 0).all()
    assert (place_points(clicks["train-2"], (5, 6), "ignore") == IGNORE).all()


@pytest.mark.parametrize(
    "line", ["train-1", "train-1,3,4", "train-1,a,4,1", "train-1,3.5,4,1", "train-1,3,4,1,9", ",3,4,1"]
)
def test_a_line_that_is_no_click_is_refused_with_its_number(tmp_path, line):
    file = tmp_path / "clicks.csv"
    file.write_text(f"slice,row,column,class\ntrain-0,1,1,1\n{line}\n")
    with pytest.raises(InputError, match=r"clicks\.csv, line 3"):
        read_points(file)


def test_clicks_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_points(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="row 9, column 0, class 1"):
        place_points([(9, 0, 1)], (5, 6))
    file = tmp_path / "clicks.csv"
    file.write_text("slice,row,column,class\na,3,4,1\na,3,4,1\nb,3,4,0\na,3,4,0\n")
    with pytest.raises(InputError, match=r"line 5: the pixel has another class above"):
        read_points(file)
    for lines in ("a,,,\na,3,4,1\n", "a,3,4,1\na,,,\n"):
        file.write_text(f"slice,row,column,class\n{lines}")
        with pytest.raises(InputError, match=r"line 3: a is marked as healthy and has clicks"):
            read_points(file)
    file.write_bytes("slice,row,column,class\nPäivi,3,4,1\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"clicks\.csv: is not UTF-8"):
        read_points(file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"sampler": "middle"}, "distance_transform, uniform, centroid"), ({"empty": "skip"}, "background, ignore")],
)
def test_settings_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        sample_points(np.zeros((2, 2), np.uint8), **arguments)


@pytest.mark.parametrize("mask", [np.zeros((1, 2, 2), np.uint8), np.full((2, 2), 256), np.full((2, 2), -1)])
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(ValueError, match="classes from 0 to 254"):
        sample_points(mask)


HEAD = "slice,row,column,class\n"
TRUTH = {"a": [(38, 48, 1), (3, 4, 0)], "b": []}
TABLES = {
    "plain": HEAD + "a,38,48,1\na,3,4,0\nb,,,\n",
    "pandas' floats": HEAD + "a,38.0,48.0,1.0\na,3.0,4.0,0.0\nb,,,\n",
    "pandas' index": ",slice,row,column,class\n0,a,38,48,1\n1,a,3,4,0\n2,b,,,\n",
    "pandas' NaN": HEAD + "a,38.0,48.0,1.0\na,3.0,4.0,0.0\nb,NaN,nan,NaN\n",
    "no header": "a,38,48,1\na,3,4,0\nb,,,\n",
    "semicolons": HEAD.replace(",", ";") + "a;38;48;1\na;3;4;0\nb;;;\n",
    "semicolons and decimal commas": HEAD.replace(",", ";") + "a;38,0;48,0;1,0\na;3,0;4,0;0,0\nb;;;\n",
    "tabs": HEAD.replace(",", "\t") + "a\t38\t48\t1\na\t3\t4\t0\nb\t\t\t\n",
    "tabs, no header": "a\t38\t48\t1\na\t3\t4\t0\nb\t\t\t\n",
    "blanks and capitals": "Slice, Row, Column, Class\na, 38, 48, 1\na , 3, 4, 0\nb, , ,\n",
    "other columns, another order": "class,reader,column,row,slice\n1,x,48,38,a\n0,y,4,3,a\n,z,,,b\n",
    "quoted, CRLF, byte-order mark": "\ufeff"
    + '"slice","row","column","class"\r\n"a",38,48,1\r\n"a",3,4,0\r\n"b",,,\r\n',
    "empty lines, one line twice": "\n" + HEAD + "a,38,48,1\n\na,38,48,1\na,3,4,0\nb,,,\n",
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_tables_as_programs_write_them_read_to_the_same_clicks(tmp_path, text):
    (tmp_path / "c.csv").write_text(text, newline="")
    assert read_points(tmp_path / "c.csv") == TRUTH


@pytest.mark.parametrize("line", ["a,1e400,4,1", "a,inf,4,1", "a,38.5,4,1", "a,,4,1", "a;3;4;1", "a,3,4,"])
def test_numbers_that_are_no_pixels_are_refused_with_their_line(tmp_path, line):
    (tmp_path / "c.csv").write_text(f"{HEAD}a,1,1,1\n{line}\n")
    with pytest.raises(InputError, match=r"c\.csv, line 3: .*whole numbers"):
        read_points(tmp_path / "c.csv")
    (tmp_path / "c.csv").write_text("name,y,x,label\na,1,1,1\n")
    with pytest.raises(InputError, match=r"c\.csv, line 1: name, y, x, label is not slice,row,column,class"):
        read_points(tmp_path / "c.csv")


def scribbled(size=512):
    """Strokes three pixels wide in a mask of three regions and on its background."""
    y, x = np.mgrid[:size, :size] / size
    mask = np.zeros((size, size), np.uint8)
    for k, (row, column, radius) in enumerate([(0.3, 0.3, 0.12), (0.35, 0.7, 0.15), (0.7, 0.5, 0.18)]):
        mask[np.hypot(y - row, x - column) < radius] = k % 2 + 1
    near = np.abs(np.sin(40 * x + 7 * y)) < 0.25
    return mask, np.where(near, mask, IGNORE).astype(np.uint8)


def test_strokes_are_resized_by_vote_and_not_smeared():
    mask, strokes = scribbled()
    small = resize_points(strokes, (96, 96))
    at = ((np.arange(96) + 0.5) * 512 / 96).astype(int)
    annotated = small != IGNORE
    share = (small != mask[np.ix_(at, at)])[annotated].mean()
    assert annotated.mean() > 0.2
    assert share < 0.03
    assert set(np.unique(small)) == {0, 1, 2, IGNORE}


def test_a_stroke_that_others_outvote_keeps_a_pixel():
    strokes = np.zeros((40, 40), np.uint8)
    strokes[20, 20:22] = 1
    small = resize_points(strokes, (4, 4))
    assert (small == 0).all() or (small == 1).sum() == 1
    strokes[0, 0] = IGNORE
    strokes[:10, :10] = IGNORE
    assert (resize_points(strokes, (4, 4)) == 1).sum() == 1


def test_a_lone_click_among_many_of_the_background_stays_where_it_was_made():
    points = np.full((64, 64), IGNORE, np.uint8)
    points[:30] = 0
    points[17, 23] = IGNORE
    points[16:19, 22:25] = IGNORE
    points[17, 23] = 1
    assert np.argwhere(resize_points(points, (16, 16)) == 1).tolist() == [[4, 5]]


def test_more_clicks_than_pixels_fill_them(tmp_path):
    points = np.full((64, 64), IGNORE, np.uint8)
    points[::2, ::2] = 1
    assert (resize_points(points, (16, 16)) == 1).all()


def test_known_takes_all_pixels_that_somebody_looked_at_and_no_others():
    mask = np.array([[0, 1, IGNORE], [2, IGNORE, 0]], np.uint8)
    assert (sample_points(mask, "known", empty="ignore") == mask).all()
    assert (sample_points(np.zeros((2, 2), np.uint8), "known", empty="ignore") == 0).all()


@pytest.mark.parametrize("sampler", ["distance_transform", "uniform", "centroid"])
def test_points_of_a_mask_that_is_known_in_part_lie_where_it_is(sampler):
    mask = np.full((12, 12), IGNORE, np.uint8)
    mask[2:5, 2:5], mask[7:9] = 1, 0
    points = sample_points(mask, sampler, seed=1)
    assert (points[points != IGNORE] == mask[points != IGNORE]).all()
    assert ((points == 1).sum(), (points == 0).sum()) == (1, 1)
    mask[2:5, 2:5] = IGNORE
    assert (sample_points(mask, sampler) == mask).all()  # no region: what is known is background
    assert (sample_points(mask, sampler, empty="ignore") == IGNORE).all()
    assert count_regions(mask) == 0
