"""Exceptions in a few lines: the frames of one's own file, never those of libraries."""

import numpy as np
import pytest

from cbseg.config import build, compose
from cbseg.errors import InputError
from cbseg.explain import explain, own_frames


def raised(function, *arguments):
    with pytest.raises(ValueError, match=".") as caught:
        function(*arguments)
    return caught.value


def wrong_shapes():
    return np.zeros(2) + np.zeros(3)


def test_an_exception_is_told_by_its_line_and_message():
    told = explain(raised(wrong_shapes)).splitlines()
    assert "test_explain.py:" in told[-3]
    assert told[-3].endswith("in wrong_shapes")
    assert told[-2].strip() == "return np.zeros(2) + np.zeros(3)"
    assert told[-1].startswith("ValueError: operands could not be broadcast")


def test_frames_of_libraries_are_left_out():
    assert {frame.name for frame in own_frames(raised(np.reshape, np.zeros(2), (3,)))} == {"raised"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.supervised.reduction=pixel", r"^loss\.supervised\.reduction=pixel does not exist; .* image, batch$"),
        ("loss.compare=probz", r"^loss\.compare=probz does not exist; .* probs, logits$"),
        ("loss.transforms.flip=maybe", r"^loss\.transforms\.flip=maybe: give true or false$"),
        ("loss.transforms._target_=cbseg.nothing", r"^loss\.transforms\._target_=cbseg\.nothing: cannot be imported"),
        ("+loss.supervised.wait=1", r"^loss\.supervised: .*unexpected keyword argument 'wait'$"),
        ("loss.weight=???", r"^loss\.weight: has no value"),
    ],
)
def test_a_refused_argument_is_told_by_the_key_that_the_user_can_write(override, message):
    with pytest.raises(InputError, match=message):
        build(compose(["loss=cb_fliprot", override]).loss, "loss")


def test_what_is_built_in_part_tells_its_key_when_it_is_called():
    split = build(compose(["data=covidA", "data.split.val=0"]).data.split, "data.split")
    with pytest.raises(InputError, match=r"^data\.split\.val=0: give a whole number"):
        split([])
