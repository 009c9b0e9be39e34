"""Costly results that are built once and kept: folders addressed by a hash of what they depend on.

One process builds a store under a temporary name while others wait. It describes the store in a
manifest, and renames it when it is complete. So a store that exists is complete. A killed builder
leaves a temporary folder with its finished shards, and the next builder resumes there.
"""

from beamclip.stores.build import (
    PLAN,
    build_once,
    finished_shards,
    load_or_make_plan,
    partial_path,
)
from beamclip.stores.io import (
    atomic_path,
    file_hash,
    full_disk_as_user_error,
    key_of,
    make_folder,
    read_json,
    temporary_path,
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
    "atomic_path",
    "build_once",
    "file_hash",
    "finished_shards",
    "full_disk_as_user_error",
    "in_process",
    "key_of",
    "load_or_make_plan",
    "make_folder",
    "open_store",
    "partial_path",
    "read_json",
    "run_shards",
    "silent",
    "store_path",
    "temporary_path",
    "write_json",
]
