"""Masking, sampling, the one training loop, and the methods that run in it."""
