"""The flood and its landscape against scikit-image's watershed and SciPy's top-hat."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import black_tophat, gaussian_filter
from skimage.segmentation import find_boundaries, watershed

from cbseg.losses.flood import Landscape, compiled
from cbseg.losses.lcfcn import black_top_hat


def expected_boundaries(landscape, markers, within):
    """By scikit-image, with markers lowered so that they equal no other pixel."""
    if not len(markers):
        return []
    heights = landscape.astype(np.float32).astype(np.float64).ravel()
    heights[markers] -= np.arange(len(markers), 0, -1) * np.spacing(heights[markers])
    seeds = np.zeros(landscape.size, int)
    seeds[markers] = np.arange(1, len(markers) + 1)
    basins = watershed(heights.reshape(landscape.shape), seeds.reshape(landscape.shape))
    found = np.flatnonzero(find_boundaries(basins))
    return np.intersect1d(found, within).tolist()


@st.composite
def floods(draw):
    """Landscapes with no ties, many ties, plateaus or nothing else; any markers; all pixels looked at, or some."""
    shape = draw(st.tuples(st.integers(1, 16), st.integers(1, 16)))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    landscape = rng.random(shape) * draw(st.sampled_from([1, 1e-7, 1e-42]))  # 1e-42: of few bits in single precision
    kind = draw(st.sampled_from(["random", "smooth", "ties", "plateaus", "flat"]))
    if kind == "smooth":
        landscape = gaussian_filter(landscape, 2)
    elif kind == "ties":
        landscape = np.round(rng.random(shape) * 3)
    elif kind == "plateaus":
        landscape = np.where(gaussian_filter(rng.normal(size=shape), 2) > 0, 0, landscape)
    elif kind == "flat":
        landscape = np.zeros(shape)
    markers = np.sort(rng.permutation(landscape.size)[: draw(st.sampled_from([0, 1, 2, 5, 40]))])
    within = np.sort(rng.permutation(landscape.size)[: draw(st.sampled_from([1, 5, 60, 256]))])
    return landscape.astype(draw(st.sampled_from([np.float32, np.float64]))), markers, within


@settings(max_examples=400, deadline=None)
@given(floods())
def test_basins_meet_where_those_of_scikit_image_do(case):
    landscape, markers, within = case
    assert Landscape(landscape).boundaries(markers, within).tolist() == expected_boundaries(*case)


def test_a_large_image_too():
    rng = np.random.default_rng(0)
    heights = black_tophat(gaussian_filter(rng.random((200, 240)), 2).astype(np.float32), 7)
    landscape = Landscape(heights)
    for markers in (np.sort(rng.choice(heights.size, count, replace=False)) for count in (2, 50)):
        for within in (np.arange(heights.size), np.arange(5000, 9000)):
            assert landscape.boundaries(markers, within).tolist() == expected_boundaries(heights, markers, within)


def test_markers_of_one_height_flood_what_is_lower_in_reading_order():
    ridge = np.array([[2, 0, 0, 0, 0, 2, 2]])
    assert Landscape(ridge).boundaries(np.array([0, 5]), np.arange(7)).tolist() == [4, 5]
    assert Landscape(ridge[:, ::-1]).boundaries(np.array([1, 6]), np.arange(7)).tolist() == [5, 6]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3), (6, 8), (30, 41)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_top_hat_equals_that_of_scipy_bit_for_bit(shape, dtype):
    image = np.random.default_rng(0).random(shape).astype(dtype)
    ours = black_top_hat(image)
    assert ours.dtype == dtype
    assert np.array_equal(ours, black_tophat(image, 7))


def test_a_function_that_no_folder_can_keep_is_compiled_all_the_same():
    scope = {}
    exec(compile("def double(x):\n    return 2 * x", "/nowhere/double.py", "exec"), scope)
    assert compiled(scope["double"])(4) == 8
