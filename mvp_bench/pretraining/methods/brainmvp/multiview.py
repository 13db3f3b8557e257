"""Contrastive losses of any number of views per sample: drop-in alternatives to InfoNCE between two.

All take the views of N samples as ``views`` (N, M, ...), flattened and scaled to unit length here (zeros stay zeros),
and ``present`` (N, M): which of the M views a sample has. A view that is missing takes part in no sum; views of the
same number belong together (the same modality, say). u_il is view l of sample i, t the temperature. Everything is
computed in float32, whatever autocast says.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Literal, get_args

import torch
from torch.nn import functional

from mvp_bench.pretraining.parts.modalities import distinct

MultiView = Literal["symile", "gram", "mv_infonce", "mv_dhel"]
MULTI_VIEW: tuple[MultiView, ...] = get_args(MultiView)
"""Their names."""
RIDGE = 1e-6
"""Added to the diagonal of Gram matrices, and under the root of their determinants, whose slope at 0 is infinite."""


def multi_view_loss(
    name: MultiView,
    views: torch.Tensor,
    present: torch.Tensor,
    temperature: float,
    smoothing: float = 0.0,
    keys: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of that name, and its value when all embeddings are equal (measured on the same pattern of views).

    Args:
        name: which.
        views: (N, M, ...).
        present: bool (N, M).
        temperature: divides cosines, scores (Symile) and volumes (GRAM).
        smoothing: of GRAM's labels.
        keys: (N, M) random numbers in [0, 1) from which Symile draws its re-pairings (see :func:`repairings`).
    """

    def value(of: torch.Tensor) -> torch.Tensor:
        if name == "symile":
            if keys is None:
                raise ValueError("symile needs keys")
            return symile(of, present, temperature, repairings(present, keys), stretch=True)
        if name == "gram":
            return gram(of, present, temperature, smoothing)
        return (mv_infonce if name == "mv_infonce" else mv_dhel)(of, present, temperature)

    with torch.no_grad():
        equal = value(views.new_ones((*present.shape, 1), dtype=torch.float32))
    return value(views), equal


def by_modality(views: torch.Tensor, modality: torch.Tensor, modalities: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The views of N samples with K images each, sorted by modality, so that views of one number belong together.

    Args:
        views: (N K, V, ...): the V views of every image.
        modality: int64 (N, K): of every image; a repeated one counts once.
        modalities: how many there are.

    Returns:
        (N, V modalities, D) with zeros where there is none, and bool (N, V modalities): where there is one.
    """
    n, slots = modality.shape
    count = views.shape[1]
    place = torch.arange(n, device=modality.device)[:, None] * modalities + modality
    place = place.masked_fill(
        ~distinct(modality), n * modalities
    )  # one place more than there are, for what is repeated
    flat = views.reshape(n * slots, -1)
    table = flat.new_zeros(n * modalities + 1, flat.shape[1]).index_copy(0, place.flatten(), flat)
    there = torch.zeros(n * modalities + 1, dtype=torch.bool, device=views.device)
    there = there.index_fill(0, place.flatten(), True)[:-1].view(n, modalities, 1).expand(n, modalities, count)
    return table[:-1].view(n, modalities * count, -1), there.reshape(n, -1)


def mv_infonce(views: torch.Tensor, present: torch.Tensor, temperature: float) -> torch.Tensor:
    """MV-InfoNCE (arXiv 2507.06979): mean over i of

    -log [ sum_{l != l'} exp(u_il . u_il' / t)  /  sum_l sum_{(l', j) != (l, i)} exp(u_il . u_jl' / t) ].

    All embeddings equal: log((M N - 1) / (M - 1)). Samples with a single view are left out of the mean.
    """
    logits, counted = _cosines(views, present), _pairs(present)
    n, m = present.shape
    itself = torch.eye(n * m, dtype=torch.bool, device=present.device).view(n, m, n, m)
    own = torch.eye(n, dtype=torch.bool, device=present.device).view(n, 1, n, 1)
    counted = counted & ~itself
    scaled = logits / temperature
    positive, some = _log_sum(scaled, counted & own)
    everything, _ = _log_sum(scaled, counted)
    return _mean(everything - positive, some)


def mv_dhel(views: torch.Tensor, present: torch.Tensor, temperature: float) -> torch.Tensor:
    """MV-DHEL (arXiv 2507.06979): mean over i of

    -log [ sum_{l < l'} exp(u_il . u_il' / t)  /  prod_l sum_{j != i} exp(u_il . u_jl / t) ]:

    samples repel each other inside a view only. All embeddings equal:
    M log(N - 1) + (M - 1) / t - log(M (M - 1) / 2). A view that no other sample has drops out of the product; samples
    with a single view are left out of the mean.
    """
    logits, counted = _cosines(views, present) / temperature, _pairs(present)
    n, m = present.shape
    first, second = torch.triu_indices(m, m, 1, device=present.device)
    own, own_counted = logits.diagonal(dim1=0, dim2=2), counted.diagonal(dim1=0, dim2=2)  # (M, M, N)
    positive, some = _log_sum(own[first, second].T, own_counted[first, second].T)
    other = ~torch.eye(n, dtype=torch.bool, device=present.device)[:, None]
    inside, inside_counted = logits.diagonal(dim1=1, dim2=3), counted.diagonal(dim1=1, dim2=3)  # (N, N, M)
    repelled, _ = _log_sum(inside.transpose(1, 2), inside_counted.transpose(1, 2) & other, keep=2)
    return _mean(repelled.sum(dim=1) - positive, some)


def gram(views: torch.Tensor, present: torch.Tensor, temperature: float, smoothing: float = 0.0) -> torch.Tensor:
    """GRAM (Cicchetti et al., ICLR 2025): with every view in turn as the anchor, the mean of

    (CE(-V / t, diag) + CE(-V^T / t, diag)) / 2,   V_ij = sqrt(det(G)),

    G the Gram matrix of the anchor of sample i and all other views of sample j: V is the volume they span, 0 if all
    point one way, 1 if they are orthogonal, |sin| of the angle for two. ``RIDGE`` is added to G's diagonal and to its
    determinant. A missing view is replaced by one that is orthogonal to all, which changes no volume. All embeddings
    equal and all views present: log N.

    Args:
        smoothing: part of the label that is spread over all candidates (published: 0.1).
    """
    volume = volumes(views, present)
    logits, anchored = -volume / temperature, present.T  # (M, N, N), (M, N)
    rows = _cross_entropy(logits, torch.ones_like(anchored), smoothing)
    columns = _cross_entropy(logits.transpose(1, 2), anchored, smoothing)
    return _mean((rows + columns) / 2, anchored)


def volumes(views: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """(M, N, N): at (a, i, j) the volume that view a of sample i spans with the views other than a of sample j."""
    products = _cosines(views, present)
    m = present.shape[1]
    eye = torch.eye(m, device=views.device)
    others = (1 - eye)[:, None] * present.float()  # (M, N, M): at (a, j, l) whether view l of j goes with an anchor a
    within = products.diagonal(dim1=0, dim2=2).permute(2, 0, 1) * others[..., :, None] * others[..., None, :]
    within = within + torch.diag_embed(1 - others - eye[:, None])  # what is missing is orthogonal to all
    across = (products.transpose(0, 1) * others[:, None])[..., None] * eye[:, None, None, None]  # (M, N, N, M, M)
    length = products.diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1).T  # (M, N): of the anchor; 1, or 0 for a zero
    anchor = length[..., None, None, None] * (eye[:, :, None] * eye[:, None])[:, None, None]
    matrices = within[:, None] + across + across.transpose(-1, -2) + anchor + RIDGE * eye
    with torch.autocast(views.device.type, enabled=False):
        return (torch.linalg.det(matrices).clamp(min=0) + RIDGE).sqrt()


def repairings(present: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """int64 (N, M): column l is a permutation of the samples, drawn among those that have the same views.

    Args:
        present: bool (N, M).
        keys: (N, M) random numbers in [0, 1), on the CPU.
    """
    n, m = present.shape
    pattern = (present.cpu().double() @ (2.0 ** torch.arange(m, dtype=torch.float64)))[:, None]
    order = pattern.expand(n, m).argsort(dim=0, stable=True)
    drawn = (pattern + keys.double()).argsort(dim=0, stable=True)
    return torch.empty_like(order).scatter_(0, order, drawn).to(present.device)


def symile(
    views: torch.Tensor, present: torch.Tensor, temperature: float, repaired: torch.Tensor, stretch: bool = False
) -> torch.Tensor:
    """Symile (Saporta et al., NeurIPS 2024): the score of M vectors is sum_d prod_l u_ld. With every view in turn as
    the anchor, the cross-entropy of a sample's own score, over t, among those of its anchor with re-paired other views.

    Candidate k pairs the anchor with view l of sample ``repaired[k, l]``, for all l but the anchor. Its N candidates
    (without its own views, should they be among them) are weighted to count as N - 1: two views give symmetric
    InfoNCE, whatever was drawn, and no view is singled out. All embeddings equal: log N.

    Scores of a different number of views do not compare: a sample is compared with those that have the same views, and
    has no loss if there are none.

    Args:
        repaired: from :func:`repairings`.
        stretch: multiply the score of n vectors of length D by D^(n/2 - 1), which is 1 for two. Otherwise the scores of
            more vectors vanish unless these are sparse: that of equal ones with entries of one size is D^(1 - n/2).
            (Published: projections of some hundred entries, and a scale that is learned.)
    """
    n, m = present.shape
    unit = _unit(views, present)
    length = unit.shape[2] if stretch else 1
    unit = unit * math.sqrt(length)  # entries of about 1: products of any number of them neither vanish nor explode
    temperature = temperature * length
    factors = unit.masked_fill(~present[..., None], 1.0)
    paired = factors.gather(0, repaired[..., None].expand_as(factors))
    before, after = [torch.ones_like(paired[:, 0])], [torch.ones_like(paired[:, 0])]
    for view in range(m - 1):
        before.append(before[-1] * paired[:, view])
        after.append(after[-1] * paired[:, m - 1 - view])
    others = torch.stack([before[view] * after[m - 1 - view] for view in range(m)])  # (M, N, D): all but the anchor
    with torch.autocast(views.device.type, enabled=False):
        scores = torch.einsum("nad,akd->ank", unit, others) / temperature
    positive = reduce(torch.mul, factors.unbind(dim=1)).sum(dim=1) / temperature
    # Where all views of candidate k but the anchor are sample i's own, it is no negative.
    itself = repaired.T[:, None] == torch.arange(n, device=present.device)[:, None]  # (M, N, N): at (l, i, k)
    itself = itself | ~present.T[..., None]
    same = itself.sum(dim=0) - itself.long() == m - 1
    alike = (present[:, None] == present).all(dim=2)  # (N, N)
    negative = alike & ~same
    weight = (alike.sum(dim=1) - 1) / negative.sum(dim=2).clamp(min=1)
    repelled, some = _log_sum(scores, negative, keep=2)
    values = functional.softplus(repelled + weight.clamp(min=RIDGE).log() - positive)
    return _mean(values, some & present.T)


def _unit(views: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """float32 (N, M, D): of unit length; missing ones are 0."""
    flat = functional.normalize(views.float().flatten(2), dim=2)
    return flat.masked_fill(~present[..., None], 0.0)


def _cosines(views: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """(N, M, N, M): u_il . u_jl' at (i, l, j, l'); 0 where one of the two is missing."""
    n, m = present.shape
    unit = _unit(views, present).flatten(0, 1)
    with torch.autocast(views.device.type, enabled=False):  # cosines need more than bfloat16's three digits
        return (unit @ unit.T).view(n, m, n, m)


def _pairs(present: torch.Tensor) -> torch.Tensor:
    """bool (N, M, N, M): both are there."""
    return present[:, :, None, None] & present


def _log_sum(logits: torch.Tensor, counted: torch.Tensor, keep: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """log sum exp of the counted entries of all dimensions from ``keep`` on, and whether there are any (else 0)."""
    logits, counted = logits.flatten(keep), counted.expand_as(logits).flatten(keep)
    some = counted.any(dim=-1)
    # An empty sum is replaced before the logarithm: its gradient would not be a number.
    filled = logits.masked_fill(~counted, -math.inf).masked_fill(~some[..., None], 0.0)
    return filled.logsumexp(dim=-1).masked_fill(~some, 0.0), some


def _cross_entropy(logits: torch.Tensor, candidates: torch.Tensor, smoothing: float) -> torch.Tensor:
    """(M, N) of logits (M, N, N) with the diagonal as labels, among the counted candidates (M, N)."""
    counted = candidates[:, None].expand_as(logits)
    total, _ = _log_sum(logits, counted, keep=2)
    mean = (logits * counted).sum(dim=2) / counted.sum(dim=2).clamp(min=1)
    return total - (1 - smoothing) * logits.diagonal(dim1=1, dim2=2) - smoothing * mean


def _mean(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Over the counted entries; 0, with a gradient of 0, if there are none."""
    return values.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)
