"""Records of drawn tensors behave like one tensor with one row per sample."""

import torch

from mvp_bench.pretraining.sampling import Shard
from mvp_bench.pretraining.views.geometry import Crops


def _crops() -> Crops:
    return Crops(torch.arange(18.0).view(6, 3), torch.arange(18.0).view(6, 3) + 100)


def test_rows_parts_and_shares_keep_the_fields_together() -> None:
    crops = _crops()
    assert len(crops) == 6
    first, second = crops.chunk(2)
    assert isinstance(second, Crops) and len(first) == len(second) == 3
    torch.testing.assert_close(second.start, crops.start[3:])
    torch.testing.assert_close(second.size, crops.size[3:])
    torch.testing.assert_close(crops.own(Shard(2, 3)).size, crops.size[4:])
    torch.testing.assert_close(crops[torch.tensor([5, 0])].start, crops.start[[5, 0]])
    assert crops.to(torch.device("meta")).size.device.type == "meta"
