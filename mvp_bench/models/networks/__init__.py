"""Networks that nnU-Net does not have. Unlike the specifications in ``models.encoders``, these modules import torch."""
