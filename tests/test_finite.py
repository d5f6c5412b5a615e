"""The watch over losses, on a CPU and where the terms arrive later."""

import pytest
import torch

from cbseg.finite import FiniteLossWatch, NonFiniteLossError, Step


def terms(value):
    return {"loss": torch.tensor(value), "point": torch.tensor(1.5)}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_is_told_at_once_on_a_cpu(value):
    watch = FiniteLossWatch()
    watch.add(terms(0.5), 1, ["a"])
    with pytest.raises(NonFiniteLossError, match=r"epoch 2 \(loss .*, point 1.5\), on the slices b, c"):
        watch.add(terms(value), 2, ["b", "c"])


class Arrival:
    """Stands in for a GPU's event."""

    def __init__(self):
        self.arrived = False

    def query(self):
        return self.arrived

    def synchronize(self):
        self.arrived = True


def test_terms_that_have_not_arrived_are_looked_at_later_and_in_order():
    first, second = Arrival(), Arrival()
    watch = FiniteLossWatch()
    watch.steps.append(Step(1, ["loss"], ["a"], torch.tensor([1.0]), first))
    watch.steps.append(Step(1, ["loss"], ["b"], torch.tensor([float("nan")]), second))
    second.arrived = True
    watch.look(wait=False)
    assert len(watch.steps) == 2
    first.arrived = True
    with pytest.raises(NonFiniteLossError, match="slices b"):
        watch.look(wait=False)


def test_at_an_epochs_end_all_terms_are_waited_for():
    watch = FiniteLossWatch()
    watch.steps.append(Step(3, ["loss"], ["a"], torch.tensor([float("inf")]), Arrival()))
    watch.look(wait=False)
    with pytest.raises(NonFiniteLossError, match="epoch 3"):
        watch.look(wait=True)
