"""Pictures tell classes apart, and what is not known from what is wrong."""

import numpy as np
import pytest

from cbseg.drawing import CLASSES, CONFUSED, CORRECT, FALSE, MISSED, legend, paint
from cbseg.points import IGNORE
from cbseg.wandb_pictures import mask_image

GREY = np.full((1, 1), 100, np.uint8)


@pytest.mark.parametrize(
    ("truth", "prediction", "colour"),
    [
        (1, 1, CORRECT),
        (1, 0, MISSED),
        (0, 1, FALSE),
        (0, 0, (100, 100, 100)),
        (2, 2, CLASSES[1]),
        (2, 1, CONFUSED),
        (IGNORE, 1, CORRECT),
        (IGNORE, 2, CLASSES[1]),
        (IGNORE, 0, (100, 100, 100)),
        (1, None, CORRECT),
        (3, None, CLASSES[2]),
        (IGNORE, None, (100, 100, 100)),
    ],
)
def test_each_pair_of_truth_and_prediction_has_its_colour(truth, prediction, colour):
    shape = GREY.shape
    predicted = None if prediction is None else np.full(shape, prediction, np.uint8)
    assert paint(GREY, np.full(shape, truth, np.uint8), predicted, opacity=1)[0, 0].tolist() == list(colour)


def test_the_legend_names_the_classes():
    assert legend(("ggo", "consolidation")).startswith("green: ggo, orange: consolidation found, blue: missed")


def test_wandb_masks_tell_classes_apart_and_leave_out_what_is_not_known():
    truth, prediction, points = np.zeros((3, 8, 8), np.uint8)
    truth[0, :3], prediction[0, :3] = [1, 2, IGNORE], [1, 1, 2]
    points[:] = IGNORE
    points[6, 6] = 2
    classes = ("ggo", "consolidation")
    masks = mask_image("one", classes, (10, 9), np.zeros((8, 8), np.uint8), points, truth, prediction)._masks
    labels = {name: mask._val["class_labels"] for name, mask in masks.items()}
    assert labels["prediction"] == {3: "predicted ggo", 4: "predicted consolidation"}
    assert labels["points"] == {5: "click on background", 6: "click on ggo", 7: "click on consolidation"}
    shown = {name: np.unique(mask._val["mask_data"]).tolist() for name, mask in masks.items()}
    assert shown == {"truth": [0, 1, 2], "prediction": [0, 3, 4], "points": [0, 7]}
    assert {mask._val["mask_data"].shape for mask in masks.values()} == {(10, 9)}  # as large as the others of its name
