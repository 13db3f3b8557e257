"""BrainMVP: multi-modal vision pre-training for brain images (Rui et al., CVPR 2025)."""

from mvp_bench.pretraining.methods.brainmvp.method import BrainMvp
from mvp_bench.pretraining.methods.brainmvp.options import BrainMvpOptions

__all__ = ["BrainMvp", "BrainMvpOptions"]
