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
from shardwright.route import Route


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


_INVALID_BATCH = "INVALID_BATCH"


def _integers(name: str, values: Any) -> numpy.ndarray:
    try:
        array = numpy.asarray(values)
    except ValueError:  # Lists of different lengths where integers belong.
        array = numpy.empty((0, 0))
    if array.ndim != 1:
        raise invalid(
            _INVALID_BATCH,
            f"{name} must be a list of integers, and has {array.ndim} "
            "dimensions",
        )
    if array.dtype.kind == "i" or array.size == 0:
        return numpy.ascontiguousarray(array, dtype=numpy.int64)
    if array.dtype.kind == "u" and array.max() <= _library.INT64_MAX:
        return array.astype(numpy.int64)
    # One by one, to name the value that is wrong.
    checked = [
        _library.int64(f"{name}[{i}]", value, _INVALID_BATCH)
        for i, value in enumerate(values)
    ]
    return numpy.array(checked, dtype=numpy.int64)


class _Int64s:
    """Integers as C sees them: keeps the memory alive as long as itself."""

    def __init__(self, array: numpy.ndarray) -> None:
        self._array = array
        self.pointer = array.ctypes.data_as(ctypes.POINTER(ctypes.c_int64))
        self.count = array.size


def _input_ids(name: str, sample: Any) -> numpy.ndarray:
    if isinstance(sample, Mapping):
        if set(sample) != {"input_ids"}:
            raise invalid(
                _INVALID_BATCH, f"{name} must have input_ids and nothing else"
            )
        sample = sample["input_ids"]
    return _integers(f"{name}.input_ids", sample)


def _optional(name: str, values: Any) -> _Int64s:
    return _Int64s(_integers(name, [] if values is None else values))


def _flat(arrays: Sequence[numpy.ndarray]) -> tuple[_Int64s, _Int64s]:
    """All of them one after another, and the length of each."""
    lengths = numpy.array([array.size for array in arrays], numpy.int64)
    flat = numpy.concatenate([numpy.empty(0, numpy.int64), *arrays])
    return _Int64s(flat), _Int64s(lengths)


def _list(name: str, values: Any) -> list[Any]:
    try:
        if not isinstance(values, (str, bytes, Mapping)):
            return list(values)
    except TypeError:
        pass
    raise invalid(_INVALID_BATCH, f"{name} is {values!r}, must be a list")


def _items(batch: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    """What a batch says by modality under `key`."""
    values = batch.get(key, {})
    if not isinstance(values, Mapping):
        raise invalid(
            _INVALID_BATCH, f"{key} is {values!r}, must be a mapping by name"
        )
    for name in values:
        if not isinstance(name, str) or "\0" in name:
            raise invalid(_INVALID_BATCH, f"{key} has no name {name!r}")
    return list(values.items())


def _named_values(batch: Mapping[str, Any], key: str) -> Any:
    items = _items(batch, key)
    return (_library.NamedValue * len(items))(
        *(
            (
                name.encode(),
                _library.int64(f"{key}.{name}", value, _INVALID_BATCH),
            )
            for name, value in items
        )
    )


def _encoder_rows(batch: Mapping[str, Any]) -> tuple[Any, list[_Int64s]]:
    """The lists for C, and what keeps their memory alive."""
    items = _items(batch, "encoder_rows")
    keep_alive = [
        _Int64s(_integers(f"encoder_rows.{name}", rows)) for name, rows in items
    ]
    lists = (_library.EncoderRows * len(items))(
        *(
            (name.encode(), rows.pointer, rows.count)
            for (name, _), rows in zip(items, keep_alive)
        )
    )
    return lists, keep_alive


_BATCH_KEYS_REQUIRED = frozenset({"micro_batch_size", "seq_length", "samples"})
_BATCH_KEYS = _BATCH_KEYS_REQUIRED | frozenset(
    {
        "special_token_ids",
        "cu_seqlens_padded",
        "encoder_rows",
        "counts",
    }
)


def _batch(batch: Mapping[str, Any]) -> tuple[_library.Batch, list[Any]]:
    """The batch for C, and what keeps its memory alive."""
    unknown = sorted(set(batch) - _BATCH_KEYS)
    missing = sorted(_BATCH_KEYS_REQUIRED - set(batch))
    if unknown or missing:
        raise invalid(
            "INVALID_BATCH",
            f"a batch has no {unknown[0]!r}"
            if unknown
            else f"the batch lacks {missing[0]!r}",
        )
    ids, lengths = _flat(
        [
            _input_ids(f"samples[{i}]", sample)
            for i, sample in enumerate(_list("samples", batch["samples"]))
        ]
    )
    lanes = batch.get("cu_seqlens_padded")
    offsets, offset_counts = _flat(
        [
            _integers(f"cu_seqlens_padded[{lane}]", starts)
            for lane, starts in enumerate(
                _list("cu_seqlens_padded", [] if lanes is None else lanes)
            )
        ]
    )
    special_token_ids = _named_values(batch, "special_token_ids")
    counts = _named_values(batch, "counts")
    encoder_rows, keep_alive = _encoder_rows(batch)
    message = _library.Batch(
        *(
            _library.int64(key, batch[key], _INVALID_BATCH)
            for key in ("micro_batch_size", "seq_length")
        ),
        ids.pointer,
        lengths.pointer,
        lengths.count,
        special_token_ids,
        len(special_token_ids),
        counts,
        len(counts),
        encoder_rows,
        len(encoder_rows),
        offsets.pointer,
        offset_counts.pointer,
        offset_counts.count,
    )
    keep_alive += [ids, lengths, offsets, offset_counts]
    return message, keep_alive


class _PlanSource:
    """What Layout and Job have in common."""

    def __init__(self, create: str, *arguments: Any) -> None:
        self._handle = _library.Handle(create, "sw_job_destroy", *arguments)

    def rank(self, rank: int) -> Rank:
        """Who a rank is: its module, role, coordinates and groups."""
        answer = _library.call_for_json(
            "sw_job_explain_rank",
            self._handle.value,
            _library.int64("rank", rank),
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
        padded = _optional("cu_seqlens_padded", cu_seqlens_padded)
        valid = _optional("cu_seqlens", cu_seqlens)
        shape = _library.BatchShape(
            _library.int64("seq_length", seq_length, _INVALID_BATCH),
            _library.int64("micro_batch", micro_batch, _INVALID_BATCH),
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
                _library.int64("rank", rank),
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
            "encoder_rows" (by modality, of each encoder lane) and "counts" (by
            modality, and of "text"). NumPy arrays will do for lists.
        """
        return Plan(
            self._planned("sw_plan_compose", "sw_plan_destroy", rank, batch),
            composed=True,
        )

    def route_plan(self, rank: int, batch: Mapping[str, Any]) -> Route:
        """Which rows of the encoders `rank` sends or receives.

        Args:
          rank: of any module.
          batch: as for compose_plan().
        """
        return Route(
            self._planned("sw_plan_route", "sw_route_destroy", rank, batch)
        )

    def _planned(
        self, create: str, destroy: str, rank: int, batch: Mapping[str, Any]
    ) -> _library.Handle:
        message, keep_alive = _batch(batch)
        handle = _library.Handle(
            create,
            destroy,
            self._handle.value,
            _library.int64("rank", rank),
            ctypes.byref(message),
        )
        del keep_alive
        return handle


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
            _library.milliseconds("retry_timeout", retry_timeout),
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
                _library.int64("rank", rank),
                _library.milliseconds("timeout", timeout),
            )
        )


def connect(address: str, job: str, *, retry_timeout: float = 30.0) -> Job:
    """The job of that name, of the coordinator at host:port.

    Connects when first used; a call that finds the coordinator unreachable is
    repeated for `retry_timeout` seconds.
    """
    return Job(address, job, retry_timeout=retry_timeout)
