"""What methods show their networks: parameters drawn on the CPU's generator, applied by pure batched functions."""
