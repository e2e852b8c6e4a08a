"""Plans on GPU memory, in this process and the caller's CUDA stream.

Tensors are PyTorch's, or whatever else has ``data_ptr()``, ``numel()``,
``element_size()`` and ``is_contiguous()``. Nothing waits: work is started in
the stream, and tensors must stay until it is done (with PyTorch,
``tensor.record_stream(stream)`` if that is not the tensor's own stream).
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from shardwright import _library
from shardwright.errors import invalid
from shardwright.plan import Plan


class Slot:
    """Device memory for one table at a time: `Gpu.slot`."""

    def __init__(self, handle: _library.Handle) -> None:
        self.handle = handle

    def write(self, plan: Plan, table: int, stream: int = 0) -> None:
        """Overwrites the slot with a plan's table, in order of the stream."""
        _library.library().sw_gpu_slot_write(
            self.handle.value, plan.handle.value, table, stream
        )


@dataclasses.dataclass(frozen=True)
class Operation:
    """One table over GPU tensors.

    `plan` is a `Plan`, or a `Slot` in which there is one; `table` is
    `EMBEDDINGS` or `LABELS` (of a slot: whatever was written). `dtype` is
    "fp8", "bf16", "fp16", "fp32", "int32", "int64" or "bool", `row_elements`
    the vector's length, 1 for labels. `fill` is the bytes of one element, None
    for zero. A `destination` of None takes a view of the source
    (`Table.is_view`): nothing is started.
    """

    plan: Plan | Slot
    table: int
    row_elements: int
    dtype: str
    sources: Sequence[Any]
    destination: Any | None
    fill: bytes | None = None
    adjoint: bool = False


def buffer_of(name: str, tensor: Any | None) -> _library.Buffer:
    """Where a tensor's bytes are, for the library."""
    if tensor is None:
        return _library.Buffer(None, 0)
    if not tensor.is_contiguous():
        raise invalid("INVALID_TENSOR", f"{name} is not contiguous")
    return _library.Buffer(
        tensor.data_ptr() or None, tensor.numel() * tensor.element_size()
    )


_ELEMENT_BYTES = {
    "fp8": 1,
    "bf16": 2,
    "fp16": 2,
    "fp32": 4,
    "int32": 4,
    "int64": 8,
    "bool": 1,
}


def _check_fill(operation: Operation) -> None:
    # The library reads one element; what it says of other types is better.
    size = _ELEMENT_BYTES.get(operation.dtype)
    if operation.fill is None or size in (None, len(operation.fill)):
        return
    raise invalid(
        "INVALID_TENSOR",
        f"fill has {len(operation.fill)} bytes, must be one {operation.dtype} "
        f"of {size}",
    )


def _operation(operation: Operation) -> _library.GpuOperation:
    _check_fill(operation)
    sources = operation.sources
    out = _library.GpuOperation()
    if isinstance(operation.plan, Slot):
        out.slot = operation.plan.handle.value
    else:
        out.plan = operation.plan.handle.value
    out.table = _library.int64("table", operation.table)
    out.adjoint = operation.adjoint
    out.dtype = operation.dtype.encode()
    out.row_elements = _library.int64("row_elements", operation.row_elements)
    out.sources = (_library.Buffer * len(sources))(
        *(buffer_of(f"source {k}", source) for k, source in enumerate(sources))
    )
    out.source_count = len(sources)
    out.destination = buffer_of("the destination", operation.destination)
    out.fill = operation.fill
    return out


class Gpu:
    """A GPU of this process, by its CUDA ordinal. Safe to share by threads."""

    def __init__(self, ordinal: int = 0) -> None:
        self._handle = _library.Handle(
            "sw_gpu_open", "sw_gpu_destroy", _library.int64("ordinal", ordinal)
        )

    def run(self, operations: Sequence[Operation], stream: int = 0) -> None:
        """Starts operations that do not depend on one another, together.

        `stream` is a cudaStream_t as an integer:
        ``torch.cuda.current_stream().cuda_stream``.
        """
        array = (_library.GpuOperation * len(operations))(
            *map(_operation, operations)
        )
        _library.library().sw_gpu_run(
            self._handle.value, array, len(operations), stream
        )

    def prepare(self, plan: Plan, table: int, *, adjoint: bool = False) -> None:
        """Brings a table to the GPU ahead of its first use."""
        _library.library().sw_gpu_prepare(
            self._handle.value, plan.handle.value, table, adjoint
        )

    def slot(
        self,
        entry_count: int,
        source_rows: Sequence[int],
        destination_rows: int,
        *,
        adjoint: bool = False,
    ) -> Slot:
        """An empty slot for tables of at most this size.

        A CUDA graph that was captured with it carries out whatever table was
        written last.
        """
        rows = (ctypes.c_int64 * len(source_rows))(*source_rows)
        bounds = _library.SlotBounds(
            _library.int64("entry_count", entry_count),
            rows,
            len(source_rows),
            _library.int64("destination_rows", destination_rows),
        )
        return Slot(
            _library.Handle(
                "sw_gpu_slot_create",
                "sw_gpu_slot_destroy",
                self._handle.value,
                ctypes.byref(bounds),
                adjoint,
            )
        )

    def describe(self) -> Mapping[str, Any]:
        """Name, UUID, memory; resident tables; bytes moved."""
        return _library.call_for_json("sw_gpu_describe", self._handle.value)

    def close(self) -> None:
        """Frees what it holds on the GPU; waits for its tables' last use."""
        self._handle.close()
