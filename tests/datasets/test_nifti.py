"""NIfTI headers and bytes: what is believed, what is told, and what is refused, in bounded memory."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from mvp_bench.datasets.geometry.derive import Derived, write_derived
from mvp_bench.datasets.geometry.nifti import read_nifti
from mvp_bench.datasets.geometry.packed import RULES, SizeRules
from mvp_bench.datasets.geometry.volumes import Grid, read_grid, read_volume, write_volume
from mvp_bench.datasets.reading.dicom import find_series
from mvp_bench.datasets.reading.itk_files import read_itk, read_itk_grid
from mvp_bench.errors import InputError

from .releases import SHAPE, SRI24, image, save

ANISOTROPIC = np.diag([2.0, 2.0, 4.0, 1.0])
ROTATED = np.array([[0.0, -2, 0, 0], [2, 0, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1]])


def header_of(path: Path, change: Callable[[nib.Nifti1Header], object], affine: np.ndarray = ANISOTROPIC) -> Path:
    """An image whose header was changed by hand, past nibabel's care for agreement."""
    data = np.random.default_rng(0).uniform(1, 100, SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(data, affine), path)
    raw = gzip.decompress(path.read_bytes())
    header = nib.Nifti1Header(raw[:348])
    change(header)
    path.write_bytes(gzip.compress(header.binaryblock + raw[348:]))
    return path


def field(name: str, value: object) -> Callable[[nib.Nifti1Header], None]:
    def change(header: nib.Nifti1Header) -> None:
        header[name] = value

    return change


def both(*changes: Callable[[nib.Nifti1Header], object]) -> Callable[[nib.Nifti1Header], None]:
    def change(header: nib.Nifti1Header) -> None:
        for each in changes:
            each(header)

    return change


def qform(affine: np.ndarray) -> Callable[[nib.Nifti1Header], None]:
    return lambda header: header.set_qform(affine, 1, strip_shears=False)


NO_QFORM = field("qform_code", 0)
NO_SFORM = field("sform_code", 0)
QFORM = qform(ANISOTROPIC)

REPAIRED = {
    "pixdim against sform": (both(field("pixdim", [1] * 8), NO_QFORM), ANISOTROPIC, "its pixdim said 1 x 1 x 1"),
    "pixdim zero": (both(field("pixdim", [1, 0, 0, 0, 0, 0, 0, 0]), NO_QFORM), ANISOTROPIC, "pixdim said 0 x 0 x 0"),
    "pixdim no number": (both(field("pixdim", [1, np.nan, 2, 4, 0, 0, 0, 0]), NO_QFORM), ANISOTROPIC, "said nan x"),
    "pixdim negative": (both(QFORM, NO_SFORM, field("pixdim", [1, -2, 2, 4, 0, 0, 0, 0])), ANISOTROPIC, "said -2 x"),
    "qform turned": (qform(ROTATED), ANISOTROPIC, "qform says otherwise than its sform"),
    "qform mirrored": (qform(np.diag([-2.0, 2, 4, 1])), ANISOTROPIC, "qform says otherwise"),
    "sform of zeros": (
        both(QFORM, *(field(f"srow_{axis}", [0] * 4) for axis in "xyz")),
        ANISOTROPIC,
        "sform cannot be used; its qform is",
    ),
    "metre": (field("xyzt_units", 1), ANISOTROPIC, "from metre"),
    "micrometre": (field("xyzt_units", 3), ANISOTROPIC, "from micrometre"),
}
"""Name -> change of a header, the affine believed, the repair."""


@pytest.mark.parametrize("name", REPAIRED)
def test_contradictions_are_told_and_mended(name: str, tmp_path: Path) -> None:
    change, affine, repair = REPAIRED[name]
    scale = {"metre": 1e-3, "micrometre": 1e3}.get(name, 1.0)
    path = header_of(tmp_path / "t1.nii.gz", change, np.diag([scale] * 3 + [1.0]) @ ANISOTROPIC)
    volume = read_volume(path)
    assert np.allclose(volume.grid.affine, affine) and np.allclose(read_grid(path).affine, affine)
    assert len(volume.flaws) == 1 or name.startswith("sform"), volume.flaws
    assert any(repair in flaw for flaw in volume.flaws)
    assert ("mirror image" in volume.doubts) == (name == "qform mirrored")
    (outcome,) = write_derived(Derived(path, tmp_path / "images/t1.nii.gz", "image"))
    assert repair in outcome.repair
    mended = read_volume(tmp_path / "images/t1.nii.gz")
    assert not mended.flaws and np.allclose(mended.grid.affine, affine) and np.array_equal(mended.data, volume.data)
    stored = nib.load(tmp_path / "images/t1.nii.gz").header
    assert np.allclose(stored.get_zooms(), (2, 2, 4)) and stored.get_xyzt_units()[0] == "mm"
    label = Derived(_whole(path), tmp_path / "labels/t1.nii.gz", "label")
    assert repair in write_derived(label)[0].repair


def _whole(path: Path) -> Path:
    """The same header with voxels that are whole numbers."""
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:352] + np.zeros(SHAPE, "<f4").tobytes()))
    return path


REFUSED = {
    "nothing tells the edges": (both(NO_QFORM, NO_SFORM, field("pixdim", [0] * 8)), "voxels of 0 x 0 x 0"),
    "qform with edges of zero": (
        both(NO_SFORM, field("pixdim", [1] + [0] * 7), field("qform_code", 1)),
        "without usable",
    ),
    "no number": (both(NO_QFORM, field("srow_x", [np.nan] * 4)), "without usable orientation"),
    "values in mm said to be metres": (field("xyzt_units", 1), r"voxels of \(2000, 2000, 4000\) mm \(in metre"),
    "values in mm said to be micrometres": (field("xyzt_units", 3), r"voxels of \(0\.002, .*in micrometre"),
    "metres without saying so": (lambda h: h.set_sform(np.diag([2e-3, 2e-3, 4e-3, 1]), 1), "the header states no unit"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nothing_can_mend_is_refused(name: str, tmp_path: Path) -> None:
    change, message = REFUSED[name]
    path = header_of(tmp_path / "t1.nii.gz", change)
    for read in (read_volume, read_grid):
        with pytest.raises(InputError, match=rf"t1\.nii\.gz: found .*{message}"):
            read(path)


def test_sound_files_have_no_flaws(tmp_path: Path) -> None:
    for index, affine in enumerate((SRI24, ANISOTROPIC, np.diag([0.9, 1.1, 1.3, 1]) @ ROTATED)):
        path = save(tmp_path / f"{index}.nii.gz", np.ones(SHAPE, np.float32), affine)
        assert read_volume(path).flaws == () and read_volume(path).doubts == ""
        write_volume(path, np.ones(SHAPE, np.float32), Grid(SHAPE, affine))
        assert read_volume(path).flaws == ()


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.float64, np.int64, ">i2", ">f4"])
@pytest.mark.parametrize("scaled", [False, True])
def test_values_are_nibabels(kind: object, scaled: bool, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 200, SHAPE).astype(kind)  # type: ignore[call-overload]
    header = nib.Nifti1Header(endianness=">" if str(kind).startswith(">") else "<")
    header.set_data_dtype(data.dtype)
    written = nib.Nifti1Image(data, SRI24, header)
    if scaled:
        written.header.set_slope_inter(0.25, -3)
    written.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"what programs keep" * 9))
    nib.save(written, tmp_path / "a.nii.gz")
    expected = np.asanyarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    found = read_volume(tmp_path / "a.nii.gz").data
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_joined_and_padded_gzip_data_are_read(tmp_path: Path) -> None:
    path = image(tmp_path / "a.nii.gz")
    expected, raw = read_volume(path).data, gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:500]) + gzip.compress(raw[500:]) + bytes(64))
    assert np.array_equal(read_volume(path).data, expected)
    path.write_bytes(gzip.compress(raw[:500]) + gzip.compress(raw[500:])[:-9])
    with pytest.raises(InputError, match="truncated or corrupt"):
        read_volume(path)
    path.write_bytes(gzip.compress(raw) + b"something else")
    with pytest.raises(InputError, match="truncated or corrupt"):
        read_volume(path)


# -------------------------------------------------------------------------------------------------------------- sizes


def _claims(path: Path, *lengths: int) -> Path:
    """A file whose header speaks of other lengths."""
    raw = bytearray(gzip.decompress(image(path.with_name("sound.nii.gz")).read_bytes()))
    raw[40:56] = struct.pack("<8h", len(lengths), *lengths, *[1] * (7 - len(lengths)))
    path.write_bytes(gzip.compress(bytes(raw)) if path.name.endswith(".gz") else bytes(raw))
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("lengths", "found"),
    [
        ((32767, 32767, 32767), "speaks of 32767 x 32767 x 32767 voxels"),
        ((8, 9, 32767), "speaks of 8 x 9 x 32767 voxels"),
        ((0, 9, 10), "dimensions"),
        ((8, -9, 10), "dimensions"),
        ((1, 1, 1, 32767, 32767), "speaks of 1 x 1 x 1 x 32767"),
    ],
)
def test_headers_are_believed_as_far_as_the_file_goes(
    ending: str, lengths: tuple[int, ...], found: str, tmp_path: Path
) -> None:
    path = _claims(tmp_path / f"t1{ending}", *lengths)
    for read in (read_volume, read_grid):
        tracemalloc.start()
        with pytest.raises(InputError, match=rf"t1{ending}: found .*{found}"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 10e6
        tracemalloc.stop()


def test_lengths_beyond_all_measure(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(np.ones(SHAPE, np.float32), SRI24), tmp_path / "t1.nii")
    raw = bytearray((tmp_path / "t1.nii").read_bytes())
    raw[16:80] = struct.pack("<8q", 3, 2**62, 2**62, 2**62, 1, 1, 1, 1)
    (tmp_path / "t1.nii").write_bytes(raw)
    with pytest.raises(InputError, match="speaks of 4611686018427387904 x"):
        read_volume(tmp_path / "t1.nii")


def _bomb(path: Path, header: bytes, megabytes: int) -> int:
    packer = zlib.compressobj(1, wbits=31)
    with path.open("wb") as file:
        file.write(packer.compress(header))
        for _ in range(megabytes):
            file.write(packer.compress(bytes(1 << 20)))
        file.write(packer.flush())
    return path.stat().st_size


@pytest.mark.parametrize("honest", [False, True])
def test_little_that_unpacks_to_much(honest: bool, tmp_path: Path) -> None:
    """A file of zeros: its header speaks of all of them, or of few."""
    rules = SizeRules(always=4 << 20)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((256, 256, 1024) if honest else SHAPE)
    header.set_sform(SRI24, 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    size = _bomb(tmp_path / "t1.nii.gz", header.binaryblock + bytes(4), 64)
    assert size < 1e6
    tracemalloc.start()
    with pytest.raises(InputError, match="truncated or corrupt file"):
        read_nifti(tmp_path / "t1.nii.gz", rules)
    assert tracemalloc.get_traced_memory()[1] < 8e6
    tracemalloc.stop()
    assert read_nifti(tmp_path / "t1.nii.gz", SizeRules()).header.shape == ((256, 256, 1024) if honest else SHAPE)


def test_an_empty_mask_may_be_small(tmp_path: Path) -> None:
    path = save(tmp_path / "seg.nii.gz", np.zeros((256, 256, 150), np.float64))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 9))
    assert path.stat().st_size * 1000 < 256 * 256 * 150 * 8 and not read_volume(path).data.any()


def test_what_is_believed() -> None:
    assert RULES.believed(1000, packed=False) == 1000
    assert RULES.believed(10_000, packed=True) == 10_400_000
    assert RULES.believed(2 << 20, packed=True) == 512 << 20, "a file of 2 MB that unpacks to 2 GB is refused"
    assert RULES.believed(100 << 20, packed=True) == 10_000 << 20


# ------------------------------------------------------------------------------------------------ no ordinary files


@pytest.mark.timeout(30)
def test_pipes_devices_and_folders_are_not_read(tmp_path: Path) -> None:
    for index, ending in enumerate((".nii", ".nii.gz", ".hdr", ".nrrd")):
        pipe, device, folder = (tmp_path / f"{name}{index}{ending}" for name in ("pipe", "device", "folder"))
        os.mkfifo(pipe)
        device.symlink_to("/dev/zero")
        folder.mkdir()
        if ending == ".hdr":
            for path in (pipe, device, folder):
                path.with_suffix(".img").write_bytes(bytes(1000))
        readers = (read_itk, read_itk_grid) if ending == ".nrrd" else (read_volume, read_grid)
        for path, kind in ((pipe, "a named pipe"), (device, "a device"), (folder, "a folder")):
            for read in readers:
                with pytest.raises(InputError, match=f"{path.name}: found {kind}; expected an ordinary file"):
                    read(path)
    os.mkfifo(tmp_path / "slice.dcm")
    assert find_series(tmp_path) == []


def test_other_formats_that_speak_of_too_much(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5, 6), np.float32)), str(tmp_path / "t1.nrrd"))
    raw = (tmp_path / "t1.nrrd").read_bytes().replace(b"sizes: 6 5 4", b"sizes: 30000 30000 30000")
    (tmp_path / "t1.nrrd").write_bytes(raw)
    for read in (read_itk, read_itk_grid):
        with pytest.raises(InputError, match="speaks of 108000000000000 bytes"):
            read(tmp_path / "t1.nrrd")


# -------------------------------------------------------------------------------------------------------------- pairs


def test_pairs_are_read_by_either_name_and_written_as_one(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16)
    nib.save(nib.Nifti1Pair(data, ANISOTROPIC), tmp_path / "t1.img")
    volumes = [read_volume(tmp_path / f"t1{ending}") for ending in (".img", ".hdr")]
    for volume in volumes:
        assert np.array_equal(volume.data, data) and np.array_equal(volume.grid.affine, ANISOTROPIC)
        assert volume.flaws == ("a pair of files (.hdr and .img) written as one",)
    assert volumes[0].checksum == volumes[1].checksum
    assert read_grid(tmp_path / "t1.hdr").shape == SHAPE
    (outcome,) = write_derived(Derived(tmp_path / "t1.hdr", tmp_path / "images/t1.nii.gz", "image"))
    assert "pair" in outcome.repair and np.array_equal(read_volume(Path(str(outcome.path))).data, data)


def test_pairs_that_are_none(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(np.ones(SHAPE, np.int16), ANISOTROPIC), tmp_path / "t1.img")
    (tmp_path / "t1.img").rename(tmp_path / "t2.img")
    with pytest.raises(InputError, match=r"t1\.hdr: found no t1\.img beside it; expected a pair"):
        read_volume(tmp_path / "t1.hdr")
    with pytest.raises(InputError, match=r"t2\.img: found no t2\.hdr beside it"):
        read_grid(tmp_path / "t2.img")
    (tmp_path / "t1.hdr").rename(tmp_path / "t2.hdr")
    raw = (tmp_path / "t2.img").read_bytes()
    (tmp_path / "t2.img").write_bytes(raw[:-5])
    with pytest.raises(InputError, match=r"t2\.img: found a truncated or corrupt file"):
        read_volume(tmp_path / "t2.hdr")
    nib.save(nib.AnalyzeImage(np.ones(SHAPE, np.int16), np.eye(4)), tmp_path / "t3.img")
    with pytest.raises(InputError, match=r"t3\.hdr: found an Analyze header.*not supported.*which side is left"):
        read_volume(tmp_path / "t3.img")
    with pytest.raises(InputError, match=r"half of a packed pair.*Unpack"):
        read_volume(tmp_path / "t4.img.gz")
    (tmp_path / "t2.hdr").rename(tmp_path / "t5.nii")
    with pytest.raises(InputError, match=r"t5\.nii: found the header of a pair"):
        read_volume(tmp_path / "t5.nii")
