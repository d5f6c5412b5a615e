"""Processes of a run: what they find in their environment."""

from pytorch_lightning.plugins.environments import LightningEnvironment

from cbseg.processes import isolated


def is_one_of_two():
    environment = LightningEnvironment()
    assert environment.main_address == "127.0.0.1"
    assert environment.main_port != 1
    assert environment.node_rank() == 0
    assert environment.local_rank() in (0, 1)


def test_processes_that_train_together_are_one_machine_whatever_a_cluster_says(monkeypatch):
    said = {"MASTER_ADDR": "10.0.0.9", "MASTER_PORT": "1", "NODE_RANK": "1", "GROUP_RANK": "1", "LOCAL_RANK": "3"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert isolated(is_one_of_two, processes=2) == ""
