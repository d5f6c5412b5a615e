"""A run's folder is data: whatever its config and its weights say, nothing in them acts."""

import os
import pickle
import zipfile

import pytest
import torch
import yaml
from torch import nn

from cbseg.checkpoint import read_checkpoint
from cbseg.errors import InputError
from cbseg.models import fcn8
from cbseg.prediction.predictor import Predictor
from cbseg.run_config import read_config
from cbseg.run_folder import RunFolder

FCN8 = {
    "_target_": "cbseg.models.fcn8.FCN8", "num_classes": 2, "weights": "none", "padding": "same",
    "channels": [4, 4, 8, 8, 8], "convolutions": [1, 1, 1, 1, 1], "fc_channels": 8,
}  # fmt: skip


class Mine(nn.Module):
    """A user's own network."""

    def __init__(self, num_classes, pretrained=False):
        super().__init__()
        assert not pretrained
        self.score = nn.Conv2d(3, num_classes, 1)


def mine(num_classes):
    return Mine(num_classes)


@pytest.fixture
def saved(tmp_path):
    """Make a run's folder with this model in its config, and this network's weights: ``saved(model, net)``."""

    def one(model=FCN8, net=None, **more):
        config = {
            "model": model,
            "decision": {"_target_": "cbseg.decision.Decision", "num_classes": 2},
            "data": {"image_size": 64, "find_scans": {"window": [-1250, 250]}},
            "trainer": {"accelerator": "auto", "precision": "32-true"},
        } | more
        folder = RunFolder(tmp_path / "run")
        folder.path.mkdir(exist_ok=True)
        folder.config.write_text(yaml.safe_dump(config))
        net = net or fcn8.FCN8(**{key: value for key, value in FCN8.items() if key != "_target_"})
        state = {f"net.{name}": x for name, x in net.state_dict().items()}
        torch.save({"state_dict": state | {"decision.learned": torch.zeros(2)}}, folder.best)
        return folder

    return one


class Touch:
    """Touches a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


ACTING = {
    "a command": {"_target_": "os.system", "_args_": ["touch FILE"]},
    "a library's command": {"_target_": "torch.utils.collect_env.run", "_args_": ["touch FILE"]},
    "a pickle": {"_target_": "pandas.read_pickle", "filepath_or_buffer": "FILE.pkl"},
    "torch.load": {"_target_": "torch.load", "f": "FILE.pkl", "weights_only": False},
    "what an own module imports": {"_target_": "cbseg.models.fcn8.torch.load", "f": "FILE.pkl", "weights_only": False},
    "an own function": {"_target_": "cbseg.config._call", "target_": "os.system", "key_": "x", "command": "touch FILE"},
    "an own network's helper": {"_target_": "cbseg.models.weights.load_vgg16", "weights": "FILE.pkl"},
    "Hydra": {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.system", "command": "touch FILE"}},
    "a file to write": {"_target_": "numpy.save", "_args_": ["FILE", [1]]},
    "what acts later": {"_target_": "pandas.read_pickle", "filepath_or_buffer": "FILE.pkl", "_partial_": True},
    "a function to take": {"_target_": "hydra.utils.get_method", "path": "os.system"},
}


@pytest.mark.parametrize("node", ACTING.values(), ids=ACTING)
@pytest.mark.parametrize("place", ["itself", "an argument", "a list", "the decision"])
def test_nothing_is_made_that_a_config_names(saved, tmp_path, node, place):
    (tmp_path / "touched.pkl").write_bytes(pickle.dumps(Touch(tmp_path / "touched")))
    node = yaml.safe_load(yaml.safe_dump(node).replace("FILE", str(tmp_path / "touched")))
    if place == "the decision":
        with pytest.raises(InputError, match=r"config\.yaml: decision.*_target_=.*, add --trust "):
            Predictor(saved(decision={"num_classes": 2, "tta": node}).path)
        assert not list(tmp_path.glob("touched")) + list(tmp_path.glob("touched.npy"))
        return
    model = {
        "itself": {"num_classes": 2, **node},
        "an argument": {**FCN8, "padding": node},
        "a list": {**FCN8, "channels": [node, 4, 8, 8, 8]},
    }[place]
    with pytest.raises(InputError, match=r"run/config\.yaml: model.*_target_=.*, add --trust "):
        Predictor(saved(model).path)
    assert not list(tmp_path.glob("touched")) + list(tmp_path.glob("touched.npy"))


def test_a_network_of_ones_own_is_trusted_by_its_name_or_its_classes_by_their_module(saved):
    model = {"_target_": f"{__name__}.Mine", "num_classes": 2, "pretrained": True}  # which would fetch weights
    folder = saved(model, Mine(2))
    with pytest.raises(InputError, match=rf"add --trust {__name__}\.Mine"):
        Predictor(folder.path)
    for trusted in (f"{__name__}.Mine", __name__):
        assert type(Predictor(folder.path, trusted=[trusted]).net).__name__ == "Mine"
    folder = saved(model | {"_target_": f"{__name__}.mine"}, Mine(2))
    with pytest.raises(InputError, match="--trust"):
        Predictor(folder.path, trusted=[__name__])
    with pytest.raises(InputError, match="pretrained"):  # it has no such argument
        Predictor(folder.path, trusted=[f"{__name__}.mine"])


@pytest.mark.parametrize("name", ["torch.load", "nn.Conv2d", "os.system", "fcn8.FCN8"])
def test_a_trusted_module_does_not_vouch_for_what_it_imports(saved, name):
    with pytest.raises(InputError, match="--trust|not as its run wrote it"):
        Predictor(saved({"_target_": f"{__name__}.{name}", "num_classes": 2}).path, trusted=[__name__])


@pytest.mark.parametrize("weights", ["imagenet", "/etc/passwd", "https://example.org/vgg.pth"])
def test_the_weights_that_a_training_began_with_are_not_looked_for(saved, monkeypatch, weights):
    monkeypatch.setattr(fcn8, "load_vgg16", lambda net, given: given == "none" or pytest.fail(given))
    Predictor(saved(FCN8 | {"weights": weights}).path)
    with pytest.raises(InputError, match="_args_: arguments of cbseg.models.fcn8.FCN8 are given by their names"):
        Predictor(saved(FCN8 | {"_args_": [2, weights]}).path)


LARGE = {
    "width": ({"fc_channels": 10**9}, "best.ckpt: is damaged|overflow"),
    "classes": ({"num_classes": 2 * 10**9}, "num_classes=2000000000: 255 are the most"),
    "layers": ({"convolutions": [10**9] * 5}, "convolutions=.*100 or fewer"),
}


@pytest.mark.parametrize(("claim", "told"), LARGE.values(), ids=LARGE)
def test_nothing_is_allocated_for_what_a_config_claims(saved, claim, told):
    with pytest.raises(InputError, match=told):
        Predictor(saved(FCN8 | claim).path)


class Computes(nn.Module):
    """A network that needs numbers while it is made, and has some that no weights hold."""

    def __init__(self, num_classes):
        super().__init__()
        self.score = nn.Conv2d(3, num_classes, 1)
        self.register_buffer("kept", torch.ones(1) * torch.ones(1).item(), persistent=False)


def test_a_network_that_computes_while_it_is_made_is_made(saved, monkeypatch):
    monkeypatch.setattr(fcn8, "Computes", Computes, raising=False)
    monkeypatch.setattr(Computes, "__module__", fcn8.__name__)
    net = Predictor(saved({"_target_": "cbseg.models.fcn8.Computes", "num_classes": 2}, Computes(2)).path).net
    assert net.kept == 1


BOMB = "a0: &a0 [x]\n" + "".join(f"a{k}: &a{k} [{','.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12))
NO_CONFIGS = {
    "aliases": (BOMB, "aliases"),
    "levels": ("a: " + "[" * 10**5, "50 levels"),
    "bytes": ("# \n" * 10**6, "262144 bytes"),
    "tags": ("a: !!python/object/apply:os.system [exit]", "could not determine a constructor"),
    "binary": ("\0\1\2", "special characters"),
    "a list": ("- 1", "no keys"),
    "a word": ("word", "no keys"),
    "empty": ("", "no keys"),
    "a key twice": ("a: 1\na: 2", "duplicate key"),
}


@pytest.mark.parametrize(("text", "told"), NO_CONFIGS.values(), ids=NO_CONFIGS)
def test_what_is_no_config_of_a_run_is_refused(tmp_path, text, told):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"config\.yaml: is no run's config \(.*{told}"):
        read_config(tmp_path / "config.yaml")


def test_texts_of_a_runs_config_refer_to_nothing(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cr3t")
    texts = ["${oc.env:SECRET}", "${b}", r"\${b}", r"\\${a${b}}", "${", "${hydra:runtime.cwd}"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"texts": texts}))
    assert list(read_config(tmp_path / "config.yaml").texts) == texts
    with pytest.raises(InputError, match=r"model\.padding=\$\{oc\.env:SECRET\}: refers to something else"):
        Predictor(saved(FCN8 | {"padding": "${oc.env:SECRET}"}).path)


def test_a_checkpoint_that_claims_more_than_it_holds_or_that_acts_is_refused(tmp_path):
    file = tmp_path / "best.ckpt"
    torch.save({"state_dict": {"net.x": torch.zeros(1).expand(10**6, 10**6)}}, file)
    with pytest.raises(InputError, match=r"best\.ckpt: .*claims more than"):
        read_checkpoint(file, ["state_dict"])
    torch.save({"state_dict": {"net.x": torch.zeros(10**6)}}, file)
    with zipfile.ZipFile(file) as whole, zipfile.ZipFile(tmp_path / "packed", "w", zipfile.ZIP_DEFLATED) as packed:
        for item in whole.infolist():
            packed.writestr(item.filename, whole.read(item))
    with pytest.raises(InputError, match=r"packed: .*it claims \d+ bytes"):
        read_checkpoint(tmp_path / "packed", ["state_dict"])
    torch.save({"state_dict": Touch(tmp_path / "touched")}, file)
    with pytest.raises(InputError, match="nothing in it was run"):
        read_checkpoint(file, ["state_dict"])
    torch.save([1], file)
    with pytest.raises(InputError, match="it lacks state_dict"):
        read_checkpoint(file, ["state_dict"])
    assert not (tmp_path / "touched").exists()
