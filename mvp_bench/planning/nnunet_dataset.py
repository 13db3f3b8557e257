"""Preprocessed cases as nnU-Net's data loader wants them: verified when first opened, without pickle."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from mvp_bench.planning.store import CaseStore

MOST_KEPT = 64
"""Cases whose properties are held: up to a third of a megabyte each and evaluated region."""


class VerifiedDataset(nnUNetDatasetBlosc2):
    """nnU-Net's dataset over a :class:`~mvp_bench.planning.store.CaseStore`.

    Open files and properties are kept: nnU-Net opens and unpickles them for every patch anew.

    Args:
        folder: of the arrays.
        identifiers: cases to use.
        folder_with_segs_from_previous_stage: nnU-Net's, not used here.
    """

    def __init__(
        self,
        folder: str,
        identifiers: list[str] | None = None,
        folder_with_segs_from_previous_stage: str | None = None,
    ) -> None:
        self.store = CaseStore(Path(folder))
        chosen = list(self.store.cases if identifiers is None else identifiers)
        super().__init__(folder, chosen, folder_with_segs_from_previous_stage)
        self._properties: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def load_case(self, identifier: str) -> tuple[Any, Any, None, dict[str, Any]]:
        """Images, label map (both read piece by piece), nothing, and nnU-Net's properties of a case.

        Raises:
            InputError: if a file is not what was written.
        """
        if identifier not in self._properties:
            if len(self._properties) >= MOST_KEPT:
                self._properties.popitem(last=False)
            self._properties[identifier] = self.store.properties(identifier)
        return self.store.array(identifier), self.store.array(identifier, "_seg"), None, self._properties[identifier]
