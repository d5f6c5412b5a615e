"""Results: written and read in one place, and pooled by what runs are, not by how they were written."""

import made_results
import pytest
from made_results import result, write

from cbseg.errors import InputError
from cbseg.results import SCHEMA, by_setting, find_results, read_result
from cbseg.run_folder import RunFolder
from experiments import tables


def test_what_is_written_is_read(tmp_path):
    made = result(loss="cb_flip", seed=3, settings="optim=sps")
    assert read_result(RunFolder(write(tmp_path, made))) == made


def test_a_run_of_this_package_is_read_and_knows_what_decides_it(train):
    found = read_result(RunFolder(train("loss=pl", "trainer.max_epochs=1", "overlays=0")))
    assert found.schema == SCHEMA
    assert found.keys["trainer.max_epochs"] == 1
    assert found.keys["loss.reduction"] == "image"
    assert not {"seed", "overlays", "data.root", "store", "runs"} & found.keys.keys()
    assert found.fingerprint.startswith("covidA-")


DAMAGES = {
    "cut": ("{", "cannot be read"),
    "empty": ("", "cannot be read"),
    "foreign": ('{"accuracy": 0.5}', "is of schema None, not 1"),
    "a list": ("[]", "is of schema None"),
    "later": ('{"schema": 2}', "is of schema 2"),
    "lacking": ('{"schema": 1, "data": "covidA"}', "is damaged (loss, seed"),
}


@pytest.mark.parametrize(("content", "told"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_or_foreign_result_is_named_and_left_out(tmp_path, caplog, content, told):
    good, bad = (write(tmp_path, result(seed=seed)) for seed in (0, 1))
    (bad / "metrics.json").write_text(content)
    assert list(find_results(tmp_path)) == [good]
    assert f"{bad}/metrics.json: {told}" in caplog.text
    with pytest.raises(InputError, match="rerun=true"):
        read_result(RunFolder(bad))


def test_a_value_of_another_type_is_damage(tmp_path):
    folder = write(tmp_path, result())
    made_results.change(folder, scans=[1, 2], epochs="3")
    with pytest.raises(InputError, match=r"damaged \(scans, epochs missing or of another type\)"):
        read_result(RunFolder(folder))


def test_names_in_a_file_lead_to_no_other_place(tmp_path):
    folder = write(tmp_path / "runs", result())
    made_results.change(folder, settings="../../../outside", data="/etc", loss="..")
    (setting,) = by_setting(find_results(tmp_path / "runs"))
    assert "/" not in setting.file_name
    tables.write(tmp_path / "runs")
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"covidA", "tables"}


def grouped(tmp_path, *made):
    """Each setting's title, and its runs as ``<loss> <seed>``."""
    for one in made:
        write(tmp_path, one)
    return {
        setting.title: [f"{one.loss} {one.seed}" for one in setting.results.values()]
        for setting in by_setting(find_results(tmp_path))
    }


def test_runs_of_one_setting_stand_side_by_side(tmp_path):
    made = [result(loss=loss, seed=seed, keys={"loss.is": loss}) for loss in ("pl", "cb_flip") for seed in (0, 1)]
    assert grouped(tmp_path, *made) == {"the defaults": ["cb_flip 0", "cb_flip 1", "pl 0", "pl 1"]}


def test_seeds_whose_configs_differ_are_no_seeds_of_one_run(tmp_path):
    made = [result(seed=seed, keys={"optim.lr": lr, "data.batch_size": 8}) for seed, lr in enumerate((0.1, 0.2, 0.2))]
    other = result(loss="full", keys={"optim.lr": 0.2, "data.batch_size": 8})
    assert grouped(tmp_path, *made, other) == {
        "the defaults (optim.lr=0.1)": ["pl 0"],
        "the defaults (optim.lr=0.2)": ["full 0", "pl 1", "pl 2"],
    }


def test_losses_of_one_name_and_other_data_do_not_stand_side_by_side(tmp_path):
    assert grouped(tmp_path, result(), result(loss="full", fingerprint="covidA-9999")) == {
        "the defaults (fingerprint=covidA-0123)": ["pl 0"],
        "the defaults (fingerprint=covidA-9999)": ["full 0"],
    }


def test_seeds_written_in_different_ways_are_pooled_under_the_shorter_name(tmp_path):
    made = [result(seed=0, settings="a=1,b=2", keys={"a": 1}), result(seed=1, settings="a=1", keys={"a": 1})]
    assert grouped(tmp_path, *made) == {"a=1": ["pl 0", "pl 1"]}


def test_one_run_by_two_names_counts_once(tmp_path, caplog):
    made = [result(settings=name, keys={"a": 1}) for name in ("a=1", "b=2")]
    assert grouped(tmp_path, *made) == {"a=1": ["pl 0"]}
    assert "is the same run as" in caplog.text


def test_tables_of_settings_of_one_name_say_what_differs_and_lie_apart(tmp_path):
    for seed, lr in enumerate((0.1, 0.2)):
        write(tmp_path, result(seed=seed, keys={"optim.lr": lr}))
    markdown = tables.write(tmp_path)
    assert "# Settings: the defaults (optim.lr=0.1)" in markdown
    assert "over 2 seeds" not in markdown
    assert len([path for path in (tmp_path / "tables").iterdir() if path.is_dir()]) == 2
