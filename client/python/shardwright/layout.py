"""Where plans come from: a layout file, or a coordinator's job."""

from __future__ import annotations

import ctypes
import dataclasses
import os
from typing import Any, Mapping, Sequence

import numpy

from shardwright import _library
from shardwright.errors import invalid
from shardwright.member import Member
from shardwright.plan import Coordinates, Plan


@dataclasses.dataclass(frozen=True)
class Group:
    """One process group that a rank belongs to.

    Attributes:
      name: that of its clique, "language/tp/3".
      kind: "tp", "dp_cp", "expert_dp"...
      index: which of the module's groups of that kind, from 0.
      position: the rank's own place in `ranks`: its group rank.
      ranks: the members, global ranks in group order.
    """

    name: str
    kind: str
    index: int
    position: int
    ranks: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Rank:
    """Who one rank is.

    Attributes:
      job: name of the layout.
      rank: global rank.
      generation: of the layout; 0 for one from a file.
      module: name of its module.
      role: "encoder" or "language".
      coordinates: its place in the module's grid.
      parallelism: sizes of the grid ("tp", "cp", ..., "dp"), and
        "sequence_parallel" and "order".
      groups: by kind, in the order in which communicators are created.
    """

    job: str
    rank: int
    generation: int
    module: str
    role: str
    coordinates: Coordinates
    parallelism: Mapping[str, Any]
    groups: Mapping[str, Group]


def _integers(values: Any) -> numpy.ndarray:
    array = numpy.asarray([] if values is None else values)
    if array.size and array.dtype.kind not in "iu":
        raise invalid(
            "INVALID_BATCH", f"{array.dtype} values where integers belong"
        )
    return numpy.ascontiguousarray(array, dtype=numpy.int64).reshape(-1)


class _Int64s:
    """Integers as C sees them: keeps the memory alive as long as itself."""

    def __init__(self, values: Any) -> None:
        self._array = _integers(values)
        self.pointer = self._array.ctypes.data_as(
            ctypes.POINTER(ctypes.c_int64)
        )
        self.count = self._array.size


def _flat(lists: Sequence[Any] | None) -> tuple[_Int64s, _Int64s]:
    """All lists one after another, and the length of each."""
    arrays = [_integers(entry) for entry in ([] if lists is None else lists)]
    flat = numpy.concatenate(arrays) if arrays else []
    return _Int64s(flat), _Int64s([array.size for array in arrays])


_BATCH_KEYS_REQUIRED = frozenset({"micro_batch_size", "seq_length", "samples"})
_BATCH_KEYS = _BATCH_KEYS_REQUIRED | frozenset(
    {
        "special_token_ids",
        "cu_seqlens_padded",
        "encoder_rows",
        "counts",
    }
)


class _PlanSource:
    """What Layout and Job have in common."""

    def __init__(self, create: str, *arguments: Any) -> None:
        self._handle = _library.Handle(create, "sw_job_destroy", *arguments)

    def rank(self, rank: int) -> Rank:
        """Who a rank is: its module, role, coordinates and groups."""
        answer = _library.call_for_json(
            "sw_job_explain_rank", self._handle.value, rank
        )
        groups = {
            group["kind"]: Group(
                group["name"],
                group["kind"],
                group["index"],
                group["position"],
                tuple(group["ranks"]),
            )
            for group in answer["groups"]
        }
        return Rank(
            job=answer["job"],
            rank=answer["rank"],
            generation=answer["generation"],
            module=answer["module"],
            role=answer["role"],
            coordinates=Coordinates(**answer["coordinates"]),
            parallelism=answer["parallelism"],
            groups=groups,
        )

    def groups(self) -> dict[str, dict[str, list[list[int]]]]:
        """All groups: by module and kind, a list of lists of ranks."""
        answer = _library.call_for_json("sw_job_groups", self._handle.value)
        return {m["name"]: m["groups"] for m in answer["modules"]}

    def shard_plan(
        self,
        rank: int,
        *,
        seq_length: int,
        micro_batch: int = 1,
        cu_seqlens_padded: Any = None,
        cu_seqlens: Any = None,
    ) -> Plan:
        """What `rank` owns of a micro-batch of this shape.

        Args:
          rank: of the language module.
          seq_length: tokens of a sample or pack, padding included.
          micro_batch: samples.
          cu_seqlens_padded: starts of the packed documents with padding, and
            the total; makes the format THD. None: dense.
          cu_seqlens: the same without padding; only counts padding.
        """
        padded, valid = _Int64s(cu_seqlens_padded), _Int64s(cu_seqlens)
        shape = _library.BatchShape(
            seq_length,
            micro_batch,
            padded.pointer,
            padded.count,
            valid.pointer,
            valid.count,
        )
        return Plan(
            _library.Handle(
                "sw_plan_shard",
                "sw_plan_destroy",
                self._handle.value,
                rank,
                ctypes.byref(shape),
            ),
            composed=False,
        )

    def compose_plan(self, rank: int, batch: Mapping[str, Any]) -> Plan:
        """What `rank` owns of a micro-batch with these tokens.

        Aligns the modalities and shards in one step, so the full sequence is
        never built.

        Args:
          rank: of the language module.
          batch: the global micro-batch, in the form of batch.json:
            "micro_batch_size", "seq_length", "special_token_ids" (by modality),
            "samples" (each {"input_ids": [...]}, or just the ids), and where
            wanted "cu_seqlens_padded" (one list a language lane),
            "encoder_rows" and "counts". NumPy arrays will do for lists.
        """
        unknown = sorted(set(batch) - _BATCH_KEYS)
        missing = sorted(_BATCH_KEYS_REQUIRED - set(batch))
        if unknown or missing:
            raise invalid(
                "INVALID_BATCH",
                f"a batch has no {unknown[0]!r}"
                if unknown
                else f"the batch lacks {missing[0]!r}",
            )
        samples = [
            sample["input_ids"] if isinstance(sample, Mapping) else sample
            for sample in batch["samples"]
        ]
        ids, lengths = _flat(samples)
        offsets, offset_counts = _flat(batch.get("cu_seqlens_padded"))
        modalities, keep_alive = _modalities(batch)
        message = _library.Batch(
            batch["micro_batch_size"],
            batch["seq_length"],
            ids.pointer,
            lengths.pointer,
            lengths.count,
            modalities,
            len(modalities),
            offsets.pointer,
            offset_counts.pointer,
            offset_counts.count,
        )
        handle = _library.Handle(
            "sw_plan_compose",
            "sw_plan_destroy",
            self._handle.value,
            rank,
            ctypes.byref(message),
        )
        del keep_alive
        return Plan(handle, composed=True)


def _modalities(batch: Mapping[str, Any]) -> tuple[Any, list[_Int64s]]:
    special_ids = batch.get("special_token_ids") or {}
    counts = batch.get("counts") or {}
    encoder_rows = batch.get("encoder_rows") or {}
    for name in [*counts, *encoder_rows]:
        if name not in special_ids:
            raise invalid(
                "INVALID_BATCH", f"modality {name!r} has no special token id"
            )
    modalities = (_library.Modality * len(special_ids))()
    keep_alive = []
    for modality, (name, special_id) in zip(modalities, special_ids.items()):
        rows = _Int64s(encoder_rows.get(name))
        keep_alive.append(rows)
        modality.name = name.encode()
        modality.special_token_id = special_id
        modality.row_count = counts.get(name, -1)
        if rows.count:
            modality.encoder_rows = rows.pointer
            modality.encoder_rows_count = rows.count
    return modalities, keep_alive


class Layout(_PlanSource):
    """A layout of one's own: plans are made in this process.

    Safe to use from several threads.
    """

    def __init__(self, text: str, name: str = "layout") -> None:
        """Reads the text of a layout file; `name` is for messages."""
        super().__init__("sw_job_read", text.encode(), name.encode())

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Layout:
        """Reads a layout file, YAML or JSON.

        Raises:
          ShardwrightError: INVALID_LAYOUT with all problems, each with its
            line.
          OSError: the file cannot be read.
        """
        with open(path, encoding="utf-8") as file:
            return cls(file.read(), os.fspath(path))


class Job(_PlanSource):
    """A job of a coordinator. Safe to use from several threads.

    Make it after forking: the connection does not survive a fork.
    """

    def __init__(
        self, address: str, job: str, *, retry_timeout: float = 30.0
    ) -> None:
        super().__init__(
            "sw_job_connect",
            address.encode(),
            job.encode(),
            round(retry_timeout * 1000),
        )

    def member(self, rank: int, *, timeout: float = 30.0) -> Member:
        """Registers this process as the trainer of `rank`.

        Use it in a `with`: leaving the block leaves the job.

        Args:
          rank: of any module.
          timeout: seconds to wait for a holder of the rank that may be dead.

        Raises:
          ShardwrightError: MEMBER_ID_IN_USE, if a live process is this trainer;
            the message names it.
        """
        return Member(
            _library.Handle(
                "sw_member_join",
                "sw_member_destroy",
                self._handle.value,
                rank,
                round(timeout * 1000),
            )
        )


def connect(address: str, job: str, *, retry_timeout: float = 30.0) -> Job:
    """The job of that name, of the coordinator at host:port.

    Connects when first used; a call that finds the coordinator unreachable is
    repeated for `retry_timeout` seconds.
    """
    return Job(address, job, retry_timeout=retry_timeout)
