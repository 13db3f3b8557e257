"""Fingerprint, plan and preprocessing: nnU-Net's rules and classes, with the encoder's topology given."""
