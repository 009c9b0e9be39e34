"""Find near-duplicates and clusters among the training images, in a teacher's embedding space."""

from beamclip.balance.clusters import Clusters, check_cluster_count, cluster, clusters_parts
from beamclip.balance.kept_list import KeptList, read_kept_list, write_kept_list
from beamclip.balance.store import balance, balance_parts, kept_ids, read_balance_report

__all__ = [
    "Clusters",
    "KeptList",
    "balance",
    "balance_parts",
    "check_cluster_count",
    "cluster",
    "clusters_parts",
    "kept_ids",
    "read_balance_report",
    "read_kept_list",
    "write_kept_list",
]
