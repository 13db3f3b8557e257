"""``mvp_prepare``: which of its jobs is asked for."""

from __future__ import annotations

from mvp_bench.config.verbs import PrepareConfig
from mvp_bench.datasets.catalog import expand, load_cards
from mvp_bench.datasets.listing import print_datasets
from mvp_bench.datasets.prepared import is_prepared
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.progress import console
from mvp_bench.workspace import Workspace


def run_prepare(workspace: Workspace, config: PrepareConfig) -> bool:
    """Do what the configuration asks for; returns whether all went well (faults are printed).

    Raises:
        InputError: for what the user can mend before, or instead of, the work.
    """
    if config.list:
        print_datasets(workspace, load_cards(workspace.root))
        return True
    jobs = [name for name in ("check", "overlap", "export_nnssl") if getattr(config, name)]
    if config.crosswalks:
        from mvp_bench.datasets.overlap.crosswalk import add_crosswalks

        add_crosswalks(workspace, config.crosswalks)
    if jobs and (config.source or config.phantom):
        raise InputError(
            f"--{jobs[0].replace('_', '-')}",
            found="together with --source or --phantom",
            expected="datasets that are prepared already",
            fix="Prepare first, in a command of its own.",
        )
    if jobs:
        return all([_PREPARED_JOBS[job](workspace, config, _prepared_cards(workspace, config)) for job in jobs])
    if config.crosswalks and not (config.datasets or config.all):
        return True
    return _prepare(workspace, config)


def _prepare(workspace: Workspace, config: PrepareConfig) -> bool:
    from mvp_bench.datasets.prepare import prepare_dataset, prepare_many

    phantom = config.phantom_config if config.phantom else None
    cards = expand(load_cards(workspace.root), config.datasets)
    if config.source is not None and (len(cards) != 1 or phantom):
        raise InputError("--source", found=f"{len(cards)} datasets", expected="one dataset (-d ID) and no --phantom")
    if not cards and not config.all:
        raise InputError("mvp_prepare", found="no dataset", expected="-d ID ..., --all or --list")
    shared = {"phantom": phantom, "seed": config.seed, "workers": config.workers, "preparation": config.preparation}
    shared |= {"force": config.force}
    for card in cards:
        prepare_dataset(workspace, card, source=config.source, **shared)  # type: ignore[arg-type]
    errors = []
    if config.all:
        cards = [card for card in load_cards(workspace.root).values() if not card.members]
        results = prepare_many(workspace, cards, **shared)  # type: ignore[arg-type]
        errors = [result for result in results.values() if isinstance(result, InputError)]
    print_datasets(workspace, {card.id: card for card in cards})
    for error in errors:
        console.print(f"error: {error}", style="red", highlight=False, markup=False)
    return not errors


def _prepared_cards(workspace: Workspace, config: PrepareConfig) -> list[Card]:
    """The datasets named, or all that are prepared.

    Raises:
        InputError: if there is none.
    """
    cards = load_cards(workspace.root)
    chosen = expand(cards, config.datasets) or [c for c in cards.values() if not c.members]
    if config.all or not config.datasets:
        chosen = [card for card in chosen if is_prepared(workspace, card)]
    if not chosen:
        raise InputError(
            f"{workspace.datasets}",
            found="no prepared dataset",
            expected="at least one",
            fix="Prepare one with mvp_prepare -d ID --source FOLDER, or with --phantom.",
        )
    return chosen


def _check(workspace: Workspace, config: PrepareConfig, cards: list[Card]) -> bool:
    from mvp_bench.datasets.integrity.check import check_prepared

    return check_prepared(workspace, cards, config.workers, config.preparation.check)


def _overlap(workspace: Workspace, config: PrepareConfig, cards: list[Card]) -> bool:
    from mvp_bench.datasets.overlap.audit import audit, print_audit
    from mvp_bench.parallel import worker_pool

    with worker_pool(config.workers) as pool:
        print_audit(audit(workspace, cards, config.overlap_config, pool))
    return True


def _export_nnssl(workspace: Workspace, config: PrepareConfig, cards: list[Card]) -> bool:
    from mvp_bench.datasets.nnssl_export import export_nnssl

    assert config.export_nnssl is not None
    console.print(f"nnssl collection: {export_nnssl(workspace, cards, config.export_nnssl)}", highlight=False)
    return True


_PREPARED_JOBS = {"check": _check, "overlap": _overlap, "export_nnssl": _export_nnssl}
