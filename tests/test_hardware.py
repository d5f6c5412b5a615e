"""What a run asks of the machine."""

import subprocess
import sys
from copy import deepcopy
from functools import partial

import pytest
import torch

from cbseg.decision import Decision
from cbseg.hardware import compile_network, fast_memory_format, fast_precision
from cbseg.models.fcn8 import FCN8
from cbseg.module import SegmentationModule


def tiny():
    torch.manual_seed(0)
    net = FCN8(channels=(4, 4, 8, 8, 8), convolutions=(1, 1, 1, 1, 1), fc_channels=8)
    torch.nn.init.normal_(net.score_fc7.weight)
    return net.eval()


def test_the_precision_is_one_that_lightning_knows():
    assert fast_precision("cpu") in ("bf16-mixed", "32-true")


def test_bfloat16_only_where_the_processor_multiplies_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert fast_precision("cpu") == "32-true"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert fast_precision("cpu") == "bf16-mixed"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert fast_precision("auto") == "32-true"


def test_channels_last_but_where_a_processor_is_slow_in_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for capability, layout in {"AVX2": torch.contiguous_format, "AVX512": torch.channels_last}.items():
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert fast_memory_format() == layout
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fast_memory_format() == torch.channels_last
    assert fast_memory_format("cpu") == torch.contiguous_format


def test_training_goes_on_from_a_checkpoint_of_a_machine_with_another_layout():
    def training(layout, checkpoint=None):
        net = tiny().to(memory_format=layout)
        module = SegmentationModule(net, torch.nn.Identity(), partial(torch.optim.Adam, lr=0.1, fused=True), Decision())
        optimizer = module.configure_optimizers()
        if checkpoint is not None:
            net.load_state_dict(checkpoint["net"])
            optimizer.load_state_dict(deepcopy(checkpoint["optimizer"]))
        image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        net(image).square().sum().backward()
        optimizer.step()
        return {"net": net.state_dict(), "optimizer": optimizer.state_dict()}

    begun = training(torch.channels_last)
    for name, weight in training(torch.contiguous_format, begun)["net"].items():
        torch.testing.assert_close(weight, training(torch.channels_last, begun)["net"][name], rtol=1e-3, atol=1e-5)


def test_a_network_to_compile_runs_as_it_is_where_there_is_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    torch.compiler.reset()
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, compiled = tiny(), tiny()
    monkeypatch.setattr("torch._dynamo.config.suppress_errors", False)  # and so again afterwards
    compile_network(compiled)
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), plain(image), rtol=1e-4, atol=1e-5)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch.compiler.reset()


FAULTS = """
import resource, sys, torch
from cbseg.decision import Decision
from cbseg.hardware import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(sum([step() for _ in range(20)][-5:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is meant")
def test_memory_that_is_kept_is_not_faulted_in_again():
    freed, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("free", "keep")
    )
    assert kept < freed / 2
