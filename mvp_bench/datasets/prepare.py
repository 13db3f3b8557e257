"""A release as downloaded, or a phantom of it -> checked cases, splits and dataset.json.

dataset.json is written last and means prepared. Until then nothing that the user had is touched: files made anew are
staged beside it and moved in when every check has passed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from mvp_bench.config import PhantomConfig
from mvp_bench.datasets.conversion import Conversion, Converter
from mvp_bench.datasets.dataset_json import dataset_json
from mvp_bench.datasets.derive import Derived, write_derived
from mvp_bench.datasets.integrity import LABEL, CaseReport, check_cases, hash_data
from mvp_bench.datasets.phantom import MANIFEST, write_phantom_release
from mvp_bench.datasets.prepared import RELEASE, dataset_json_path, is_prepared, load_block, not_prepared
from mvp_bench.datasets.schema import Card, Case, DatasetBlock, Modality, Repair
from mvp_bench.datasets.splits import make_splits
from mvp_bench.errors import InputError
from mvp_bench.parallel import run_all, worker_pool
from mvp_bench.progress import log
from mvp_bench.registry import CONVERTERS
from mvp_bench.workspace import Workspace, code_version, hash_of, lock, write_json

PHANTOM = "phantom"
"""Folder of the phantom release in the dataset's folder."""
BYTES_PER_WORKER = 50_000_000
"""Files of this size in all, compressed, are worth another process."""
DESCRIPTIVE = {"title", "patient_rule", "licence", "access", "url", "folder", "citation", "metrics", "traps", "paper"}
"""Fields of a card on which the preparation does not depend."""
DERIVED_FOLDERS = ("images", "labels")
"""Folders of files made anew."""


@dataclass(frozen=True)
class Request:
    """What a preparation is made from; two equal requests give the same result."""

    source: Literal["real", "phantom"]
    release: str
    phantom: PhantomConfig | None
    seed: int
    card: str
    """Hash of the card's fields on which the preparation depends."""

    def as_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "release": self.release,
            "phantom": asdict(self.phantom) if self.phantom else None,
            "seed": self.seed,
            "card": self.card,
        }


def prepare_dataset(
    workspace: Workspace,
    card: Card,
    *,
    source: Path | None = None,
    phantom: PhantomConfig | None = None,
    seed: int = 0,
    workers: int = 1,
) -> DatasetBlock:
    """Prepare one dataset; returns at once if it has been prepared from the same source, card and seed.

    Args:
        source: folder of the unpacked release; None: ``release`` in the dataset's folder, or what is prepared already.
        phantom: make a synthetic release of this size and prepare that.
        seed: of the splits and of the phantom.
        workers: processes that read and write files.

    Raises:
        InputError: if the release is not there or faulty, or if real and phantom data would be mixed.
    """
    if card.members:
        raise not_prepared(workspace, card)
    if phantom and source:
        raise InputError("--phantom", found="together with --source", expected="one of the two")
    with lock(workspace.logs / f"prepare_{card.dataset_name}"):
        request = _request(workspace, card, source, phantom, seed)
        if is_prepared(workspace, card):
            block = load_block(workspace, card)
            if request is None or block.provenance.get("request") == request.as_json():
                return block
            if block.source != request.source:
                raise _would_mix(workspace, card, block)
            log.info("%s: prepared before from something else; preparing it again", card.dataset_name)
        elif request is None:
            raise not_prepared(workspace, card)
        return _prepare(workspace, card, request, workers)


def prepare_many(
    workspace: Workspace,
    cards: Sequence[Card],
    *,
    phantom: PhantomConfig | None = None,
    seed: int = 0,
    workers: int = 1,
) -> dict[str, DatasetBlock | InputError]:
    """Prepare several datasets; one that fails does not stop the others.

    Without ``phantom``: those whose release lies in the workspace (``datasets/DatasetNNN_Name/release``) or that are
    prepared already; the others are passed over.

    Returns:
        Dataset name -> its block, or the error.
    """
    results: dict[str, DatasetBlock | InputError] = {}
    for card in cards:
        if card.members or not (phantom or is_prepared(workspace, card) or release_folder(workspace, card).is_dir()):
            continue
        try:
            results[card.dataset_name] = prepare_dataset(workspace, card, phantom=phantom, seed=seed, workers=workers)
        except InputError as error:
            results[card.dataset_name] = error
    return results


def release_folder(workspace: Workspace, card: Card) -> Path:
    """Where a release (or a link to it) is looked for without ``--source``."""
    return workspace.dataset(card.dataset_name) / RELEASE


def _request(
    workspace: Workspace, card: Card, source: Path | None, phantom: PhantomConfig | None, seed: int
) -> Request | None:
    """What is asked for; None if nothing is named and no release lies in the workspace."""
    card_hash = hash_of(card.model_dump(mode="json", exclude={*DESCRIPTIVE, "expected_cases"}))
    if phantom:
        return Request("phantom", PHANTOM, phantom, seed, card_hash)
    if source is None and release_folder(workspace, card).is_dir():
        source = release_folder(workspace, card)
    return Request("real", str(source.resolve()), None, seed, card_hash) if source else None


def _would_mix(workspace: Workspace, card: Card, block: DatasetBlock) -> InputError:
    return InputError(
        f"dataset {card.dataset_name}",
        found=f"{block.source} data, prepared from {block.release}",
        expected="either real or phantom data in one workspace",
        fix=f"Use another --root, or delete {dataset_json_path(workspace, card)} to prepare it anew.",
    )


def _prepare(workspace: Workspace, card: Card, request: Request, workers: int) -> DatasetBlock:
    folder = workspace.dataset(card.dataset_name).resolve()
    if request.phantom:
        source = write_phantom_release(card, folder / PHANTOM, request.phantom, request.seed, workers)
    else:
        source = Path(request.release)
        _check_source(source, workspace)
    with _staging(folder) as staging:
        convert: Converter = CONVERTERS[card.converter]
        conversion = convert(source, card, staging)
        with worker_pool(min(workers, _useful_workers(conversion))) as pool:
            run_all(pool, write_derived, conversion.derived, f"mend {card.name}")
            reports = check_cases(conversion.cases, card, pool)
            conversion, reports = _rewrite_flawed(conversion, reports, card, staging, pool)
        lesion_ml = {case: report.lesion_ml for case, report in reports.items()}
        splits = make_splits(conversion.cases, card, request.seed, lesion_ml)
        block = DatasetBlock(
            card_id=card.id,
            card_name=card.name,
            kind=card.kind,
            source=request.source,
            release=_stored(source, workspace, folder, staging),
            modalities=card.modalities,
            regions=card.regions,
            classes=card.classes,
            cases={name: _with_stored_paths(c, workspace, folder, staging) for name, c in conversion.cases.items()},
            excluded=conversion.excluded,
            repairs=conversion.repairs,
            data_hash=hash_data(reports),
            code_version=code_version(),
            provenance={
                "request": request.as_json(),
                "converter": card.converter,
                "converter_options": card.converter_options,
            },
        )
        content = dataset_json(card, block)
        _move_in(folder, staging)
    write_json(folder / "splits.json", splits)
    write_json(dataset_json_path(workspace, card), content)
    _tell(card, block)
    return block


def _check_source(source: Path, workspace: Workspace) -> None:
    """Refuse a phantom release under a real one's name, and a folder that the workspace lies in: what was prepared
    before would be read as part of the release."""
    if any((folder / MANIFEST).is_file() for folder in (source, source.parent)) or any(source.glob(f"*/{MANIFEST}")):
        raise InputError(
            f"--source {source}",
            found=f"a phantom release ({MANIFEST})",
            expected="a real release",
            fix="Prepare phantoms with --phantom, so that they are known as such.",
        )
    if workspace.datasets.resolve().is_relative_to(source.resolve()):
        raise InputError(
            f"--source {source}",
            found=f"the workspace's own {workspace.datasets} inside it",
            expected="the folder of one unpacked release",
            fix="Point --source at the release itself, or put the workspace elsewhere with --root.",
        )


def _useful_workers(conversion: Conversion) -> int:
    """Processes that pay: starting one costs about as much as reading BYTES_PER_WORKER."""
    originals = {item.target: item.source for item in conversion.derived}
    paths = [Path(p) for case in conversion.cases.values() for p in (*case.images.values(), case.label) if p]
    size = sum(path.stat().st_size for path in (originals.get(path, path) for path in paths) if path.is_file())
    return 1 + int(size // BYTES_PER_WORKER)


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder for files made anew; gone afterwards, and the dataset's folder with it if nothing came of it."""
    staging = folder / ".staging"
    shutil.rmtree(staging, ignore_errors=True)  # left over from a killed run
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _rewrite_flawed(
    conversion: Conversion, reports: dict[str, CaseReport], card: Card, staging: Path, pool: Executor
) -> tuple[Conversion, dict[str, CaseReport]]:
    """Write files anew that the check could read and nnU-Net could not (see CaseReport.rewrite)."""
    changed: dict[str, Case] = {}
    derived: list[Derived] = []
    for name, report in reports.items():
        if not report.rewrite:
            continue
        case = conversion.cases[name]
        images = dict(case.images)
        label = case.label
        for role in report.rewrite:
            if role == LABEL:
                item = Derived(Path(str(label)), staging / "labels" / f"{name}.nii.gz", "label")
                label = str(item.target)
            else:
                modality = cast(Modality, role)
                item = Derived(Path(str(images[modality])), staging / "images" / f"{name}_{role}.nii.gz", "image")
                images[modality] = str(item.target)
            derived.append(item)
        changed[name] = case.model_copy(update={"images": images, "label": label})
    if not changed:
        return conversion, reports
    run_all(pool, write_derived, derived, f"mend {card.name}")
    repairs = [Repair(what=str(item.source), repair=item.in_words()) for item in derived]
    checked = {name: report for name, report in reports.items() if name not in changed}
    checked |= check_cases(
        changed, card.model_copy(update={"regions": {}}), pool
    )  # regions were checked over all cases
    return replace(conversion, cases=conversion.cases | changed, repairs=conversion.repairs + repairs), checked


def _with_stored_paths(case: Case, workspace: Workspace, folder: Path, staging: Path) -> Case:
    def stored(path: str | None) -> str | None:
        return _stored(Path(path), workspace, folder, staging) if path else None

    images = {modality: stored(path) for modality, path in case.images.items()}
    return case.model_copy(update={"images": images, "label": stored(case.label)})


def _stored(path: Path, workspace: Workspace, folder: Path, staging: Path) -> str:
    """A path as it stands in dataset.json: relative to the dataset's folder inside the workspace, else absolute."""
    if path.is_relative_to(staging):
        return path.relative_to(staging).as_posix()
    if path.is_relative_to(workspace.root.resolve()):
        return Path(os.path.relpath(path, folder)).as_posix()
    return str(path)


def _move_in(folder: Path, staging: Path) -> None:
    """Replace what an earlier preparation left; dataset.json goes first, so that a kill in between shows."""
    (folder / "dataset.json").unlink(missing_ok=True)
    for name in DERIVED_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
        if (staging / name).is_dir():
            (staging / name).replace(folder / name)


def _tell(card: Card, block: DatasetBlock) -> None:
    """One line per dataset; the left-out cases are in dataset.json."""
    patients = len({case.patient for case in block.cases.values()})
    log.info(
        "%s: %d cases of %d patients (%s), %d entries left out, %d files mended",
        card.dataset_name,
        len(block.cases),
        patients,
        block.source,
        len(block.excluded),
        len(block.repairs),
    )
    if block.source == "real" and card.expected_cases not in (None, len(block.cases)):
        log.warning(
            "%s: the release has %d cases, %d are usable here; see 'excluded' in dataset.json for the reasons",
            card.dataset_name,
            card.expected_cases,
            len(block.cases),
        )
