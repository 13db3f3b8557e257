"""Readers of public releases; each module registers one converter (see :mod:`mvp_bench.datasets.conversion`)."""
