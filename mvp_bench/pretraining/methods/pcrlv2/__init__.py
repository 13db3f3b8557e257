"""PCRLv2: preservational contrastive representation learning (Zhou et al., TPAMI 2023)."""

from mvp_bench.pretraining.methods.pcrlv2.method import Pcrlv2
from mvp_bench.pretraining.methods.pcrlv2.options import Pcrlv2Options

__all__ = ["Pcrlv2", "Pcrlv2Options"]
