"""Encoders, decoders, heads and weights: everything with parameters, and nothing that trains them."""
