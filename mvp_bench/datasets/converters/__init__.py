"""Readers of releases; each module registers one converter (see :mod:`mvp_bench.datasets.reading.conversion`)."""
