"""Plans on GPU memory, carried out by a worker daemon.

Tensors are PyTorch's, or whatever else has ``data_ptr()``, ``numel()``,
``element_size()`` and ``is_contiguous()``, or a ``__cuda_array_interface__``.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shardwright import _library
from shardwright._closing import Closing
from shardwright.errors import invalid
from shardwright.plan import Plan
from shardwright.route import Bridged, Route

HANDLE_BYTES = 64

_ORDERS = {"best": 0, "host": 1}


class Region(NamedTuple):
    """Device memory that the worker has mapped; `address` is 0 if unknown."""

    id: int
    address: int
    size_bytes: int


class _Memory(NamedTuple):
    """Where a tensor's bytes are."""

    address: int
    size_bytes: int
    element_bytes: int


def _memory(name: str, tensor: Any) -> _Memory:
    if hasattr(tensor, "data_ptr"):
        if not tensor.is_contiguous():
            raise invalid("INVALID_TENSOR", f"{name} is not contiguous")
        size = tensor.element_size()
        return _Memory(tensor.data_ptr(), tensor.numel() * size, size)
    interface = getattr(tensor, "__cuda_array_interface__", None)
    if interface is None:
        raise invalid(
            "INVALID_TENSOR",
            f"{name} is a {type(tensor).__name__}, not a tensor of a GPU",
        )
    if interface.get("strides") is not None:
        raise invalid("INVALID_TENSOR", f"{name} is not contiguous")
    size = int(interface["typestr"][2:])
    return _Memory(
        interface["data"][0], math.prod(interface["shape"]) * size, size
    )


class GpuSession(Closing):
    """Device memory registered with a worker, and plans carried out on it.

    Comes from Worker.gpu_session(); use it in a `with`. `stream` is a
    cudaStream_t as an integer: ``torch.cuda.current_stream().cuda_stream``.
    Copies come after what is in the stream, and are done when a call returns.
    Safe to use from several threads.

    Attributes:
      order: "events" or "host".
      order_reason: why this one, in words.
    """

    def __init__(
        self, worker: _library.Handle, ordinal: int, order: str
    ) -> None:
        if order not in _ORDERS:
            raise invalid(
                "INVALID_ARGUMENT",
                f"order is {order!r}, must be one of {', '.join(_ORDERS)}",
            )
        self._handle = _library.Handle(
            "sw_session_open_gpu",
            "sw_session_destroy",
            worker.value,
            None,
            0,
            _library.int64("ordinal", ordinal),
            _ORDERS[order],
        )
        agreed = _library.call_for_json(
            "sw_session_get_order", self._handle.value
        )
        self.order: str = agreed["order"]
        self.order_reason: str = agreed["reason"]
        self._regions: dict[int, Region] = {}

    def register(self, tensor: Any) -> Region:
        """Lets the worker copy from and to a tensor's memory.

        The memory must not be freed before unregister() or close(). A tensor
        that covers much of it, such as an arena, serves all of its views.

        Raises:
          ShardwrightError: INVALID_REGION; the message says what to change for
            memory that cannot be shared, as of PyTorch's expandable segments.
        """
        memory = _memory("the tensor", tensor)
        region = ctypes.c_int64()
        _library.library().sw_session_register_region(
            self._handle.value,
            memory.address or None,
            memory.size_bytes,
            ctypes.byref(region),
        )
        return self._add(region.value, memory.address, memory.size_bytes)

    def register_handle(
        self,
        handle: bytes,
        *,
        offset_bytes: int,
        size_bytes: int,
        address: int = 0,
    ) -> Region:
        """The same for memory of which there is a handle already.

        Args:
          handle: a cudaIpcMemHandle_t, or what PyTorch's
            ``untyped_storage()._share_cuda_()`` gives, with its two bytes
            before it.
          offset_bytes: of the memory, in the handle's allocation.
          address: in this process, so that run() finds tensors there.
        """
        if len(handle) == HANDLE_BYTES + 2:
            if handle[1:2] == b"e":
                raise invalid(
                    "INVALID_REGION",
                    "the memory is of an expandable segment, which CUDA IPC "
                    "does not share: unset expandable_segments in "
                    "PYTORCH_CUDA_ALLOC_CONF",
                )
            handle = handle[2:]
        if len(handle) != HANDLE_BYTES:
            raise invalid(
                "INVALID_REGION",
                f"the handle has {len(handle)} bytes, must have {HANDLE_BYTES}",
            )
        raw = ctypes.create_string_buffer(handle, HANDLE_BYTES)
        memory = _library.MemoryHandle(
            ctypes.cast(raw, ctypes.c_void_p),
            _library.int64("size_bytes", offset_bytes + size_bytes),
            _library.int64("offset_bytes", offset_bytes),
            _library.int64("size_bytes", size_bytes),
        )
        region = ctypes.c_int64()
        _library.library().sw_session_register_handle(
            self._handle.value, ctypes.byref(memory), ctypes.byref(region)
        )
        return self._add(region.value, address, size_bytes)

    def unregister(self, region: Region) -> None:
        """Waits for the copies that use the region; then it may be freed."""
        self._regions.pop(region.id, None)
        _library.library().sw_session_unregister_region(
            self._handle.value, region.id
        )

    def run(
        self,
        plan: Plan,
        sources: Any,
        out: Any,
        *,
        fill: bytes | None = None,
        stream: int = 0,
    ) -> None:
        """Plan.shard() or Plan.compose() into `out`; always a copy.

        Args:
          sources: a tensor, or a mapping of them for a plan of compose_plan().
          out: this rank's embeddings.
          fill: the bytes of one element, for padding rows; None is zero.
        """
        table = plan.embeddings.sources if plan.embeddings else plan.sources
        self._run(
            plan,
            _library.EMBEDDINGS,
            self._in_order(table, sources),
            out,
            fill=fill,
            stream=stream,
        )

    def run_labels(
        self, plan: Plan, labels: Any, out: Any, *, stream: int = 0
    ) -> None:
        """Plan.shard_labels() into `out`."""
        self._run(plan, _library.LABELS, [labels], out, stream=stream)

    def run_adjoint(
        self, plan: Plan, gradient: Any, out: Any, *, stream: int = 0
    ) -> None:
        """Plan.adjoint() into `out`, which has the form of run()'s sources."""
        self._run(
            plan,
            _library.EMBEDDINGS,
            self._in_order(plan.sources, out),
            gradient,
            adjoint=True,
            stream=stream,
        )

    def bridge_forward(
        self,
        route: Route,
        sources: Mapping[str, Any],
        out: Any = None,
        *,
        sequence: int,
        fill: bytes | None = None,
        stream: int = 0,
    ) -> Bridged:
        """As Session.bridge_forward(), into `out`: a language rank's shard.

        Calls of one session follow one another; for two micro-batches under way
        open two.
        """
        return self._bridge(
            route, sources, out, out, sequence, fill=fill, stream=stream
        )

    def bridge_backward(
        self,
        route: Route,
        gradient: Any,
        out: Mapping[str, Any],
        *,
        sequence: int,
        stream: int = 0,
    ) -> Bridged:
        """As Session.bridge_backward(), into `out`; see bridge_forward()."""
        return self._bridge(
            route, out, gradient, out, sequence, stream=stream, backward=True
        )

    def check(self) -> None:
        """Raises if the worker has ended the session."""
        _library.library().sw_session_check(self._handle.value)

    def close(self) -> None:
        """Ends the session; a call of another thread's fails."""
        self._regions.clear()
        self._handle.close()

    @staticmethod
    def _row_of(sources: Sequence[Any], shard: Any) -> tuple[int, int]:
        """Bytes of a row and of an element, by the first tensor there is."""
        for tensor, leading in [(shard, 2), *((s, 1) for s in sources)]:
            if tensor is not None:
                element = _memory("a tensor", tensor).element_bytes
                return math.prod(tensor.shape[leading:]) * element, element
        raise invalid("INVALID_TENSOR", "no tensor says what rows are")

    def _bridge(
        self,
        route: Route,
        sources: Mapping[str, Any],
        shard: Any,
        result: Any,
        sequence: int,
        *,
        fill: bytes | None = None,
        stream: int = 0,
        backward: bool = False,
    ) -> Bridged:
        tensors = [
            *zip(
                (f"source {name!r}" for name, _, _ in route.all_sources),
                route.in_order(sources),
            ),
            ("the shard", shard),
        ]
        memories = [
            _Memory(0, 0, 1) if tensor is None else _memory(name, tensor)
            for name, tensor in tensors
        ]
        row_bytes, element_bytes = self._row_of(
            [tensor for _, tensor in tensors[:-1]], shard
        )
        bridge = _library.RegionBridge(
            route.handle.value,
            int(backward),
            row_bytes,
            element_bytes,
            (_library.RegionTensor * (len(memories) - 1))(
                *(
                    self._tensor(f"source {k}", memory)
                    for k, memory in enumerate(memories[:-1])
                )
            ),
            len(memories) - 1,
            self._tensor("the shard", memories[-1]),
            fill,
            _library.int64("sequence", sequence),
        )
        if fill is not None and len(fill) != element_bytes:
            raise invalid(
                "INVALID_TENSOR",
                f"fill has {len(fill)} bytes, an element {element_bytes}",
            )
        moved = _library.BridgeResult()
        _library.library().sw_session_bridge_regions(
            self._handle.value,
            ctypes.byref(bridge),
            stream,
            ctypes.byref(moved),
        )
        return Bridged(result, moved.sent_bytes, moved.received_bytes)

    def _add(self, region_id: int, address: int, size_bytes: int) -> Region:
        region = Region(region_id, address, size_bytes)
        self._regions[region_id] = region
        return region

    @staticmethod
    def _in_order(table: Mapping[str, int], sources: Any) -> list[Any]:
        """The plan's sources in table order; None where there are no rows."""
        if not isinstance(sources, Mapping):
            return [sources]
        for name in sources:
            if name not in table:
                raise invalid(
                    "INVALID_TENSOR",
                    f"there is no source {name!r}, only {', '.join(table)}",
                )
        for name, rows in table.items():
            if rows > 0 and name not in sources:
                raise invalid(
                    "INVALID_TENSOR",
                    f"source {name!r} is missing, the plan takes {rows} rows "
                    "of it",
                )
        return [sources.get(name) for name in table]

    def _tensor(self, name: str, memory: _Memory) -> _library.RegionTensor:
        if memory.size_bytes == 0:
            return _library.RegionTensor(0, 0, 0)
        for region in list(self._regions.values()):
            offset = memory.address - region.address
            if (
                region.address
                and 0 <= offset <= region.size_bytes - memory.size_bytes
            ):
                return _library.RegionTensor(
                    region.id, offset, memory.size_bytes
                )
        raise invalid(
            "INVALID_TENSOR",
            f"{name} is in no region of this session; register() it, or what "
            "it is a view of",
        )

    def _run(
        self,
        plan: Plan,
        table: int,
        sources: list[Any],
        destination: Any,
        *,
        fill: bytes | None = None,
        adjoint: bool = False,
        stream: int = 0,
    ) -> None:
        shard = _memory("the shard", destination)
        memories = [
            _Memory(0, 0, shard.element_bytes)
            if source is None
            else _memory(f"source {k}", source)
            for k, source in enumerate(sources)
        ]
        for k, memory in enumerate(memories):
            if memory.element_bytes != shard.element_bytes:
                raise invalid(
                    "INVALID_TENSOR",
                    f"source {k} has elements of {memory.element_bytes} bytes, "
                    f"the shard of {shard.element_bytes}",
                )
        if fill is not None and len(fill) != shard.element_bytes:
            raise invalid(
                "INVALID_TENSOR",
                f"fill has {len(fill)} bytes, an element "
                f"{shard.element_bytes}",
            )
        is_labels = table == _library.LABELS
        rows = (plan.labels if is_labels else plan.embeddings).destination_rows
        if rows == 0 or shard.size_bytes % rows != 0:
            raise invalid(
                "INVALID_TENSOR",
                f"the shard has {shard.size_bytes} bytes, no multiple of its "
                f"{rows} rows",
            )
        tensors = (_library.RegionTensor * len(memories))(
            *(self._tensor(f"source {k}", m) for k, m in enumerate(memories))
        )
        operation = _library.RegionOperation(
            plan.handle.value,
            table,
            int(adjoint),
            shard.size_bytes // rows,
            shard.element_bytes,
            tensors,
            len(tensors),
            self._tensor("the shard", shard),
            fill,
        )
        _library.library().sw_session_run_regions(
            self._handle.value, ctypes.byref(operation), 1, stream, None
        )
