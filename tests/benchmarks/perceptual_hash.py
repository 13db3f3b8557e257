"""How well scans are found again, and what it costs: ``python tests/benchmarks/perceptual_hash.py [people] [folder]``.

Prints, for phantom people of seven cohorts (default 30 of each), the distances of hashes and the correlations after
registration between different people, and between a scan and its twins. A folder with real scans (``*.nii.gz``, one
sub-folder per person) is measured too. Takes about 3 s a person on one core.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import combinations, permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mvp_bench.config.groups import OverlapConfig
from mvp_bench.datasets.geometry.perceptual import HASH_BITS, perceptual_hash, same_scan, twin_pairs
from mvp_bench.datasets.geometry.volumes import Grid, Volume, read_volume
from mvp_bench.datasets.phantom.cohorts import cohort_of
from mvp_bench.datasets.phantom.subject import make_subject

COHORTS = (524, 521, 523, 525, 512, 513, 514)
MODALITIES = ("t1", "t2", "flair")
SPACING_MM = 2.5
CLOSEST = 40
"""Pairs of different people, those with the closest hashes, that are verified."""
CODES = ["".join(code) for axes in permutations(("RL", "AP", "SI")) for code in product(*axes)]
Random = np.random.Generator


def volume(image: nib.Nifti1Image) -> Volume:
    """What read_volume would return, without a file."""
    data = np.asanyarray(image.dataobj)
    return Volume(data, Grid(data.shape, image.affine), "", 0)


def from_zero(item: Volume) -> Volume:
    """Background 0 and nothing below it, as the changes here take for granted."""
    return Volume(np.clip(item.data - item.data[0, 0, 0], 0, None), item.grid, "", 0)


def oriented(item: Volume, rng: Random) -> Volume:
    """Another of the 48 orientations."""
    image = nib.Nifti1Image(item.data, item.grid.affine)
    codes = nib.orientations.axcodes2ornt(rng.choice(CODES))
    return volume(image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), codes)))


def whole(item: Volume, rng: Random) -> Volume:
    """Whole numbers on another scale."""
    return Volume((item.data * (rng.uniform(300, 3000) / item.data.max())).astype(np.int16), item.grid, "", 0)


def gamma(item: Volume, rng: Random) -> Volume:
    """Another contrast curve, exponents from 0.6 to 1.6."""
    exponent = np.exp(rng.uniform(np.log(0.6), np.log(1.6)))
    return Volume((np.clip(item.data, 0, None) / item.data.max()) ** exponent, item.grid, "", 0)


def z_scored(item: Volume, rng: Random) -> Volume:
    """Centred within the mask, background 0."""
    inside = item.data > 0
    values = item.data[inside]
    return Volume(np.where(inside, (item.data - values.mean()) / values.std(), 0), item.grid, "", 0)


def cropped(item: Volume, rng: Random) -> Volume:
    """Cut to what is shown, then padded."""
    where = np.argwhere(item.data > 0.05 * item.data.max())
    low, high = where.min(axis=0), where.max(axis=0) + 1
    pad = rng.integers(0, 8, (3, 2))
    data = np.pad(item.data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], pad)
    affine = item.grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (low - pad[:, 0])
    return Volume(data, Grid(data.shape, affine), "", 0)


def resampled(item: Volume, rng: Random, degrees: float = 0.0, shift_mm: float = 0.0) -> Volume:
    """Other voxel edges (0.9 to 1.3 times), linear interpolation; moved about the centre."""
    affine, shape = item.grid.affine, np.array(item.data.shape)
    factor = rng.uniform(0.9, 1.3, 3)
    onto = affine @ np.diag([*factor, 1.0])
    axis, way = (direction / np.linalg.norm(direction) for direction in rng.normal(size=(2, 3)))
    centre = (affine @ [*(shape - 1) / 2, 1])[:3]
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * axis).as_matrix()
    motion[:3, 3] = centre - motion[:3, :3] @ centre + shift_mm * way
    matrix, size = np.linalg.inv(affine) @ motion @ onto, tuple(int(n) for n in shape / factor)
    data = item.data.astype(np.float32)
    data = ndimage.affine_transform(data, matrix[:3, :3], matrix[:3, 3], output_shape=size, order=1)
    return Volume(data, Grid(size, onto), "", 0)  # type: ignore[arg-type]


def moved(item: Volume, rng: Random) -> Volume:
    """Turned by 10 degrees about any axis, shifted by 8 mm, resampled."""
    return resampled(item, rng, 10.0, 8.0)


def everything(item: Volume, rng: Random) -> Volume:
    """Moved by 0 to 10 degrees and 0 to 8 mm, gamma, crop, whole numbers and orientation."""
    item = resampled(item, rng, rng.uniform(0, 10), rng.uniform(0, 8))
    for change in (gamma, cropped, whole, oriented):
        item = change(item, rng)
    return item


TWINS: tuple[Callable[[Volume, Random], Volume], ...] = (
    oriented,
    whole,
    gamma,
    z_scored,
    cropped,
    resampled,
    moved,
    everything,
)


def main(people: int, real: Path | None) -> None:
    """Print all measurements."""
    scans: dict[tuple[str, str], Volume] = {}
    for dataset, index in product(COHORTS, range(people)):
        subject = make_subject(cohort_of(dataset), SPACING_MM, 0, index)
        for modality in MODALITIES:
            if modality in subject.images:
                scans[f"{dataset}/{index}", modality] = volume(subject.grid.image(subject.images[modality]))
    measure(scans, "phantom")
    if real is not None:
        files = sorted(path for path in real.rglob("*.nii.gz") if path.name.lower().startswith(("flair", "t1", "t2")))
        names = [path.name.split(".")[0].split("_")[0].lower() for path in files]
        read = [from_zero(read_volume(path)) for path in files]
        measure({(path.parent.name, name): item for path, name, item in zip(files, names, read, strict=True)}, "real")
    rng = np.random.default_rng(0)
    texts = [rng.bytes(HASH_BITS // 8).hex() for _ in range(6000)]
    start = time.perf_counter()
    twin_pairs(texts, ["t1"] * len(texts))
    print(f"6,000 hashes of one modality compared: {time.perf_counter() - start:.1f} s")


def measure(scans: dict[tuple[str, str], Volume], title: str) -> None:
    """Distances and correlations of one collection; (person, modality) -> scan."""
    config, rng = OverlapConfig(), np.random.default_rng(0)
    perceptual_hash(np.pad(np.ones((2, 2, 2)), 1), np.eye(4))
    first = next(iter(scans.values()))
    perceptual_hash(first.data, first.grid.affine)  # makes the template
    start = time.process_time()
    bits = {key: unpacked(item) for key, item in scans.items()}
    print(f"{title}: {len(scans)} scans, {1000 * (time.process_time() - start) / len(scans):.0f} ms per hash")
    different: list[tuple[float, tuple[str, str], tuple[str, str]]] = []
    for modality in sorted({modality for _, modality in scans}):
        keys = [key for key in scans if key[1] == modality]
        pairs = [(float(np.mean(bits[a] != bits[b])), a, b) for a, b in combinations(keys, 2)]
        show(f"different people, {modality}", [pair[0] for pair in pairs], "min")
        different += pairs
    contrasts = [float(np.mean(bits[a] != bits[b])) for a, b in combinations(scans, 2) if a[0] == b[0] and a[1] != b[1]]
    show("one person, two modalities", contrasts, "min")
    candidates = sum(pair[0] <= config.hash_distance for pair in different)
    print(f"  different people who are candidates: {candidates} of {len(different)} pairs")
    start = time.process_time()
    closest = sorted(different)[:CLOSEST]
    correlations = [same_scan(scans[a], scans[b], config)[1] for _, a, b in closest]
    show(f"correlation, the {len(closest)} closest different pairs", correlations, "max")
    print(f"  {1000 * (time.process_time() - start) / max(len(closest), 1):.0f} ms per verification")
    for change in TWINS:
        twins = [(scans[key], change(scans[key], rng), bits[key]) for key in list(scans)[:: max(1, len(scans) // 60)]]
        distances = [float(np.mean(unpacked(twin) != own)) for _, twin, own in twins]
        show(f"twin {change.__name__}", distances, "max")
        show(f"twin {change.__name__}, correlation", [same_scan(a, b, config)[1] for a, b, _ in twins], "min")
        print(f"  missed by the hash: {sum(d > config.hash_distance for d in distances)} of {len(twins)}")


def unpacked(item: Volume) -> np.ndarray:
    """Bits of a scan's hash."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(perceptual_hash(item.data, item.grid.affine)), np.uint8))


def show(label: str, values: list[float], extreme: str) -> None:
    """Median, 1 % and 99 % quantiles and the extreme that matters."""
    if values:
        low, middle, high = np.quantile(values, [0.01, 0.5, 0.99])
        worst = min(values) if extreme == "min" else max(values)
        print(f"  {label}: 1 % {low:.3f}, median {middle:.3f}, 99 % {high:.3f}, {extreme} {worst:.3f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30, Path(sys.argv[2]) if len(sys.argv) > 2 else None)
