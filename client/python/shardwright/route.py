"""A route: which rows of the encoders one rank sends or receives."""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Mapping, NamedTuple, Sequence

from shardwright import _library
from shardwright.errors import invalid
from shardwright.plan import Coordinates, Run

_ROLES = (None, "sends", "receives")


class Transfer(NamedTuple):
    """Rows that go from one rank to another.

    Attributes:
      encoder: whose rows.
      source_rank, destination_rank: one of them is the route's own.
      row_count: how many rows.
      returned: which of them come back with a gradient, counted from the first.
      rows: runs of the source lane's output, in the order of the message.
    """

    encoder: str
    source_rank: int
    destination_rank: int
    row_count: int
    returned: Run
    rows: tuple[Run, ...]


class Bridged(NamedTuple):
    """What one call of a bridge brought.

    Attributes:
      result: forward, the shard, None at an encoder rank; backward, the
        gradients of the route's sources, by name.
      sent_bytes, received_bytes: of this rank's rows.
    """

    result: Any
    sent_bytes: int
    received_bytes: int


class Route:
    """What one rank sends or receives of one micro-batch.

    Immutable, and safe to use from several threads. Comes from
    Layout.route_plan() or Job.route_plan(); a session's bridge_forward() and
    bridge_backward() carry it out.

    Attributes:
      digest: as of compose_plan() for the same batch; equal on all ranks.
      generation: of the layout; 0 if planned from a file.
      rank, coordinates: whose route this is.
      role: "sends" for an encoder's last pipeline stage, "receives" for the
        language module's first, None for ranks that take no part.
      micro_batch: samples of a language lane.
      sources: rows of each tensor that this rank brings, by name: "text" and
        modalities that no edge brings, or an encoder's own, which is the lane's
        whole output.
      received: rows that this rank gets of each modality, by name.
      sent_rows, received_rows: forward, over all peers.
      shard_rows: rows of the finished shard; 0 unless it receives.
    """

    def __init__(self, handle: _library.Handle) -> None:
        self._handle = handle
        info = _library.RouteInfo()
        _library.library().sw_route_get_info(handle.value, ctypes.byref(info))
        self.digest: int = info.digest
        self.generation: int = info.generation
        self.rank: int = info.rank
        self.coordinates = Coordinates(
            info.tp, info.gtp_remat, info.cp, info.dp, info.pp, info.lane
        )
        self.role: str | None = _ROLES[info.role]
        self.micro_batch: int = info.micro_batch_size
        # As the library has them: (name, rows, whether they are received).
        self.all_sources: tuple[tuple[str, int, bool], ...] = tuple(
            (source.name.decode(), source.rows, bool(source.is_received))
            for source in info.sources[: info.source_count]
        )
        self.sources: Mapping[str, int] = {
            name: rows for name, rows, received in self.all_sources
            if not received
        }
        self.received: Mapping[str, int] = {
            name: rows for name, rows, received in self.all_sources if received
        }
        self.sent_rows: int = info.sent_rows
        self.received_rows: int = info.received_rows
        self.shard_rows: int = info.shard_rows

    @property
    def handle(self) -> _library.Handle:
        """The library's own."""
        return self._handle

    @functools.cached_property
    def transfers(self) -> tuple[Transfer, ...]:
        """In the order in which this rank has them."""
        return tuple(
            Transfer(
                t["encoder"],
                t["source_rank"],
                t["destination_rank"],
                t["row_count"],
                Run(*t["returned"]),
                tuple(Run(*run) for run in t["rows"]),
            )
            for t in self.to_json(rows=True)["transfers"]
        )

    def to_json(self, *, rows: bool = False) -> dict[str, Any]:
        """Digest, rank and transfers, as the C interface has them."""
        return _library.call_for_json(
            "sw_route_json", self._handle.value, int(bool(rows))
        )

    def shard_shape(self, row_shape: Sequence[int]) -> tuple[int, ...]:
        """[S / (cp * tp), B, ...] of the finished shard."""
        return (
            self.shard_rows // self.micro_batch,
            self.micro_batch,
            *row_shape,
        )

    def in_order(self, tensors: Mapping[str, Any]) -> list[Any]:
        """One for each of the library's sources; None for those received."""
        for name in tensors:
            if name not in self.sources:
                raise invalid(
                    "INVALID_TENSOR",
                    f"rank {self.rank} brings no {name!r}, only "
                    f"{', '.join(self.sources) or 'nothing'}",
                )
        for name, rows in self.sources.items():
            if rows > 0 and name not in tensors:
                raise invalid(
                    "INVALID_TENSOR",
                    f"source {name!r} is missing, the route takes {rows} rows "
                    "of it",
                )
        return [tensors.get(name) for name, _, _ in self.all_sources]
