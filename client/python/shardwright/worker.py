"""A worker daemon, and plans carried out on memory shared with it."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import secrets
from typing import Any, Mapping, NamedTuple, Sequence

import numpy

from shardwright import _library
from shardwright._closing import Closing
from shardwright.errors import Code, ShardwrightError, invalid
from shardwright.plan import Plan, check_contiguous, fill_bytes
from shardwright.region import GpuSession
from shardwright.route import Bridged, Route

_SHARED_MEMORY = "/dev/shm"
_ALIGNMENT_BYTES = 64

Sources = numpy.ndarray | Mapping[str, numpy.ndarray]


class Gathered(NamedTuple):
    """What a plan's proof brought back.

    `sources` has the form that the forward pass takes; `restored_rows` counts,
    by source, the rows that were put back.
    """

    sources: numpy.ndarray | dict[str, numpy.ndarray]
    restored_rows: dict[str, int]


class _SharedMemory:
    """A POSIX shared memory object that only this user can open."""

    def __init__(self, size_bytes: int) -> None:
        self.name = f"/shardwright-{os.getpid()}-{secrets.token_hex(8)}"
        self.size_bytes = size_bytes
        self._path = _SHARED_MEMORY + self.name
        file = os.open(
            self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600
        )
        try:
            # Not ftruncate: a full /dev/shm shall fail here, not as a SIGBUS.
            os.posix_fallocate(file, 0, size_bytes)
            self.bytes = numpy.frombuffer(
                mmap.mmap(file, size_bytes), dtype=numpy.uint8
            )
        except BaseException:
            self.unlink()
            raise
        finally:
            os.close(file)

    def unlink(self) -> None:
        """Removes the name; the worker may have been quicker."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass


class Worker:
    """A worker daemon. Safe to use from several threads."""

    def __init__(self, address: str, *, timeout: float = 60.0) -> None:
        self._handle = _library.Handle(
            "sw_worker_connect",
            "sw_worker_destroy",
            address.encode(),
            round(timeout * 1000),
        )

    def describe(self) -> dict[str, Any]:
        """Who the worker is, its cliques, and how much it has copied."""
        return _library.call_for_json("sw_worker_describe", self._handle.value)

    def session(self, size_bytes: int) -> Session:
        """Shares `size_bytes` of memory with the worker.

        Use it in a `with`: leaving the block ends the session.
        """
        return Session(self._handle, size_bytes)

    def gpu_session(
        self, ordinal: int = 0, *, order: str = "best"
    ) -> GpuSession:
        """Lets the worker copy this process's memory on a GPU.

        Args:
          ordinal: of the GPU, as CUDA counts in this process; the worker must
            serve it.
          order: "best" orders this process's stream and the worker's by events
            if both can share them; "host" has calls wait for both.
        """
        return GpuSession(self._handle, ordinal, order)


class Session(Closing):
    """Memory shared with a worker, and plans carried out on it.

    Arrays come from empty() and array(), and stay valid after the session; the
    worker's methods take only those. One-thread-only.
    """

    def __init__(self, worker: _library.Handle, size_bytes: int) -> None:
        if size_bytes <= 0:
            raise invalid(
                "INVALID_SEGMENT",
                f"a session needs memory, not {size_bytes} bytes",
            )
        self._memory = _SharedMemory(size_bytes)
        self._used_bytes = 0
        segment = _library.Segment(self._memory.name.encode(), size_bytes)
        try:
            self._handle = _library.Handle(
                "sw_session_open",
                "sw_session_destroy",
                worker.value,
                ctypes.byref(segment),
                1,
            )
        except BaseException:
            self._memory.unlink()
            raise

    def empty(self, shape: Sequence[int] | int, dtype: Any) -> numpy.ndarray:
        """An array in shared memory, with whatever was there before.

        Raises:
          ShardwrightError: SESSION_FULL; the message says what is left.
        """
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        dtype = numpy.dtype(dtype)
        size_bytes = math.prod(shape) * dtype.itemsize
        begin = -(-self._used_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        left_bytes = max(0, self._memory.size_bytes - begin)
        if size_bytes > left_bytes:
            raise ShardwrightError(
                Code.RESOURCE_EXHAUSTED,
                "SESSION_FULL",
                f"an array of {size_bytes} bytes does not fit: {left_bytes} of "
                f"{self._memory.size_bytes} bytes are left",
            )
        self._used_bytes = begin + size_bytes
        piece = self._memory.bytes[begin : begin + size_bytes]
        return piece.view(dtype).reshape(shape)

    def array(self, values: numpy.ndarray) -> numpy.ndarray:
        """A copy of `values` in shared memory."""
        copy = self.empty(values.shape, values.dtype)
        copy[...] = values
        return copy

    def clear(self) -> None:
        """Lets all arrays go: the next ones take their place."""
        self._used_bytes = 0

    def run(
        self,
        plan: Plan,
        sources: Sources,
        *,
        out: numpy.ndarray | None = None,
        fill: Any = None,
    ) -> numpy.ndarray:
        """Plan.shard() or Plan.compose(), by the worker; always a copy."""
        arrays, row_shape, dtype = plan.source_arrays(sources)
        if out is None:
            out = self.empty(plan.embedding_shape(row_shape), dtype)
        self._run(
            plan, _library.EMBEDDINGS, arrays, row_shape, out, fill=fill
        )
        return out

    def run_labels(
        self,
        plan: Plan,
        labels: numpy.ndarray,
        *,
        out: numpy.ndarray | None = None,
    ) -> numpy.ndarray:
        """Plan.shard_labels(), by the worker."""
        shape, row_shape = plan.label_shapes(labels)
        if out is None:
            out = self.empty(shape, labels.dtype)
        self._run(plan, _library.LABELS, [labels], row_shape, out)
        return out

    def run_adjoint(
        self, plan: Plan, gradient: numpy.ndarray, *, out: Sources | None = None
    ) -> Sources:
        """Plan.adjoint(), by the worker."""
        row_shape = gradient.shape[2:]
        if out is None:
            out = plan.new_sources(row_shape, gradient.dtype, self.empty)
        arrays, _, _ = plan.source_arrays(out)
        self._run(
            plan,
            _library.EMBEDDINGS,
            arrays,
            row_shape,
            gradient,
            adjoint=True,
        )
        return out

    def gather(
        self,
        plan: Plan,
        shard: numpy.ndarray,
        *,
        kind: str = "tp_cp",
        out: Sources | None = None,
    ) -> Gathered:
        """Proves a plan: puts all ranks' rows back where they came from.

        Every rank of this rank's group of `kind` calls it at the same time;
        each gets everything.

        Args:
          plan: this rank's, of the same batch everywhere.
          shard: what run() made of it.
          kind: the kind of group whose members hold the whole.
          out: the sources to put rows into. None: new ones, zero where no rank
            holds a row.

        Raises:
          ShardwrightError: DIGEST_MISMATCH, ROWS_DIFFER or PEER_LOST, with the
            ranks in the message.
        """
        row_shape = shard.shape[2:]
        if out is None:
            out = plan.new_sources(row_shape, shard.dtype, self._zeros)
        arrays, _, _ = plan.source_arrays(out)
        operation = self._operation(
            plan, _library.EMBEDDINGS, arrays, row_shape, shard
        )
        restored = (ctypes.c_int64 * len(arrays))()
        _library.library().sw_session_gather(
            self._handle.value, kind.encode(), ctypes.byref(operation), restored
        )
        return Gathered(out, dict(zip(plan.sources, restored)))

    def bridge_forward(
        self,
        route: Route,
        sources: Mapping[str, numpy.ndarray],
        *,
        sequence: int,
        out: numpy.ndarray | None = None,
        fill: Any = None,
    ) -> Bridged:
        """Sends an encoder's rows, or makes the shard of what comes.

        Every rank whose route has a role calls it for each micro-batch. Two
        calls may be under way at a time, of two threads; give them `out`.

        Args:
          route: this rank's, of the same batch everywhere.
          sources: [rows, ...] of each of `route.sources`.
          sequence: counts the calls, forward and backward: equal at all ranks,
            and one more for each. The first, and one after a failure, may have
            any, and must not overlap another.
          out: the shard of a language rank. None: a new one.
          fill: the element that padding rows hold; None is zero bytes.

        Raises:
          ShardwrightError: PEER_LOST, PEER_REFUSED, DIGEST_MISMATCH..., with
            the ranks in the message.
        """
        arrays = route.in_order(sources)
        known = [a for a in (out, *arrays) if a is not None]
        if not known:
            raise invalid(
                "INVALID_ARRAY", "neither a source nor `out` says what rows are"
            )
        row_shape = known[0].shape[2 if out is not None else 1 :]
        dtype = known[0].dtype
        if out is None and route.role == "receives":
            out = self.empty(route.shard_shape(row_shape), dtype)
        sent, received = self._bridge(
            route, arrays, out, row_shape, dtype, sequence, fill=fill
        )
        return Bridged(out, sent, received)

    def bridge_backward(
        self,
        route: Route,
        gradient: numpy.ndarray | None = None,
        *,
        sequence: int,
        out: Mapping[str, numpy.ndarray] | None = None,
    ) -> Bridged:
        """The other way: the gradient of the shard to those of the sources.

        Args:
          route, sequence: as for bridge_forward().
          gradient: of the shard; None at an encoder rank.
          out: [rows, ...] for each of `route.sources`, to be written: zero
            where this rank has no gradient of a row, and whole at every rank of
            an encoder's last stage. None: new ones, at a language rank.
        """
        if out is None and gradient is None:
            raise invalid(
                "INVALID_ARRAY",
                "neither `gradient` nor `out` says what rows are",
            )
        if out is None:
            out = {
                name: self.empty((rows, *gradient.shape[2:]), gradient.dtype)
                for name, rows in route.sources.items()
            }
        arrays = route.in_order(out)
        known = [a for a in (gradient, *arrays) if a is not None]
        if not known:
            raise invalid("INVALID_ARRAY", "`out` is empty")
        sent, received = self._bridge(
            route,
            arrays,
            gradient,
            known[0].shape[2 if gradient is not None else 1 :],
            known[0].dtype,
            sequence,
            backward=True,
        )
        return Bridged(dict(out), sent, received)

    def close(self) -> None:
        """Ends the session. Arrays stay valid; the worker forgets them."""
        self._handle.close()
        self._memory.unlink()

    def _zeros(self, shape: Sequence[int], dtype: Any) -> numpy.ndarray:
        array = self.empty(shape, dtype)
        array[...] = 0
        return array

    def _tensor(self, name: str, array: numpy.ndarray) -> _library.Tensor:
        check_contiguous(name, array)
        if array.nbytes == 0:
            return _library.Tensor(0, 0, 0)
        offset = array.ctypes.data - self._memory.bytes.ctypes.data
        if not 0 <= offset <= self._memory.size_bytes - array.nbytes:
            raise invalid(
                "INVALID_TENSOR",
                f"{name} is not in this session's memory; Session.array() "
                "makes a copy that is",
            )
        return _library.Tensor(0, offset, array.nbytes)

    def _operation(
        self,
        plan: Plan,
        table: int,
        sources: Sequence[numpy.ndarray],
        row_shape: Sequence[int],
        destination: numpy.ndarray,
        *,
        fill: Any = None,
        adjoint: bool = False,
    ) -> _library.Operation:
        tensors = (_library.Tensor * len(sources))(
            *(self._tensor(f"source {k}", s) for k, s in enumerate(sources))
        )
        dtype = destination.dtype
        for source in sources:
            if source.dtype != dtype:
                raise invalid(
                    "INVALID_ARRAY",
                    f"a source is {source.dtype}, the shard {dtype}",
                )
        fill_value = fill_bytes(fill, dtype)
        return _library.Operation(
            plan.handle.value,
            table,
            math.prod(row_shape) * dtype.itemsize,
            tensors,
            len(tensors),
            self._tensor("the shard", destination),
            fill_value,
            len(fill_value),
            int(adjoint),
        )

    def _bridge(
        self,
        route: Route,
        sources: Sequence[numpy.ndarray | None],
        shard: numpy.ndarray | None,
        row_shape: Sequence[int],
        dtype: numpy.dtype,
        sequence: int,
        *,
        fill: Any = None,
        backward: bool = False,
    ) -> tuple[int, int]:
        shapes = [
            (f"source {name!r}", (0 if received else rows, *row_shape))
            for name, rows, received in route.all_sources
        ]
        if route.role == "receives":
            shapes.append(("the shard", route.shard_shape(row_shape)))
        else:
            shapes.append(("the shard", (0, *row_shape)))
        tensors = []
        for (name, shape), array in zip(shapes, [*sources, shard], strict=True):
            if array is None:
                array = numpy.empty((0, *row_shape), dtype)
            check_contiguous(name, array)
            if array.shape != shape or array.dtype != dtype:
                raise invalid(
                    "INVALID_ARRAY",
                    f"{name} is {array.dtype} of shape {array.shape}, must be "
                    f"{dtype} of {shape}",
                )
            tensors.append(self._tensor(name, array))
        bridge = _library.Bridge(
            route.handle.value,
            int(backward),
            math.prod(row_shape) * dtype.itemsize,
            dtype.itemsize,
            (_library.Tensor * len(sources))(*tensors[:-1]),
            len(sources),
            tensors[-1],
            fill_bytes(fill, dtype) or None,
            _library.int64("sequence", sequence),
        )
        result = _library.BridgeResult()
        _library.library().sw_session_bridge(
            self._handle.value, ctypes.byref(bridge), ctypes.byref(result)
        )
        return result.sent_bytes, result.received_bytes

    def _run(self, *arguments: Any, **options: Any) -> None:
        operation = self._operation(*arguments, **options)
        _library.library().sw_session_run(
            self._handle.value, ctypes.byref(operation), 1, None
        )


def worker(address: str, *, timeout: float = 60.0) -> Worker:
    """The worker at host:port. Connects when first used.

    `timeout`, in seconds, bounds each call.
    """
    return Worker(address, timeout=timeout)
