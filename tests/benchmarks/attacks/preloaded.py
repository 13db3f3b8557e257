"""What every command needs, imported once by the fork server that commands are started from."""

import torch

import mvp_bench.benchmark.verb
import mvp_bench.datasets.verb
import mvp_bench.finetuning.classification
import mvp_bench.finetuning.segmentation
import mvp_bench.leaderboard.render.figure
import mvp_bench.leaderboard.render.terminal  # noqa: F401
from mvp_bench.registry import CONVERTERS, ENCODERS, METHODS

torch.set_num_threads(1)
for registry in (METHODS, ENCODERS, CONVERTERS):
    list(registry)
