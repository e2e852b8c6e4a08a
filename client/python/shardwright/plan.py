"""A plan: what one rank owns of a micro-batch, and how it gets there."""

from __future__ import annotations

import ctypes
import dataclasses
import math
from typing import Any, Mapping, NamedTuple, Sequence

import numpy

from shardwright import _library
from shardwright.errors import invalid


class Coordinates(NamedTuple):
    """A rank's place in its module's grid, each from 0."""

    tp: int
    gtp_remat: int
    cp: int
    dp: int
    pp: int
    lane: int


class Load(NamedTuple):
    """What a plan costs its rank, over all samples.

    `causal_work` counts the query-key pairs of causal attention.
    """

    token_count: int
    padding_token_count: int
    causal_work: int


class Run(NamedTuple):
    """Positions [position, position + count) of a sample."""

    position: int
    count: int


class RowCopy(NamedTuple):
    """Rows [source_row, +row_count) of a source; -1 is the fill value.

    Row i goes to destination_row + i * destination_stride.
    """

    source: int
    source_row: int
    destination_row: int
    destination_stride: int
    row_count: int


@dataclasses.dataclass(frozen=True)
class Table:
    """Copies that write every destination row exactly once.

    Attributes:
      sources: rows of each source, by name, in the order of RowCopy.source.
      destination_rows: rows of the destination.
      entries: ascending by destination_row.
      is_view: the destination is one run of one source.
      runs: the positions owned, in local order.
    """

    sources: Mapping[str, int]
    destination_rows: int
    entries: tuple[RowCopy, ...]
    is_view: bool
    runs: tuple[Run, ...]


def _table(handle: _library.Handle, table_id: int) -> Table:
    raw = _library.Table()
    _library.library().sw_plan_get_table(
        handle.value, table_id, ctypes.byref(raw)
    )
    return Table(
        sources={
            raw.source_names[k].decode(): raw.source_rows[k]
            for k in range(raw.source_count)
        },
        destination_rows=raw.destination_rows,
        entries=tuple(
            RowCopy(
                e.source,
                e.source_row,
                e.destination_row,
                e.destination_stride,
                e.row_count,
            )
            for e in raw.entries[: raw.entry_count]
        ),
        is_view=bool(raw.is_view),
        runs=tuple(
            Run(r.position, r.count) for r in raw.runs[: raw.run_count]
        ),
    )


def check_contiguous(name: str, array: numpy.ndarray) -> None:
    """Refuses what cannot be handed over as one piece of memory."""
    if not isinstance(array, numpy.ndarray):
        raise invalid(
            "INVALID_ARRAY",
            f"{name} is a {type(array).__name__}, not a NumPy array",
        )
    if not array.flags.c_contiguous:
        raise invalid(
            "INVALID_ARRAY",
            f"{name} is not C-contiguous; numpy.ascontiguousarray() makes a "
            "copy that is",
        )
    if array.dtype.hasobject:
        raise invalid("INVALID_ARRAY", f"{name} holds Python objects")


def _check_writeable(name: str, array: numpy.ndarray) -> None:
    if not array.flags.writeable:
        raise invalid("INVALID_ARRAY", f"{name} is read-only")


def fill_bytes(fill: Any, dtype: numpy.dtype) -> bytes:
    """One element that filled rows repeat; None is zero bytes."""
    return b"" if fill is None else numpy.asarray(fill, dtype).tobytes()


def _row_bytes(row_shape: Sequence[int], dtype: numpy.dtype) -> int:
    size = math.prod(row_shape) * dtype.itemsize
    if size == 0:
        raise invalid(
            "INVALID_ARRAY",
            f"rows of shape {tuple(row_shape)} and type {dtype} have no bytes",
        )
    return size


def _buffer(array: numpy.ndarray) -> _library.Buffer:
    return _library.Buffer(array.ctypes.data, array.nbytes)


def _buffers(arrays: Sequence[numpy.ndarray]) -> Any:
    return (_library.Buffer * len(arrays))(*map(_buffer, arrays))


class Plan:
    """What one rank owns of one micro-batch.

    Immutable, and safe to use from several threads. Comes from
    Layout.shard_plan() or Job.shard_plan(), and their compose_plan().

    Arrays go in without a copy. Results are new arrays, `out`, or, where a plan
    is a view, a view of the input: that keeps all of the input alive, and
    `copy=True` prevents it.

    Attributes:
      digest: fingerprint of layout and batch, equal on all ranks: compare it
        before bytes move.
      generation: of the layout; 0 if planned from a file.
      rank, coordinates: whose plan this is.
      seq_length, micro_batch: the batch as planned for.
      load: tokens, padding and causal work of this rank.
      embeddings: table of the embeddings; None on later pipeline stages.
      labels: table of labels and loss mask.
    """

    def __init__(self, handle: _library.Handle, *, composed: bool) -> None:
        self._handle = handle
        self._composed = composed
        info = _library.PlanInfo()
        _library.library().sw_plan_get_info(handle.value, ctypes.byref(info))
        self.digest: int = info.digest
        self.generation: int = info.generation
        self.rank: int = info.rank
        self.coordinates = Coordinates(
            info.tp, info.gtp_remat, info.cp, info.dp, info.pp, info.lane
        )
        self.seq_length: int = info.seq_length
        self.micro_batch: int = info.micro_batch_size
        self.load = Load(
            info.token_count, info.padding_token_count, info.causal_work
        )
        self.labels = _table(handle, _library.LABELS)
        self.embeddings: Table | None = None
        if info.pp == 0:
            self.embeddings = _table(handle, _library.EMBEDDINGS)

    @property
    def sources(self) -> Mapping[str, int]:
        """Rows of each source of the embeddings, by name."""
        return self._embeddings().sources

    @property
    def runs(self) -> tuple[Run, ...]:
        """Positions of the embeddings owned, in local order."""
        return self._embeddings().runs

    @property
    def label_runs(self) -> tuple[Run, ...]:
        """Positions of the labels owned, in local order."""
        return self.labels.runs

    def to_json(self, *, positions: bool = False) -> dict[str, Any]:
        """As `shardctl plan shard|compose -o json` prints it, for this rank."""
        return _library.call_for_json(
            "sw_plan_json", self._handle.value, int(bool(positions))
        )

    def shard(
        self,
        embeddings: numpy.ndarray,
        *,
        out: numpy.ndarray | None = None,
        copy: bool = False,
    ) -> numpy.ndarray:
        """[S, B, ...] -> [S / (cp * tp), B, ...]: what this rank owns."""
        self._check_is("shard", composed=False)
        sources, row_shape, dtype = self.source_arrays(embeddings)
        if self._embeddings().is_view and not copy and out is None:
            return self._view(sources[0], row_shape)
        return self._run(sources, row_shape, dtype, out, None)

    def shard_labels(
        self, labels: numpy.ndarray, *, out: numpy.ndarray | None = None
    ) -> numpy.ndarray:
        """[B, S, ...] -> [B, S / cp, ...]: labels, loss mask, positions."""
        check_contiguous("labels", labels)
        shape, row_shape = self.label_shapes(labels)
        out = self._output(out, shape, labels.dtype)
        _library.library().sw_plan_run(
            self._handle.value,
            _library.LABELS,
            _row_bytes(row_shape, labels.dtype),
            _buffers([labels]),
            1,
            _buffer(out),
            None,
            0,
        )
        return out

    def compose(
        self,
        sources: Mapping[str, numpy.ndarray],
        *,
        out: numpy.ndarray | None = None,
        fill: Any = None,
        copy: bool = False,
    ) -> numpy.ndarray:
        """Rows of each source -> [S / (cp * tp), B, ...].

        Args:
          sources: [rows, ...] for "text" and each modality, of this rank's
            lane; one that the plan takes no row of may be left out.
          out: where to put the result.
          fill: the element that padding rows hold; None is zero bytes.
          copy: never return a view.
        """
        self._check_is("compose", composed=True)
        arrays, row_shape, dtype = self.source_arrays(sources)
        table = self._embeddings()
        if table.is_view and not copy and out is None:
            return self._view(arrays[table.entries[0].source], row_shape)
        return self._run(arrays, row_shape, dtype, out, fill)

    def adjoint(
        self,
        gradient: numpy.ndarray,
        *,
        out: numpy.ndarray | Mapping[str, numpy.ndarray] | None = None,
    ) -> numpy.ndarray | dict[str, numpy.ndarray]:
        """The backward pass of shard() or compose().

        [S / (cp * tp), B, ...] -> the form that the forward pass takes, with
        zeros in all rows that this rank does not own.
        """
        table = self._embeddings()
        check_contiguous("gradient", gradient)
        row_shape = gradient.shape[2:]
        shape = self.embedding_shape(row_shape)
        if gradient.shape != shape:
            raise invalid(
                "INVALID_ARRAY",
                f"the gradient has shape {gradient.shape}, must be {shape}",
            )
        if out is None:
            out = self.new_sources(row_shape, gradient.dtype)
        arrays, _, dtype = self.source_arrays(out)
        self._check_dtype("out", dtype, gradient.dtype)
        for array in arrays:
            _check_writeable("out", array)
        _library.library().sw_plan_run_adjoint(
            self._handle.value,
            _library.EMBEDDINGS,
            _row_bytes(row_shape, gradient.dtype),
            _buffer(gradient),
            _buffers(arrays),
            len(table.sources),
        )
        return out if isinstance(out, numpy.ndarray) else dict(out)

    # What follows is for shardwright.worker too.

    @property
    def handle(self) -> _library.Handle:
        """The library's own."""
        return self._handle

    def embedding_shape(self, row_shape: Sequence[int]) -> tuple[int, ...]:
        """Of this rank's embeddings, whose rows have `row_shape`."""
        rows = self._embeddings().destination_rows
        return (rows // self.micro_batch, self.micro_batch, *row_shape)

    def label_shapes(
        self, labels: numpy.ndarray
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of this rank's part of `labels`, and of one element of it."""
        expected = (self.micro_batch, self.seq_length)
        if labels.shape[:2] != expected:
            raise invalid(
                "INVALID_ARRAY",
                f"labels have shape {labels.shape}, must begin with "
                f"{expected}",
            )
        local = self.labels.destination_rows // self.micro_batch
        row_shape = labels.shape[2:]
        return (self.micro_batch, local, *row_shape), row_shape

    def new_sources(
        self,
        row_shape: Sequence[int],
        dtype: Any,
        new: Any = numpy.zeros,
    ) -> numpy.ndarray | dict[str, numpy.ndarray]:
        """Arrays for the sources, in the form that the forward pass takes."""
        if not self._composed:
            return new((self.seq_length, self.micro_batch, *row_shape), dtype)
        return {
            name: new((rows, *row_shape), dtype)
            for name, rows in self._embeddings().sources.items()
        }

    def source_arrays(
        self, sources: numpy.ndarray | Mapping[str, numpy.ndarray]
    ) -> tuple[list[numpy.ndarray], tuple[int, ...], numpy.dtype]:
        """Checks sources; arrays in table order, and a row's shape and type."""
        if not self._composed:
            check_contiguous("embeddings", sources)
            expected = (self.seq_length, self.micro_batch)
            if sources.shape[:2] != expected:
                raise invalid(
                    "INVALID_ARRAY",
                    f"embeddings have shape {sources.shape}, must begin with "
                    f"{expected}",
                )
            return [sources], sources.shape[2:], sources.dtype
        return self._composed_arrays(sources)

    def _composed_arrays(
        self, sources: Mapping[str, numpy.ndarray]
    ) -> tuple[list[numpy.ndarray], tuple[int, ...], numpy.dtype]:
        table = self._embeddings()
        unknown = sorted(set(sources) - set(table.sources))
        if unknown or not sources:
            raise invalid(
                "INVALID_ARRAY",
                f"there is no source {unknown[0]!r}, only "
                f"{', '.join(table.sources)}"
                if unknown
                else "no source is given",
            )
        first_name, first = next(iter(sources.items()))
        arrays = []
        for name, rows in table.sources.items():
            array = sources.get(name)
            if array is None and rows > 0:
                raise invalid(
                    "INVALID_ARRAY",
                    f"source {name!r} is missing, the plan takes {rows} rows "
                    "of it",
                )
            if array is None:
                array = numpy.empty((0, *first.shape[1:]), first.dtype)
            check_contiguous(f"source {name!r}", array)
            if array.shape != (rows, *first.shape[1:]):
                raise invalid(
                    "INVALID_ARRAY",
                    f"source {name!r} has shape {array.shape}, must be "
                    f"{(rows, *first.shape[1:])}",
                )
            self._check_dtype(f"source {name!r}", array.dtype, first.dtype)
            arrays.append(array)
        return arrays, first.shape[1:], first.dtype

    def _embeddings(self) -> Table:
        if self.embeddings is None:
            # Raises NO_EMBEDDINGS with the library's own sentence.
            return _table(self._handle, _library.EMBEDDINGS)
        return self.embeddings

    def _check_is(self, method: str, *, composed: bool) -> None:
        if self._composed != composed:
            kinds = ("compose_plan()", "shard_plan()")
            raise invalid(
                "WRONG_PLAN",
                f"{method}() needs a plan of {kinds[not composed]}, this is "
                f"one of {kinds[composed]}",
            )

    @staticmethod
    def _check_dtype(
        name: str, dtype: numpy.dtype, expected: numpy.dtype
    ) -> None:
        if dtype != expected:
            raise invalid(
                "INVALID_ARRAY", f"{name} is {dtype}, must be {expected}"
            )

    def _output(
        self,
        out: numpy.ndarray | None,
        shape: tuple[int, ...],
        dtype: numpy.dtype,
    ) -> numpy.ndarray:
        if out is None:
            return numpy.empty(shape, dtype)
        check_contiguous("out", out)
        if out.shape != shape:
            raise invalid(
                "INVALID_ARRAY", f"out has shape {out.shape}, must be {shape}"
            )
        _check_writeable("out", out)
        self._check_dtype("out", out.dtype, dtype)
        return out

    def _view(
        self, source: numpy.ndarray, row_shape: tuple[int, ...]
    ) -> numpy.ndarray:
        _row_bytes(row_shape, source.dtype)  # Refuses rows of nothing.
        copy = self._embeddings().entries[0]
        rows = source.reshape(-1, *row_shape)
        return rows[copy.source_row : copy.source_row + copy.row_count].reshape(
            self.embedding_shape(row_shape)
        )

    def _run(
        self,
        sources: Sequence[numpy.ndarray],
        row_shape: tuple[int, ...],
        dtype: numpy.dtype,
        out: numpy.ndarray | None,
        fill: Any,
    ) -> numpy.ndarray:
        out = self._output(out, self.embedding_shape(row_shape), dtype)
        fill_value = fill_bytes(fill, dtype)
        _library.library().sw_plan_run(
            self._handle.value,
            _library.EMBEDDINGS,
            _row_bytes(row_shape, dtype),
            _buffers(sources),
            len(sources),
            _buffer(out),
            fill_value,
            len(fill_value),
        )
        return out
