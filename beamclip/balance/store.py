"""Build and read the stores of a balance: which training images are kept, and a report.

The spanning forest has its own store. It is built once, and each balance of the same images
cuts it at its own threshold or share.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beamclip.balance.kept_list import describe_split, write_kept_list
from beamclip.balance.neighbors import IntArray, Vectors, normalize_rows
from beamclip.balance.report import (
    BalancedImages,
    BalanceReport,
    contact_sheet,
    summarize_balance,
)
from beamclip.balance.spanning_forest import (
    Forest,
    cut_forest,
    exact_forest,
    indexed_forest,
    nearest_to_center,
    threshold_for_share,
)
from beamclip.config import BalanceConfig, DataConfig
from beamclip.data import PackedImages
from beamclip.stores import Progress, Store, build_once, read_json, silent, write_json
from beamclip.teachers import Embeddings

KIND = "balance"
FOREST_KIND = "forests"
KEPT_LIST_KIND = "kept"
KEPT_FILE = "kept.npy"
KEPT_LIST_FILE = "kept.json"
REPORT_FILE = "report.json"
CONTACT_SHEET_FILE = "merged.png"
# Part of the keys. Increase it if the same embeddings give other sets.
_VERSION = 1
MAX_EXACT_IMAGES = 100_000
"""Number of images up to which `balance.search=auto` compares all pairs."""

Basis = Mapping[str, Any]
"""Key parts of the canonical embeddings, from `preparation.embedding_store.embedding_parts`."""


def forest_parts(basis: Basis, config: BalanceConfig) -> dict[str, Any]:
    """Return the key parts of a forest's store: everything its content depends on."""
    is_small = basis["samples"] <= MAX_EXACT_IMAGES
    is_exact = config.search == "exact" or (config.search == "auto" and is_small)
    return {
        **basis,
        "search": "exact" if is_exact else "index",
        # Stored keys keep their original (British) spelling.
        "neighbours": None if is_exact else config.neighbors,
        "balance": _VERSION,
    }


def balance_parts(basis: Basis, config: BalanceConfig) -> dict[str, Any]:
    """Return the key parts of a balance's store: everything its content depends on."""
    return {**forest_parts(basis, config), "threshold": config.threshold, "remove": config.remove}


def balance(  # noqa: PLR0913 - the arguments of `build_once`, and what is built
    basis: Basis,
    embeddings: Embeddings,
    packed: PackedImages,
    ids: IntArray,
    config: BalanceConfig,
    root: Path,
    progress: Progress = silent,
    repair: bool = False,
    data: DataConfig | None = None,
) -> Store:
    """Open the store of a balance, building it and its forest if they don't exist.

    Its files are
        - `kept.npy` and `kept.json` (see `beamclip.balance.kept_list`): the ids that are kept
        - `ids.npy` and `sets.npy`: the id of every image and the number of its set
        - `report.json`: see `beamclip.balance.report.BalanceReport`
        - `merged.png`: a contact sheet

    Args:
        basis: key parts of the embeddings.
        embeddings: a store with the embeddings of these images' canonical views.
        packed: the packed images, for class names and the contact sheet.
        ids: sorted sample ids of the training images.
        config: the `balance` settings; `threshold` or `remove` must be set.
        root: folder of all stores.
        progress: called while nearest neighbors are found.
        repair: rebuild what is damaged in an existing store.
        data: the settings that selected these training images, to write into the kept list; None
            leaves them out.

    Raises:
        UserError: faiss is needed and not installed, or as `build_once`.
    """

    def build(folder: Path) -> dict[str, Any]:
        vectors = normalize_rows(embeddings.gather(ids, 0))
        forest = _open_forest(basis, vectors, config, root, progress, repair)
        threshold = config.threshold
        if threshold is None:
            threshold = threshold_for_share(forest, config.remove or 0.0)
        sets = cut_forest(forest, threshold)
        images = BalancedImages(vectors, ids, sets, kept=nearest_to_center(vectors, sets))
        report: BalanceReport = {
            "threshold": threshold,
            "asked": config.model_dump(include={"threshold", "remove"}),
            "search": forest.facts,
            **summarize_balance(images, packed.labels[ids], packed.names),
        }
        _write_balance(folder, packed, images, report, data)
        # For the store's manifest.
        return {
            "images": report["images"],
            "kept": report["kept"],
            "threshold": report["threshold"],
        }

    return build_once(root, KIND, balance_parts(basis, config), build, progress, repair)


def kept_ids(store: Store) -> IntArray:
    """Return the sorted ids of the images to train on, from the store of a balance or kept list."""
    return np.asarray(np.load(store.file(KEPT_FILE)))


def read_balance_report(store: Store) -> dict[str, Any]:
    """Return the report of a balance; for its keys see `beamclip.balance.report.BalanceReport`."""
    return dict(read_json(store.file(REPORT_FILE)))


def _write_balance(
    folder: Path,
    packed: PackedImages,
    images: BalancedImages,
    report: BalanceReport,
    data: DataConfig | None,
) -> None:
    """Write all files of a balance's store into `folder`."""
    kept = np.sort(images.ids[images.kept])
    facts = {"threshold": report["threshold"], "removed_share": report["removed_share"]}
    if data is not None:
        facts |= describe_split(data, len(images.ids))
    write_kept_list(folder / KEPT_LIST_FILE, packed.key, kept, facts)
    _save_integers(folder / "ids.npy", images.ids)
    _save_integers(folder / "sets.npy", images.sets)
    _save_integers(folder / KEPT_FILE, kept)
    contact_sheet(images, packed.read).save(folder / CONTACT_SHEET_FILE)
    write_json(folder / REPORT_FILE, report)


def _open_forest(  # noqa: PLR0913 - the arguments of `build_once`, and what is built
    basis: Basis,
    vectors: Vectors,
    config: BalanceConfig,
    root: Path,
    progress: Progress,
    repair: bool,
) -> Forest:
    """Read the spanning forest from its store, building the store if it doesn't exist."""
    parts = forest_parts(basis, config)

    def build(folder: Path) -> dict[str, Any]:
        if parts["search"] == "exact":
            forest = exact_forest(vectors, progress)
        else:
            forest = indexed_forest(vectors, config.neighbors, progress)
        _save_integers(folder / "edges.npy", forest.edges)
        np.save(folder / "distances.npy", forest.distances)
        return {"images": forest.images, "facts": forest.facts}

    store = build_once(root, FOREST_KIND, parts, build, progress, repair)
    return Forest(
        images=int(store.manifest["images"]),
        edges=np.load(store.file("edges.npy")),
        distances=np.load(store.file("distances.npy")),
        facts=store.manifest["facts"],
    )


def _save_integers(path: Path, values: IntArray) -> None:
    """Save integers as little-endian int64 on every platform."""
    np.save(path, np.ascontiguousarray(values, "<i8"))
