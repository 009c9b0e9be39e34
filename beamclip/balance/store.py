"""Balance as a store: the forest is made once, and cut for every threshold or share that is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beamclip.balance.kept_list import split_facts, write_kept
from beamclip.balance.neighbors import Rows, Vectors, unit
from beamclip.balance.report import contact_sheet, report_of
from beamclip.balance.spanning_forest import (
    Forest,
    exact_forest,
    indexed_forest,
    nearest_to_centre,
    sets_at,
    threshold_for,
)
from beamclip.config import BalanceConfig, DataConfig
from beamclip.data import PackedImages
from beamclip.stores import Progress, Store, build_once, read_json, silent, write_json
from beamclip.teachers import Embeddings

KIND, FOREST, KEPT_LIST = "balance", "forests", "kept"
KEPT, REPORT, LIST, SHEET = "kept.npy", "report.json", "kept.json", "merged.png"
_VERSION = 1  # another one where the same embeddings would give other sets
EXACT = 100_000
"""Images up to which `auto` compares every pair."""

Basis = Mapping[str, Any]
"""All that the canonical embeddings of the images depend on: `beamclip.preparation.embedding_store.parts_of`."""


def forest_parts(basis: Basis, config: BalanceConfig) -> dict[str, Any]:
    """All that a forest depends on."""
    exact = config.search == "exact" or (config.search == "auto" and basis["samples"] <= EXACT)
    return {
        **basis,
        "search": "exact" if exact else "index",
        "neighbours": None if exact else config.neighbours,
        "balance": _VERSION,
    }


def balance_parts(basis: Basis, config: BalanceConfig) -> dict[str, Any]:
    """All that a balance depends on."""
    return {**forest_parts(basis, config), "threshold": config.threshold, "remove": config.remove}


def balance(
    basis: Basis,
    embeddings: Embeddings,
    packed: PackedImages,
    ids: Rows,
    config: BalanceConfig,
    root: Path,
    progress: Progress = silent,
    repair: bool = False,
    data: DataConfig | None = None,
) -> Store:
    """Open the store of the images that are kept, making it, and the forest it is cut from, where they are missing.

    Its files: `kept.npy` and `kept.json` (see `beamclip.balance.kept_list`), the ids kept; `ids.npy` and `sets.npy`, every image and its
    set; `report.json`; `merged.png`, a contact sheet.

    Args:
        embeddings: a store that holds the canonical views of these images.
        ids: sorted ids of training images.
        config: one that is active.
        data: the settings that made these images train, for the list to say so.

    Raises:
        UserError: faiss is wanted and not installed, or as `build_once`.
    """

    def build(folder: Path) -> dict[str, Any]:
        vectors = unit(embeddings.gather(ids, 0))
        forest = _forest(basis, vectors, config, root, progress, repair)
        threshold = (
            threshold_for(forest, config.remove or 0.0)
            if config.threshold is None
            else config.threshold
        )
        sets = sets_at(forest, threshold)
        kept = nearest_to_centre(vectors, sets)
        write_kept(
            folder / LIST, packed.key, np.sort(ids[kept]), _listed(threshold, ids, kept, data)
        )
        return _write(folder, packed, vectors, ids, sets, kept, _asked(config, threshold, forest))

    return build_once(root, KIND, balance_parts(basis, config), build, progress, repair)


def _asked(config: BalanceConfig, threshold: float, forest: Forest) -> dict[str, Any]:
    return {
        "threshold": threshold,
        "asked": config.model_dump(include={"threshold", "remove"}),
        "search": forest.facts,
    }


def _listed(threshold: float, ids: Rows, kept: Rows, data: DataConfig | None) -> dict[str, Any]:
    facts = {"threshold": threshold, "removed_share": 1 - len(kept) / len(ids)}
    return facts if data is None else facts | split_facts(data, len(ids))


def _write(
    folder: Path,
    packed: PackedImages,
    vectors: Vectors,
    ids: Rows,
    sets: Rows,
    kept: Rows,
    asked: dict[str, Any],
) -> dict[str, Any]:
    report = asked | report_of(vectors, ids, sets, kept, packed.labels[ids], packed.names)
    _save(folder / "ids.npy", ids)
    _save(folder / "sets.npy", sets)
    _save(folder / KEPT, np.sort(ids[kept]))
    contact_sheet(vectors, ids, sets, kept, packed.read).save(folder / SHEET)
    write_json(folder / REPORT, report)
    return {name: report[name] for name in ("images", "kept", "threshold")}


def _forest(
    basis: Basis,
    vectors: Vectors,
    config: BalanceConfig,
    root: Path,
    progress: Progress,
    repair: bool,
) -> Forest:
    parts = forest_parts(basis, config)

    def build(folder: Path) -> dict[str, Any]:
        forest = (
            exact_forest(vectors, progress)
            if parts["search"] == "exact"
            else indexed_forest(vectors, config.neighbours, progress)
        )
        _save(folder / "edges.npy", forest.edges)
        np.save(folder / "distances.npy", forest.distances)
        return {"images": forest.images, "facts": forest.facts}

    store = build_once(root, FOREST, parts, build, progress, repair)
    edges, distances = np.load(store.file("edges.npy")), np.load(store.file("distances.npy"))
    return Forest(int(store.manifest["images"]), edges, distances, dict(store.manifest["facts"]))


def _save(path: Path, values: Rows) -> None:
    np.save(path, np.ascontiguousarray(values, "<i8"))


def kept_ids(store: Store) -> Rows:
    """The sorted sample ids that a store of this kind, or of a kept list, leaves to train on."""
    return np.asarray(np.load(store.file(KEPT)))


def report_in(store: Store) -> dict[str, Any]:
    """What a balance did; see `beamclip.balance.report`."""
    return dict(read_json(store.file(REPORT)))
