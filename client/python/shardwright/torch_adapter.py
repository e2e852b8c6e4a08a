"""Megatron's PartitionAdapter for PyTorch: sharding that autograd goes through.

    from shardwright.torch_adapter import PartitionAdapter

    adapter = PartitionAdapter(job, rank)
    embeddings, labels, loss_mask, packed = adapter.shard(
        embeddings, labels, loss_mask, packed_seq_params)

Needs PyTorch, as torch_bridge does and nothing else in this package. CPU
tensors are copied by this thread, of any dtype; CUDA tensors in the current
stream, embeddings, labels and loss mask in one launch. Where a rank owns one
run of rows, the result is a view and nothing is copied. bridge() goes through a
worker.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from shardwright import _library, torch_bridge
from shardwright.errors import ShardwrightError, invalid
from shardwright.gpu import Gpu, Operation, buffer_of
from shardwright.layout import Job, Layout
from shardwright.plan import Plan, Table
from shardwright.route import Route
from shardwright.torch_bridge import BridgeSession

# Shapes, not micro-batches: dense training has one, and THD seldom repeats.
_PLANS_KEPT = 16

_DTYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.bool: "bool",
    torch.float8_e4m3fn: "fp8",
    torch.float8_e5m2: "fp8",
}

_Sharded = tuple[
    "torch.Tensor | None", "torch.Tensor | None", "torch.Tensor | None", Any
]


def _invalid(message: str) -> ShardwrightError:
    return invalid("INVALID_TENSOR", message)


@functools.lru_cache(maxsize=None)
def _gpu(ordinal: int) -> Gpu:
    """One for the process: its tables take memory of the device."""
    return Gpu(ordinal)


def _dtype_name(tensor: torch.Tensor) -> str:
    name = _DTYPES.get(tensor.dtype)
    if name is None and tensor.is_cuda:
        known = ", ".join(map(str, _DTYPES))
        raise _invalid(f"on a GPU a tensor is {known}, not {tensor.dtype}")
    return name or ""  # On the CPU, only the size of an element counts.


def _run_on_host(operation: Operation) -> None:
    row_bytes = operation.row_elements * operation.destination.element_size()
    plan = operation.plan.handle.value
    sources = (_library.Buffer * len(operation.sources))(
        *(buffer_of(f"source {k}", s) for k, s in enumerate(operation.sources))
    )
    destination = buffer_of("the destination", operation.destination)
    lib = _library.library()
    if operation.adjoint:
        lib.sw_plan_run_adjoint(
            plan, operation.table, row_bytes, destination, sources, len(sources)
        )
    else:
        lib.sw_plan_run(
            plan,
            operation.table,
            row_bytes,
            sources,
            len(sources),
            destination,
            None,
            0,
        )


def _run(operations: Sequence[Operation]) -> None:
    if not operations:
        return
    device = operations[0].destination.device
    if device.type == "cuda":
        stream = torch.cuda.current_stream(device).cuda_stream
        _gpu(device.index).run(operations, stream)
        return
    for operation in operations:
        _run_on_host(operation)


@dataclasses.dataclass(frozen=True)
class _Copy:
    """One table of a plan over tensors, of which it makes one."""

    plan: Plan
    table_id: int
    sources: tuple[torch.Tensor, ...]
    shape: tuple[int, ...]  # Of the result: [S, B, ...] or [B, S].
    row_elements: int

    def operation(
        self,
        sources: Sequence[torch.Tensor],
        destination: torch.Tensor,
        adjoint: bool = False,
    ) -> Operation:
        return Operation(
            self.plan,
            self.table_id,
            self.row_elements,
            _dtype_name(destination),
            sources,
            destination,
            adjoint=adjoint,
        )

    @property
    def table(self) -> Table:
        if self.table_id == _library.LABELS:
            return self.plan.labels
        return self.plan.embeddings

    def view(self) -> torch.Tensor:
        """The result where the table is a view; autograd knows views."""
        entry = self.table.entries[0]
        source = self.sources[entry.source]
        if source.shape == self.shape:
            return source
        rows = source.reshape(-1, *self.shape[2:])
        return rows.narrow(0, entry.source_row, entry.row_count).view(
            self.shape
        )


class _Run(torch.autograd.Function):
    """Several tables forward, in one go; backward, their adjoints."""

    @staticmethod
    def forward(
        ctx: Any, copies: Sequence[_Copy], *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        operations, constant, first = [], [], 0
        for copy in copies:
            last = first + len(copy.sources)
            sources = [tensor.contiguous() for tensor in tensors[first:last]]
            result = sources[0].new_empty(copy.shape)
            operations.append(copy.operation(sources, result))
            # One result that needs a gradient must not make the others so.
            # Tensors are the inputs after `copies`.
            if not any(ctx.needs_input_grad[1 + first : 1 + last]):
                constant.append(result)
            first = last
        _run(operations)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*constant)
        ctx.copies = [dataclasses.replace(copy, sources=()) for copy in copies]
        ctx.shapes = [[s.shape for s in copy.sources] for copy in copies]
        return tuple(operation.destination for operation in operations)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        operations, results = [], []
        for copy, shapes, gradient in zip(ctx.copies, ctx.shapes, gradients):
            if gradient is None:
                results += [None] * len(shapes)
                continue
            # All of them: an adjoint writes each of its sources.
            sources = [gradient.new_empty(shape) for shape in shapes]
            operations.append(
                copy.operation(sources, gradient.contiguous(), adjoint=True)
            )
            results += sources
        _run(operations)
        return None, *results


def _run_all(copies: Sequence[_Copy | None]) -> list[torch.Tensor | None]:
    """The result of each; what is no view in one go."""
    results = [
        copy.view() if copy is not None and copy.table.is_view else None
        for copy in copies
    ]
    left = [
        k
        for k, copy in enumerate(copies)
        if copy is not None and not copy.table.is_view
    ]
    if left:
        tensors = [tensor for k in left for tensor in copies[k].sources]
        made = _Run.apply([copies[k] for k in left], *tensors)
        for k, result in zip(left, made):
            results[k] = result
    return results


def _check_devices(tensors: Mapping[str, torch.Tensor | None]) -> None:
    given = {name: t for name, t in tensors.items() if t is not None}
    for name, tensor in given.items():
        if not isinstance(tensor, torch.Tensor):
            raise _invalid(
                f"{name} is a {type(tensor).__name__}, not a torch.Tensor"
            )
        if tensor.device.type not in ("cpu", "cuda"):
            raise _invalid(f"{name} is on {tensor.device}, must be cpu or cuda")
    first_name, first = next(iter(given.items()), (None, None))
    for name, tensor in given.items():
        if tensor.device != first.device:
            raise _invalid(
                f"{name} is on {tensor.device}, {first_name} on {first.device}"
            )


def _shape(tensors: Mapping[str, torch.Tensor | None]) -> tuple[int, int]:
    """(B, S), in which all that are given agree."""
    shapes = {}
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        is_sequence_first = name == "embeddings"
        wanted = "[S, B, H]" if is_sequence_first else "[B, S]"
        if tensor.dim() != (3 if is_sequence_first else 2):
            raise _invalid(
                f"{name} has shape {tuple(tensor.shape)}, must be {wanted}"
            )
        head = tuple(tensor.shape[:2])
        shapes[name] = head[::-1] if is_sequence_first else head
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise _invalid(f"[B, S] must be the same of all, is: {said}")
    return next(iter(shapes.values()))


def _is_packed(packed_seq_params: Any | None) -> bool:
    return getattr(packed_seq_params, "qkv_format", None) == "thd"


def _cu_seqlens_padded(packed_seq_params: Any | None) -> tuple[int, ...] | None:
    """Of a PackedSeqParams of Megatron's; None: dense."""
    if not _is_packed(packed_seq_params):
        return None
    starts = packed_seq_params.cu_seqlens_q_padded
    if starts is None:
        starts = packed_seq_params.cu_seqlens_q
    if starts is None:
        raise _invalid(
            "packed_seq_params has neither cu_seqlens_q_padded nor cu_seqlens_q"
        )
    return tuple(starts.tolist())


def _embedding_copy(
    plan: Plan, sources: tuple[torch.Tensor, ...], row_shape: Sequence[int]
) -> _Copy:
    return _Copy(
        plan,
        _library.EMBEDDINGS,
        sources,
        plan.embedding_shape(row_shape),
        math.prod(row_shape),
    )


def _label_copies(
    plan: Plan, *tensors: torch.Tensor | None
) -> list[_Copy | None]:
    return [
        None
        if tensor is None
        else _Copy(
            plan,
            _library.LABELS,
            (tensor,),
            plan.label_shapes(tensor)[0],
            row_elements=1,
        )
        for tensor in tensors
    ]


def _ordered_sources(
    plan: Plan | Route, tensors: Mapping[str, torch.Tensor]
) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
    """In the plan's order, checked; and the shape of a row."""
    unknown = sorted(set(tensors) - set(plan.sources))
    if unknown or not tensors:
        known = ", ".join(plan.sources) or "none"
        what = f"no source {unknown[0]!r}" if unknown else "no tensor"
        raise _invalid(f"{what}: the plan's sources are {known}")
    first = next(iter(tensors.values()))
    sources = []
    for name, rows in plan.sources.items():
        tensor = tensors.get(name)
        if tensor is None:
            tensor = first.new_empty((0, *first.shape[1:]))
        expected = (rows, *first.shape[1:])
        if tuple(tensor.shape) != expected or tensor.dtype != first.dtype:
            raise _invalid(
                f"source {name!r} is {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}, must be {first.dtype} of {expected}"
            )
        sources.append(tensor)
    return tuple(sources), tuple(first.shape[1:])


class PartitionAdapter:
    """What one rank of the language module takes of each micro-batch.

    Has the shape of Megatron-Core's class of that name. Differentiable: the
    gradient is zero in rows that another rank owns, so that the sum over the
    ranks of tp (with sequence parallelism) and cp is the whole. Megatron's own
    also gathers over tp; here that is the caller's, as for cp.

    May be used from several threads. In a CUDA graph use `Gpu.slot` instead.
    """

    def __init__(self, job: Layout | Job, rank: int) -> None:
        """For `rank` of the language module; for bridge() an encoder's too.

        Plans are kept for the shapes seen last, so after a new generation of a
        Job's layout make a new adapter.
        """
        self._job = job
        self._rank = rank
        self._shard_plan = functools.lru_cache(_PLANS_KEPT)(self._new_plan)

    def shard(
        self,
        embeddings: torch.Tensor | None,
        labels: torch.Tensor | None,
        loss_mask: torch.Tensor | None,
        packed_seq_params: Any | None = None,
    ) -> _Sharded:
        """This rank's part of each; what is None stays None.

        Args:
          embeddings: [S, B, H] -> [S / (cp * tp), B, H]; on later pipeline
            stages None.
          labels: [B, S] -> [B, S / cp].
          loss_mask: [B, S] -> [B, S / cp].
          packed_seq_params: Megatron's, or whatever has `qkv_format`,
            `cu_seqlens_q_padded` and `cu_seqlens_q`; returned as it is. With
            "thd", the documents' starts are read: on a GPU that waits for it,
            so leave them on the CPU.
        """
        tensors = {
            "embeddings": embeddings,
            "labels": labels,
            "loss_mask": loss_mask,
        }
        if all(tensor is None for tensor in tensors.values()):
            return None, None, None, packed_seq_params
        _check_devices(tensors)
        plan = self._shard_plan(
            *_shape(tensors), _cu_seqlens_padded(packed_seq_params)
        )
        embedding_copy = None
        if embeddings is not None:
            embedding_copy = _embedding_copy(
                plan, (embeddings,), tuple(embeddings.shape[2:])
            )
        results = _run_all(
            [embedding_copy, *_label_copies(plan, labels, loss_mask)]
        )
        return *results, packed_seq_params

    def compose(
        self,
        embeddings: Mapping[str, torch.Tensor],
        batch: Mapping[str, Any] | Plan,
        labels: torch.Tensor | None = None,
        loss_mask: torch.Tensor | None = None,
        packed_seq_params: Any | None = None,
    ) -> _Sharded:
        """Aligns the modalities and shards, and never builds the sequence.

        Args:
          embeddings: [rows, H] of "text" and each modality, of this rank's
            lane; one that the plan takes no row of may be left out.
          batch: the global micro-batch, as Layout.compose_plan() takes it, or
            plan that it made, ahead of time.
          labels, loss_mask: as for shard().
          packed_seq_params: returned as it is; the documents' starts are those
            of `batch`.
        """
        plan = batch
        if not isinstance(plan, Plan):
            if _is_packed(packed_seq_params) and not batch.get(
                "cu_seqlens_padded"
            ):
                raise _invalid(
                    "packed_seq_params is thd, and batch has no "
                    "cu_seqlens_padded"
                )
            plan = self._job.compose_plan(self._rank, batch)
        named = {f"source {name!r}": t for name, t in embeddings.items()}
        _check_devices({**named, "labels": labels, "loss_mask": loss_mask})
        sources, row_shape = _ordered_sources(plan, embeddings)
        results = _run_all(
            [
                _embedding_copy(plan, sources, row_shape),
                *_label_copies(plan, labels, loss_mask),
            ]
        )
        return *results, packed_seq_params

    def bridge(
        self,
        session: BridgeSession,
        embeddings: Mapping[str, torch.Tensor],
        batch: Mapping[str, Any] | Route,
        *,
        sequence: int,
        backward_sequence: int | None,
    ) -> torch.Tensor | None:
        """Sends an encoder's output, or makes the shard of what comes.

        All ranks that have a role call it for each micro-batch, and then
        backward() of what it returned: a language rank of its loss, an encoder
        rank of the scalar itself. The gradient of an encoder's output is whole;
        that of a language rank's own sources is as of compose(). A call returns
        when it is done. Not for activation checkpointing, which calls again.

        Args:
          session: this rank's, on the device of its tensors.
          embeddings: [rows, H] of each of `Route.sources`: an encoder's output,
            or "text" and modalities that no edge brings. Of no rows if there
            are none, since it says what rows are. Read, not kept.
          batch: the global micro-batch, as Layout.route_plan() takes it, or
            this rank's route that it made, ahead of time.
          sequence, backward_sequence: of the forward and the backward pass, as
            for Session.bridge_forward(): all passes are counted together, and
            equally at all ranks. Two micro-batches forward, then both backward,
            have (0, 2) and (1, 3). None, at all ranks, if there will be no
            backward pass.

        Returns:
          Of its own memory: the shard, [S / (cp * tp), B, H], zero in padding;
          at an encoder rank a scalar zero, whose own gradient is ignored; None
          at a rank without a role, which gives no embeddings.

        Raises:
          ShardwrightError: INVALID_TENSOR, SESSION_FULL, and those of
            Session.bridge_forward(); from backward() too.
        """
        route = batch
        if not isinstance(route, Route):
            route = self._job.route_plan(self._rank, batch)
        if route.role is None and not embeddings:
            return None
        _check_devices({f"source {n!r}": t for n, t in embeddings.items()})
        sources, _ = _ordered_sources(route, embeddings)
        return torch_bridge.bridge(
            session,
            route,
            sources,
            sequence=sequence,
            backward_sequence=backward_sequence,
        )

    def _new_plan(
        self, micro_batch: int, seq_length: int, starts: tuple[int, ...] | None
    ) -> Plan:
        return self._job.shard_plan(
            self._rank,
            seq_length=seq_length,
            micro_batch=micro_batch,
            cu_seqlens_padded=starts,
        )
