"""Numbers that norms of several networks share."""

NORM_EPS = 1e-5
"""nnU-Net's epsilon of InstanceNorm3d."""
