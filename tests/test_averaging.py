"""Averaged weights: what they are, from the first step on."""

from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import Callback

from cbseg import trainer
from cbseg.averaging import EMAWeights
from cbseg.errors import InputError


class Weights(Callback):
    """Keep the weights after each step."""

    def __init__(self):
        self.history = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.history.append({name: x.detach().clone() for name, x in pl_module.net.named_parameters()})


def test_a_run_keeps_the_average_of_its_steps_weights(train, monkeypatch):
    seen, real = Weights(), trainer.added_callbacks
    monkeypatch.setattr(trainer, "added_callbacks", lambda config: [*real(config), ("seen", seen)])
    averaged = ("trainer=ema", "trainer.callbacks.ema.decay=0.6", "selection.monitor=last")
    folder = train("loss=pl", *averaged, "trainer.max_epochs=4", "data.batch_size=2")
    assert len(seen.history) == 12
    expected = dict(seen.history[0])
    for n, weights in enumerate(seen.history[1:], 1):
        decay = min(0.6, (1 + n) / (10 + n))
        expected = {name: decay * x + (1 - decay) * weights[name] for name, x in expected.items()}
    kept = torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]
    for name, x in expected.items():
        torch.testing.assert_close(kept[f"net.{name}"], x, rtol=1e-4, atol=1e-6)


def test_the_average_is_kept_where_training_happens():
    """Lightning calls this before it moves the network; each step would bring the weights from the GPU to the CPU."""
    callback, module = EMAWeights(), LightningModule()
    module.net = torch.nn.Linear(2, 2)
    callback.setup(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta"))), module, "fit")
    assert {x.device.type for x in callback._average_model.parameters()} == {"meta"}
    assert module.net.weight.device.type == "cpu"
    assert callback._average_model.n_averaged.device.type == "cpu"


def test_batch_norms_are_averaged_and_count_their_batches():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)).train()
    module = LightningModule()
    module.net = network
    callback = EMAWeights(0.5)
    callback.setup(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu"))), module, "fit")
    expected = None
    for n in range(4):
        network(torch.rand(2, 3, 4, 4))
        callback._average_model.update_parameters(module)
        mean, decay = network[1].running_mean.clone(), min(0.5, (1 + n) / (10 + n))
        expected = mean if expected is None else decay * expected + (1 - decay) * mean
    averaged = callback._average_model.module.net[1]
    assert averaged.num_batches_tracked == 4
    torch.testing.assert_close(averaged.running_mean, expected)


@pytest.mark.parametrize("decay", [0, 1, 1.5, -0.1, "much", float("nan")])
def test_a_decay_that_averages_nothing_is_refused(decay):
    with pytest.raises(InputError, match=f"decay={decay}: give a number between 0 and 1"):
        EMAWeights(decay)
