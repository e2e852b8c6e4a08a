"""The bridge for PyTorch: what PartitionAdapter.bridge() does.

    with BridgeSession(shardwright.worker(address), 1 << 28, "cuda") as session:
        shard = adapter.bridge(session, {"text": text}, batch,
                               sequence=0, backward_sequence=1)

A worker reads and writes only memory that was shared with it before. So each
call copies its tensors into such memory, and what comes of it out again: on a
GPU in the current stream.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from shardwright import _library
from shardwright._closing import Closing
from shardwright.errors import Code, ShardwrightError, invalid
from shardwright.region import GpuSession
from shardwright.route import Route
from shardwright.worker import Session, Worker

_ALIGNMENT_BYTES = 256

# NumPy has no bf16 or fp8; for moving rows, the size of an element is enough.
_OF_SIZE = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
    16: torch.complex128,
}


def _invalid(message: str) -> ShardwrightError:
    return invalid("INVALID_TENSOR", message)


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


class BridgeSession(Closing):
    """A session with a worker, and the memory that bridge() goes through.

    Use it in a `with`, and keep it open until the last backward pass. Owns
    memory of `size_bytes`; no tensor that comes from bridge() lies in it. Safe
    to use from several threads, one call at a time: for two micro-batches under
    way open two.
    """

    def __init__(
        self,
        worker: Worker,
        size_bytes: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Shares memory with the worker of this rank.

        Args:
          worker: of the rank that will call bridge().
          size_bytes: room for the sources and the shard of the largest
            micro-batch, and 256 bytes for each of them.
          device: where the tensors are: "cpu" or "cuda", the current device, or
            one of them, "cuda:1". The worker must serve that GPU.

        Raises:
          ShardwrightError: as of Worker.session(), Worker.gpu_session() and
            GpuSession.register().
        """
        device = torch.device(device)
        if device.type not in ("cpu", "cuda"):
            raise _invalid(f"device is {device}, must be cpu or cuda")
        if _library.int64("size_bytes", size_bytes) <= 0:
            raise _invalid(f"size_bytes is {size_bytes}, must be above 0")
        self._session: Session | GpuSession
        if device.type == "cpu":
            self._session = worker.session(size_bytes)
            self._memory = torch.from_numpy(
                self._session.empty(size_bytes, "uint8")
            )
        else:
            if device.index is None:
                device = torch.device("cuda", torch.cuda.current_device())
            self._memory = torch.empty(
                size_bytes, dtype=torch.uint8, device=device
            )
            # After the last use of the memory, in whatever stream that was:
            # the allocator knows of the first one alone.
            self._used = torch.cuda.Event()
            self._used.record(torch.cuda.current_stream(device))
            self._session = worker.gpu_session(device.index)
            try:
                self._session.register(self._memory)
            except BaseException:
                self._session.close()
                raise
        self.device = device

    def close(self) -> None:
        """Ends the session; a later call, or backward pass, fails."""
        if self.device.type == "cuda":
            self._used.synchronize()
        self._session.close()

    def _places(
        self, shapes: Sequence[Sequence[int]], dtype: torch.dtype
    ) -> list[torch.Tensor]:
        """A place in the memory for each; those of the last call are gone."""
        sizes = [math.prod(shape) * dtype.itemsize for shape in shapes]
        needed = sum(map(_padded, sizes))
        if needed > self._memory.numel():
            raise ShardwrightError(
                Code.RESOURCE_EXHAUSTED,
                "SESSION_FULL",
                f"the micro-batch's tensors take {needed} bytes, size_bytes of "
                f"the BridgeSession is {self._memory.numel()}",
            )
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).wait_event(self._used)
        places, begin = [], 0
        for shape, size in zip(shapes, sizes):
            place = self._memory[begin : begin + size]
            places.append(place.view(dtype).view(shape))
            begin += _padded(size)
        return places

    def _call(
        self,
        route: Route,
        sources: dict[str, Any],
        shard: Any,
        sequence: int,
        backward: bool,
    ) -> None:
        """Rows from or to the sources, which are places, as the shard is."""
        options = {}
        if self.device.type == "cuda":
            stream = torch.cuda.current_stream(self.device)
            options["stream"] = stream.cuda_stream
            self._used.record(stream)  # For the next call if this one fails.
        else:
            sources = {name: _array(place) for name, place in sources.items()}
            shard = None if shard is None else _array(shard)
        if backward:
            self._session.bridge_backward(
                route, shard, out=sources, sequence=sequence, **options
            )
        else:
            self._session.bridge_forward(
                route, sources, out=shard, sequence=sequence, **options
            )

    def _copies(
        self, places: Sequence[torch.Tensor | None]
    ) -> list[torch.Tensor | None]:
        copies = [None if place is None else place.clone() for place in places]
        if self.device.type == "cuda":
            self._used.record(torch.cuda.current_stream(self.device))
        return copies


def _array(place: torch.Tensor) -> Any:
    return place.view(_OF_SIZE[place.element_size()]).numpy()


@dataclasses.dataclass(frozen=True)
class _MicroBatch:
    """One call of bridge(), and its way back."""

    session: BridgeSession
    route: Route
    sequence: int
    backward_sequence: int | None
    dtype: torch.dtype
    row_shape: tuple[int, ...]

    def places(
        self,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Of the sources, and of the shard of a rank that has one."""
        route = self.route
        shapes = [(rows, *self.row_shape) for rows in route.sources.values()]
        if route.role == "receives":
            shapes.append(route.shard_shape(self.row_shape))
        places = self.session._places(shapes, self.dtype)
        shard = places.pop() if route.role == "receives" else None
        return dict(zip(route.sources, places)), shard

    def forward(self, sources: Sequence[torch.Tensor]) -> torch.Tensor:
        places, shard = self.places()
        for place, source in zip(places.values(), sources):
            place.copy_(source)
        session = self.session
        session._call(self.route, places, shard, self.sequence, backward=False)
        (copy,) = session._copies([shard])
        if copy is None:
            return torch.zeros((), device=session.device)
        return copy

    def backward(
        self, gradient: torch.Tensor, wanted: Sequence[bool]
    ) -> list[torch.Tensor | None]:
        places, shard = self.places()
        if shard is not None:
            shard.copy_(gradient)
        session = self.session
        session._call(
            self.route, places, shard, self.backward_sequence, backward=True
        )
        return session._copies(
            [p if want else None for p, want in zip(places.values(), wanted)]
        )


class _Bridge(torch.autograd.Function):
    """Of a micro-batch, what makes the result need a gradient, and sources."""

    @staticmethod
    def forward(
        ctx: Any,
        micro_batch: _MicroBatch,
        anchor: torch.Tensor,
        *sources: torch.Tensor,
    ) -> torch.Tensor:
        ctx.micro_batch = micro_batch
        return micro_batch.forward(sources)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        gradients = ctx.micro_batch.backward(
            gradient, ctx.needs_input_grad[2:]
        )
        return None, None, *gradients


def _check_backward(micro_batch: _MicroBatch, needs_gradient: bool) -> None:
    sequence = _library.int64("sequence", micro_batch.sequence)
    if micro_batch.backward_sequence is None:
        if needs_gradient:
            raise _invalid(
                "backward_sequence is None, and a source requires a gradient: "
                "give a number at all ranks, or detach the source"
            )
        return
    backward = _library.int64(
        "backward_sequence", micro_batch.backward_sequence
    )
    if backward <= sequence:
        raise invalid(
            "INVALID_ARGUMENT",
            f"backward_sequence is {backward}, must be above sequence, "
            f"{sequence}",
        )
    dtype = micro_batch.dtype
    if not (dtype.is_floating_point or dtype.is_complex):
        raise _invalid(
            f"backward_sequence is {backward}, and {dtype} has no gradient: "
            "must be None"
        )


def bridge(
    session: BridgeSession,
    route: Route,
    sources: Sequence[torch.Tensor],
    *,
    sequence: int,
    backward_sequence: int | None,
) -> torch.Tensor:
    """PartitionAdapter.bridge() of checked tensors, in the route's order."""
    first = sources[0]
    if first.device != session.device:
        raise _invalid(
            f"sources are on {first.device}, the BridgeSession on "
            f"{session.device}"
        )
    micro_batch = _MicroBatch(
        session,
        route,
        sequence,
        backward_sequence,
        first.dtype,
        tuple(first.shape[1:]),
    )
    is_training = torch.is_grad_enabled()
    _check_backward(
        micro_batch, is_training and any(s.requires_grad for s in sources)
    )
    # All ranks take part in a backward pass, also those that need no gradient.
    anchor = torch.zeros(
        0, requires_grad=is_training and backward_sequence is not None
    )
    return _Bridge.apply(micro_batch, anchor, *sources)
