import pytest

from lightning_gap import functional


@pytest.mark.parametrize(
    ("old", "new"), [("Split", "MicroBatching"), ("Stage", "EpochBatch"), ("stage_at", "epoch_batch_at")]
)
def test_an_old_name_still_works_and_says_the_new_one(old, new):
    with pytest.warns(DeprecationWarning, match=rf"{old}.* {new} "):
        found = getattr(functional, old)
    assert found is getattr(functional, new)


def test_a_name_that_never_was_is_missing():
    with pytest.raises(AttributeError, match="Stages"):
        functional.Stages  # noqa: B018
