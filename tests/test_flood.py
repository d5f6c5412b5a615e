"""The flood and its landscape against scikit-image's watershed and SciPy's top-hat."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import black_tophat, gaussian_filter
from skimage.segmentation import watershed

from cbseg.losses.flood import compiled, find_boundaries
from cbseg.losses.lcfcn import black_top_hat


def expected_boundaries(landscape, markers, connectivity, mask):
    """By scikit-image, with markers lowered so that they equal no other pixel, then pixel by pixel."""
    heights = landscape.astype(np.float32).astype(np.float64).ravel()
    heights[markers] -= np.arange(len(markers), 0, -1) * np.spacing(heights[markers])
    seeds = np.zeros(mask.size, int)
    seeds[markers] = np.arange(1, len(markers) + 1)
    basins = np.pad(watershed(heights.reshape(mask.shape), seeds.reshape(mask.shape), connectivity, mask=mask), 1)
    return [
        k
        for k, (row, column) in enumerate(np.ndindex(mask.shape))
        if basins[row + 1, column + 1]
        and any(
            basins[row + 1 + down, column + 1 + right] not in (0, basins[row + 1, column + 1])
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            if abs(down) + abs(right) <= connectivity
        )
    ]


@st.composite
def floods(draw):
    """Landscapes with no ties, many ties, plateaus or nothing else; whole images and masks, with any markers inside."""
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
    mask = rng.random(shape) < draw(st.sampled_from([1, 0.8, 0.5]))
    inside = rng.permutation(np.flatnonzero(mask))
    markers = np.sort(inside[: draw(st.sampled_from([0, 1, 2, 5, 40]))])
    return (
        landscape.astype(draw(st.sampled_from([np.float32, np.float64]))),
        markers,
        draw(st.sampled_from([1, 2])),
        mask,
    )


@settings(max_examples=400, deadline=None)
@given(floods())
def test_basins_meet_where_those_of_scikit_image_do(case):
    assert find_boundaries(*case).tolist() == expected_boundaries(*case)


def test_a_large_image_too():
    rng = np.random.default_rng(0)
    landscape = black_tophat(gaussian_filter(rng.random((200, 240)), 2).astype(np.float32), 7)
    markers = np.sort(rng.choice(landscape.size, 50, replace=False))
    for mask in (np.ones_like(landscape, bool), gaussian_filter(rng.normal(size=landscape.shape), 3) > -0.05):
        inside = markers[mask.ravel()[markers]]
        for connectivity in (1, 2):
            case = (landscape, inside, connectivity, mask)
            assert find_boundaries(*case).tolist() == expected_boundaries(*case)


def test_markers_of_one_height_flood_what_is_lower_in_reading_order():
    ridge = np.array([[2, 0, 0, 0, 0, 2, 2]])
    mask = np.ones(ridge.shape, bool)
    assert find_boundaries(ridge, np.array([0, 5]), 1, mask).tolist() == [4, 5]
    assert find_boundaries(ridge[:, ::-1], np.array([1, 6]), 1, mask).tolist() == [5, 6]


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
