"""What methods that see all modalities of a case at once share: which slots count, errors per image, and one map per
case from which every modality is rebuilt.

The single-channel encoder takes the slots as independent images, (B, K, z, y, x) as (B K, 1, z, y, x), so that what it
learns fits any number of channels afterwards; information crosses from one modality to another in the mean of their
deepest maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from mvp_bench.errors import InputError
from mvp_bench.models.decoders import skip_free_decoder
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining import masking


def distinct(modality: torch.Tensor) -> torch.Tensor:
    """The first slot of each modality of a case, bool (B, K) from int64 (B, K): cases with fewer modalities than slots
    are filled up by repetition, and a repeated image must not count twice."""
    same = modality[:, :, None] == modality[:, None, :]
    return ~same.tril(-1).any(dim=2)


def ranks(values: torch.Tensor) -> torch.Tensor:
    """Place of each value in its row (dimension 1) when sorted upwards, from 0; no two are alike."""
    return values.argsort(dim=1).argsort(dim=1)


def check_blocks(patch: Sequence[int], block: int, min_blocks: int, mask_ratio: float) -> None:
    """Refuse blocks that do not divide a patch into some to hide and some to keep.

    Raises:
        InputError: if an image alone would have no visible block.
    """
    blocks = math.prod(masking.grid_shape(patch, masking.fitting_block(patch, block, min_blocks)))
    if not masking.kept_blocks(blocks, mask_ratio):
        raise InputError(
            "--mask-ratio",
            found=f"{mask_ratio} of {blocks} blocks: none of a case with one modality stays visible",
            expected=f"at most {1 - 1 / blocks:.3g} with a patch of {' x '.join(map(str, patch))}",
            fix="Lower --mask-ratio, or make --block smaller or --min-blocks larger.",
        )


def check_slots(slots: int) -> None:
    """Refuse a number of images per case in which nothing can cross from one modality to another.

    Raises:
        InputError: for 1.
    """
    if slots == 1:
        raise InputError(
            "--slots", found=slots, expected="at least 2, or 0 for all modalities of the best-equipped case"
        )


def visible_tokens(present: torch.Tensor, blocks: int, mask_ratio: float) -> torch.Tensor:
    """Blocks of a case's modalities, together, that stay visible: int64 (B,).

    Args:
        present: bool (B, K), on the CPU: the slots that count.
        blocks: of one modality.
        mask_ratio: part that is hidden.
    """
    table = [masking.kept_blocks(n * blocks, mask_ratio) for n in range(present.shape[1] + 1)]
    return torch.tensor(table)[present.sum(dim=1)]


def slot_error(
    prediction: torch.Tensor, target: torch.Tensor, present: torch.Tensor, counted: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over the cases of the mean over their modalities of the image's mean squared error, in float32.

    Every case weighs the same, however many modalities it has; so shares of a batch may be averaged.

    Args:
        prediction, target: (B, K, z, y, x).
        present: bool (B, K), at least one per case: the slots that count.
        counted: bool (B, K, z, y, x), the voxels that count; default: all. An image without any has error 0, and counts
            among its case's modalities.
    """
    squared = (prediction.float() - target.float()).square()
    if counted is None:
        error = squared.mean(dim=(2, 3, 4))
    else:
        error = (squared * counted).sum(dim=(2, 3, 4)) / counted.sum(dim=(2, 3, 4)).clamp_min(1)
    return ((error * present).sum(dim=1) / present.sum(dim=1)).mean()


def constant_slot_error(
    target: torch.Tensor, present: torch.Tensor, counted: torch.Tensor | None = None
) -> torch.Tensor:
    """:func:`slot_error` of the best constant per image."""
    target = target.float()
    if counted is None:
        mean = target.mean(dim=(2, 3, 4), keepdim=True)
    else:
        voxels = counted.sum(dim=(2, 3, 4), keepdim=True).clamp_min(1)
        mean = (target * counted).sum(dim=(2, 3, 4), keepdim=True) / voxels
    return slot_error(mean, target, present, counted)


def mean_over_slots(maps: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """One map per case: (B K, C, z, y, x) -> (B, C, z, y, x), the mean over the slots ``used`` (bool (B, K), at least
    one per case)."""
    weight = used.to(maps.dtype)
    weight = weight / weight.sum(dim=1, keepdim=True)
    return (maps.unflatten(0, used.shape) * weight[:, :, None, None, None, None]).sum(dim=1)


class ModalityDecoder(nn.Module):
    """Rebuilds the modalities of a case from one map, told which: a learned embedding per modality is added to the
    deepest map, and a decoder without skips, shared by all modalities, does the rest.

    Between the two stand a convolution of 1^3 and a LeakyReLU: the decoder is linear (BrainMVP's; it learns faster than
    one with norms), so that what is added alike at every voxel would remain a mere offset; norms would remove it.

    Args:
        encoder: whose maps are decoded.
        modalities: how many there are.
    """

    def __init__(self, encoder: EncoderSpec, modalities: int) -> None:
        super().__init__()
        width = encoder.out_channels
        self.embedding = nn.Embedding(modalities, width)
        self.mix = nn.Sequential(nn.Conv3d(width, width, 1), nn.LeakyReLU(inplace=True))
        self.decoder = skip_free_decoder(encoder, linear=True)

    def forward(self, maps: Sequence[torch.Tensor], shared: torch.Tensor, modality: torch.Tensor) -> torch.Tensor:
        """Reconstructions (B, K, z, y, x).

        Args:
            maps: of the encoder, only to be counted.
            shared: (B, C, z, y, x), from which everything is rebuilt.
            modality: int64 (B, K), what to rebuild.
        """
        told = shared.unsqueeze(1) + self.embedding(modality)[:, :, :, None, None, None].to(shared.dtype)
        rebuilt = self.decoder([*maps[:-1], self.mix(told.flatten(0, 1))])
        return rebuilt.reshape(*modality.shape, *rebuilt.shape[2:])
