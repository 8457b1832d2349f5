"""How blocks are cut; that their arithmetic is right is tested through `ghost_batch_norm`."""

import pytest
import torch

from lightning_gap.functional.ghost_batch_norm import _blocks


@pytest.mark.parametrize("block", [1, 200, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_blocks_are_whole_ghosts_of_one_size_and_cover_the_batch_once(layout, dtype, block, monkeypatch):
    monkeypatch.setattr(_blocks, "_CPU_BLOCK", block)
    x = torch.arange(22 * 3 * 2 * 2).view(22, 3, 2, 2).to(dtype).contiguous(memory_format=layout)
    seen = torch.zeros_like(x)
    ghosts = []
    for here, values, target in _blocks._blocks(((4, 5), (1, 2)), x, seen):
        ghosts += range(here.start, here.stop)
        assert len(values) == here.stop - here.start
        assert values.data_ptr() >= x.data_ptr()  # a view
        target.add_(1)
    assert ghosts == [0, 1, 2, 3, 4]
    assert torch.equal(seen, torch.ones_like(x))
