"""A release as downloaded, or a phantom of it -> checked cases, splits and dataset.json.

dataset.json is written last and means prepared. Until then nothing that the user had is touched: files made anew are
staged beside it and moved in when every check has passed. A run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvp_bench.config.groups import PhantomConfig, PreparationConfig
from mvp_bench.datasets.dataset_json import dataset_json
from mvp_bench.datasets.integrity.case_check import case_roles
from mvp_bench.datasets.integrity.cases import hash_data, integrity_report
from mvp_bench.datasets.integrity.report import INTEGRITY, CaseFacts
from mvp_bench.datasets.journal import REQUEST, staging_folder
from mvp_bench.datasets.phantom.request import MANIFEST, phantom_key
from mvp_bench.datasets.preparation.acceptance import Accepted, Workbench, accept
from mvp_bench.datasets.preparation.reads import noted_reads
from mvp_bench.datasets.preparation.request import (
    PHANTOM,
    Before,
    Request,
    changed_fields,
    make_request,
    prepared_before,
    release_folder,
)
from mvp_bench.datasets.preparation.sources import changes_in_content, watched, with_hashes, write_sources
from mvp_bench.datasets.prepared import (
    SPLITS,
    card_facts,
    dataset_json_path,
    dataset_key,
    is_prepared,
    not_prepared,
    splits_key,
)
from mvp_bench.datasets.reading.conversion import Conversion, Converter
from mvp_bench.datasets.schema import Card, Case, DatasetBlock
from mvp_bench.datasets.splits import make_splits
from mvp_bench.errors import InputError
from mvp_bench.identity import code_version
from mvp_bench.io import lock
from mvp_bench.parallel import worker_pool
from mvp_bench.progress import log
from mvp_bench.registry import CONVERTERS
from mvp_bench.sealed import write_sealed
from mvp_bench.workspace import Workspace

BYTES_PER_WORKER = 50_000_000
"""Files of this size in all, compressed, are worth another process."""
CASES_PER_WORKER = 50
"""So are this many cases."""
DERIVED_FOLDERS = ("images", "labels")
"""Folders of files made anew."""


def prepare_dataset(
    workspace: Workspace,
    card: Card,
    *,
    source: Path | None = None,
    phantom: PhantomConfig | None = None,
    seed: int = 0,
    workers: int = 1,
    preparation: PreparationConfig | None = None,
    force: bool = False,
) -> DatasetBlock:
    """Prepare one dataset; returns at once if it has been prepared from the same card, seed and settings, and from the
    same files: none of those that were read is another by now, and none was added or removed.

    Args:
        source: folder of the unpacked release; None: ``release`` in the dataset's folder, or what is prepared already.
        phantom: make a synthetic release of this size and prepare that.
        seed: of the splits and of the phantom.
        workers: processes that read and write files.
        preparation: None: what it was prepared with before, else the defaults.
        force: prepare it anew whatever it was prepared from before.

    Raises:
        InputError: if the release is not there or faulty (all faults in one message), or if real and phantom data
            would be mixed.
    """
    if card.members:
        raise not_prepared(workspace, card)
    if phantom and source:
        raise InputError("--phantom", found="together with --source", expected="one of the two")
    with lock(workspace.logs / f"prepare_{card.dataset_name}"):
        before = prepared_before(workspace, card)
        request = make_request(
            workspace, card, before.request, source=source, phantom=phantom, seed=seed, preparation=preparation
        )
        if request is None:
            if before.block and not force:
                return before.block
            raise before.fault or not_prepared(workspace, card)
        if before.source not in (None, request.source):
            raise _would_mix(workspace, card, str(before.source))
        why = "asked for by --force" if force else _why_again(workspace, card, before, request)
        if before.block and not why:
            return before.block
        if before.source:
            log.warning("%s: %s; preparing it again", card.dataset_name, why)
        if request.phantom and before.request == request:  # its files are not what the generator wrote
            shutil.rmtree(workspace.dataset(card.dataset_name) / PHANTOM, ignore_errors=True)
        return _prepare(workspace, card, request, workers)


def _why_again(workspace: Workspace, card: Card, before: Before, request: Request) -> str:
    """Why a dataset that was prepared must be prepared again; empty if it need not."""
    if before.block is None:
        return before.fault.fault if before.fault else ""
    if before.request == request:
        try:
            return changes_in_content(workspace, card).in_words()
        except InputError as error:
            return error.fault
    if fields := changed_fields(workspace, card, before.block):
        return f"its card has another {', '.join(fields)}"
    return "prepared before from another release, or with other settings"


def prepare_many(
    workspace: Workspace,
    cards: Sequence[Card],
    *,
    phantom: PhantomConfig | None = None,
    seed: int = 0,
    workers: int = 1,
    preparation: PreparationConfig | None = None,
    force: bool = False,
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
            results[card.dataset_name] = prepare_dataset(
                workspace, card, phantom=phantom, seed=seed, workers=workers, preparation=preparation, force=force
            )
        except InputError as error:
            results[card.dataset_name] = error
    return results


def _would_mix(workspace: Workspace, card: Card, source: str) -> InputError:
    return InputError(
        f"dataset {card.dataset_name}",
        found=f"{source} data, prepared before",
        expected="either real or phantom data in one workspace",
        fix=f"Use another --root, or delete {dataset_json_path(workspace, card)} to prepare it anew.",
    )


def _prepare(workspace: Workspace, card: Card, request: Request, workers: int) -> DatasetBlock:
    folder = workspace.dataset(card.dataset_name).resolve()
    source = _source(workspace, card, request, folder, workers)
    with staging_folder(folder, request.as_json()) as (staging, journal):
        place = Place(workspace, folder, staging)
        convert: Converter = CONVERTERS[card.converter]
        with noted_reads() as reads:
            conversion = convert(source, card, staging)
        sources = watched(card, source, place.stored, conversion, reads)
        with worker_pool(min(workers, _useful_workers(conversion))) as pool:
            bench = Workbench(workspace, card, request.preparation, source, staging, pool, journal)
            accepted = accept(bench, conversion)
        made, facts = accepted.made, accepted.facts
        lesion_ml = {case: one.lesion_ml for case, one in facts.items()}
        splits = make_splits(made.cases, request.effective(card), request.seed, lesion_ml, workspace.root)
        block = _block(card, request, accepted, place.stored(source), place)
        splits = splits.model_copy(update={"key": splits_key(splits, block.key)})
        report = integrity_report(card, block, facts, accepted.duplicates, request.as_json()["preparation"])
        sources = with_hashes(sources, source if source.is_dir() else source.parent, _known_hashes(accepted))
        content = dataset_json(card, block)
        _move_in(folder, staging)
        write_sealed(folder / INTEGRITY, report.model_dump(mode="json"))
        write_sealed(folder / SPLITS, splits.model_dump(mode="json"))
        write_sources(workspace, card, sources)
        write_sealed(dataset_json_path(workspace, card), content)
    _tell(card, block, facts)
    return block


def _source(workspace: Workspace, card: Card, request: Request, folder: Path, workers: int) -> Path:
    """The release: as downloaded, or the phantom, made where it is missing."""
    if request.phantom:
        from mvp_bench.datasets.phantom.release import write_phantom_release  # slow to import

        return write_phantom_release(card, folder / PHANTOM, request.phantom, request.seed, workers)
    source = Path(request.release)
    _check_source(source, workspace)
    return source


@dataclass(frozen=True)
class Place:
    """Where a dataset is prepared.

    Attributes:
        folder: the dataset's, absolute.
        staging: folder of files made anew.
    """

    workspace: Workspace
    folder: Path
    staging: Path

    def stored(self, path: Path) -> str:
        """A path as it stands in dataset.json: relative to the dataset's folder inside the workspace, else absolute."""
        if path.is_relative_to(self.staging):
            return path.relative_to(self.staging).as_posix()
        if path.is_relative_to(self.workspace.root.resolve()):
            return Path(os.path.relpath(path, self.folder)).as_posix()
        return str(path)

    def stored_case(self, case: Case) -> Case:
        """A case with its paths as they stand in dataset.json."""
        images = {modality: self.stored(Path(path)) if path else None for modality, path in case.images.items()}
        label = self.stored(Path(case.label)) if case.label else None
        return case.model_copy(update={"images": images, "label": label})


def _block(card: Card, request: Request, accepted: Accepted, release: str, place: Place) -> DatasetBlock:
    """The block of dataset.json, with its key."""
    made = accepted.made
    block = DatasetBlock(
        card_id=card.id,
        card_name=card.name,
        kind=card.kind,
        source=request.source,
        release=release,
        modalities=card.modalities,
        labels=card.labels,
        regions=card.regions,
        classes=card.classes,
        card=json.loads(json.dumps(card_facts(card))),
        cases={name: place.stored_case(case) for name, case in made.cases.items()},
        excluded=made.excluded,
        repairs=made.repairs,
        data_hash=hash_data(accepted.facts),
        phantom=phantom_key(card, request.phantom, request.seed) if request.phantom else None,
        code_version=code_version(),
        provenance={
            "request": request.as_json(),
            "converter": card.converter,
            "converter_options": card.converter_options,
        },
    )
    return block.model_copy(update={"key": dataset_key(block)})


def _known_hashes(accepted: Accepted) -> dict[Path, str]:
    """File -> hash, of the files that the check has read."""
    return {
        Path(path): accepted.facts[name].files[role].hash
        for name, case in accepted.made.cases.items()
        for role, path in case_roles(case).items()
    }


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
    """Processes that pay: starting one costs about as much as reading BYTES_PER_WORKER, or hashing the images of
    CASES_PER_WORKER."""
    made = {item.target for item in conversion.derived}
    used = {Path(path) for case in conversion.cases.values() for path in case_roles(case).values()}
    size = sum(map(_size, (used - made) | {item.source for item in conversion.derived}))
    return 1 + max(size // BYTES_PER_WORKER, len(conversion.cases) // CASES_PER_WORKER)


def _size(path: Path) -> int:
    """Bytes of a file, of all files in a folder, or 0 if there is neither."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _move_in(folder: Path, staging: Path) -> None:
    """Replace what an earlier preparation left; dataset.json goes first, so that a kill in between shows."""
    (staging / REQUEST).unlink()  # killed from here on, the next run starts anew: part of the files are gone
    (folder / "dataset.json").unlink(missing_ok=True)
    for name in DERIVED_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
        if (staging / name).is_dir():
            (staging / name).replace(folder / name)


def _tell(card: Card, block: DatasetBlock, facts: Mapping[str, CaseFacts]) -> None:
    """One line per dataset; the left-out cases are in dataset.json."""
    patients = len({case.patient for case in block.cases.values()})
    log.info(
        "%s: %d cases of %d patients (%s), %d entries left out, %d files mended, %d cases with warnings",
        card.dataset_name,
        len(block.cases),
        patients,
        block.source,
        len(block.excluded),
        len(block.repairs),
        sum(bool(one.warnings) for one in facts.values()),
    )
    if block.source == "real" and card.expected_cases not in (None, len(block.cases)):
        log.warning(
            "%s: the release has %d cases, %d are usable here; see 'excluded' in dataset.json for the reasons",
            card.dataset_name,
            card.expected_cases,
            len(block.cases),
        )
