"""A release as downloaded, or a phantom of it -> checked cases, splits and dataset.json.

dataset.json is written last and means prepared. Until then nothing that the user had is touched: files made anew are
staged beside it and moved in when every check has passed. A run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from mvp_bench.config.groups import PhantomConfig, PreparationConfig
from mvp_bench.datasets.dataset_json import dataset_json
from mvp_bench.datasets.integrity.case_check import case_roles
from mvp_bench.datasets.integrity.cases import hash_data, integrity_report
from mvp_bench.datasets.integrity.report import INTEGRITY, CaseFacts
from mvp_bench.datasets.journal import REQUEST, staging_folder
from mvp_bench.datasets.phantom.request import MANIFEST, phantom_key
from mvp_bench.datasets.preparation.acceptance import Workbench, accept
from mvp_bench.datasets.preparation.request import PHANTOM, Request, make_request, prepared_before, release_folder
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
) -> DatasetBlock:
    """Prepare one dataset; returns at once if it has been prepared from the same source, card, seed and settings.

    Args:
        source: folder of the unpacked release; None: ``release`` in the dataset's folder, or what is prepared already.
        phantom: make a synthetic release of this size and prepare that.
        seed: of the splits and of the phantom.
        workers: processes that read and write files.
        preparation: None: what it was prepared with before, else the defaults.

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
            if before.block:
                return before.block
            raise before.fault or not_prepared(workspace, card)
        if before.source not in (None, request.source):
            raise _would_mix(workspace, card, str(before.source))
        if before.block and before.request == request:
            return before.block
        if before.fault:
            log.info("%s: %s; preparing it again", card.dataset_name, before.fault.fault)
        elif before.block:
            log.info("%s: prepared before from something else; preparing it again", card.dataset_name)
        return _prepare(workspace, card, request, workers)


def prepare_many(
    workspace: Workspace,
    cards: Sequence[Card],
    *,
    phantom: PhantomConfig | None = None,
    seed: int = 0,
    workers: int = 1,
    preparation: PreparationConfig | None = None,
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
                workspace, card, phantom=phantom, seed=seed, workers=workers, preparation=preparation
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
    if request.phantom:
        from mvp_bench.datasets.phantom.release import write_phantom_release  # slow to import

        source = write_phantom_release(card, folder / PHANTOM, request.phantom, request.seed, workers)
    else:
        source = Path(request.release)
        _check_source(source, workspace)
    with staging_folder(folder, request.as_json()) as (staging, journal):
        convert: Converter = CONVERTERS[card.converter]
        conversion = convert(source, card, staging)
        with worker_pool(min(workers, _useful_workers(conversion))) as pool:
            bench = Workbench(workspace, card, request.preparation, source, staging, pool, journal)
            accepted = accept(bench, conversion)
        made, facts = accepted.made, accepted.facts
        lesion_ml = {case: one.lesion_ml for case, one in facts.items()}
        splits = make_splits(made.cases, request.effective(card), request.seed, lesion_ml, workspace.root)
        block = DatasetBlock(
            card_id=card.id,
            card_name=card.name,
            kind=card.kind,
            source=request.source,
            release=_stored(source, workspace, folder, staging),
            modalities=card.modalities,
            labels=card.labels,
            regions=card.regions,
            classes=card.classes,
            card=json.loads(json.dumps(card_facts(card))),
            cases={name: _with_stored_paths(c, workspace, folder, staging) for name, c in made.cases.items()},
            excluded=made.excluded,
            repairs=made.repairs,
            data_hash=hash_data(facts),
            phantom=phantom_key(card, request.phantom, request.seed) if request.phantom else None,
            code_version=code_version(),
            provenance={
                "request": request.as_json(),
                "converter": card.converter,
                "converter_options": card.converter_options,
            },
        )
        block = block.model_copy(update={"key": dataset_key(block)})
        splits = splits.model_copy(update={"key": splits_key(splits, block.key)})
        settings = block.provenance["request"]["preparation"]
        report = integrity_report(card, block, facts, accepted.duplicates, settings)
        content = dataset_json(card, block)
        _move_in(folder, staging)
        write_sealed(folder / INTEGRITY, report.model_dump(mode="json"))
        write_sealed(folder / SPLITS, splits.model_dump(mode="json"))
        write_sealed(dataset_json_path(workspace, card), content)
    _tell(card, block, facts)
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
