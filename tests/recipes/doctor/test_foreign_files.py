"""What the doctor does with checkpoints and hyperparameters that another program, or damage, has made."""

import math
import warnings

import pytest
import torch
import yaml

from lightning_gap.recipes.doctor.checkpoint import facts_of_checkpoint
from lightning_gap.recipes.doctor.own_runs import facts_of_logs

ODD_CHECKPOINTS = {
    "no optimizers": {"optimizer_states": None},
    "no weight decay": {"optimizer_states": [{"param_groups": [{"weight_decay": None}]}]},
    "settings in a list": {"lightning_gap_settings": ["LearningRateScaling"]},
    "settings of nothing": {"lightning_gap_settings": {"LearningRateScaling": None}},
    "no base": {"lightning_gap_settings": {"LearningRateScaling": {}}},
    "no weights": {"state_dict": None},
    "weights by number": {"state_dict": {3: torch.ones(1)}},
    "a list": [1, 2],
}


@pytest.mark.parametrize("content", ODD_CHECKPOINTS.values(), ids=ODD_CHECKPOINTS)
def test_a_checkpoint_that_tells_nothing_is_left_out_by_name(content, tmp_path):
    file = tmp_path / "odd.ckpt"
    torch.save(content, file)
    with pytest.warns(UserWarning, match=r"odd.ckpt' was not read .*: it is left out"):
        assert facts_of_checkpoint(file) == {}


@pytest.mark.promise("flipped")
def test_a_number_in_which_a_bit_has_flipped_is_not_read(tmp_path):
    file = tmp_path / "last.ckpt"
    torch.save({"global_step": 1000, "state_dict": {}}, file)
    assert facts_of_checkpoint(file)["steps"].value == 1000
    content = file.read_bytes()
    number = (1000).to_bytes(2, "little")
    file.write_bytes(content.replace(number, (1001).to_bytes(2, "little"), 1))
    with pytest.warns(UserWarning, match="was not read"):
        assert facts_of_checkpoint(file) == {}


@pytest.mark.parametrize("value", [0, -32, math.nan, math.inf, 10**400])
def test_a_hyperparameter_that_cannot_be_is_left_out_by_name(value, tmp_path):
    (tmp_path / "hparams.yaml").write_text(yaml.safe_dump({"base_batch_size": value}))
    with pytest.warns(UserWarning, match=r"hparams.yaml': base_batch_size is .*: it is left out"):
        assert facts_of_logs(tmp_path, tmp_path).base_batch_size is None


@pytest.mark.parametrize("text", ["a: 2026-13-45", 3000 * "[", "a: [", "{1: 2}: 3"])
def test_hyperparameters_that_are_no_yaml_are_named(text, tmp_path):
    (tmp_path / "hparams.yaml").write_text(text)
    with warnings.catch_warnings(), pytest.raises(ValueError, match=r"hparams.yaml' is damaged"):
        facts_of_logs(tmp_path, tmp_path)


def test_a_batch_size_below_one_in_a_log_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,batch/size\n0,-320\n1,-320\n")
    with pytest.raises(ValueError, match=r"metrics.csv: batch/size is -320 samples"):
        facts_of_logs(tmp_path, tmp_path)
