"""GVSL: geometric visual similarity learning (He et al., CVPR 2023)."""

from mvp_bench.pretraining.methods.gvsl.method import Gvsl
from mvp_bench.pretraining.methods.gvsl.options import GvslOptions

__all__ = ["Gvsl", "GvslOptions"]
