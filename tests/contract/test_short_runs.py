"""Runs shorter than Lightning's 50 steps between two lines of the log: their schedules have curves all the same."""

import csv
import warnings

import pytest
import tiny
import torch
from contract.registry import REGISTRY
from lightning.pytorch.loggers import CSVLogger

from lightning_gap import BatchSizeScheduler, LearningRateScaling, SharpnessAwareMinimization

BY_STEP = sorted(name for name, entry in REGISTRY.items() if not entry.is_monitor and entry.keys - {"ghost/layers"})


def curves(folder, *callbacks, module=None, **options):
    logger = CSVLogger(folder, name="", version="")
    torch.manual_seed(0)
    trainer = tiny.trainer(*callbacks, **({"log_every_n_steps": 50, "max_epochs": 2} | options), logger=logger)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the length of the warmup
        trainer.fit(module or tiny.TinyClassifier(), tiny.loader())
    with open(f"{logger.log_dir}/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [(int(row["step"]), float(row[key])) for row in rows if row[key]] for key in rows[0]}


@pytest.mark.parametrize("name", BY_STEP)
def test_every_key_has_the_first_step_and_the_last_of_each_epoch(name, tmp_path):
    found = curves(tmp_path, REGISTRY[name].make(), max_epochs=3)
    for key in REGISTRY[name].keys:
        steps = [step for step, _ in found[key]]
        assert steps == sorted(set(steps))
        assert len(steps) >= (1 if name == "AdaptiveBatchSize" else 3), key


def test_the_values_are_those_that_a_line_for_each_step_has(tmp_path):
    def callbacks():
        return LearningRateScaling(8, warmup_epochs=2), SharpnessAwareMinimization(0.1)

    few = curves(tmp_path / "few", *callbacks())
    all_steps = curves(tmp_path / "all", *callbacks(), log_every_n_steps=1)
    for key in ("lr/effective", "lr/scale", "batch/size", "sam/rise"):
        assert [step for step, _ in few[key]] == [0, 2, 5]
        assert [step for step, _ in all_steps[key]] == list(range(6))
        known = dict(all_steps[key])
        assert [value for _, value in few[key]] == pytest.approx([known[step] for step, _ in few[key]], rel=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_step_of_several_batches_has_one_line_at_its_own_number(tmp_path, accumulate):
    found = curves(tmp_path, BatchSizeScheduler({0: 16 * accumulate}, max_micro_batch=16))
    per_epoch = -(-3 // accumulate)
    ends = sorted({0, per_epoch - 1, 2 * per_epoch - 1})
    assert [step for step, _ in found["batch/size"]] == ends
    assert {size for _, size in found["batch/size"]} == {16 * accumulate}


def test_where_lightning_writes_the_step_it_is_not_written_again(tmp_path):
    found = curves(tmp_path, LearningRateScaling(8), log_every_n_steps=3)
    assert [step for step, _ in found["lr/scale"]] == [0, 2, 5]
    assert curves(tmp_path / "none", LearningRateScaling(8), log_every_n_steps=6)["lr/scale"][1][0] == 2


def test_two_optimizers_by_hand_share_lightnings_axis(tmp_path):
    class ByHand(tiny.TinyClassifier):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

        def configure_optimizers(self):
            halves = [self.net[0].parameters(), [*self.net[1].parameters(), *self.net[4].parameters()]]
            return [torch.optim.SGD(half, lr=0.1) for half in halves]

    found = curves(tmp_path, LearningRateScaling(8), module=ByHand(), log_every_n_steps=2)
    assert [step for step, _ in found["lr/scale"]] == [0, 1, 2, 3, 5]
