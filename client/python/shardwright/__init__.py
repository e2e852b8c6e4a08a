"""Who a rank is, which tokens it owns, and how they get there.

    job = shardwright.connect("127.0.0.1:7070", "vlm-8")
    me = job.rank(4)
    plan = job.shard_plan(4, seq_length=8192, micro_batch=1)
    local = plan.shard(embeddings)          # [S, B, H] -> [S / (cp * tp), B, H]
    labels = plan.shard_labels(labels)      # [B, S] -> [B, S / cp]
    gradient = plan.adjoint(local_gradient)

Needs NumPy and libshardwright.so, and nothing else. GPU tensors go through
`Gpu`, in the caller's CUDA stream.
"""

from shardwright._library import EMBEDDINGS, LABELS
from shardwright.errors import Code, ShardwrightError
from shardwright.gpu import Gpu, Operation, Slot
from shardwright.layout import Group, Job, Layout, Rank, connect
from shardwright.member import Member
from shardwright.packing import Packed, pad_documents
from shardwright.plan import Coordinates, Load, Plan, RowCopy, Run, Table
from shardwright.region import GpuSession, Region
from shardwright.route import Bridged, Route, Transfer
from shardwright.worker import Gathered, Session, Worker, worker

__all__ = [
    "EMBEDDINGS",
    "LABELS",
    "Bridged",
    "Code",
    "Coordinates",
    "Gathered",
    "Gpu",
    "GpuSession",
    "Group",
    "Job",
    "Layout",
    "Load",
    "Member",
    "Operation",
    "Packed",
    "Plan",
    "Rank",
    "Region",
    "Route",
    "RowCopy",
    "Run",
    "Session",
    "ShardwrightError",
    "Slot",
    "Table",
    "Transfer",
    "Worker",
    "connect",
    "pad_documents",
    "worker",
]
