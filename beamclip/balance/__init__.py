"""What a teacher's embeddings say of the training images before training: which are near-duplicates, and which clusters they form."""

from beamclip.balance.clusters import Clusters, check_count, cluster, clusters_parts
from beamclip.balance.kept_list import Kept, read_kept, write_kept
from beamclip.balance.store import balance, balance_parts, kept_ids, report_in

__all__ = [
    "Clusters",
    "Kept",
    "balance",
    "balance_parts",
    "check_count",
    "cluster",
    "clusters_parts",
    "kept_ids",
    "read_kept",
    "report_in",
    "write_kept",
]
