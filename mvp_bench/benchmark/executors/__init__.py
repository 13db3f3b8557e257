"""Ways to start workers. What they do is the same everywhere: see :mod:`mvp_bench.benchmark.jobs`."""
