"""One file touches what Lightning calls private, and says so where an attribute is missing."""

import re
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import tiny
from lightning.pytorch import Callback, callbacks

from lightning_gap.trainer import _private

PACKAGE = Path(_private.__file__).parents[1]
OWNERS = "trainer|strategy|fit_loop|epoch_loop|val_loop|loop|connector|metric|meta|lightning_module|pl_module|source"
TOUCHES = (
    rf"\b(?:{OWNERS})\._[a-z]",
    r"from (?:lightning|pytorch_lightning)[\w.]* import [^\n]*\b_[a-z]",
    r"\bself\._(?:generate|call|run)_[a-z]",  # what a callback or module of ours has from Lightning's classes
    rf"""attr\((?:\w+\.)*(?:{OWNERS}), ["']_[a-z]""",
)


def test_no_other_file_touches_a_private_attribute_of_lightnings():
    files = [file for file in PACKAGE.rglob("*.py") if file != Path(_private.__file__)]
    assert len(files) > 50
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not [found for pattern in TOUCHES for found in re.findall(pattern, text)], file


@pytest.mark.parametrize(
    "line",
    [
        "trainer.fit_loop._combined_loader = None",
        "getattr(trainer.strategy, '_layer_sync', None)",
        "from lightning.fabric.utilities.seed import _collect_rng_states",
        "return self._generate_state_key(suffix=self.suffix)",
    ],
)
def test_such_a_line_would_be_found(line):
    assert any(re.search(pattern, line) for pattern in TOUCHES)


def test_every_attribute_is_there_in_this_lightning():
    trainer = tiny.trainer(max_epochs=1, limit_train_batches=1)
    trainer.fit(tiny.TinyClassifier(), tiny.loader())
    assert _private.state_key(Callback(), suffix="_b") == "Callback{'suffix': '_b'}"
    connector = _private.logger_connector(trainer)
    _private.add_callback_metrics(trainer, {})
    _private.hand_over_checkpoint(trainer, {})
    _private.restart_mid_epoch(trainer)
    assert trainer.fit_loop.restarted_mid_epoch
    assert callable(connector.update_train_epoch_metrics)
    assert _private.combined_loader(trainer) is not None
    assert _private.data_source(trainer.fit_loop).is_module() is False
    assert _private.result_classes(_private.epoch_results(trainer)).Metadata
    assert (_private.is_accumulating(trainer), _private.skips_backward(trainer)) == (False, False)
    saves = callbacks.ModelCheckpoint(every_n_train_steps=1)
    trainer.callbacks.append(saves)
    _private.count_step_as_saved(trainer)
    assert saves._last_global_step_saved == trainer.global_step == 1
    _private.forget_combined_loader(trainer)
    assert _private.combined_loader(trainer) is None
    if hasattr(callbacks, "WeightAveraging"):  # since lightning 2.6
        assert _private.averaged_model(callbacks.WeightAveraging()) is None


def test_a_missing_one_is_named_with_the_version_of_lightning():
    with pytest.raises(AttributeError, match=rf"Loop\._gone.*lightning {re.escape(lightning.__version__)} does not"):
        _private.read(type("Loop", (), {})(), "_gone")
    loop = SimpleNamespace()
    with pytest.raises(AttributeError, match="_gone"):
        _private.write(loop, "_gone", 1)
    assert not vars(loop)
    trainer = SimpleNamespace(fit_loop=SimpleNamespace())
    with pytest.raises(AttributeError, match="_combined_loader"):
        _private.combined_loader(trainer)
