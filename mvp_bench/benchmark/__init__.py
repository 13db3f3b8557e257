"""The benchmark: which cells there are, how they are run, and what is measured in them."""
