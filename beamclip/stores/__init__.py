"""Costly things made once and kept: a folder addressed by a hash of everything it depends on.

A store is built under a temporary name by one builder while others wait, described by a manifest, and renamed into place when
it is whole: a store that exists is complete. A builder that was killed leaves its temporary folder with its finished shards;
the next one goes on from there.
"""

from beamclip.stores.build import PLAN, build_once, kept_shards, partial_path, planned
from beamclip.stores.io import (
    disk_may_be_full,
    file_hash,
    key_of,
    make_folder,
    read_json,
    temporary_for,
    write_json,
)
from beamclip.stores.shards import Job, Progress, Runner, Shards, in_process, run_shards, silent
from beamclip.stores.store import FORMAT, Store, StoreDamaged, open_store, store_path

__all__ = [
    "FORMAT",
    "PLAN",
    "Job",
    "Progress",
    "Runner",
    "Shards",
    "Store",
    "StoreDamaged",
    "build_once",
    "disk_may_be_full",
    "file_hash",
    "in_process",
    "kept_shards",
    "key_of",
    "make_folder",
    "open_store",
    "partial_path",
    "planned",
    "read_json",
    "run_shards",
    "silent",
    "store_path",
    "temporary_for",
    "write_json",
]
