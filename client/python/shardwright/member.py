"""This process as a member of a job."""

from __future__ import annotations

import ctypes

from shardwright import _library
from shardwright._closing import Closing


class Member(Closing):
    """The trainer of one rank: its lease is kept until close().

    Safe to use from several threads. Comes from Job.member().
    """

    def __init__(self, handle: _library.Handle) -> None:
        self._handle = handle

    @property
    def generation(self) -> int:
        """The layout's generation, as last heard of."""
        value = ctypes.c_int64()
        _library.library().sw_member_get_generation(
            self._handle.value, ctypes.byref(value)
        )
        return value.value

    @property
    def incarnation(self) -> int:
        """Random id of this registration."""
        value = ctypes.c_uint64()
        _library.library().sw_member_get_incarnation(
            self._handle.value, ctypes.byref(value)
        )
        return value.value

    def set_phase(self, phase: str) -> None:
        """Says what the process is doing, to those who wait for it.

        At most 64 bytes: "step 12".
        """
        _library.library().sw_member_set_phase(
            self._handle.value, phase.encode()
        )

    def check(self) -> None:
        """Raises, if membership has ended for good.

        Raises:
          ShardwrightError: FENCED or MEMBER_ID_IN_USE if another process has
            the rank, RANK_NOT_IN_LAYOUT or JOB_NOT_FOUND if the layout has it
            no more.
        """
        _library.library().sw_member_check(self._handle.value)

    def barrier(
        self,
        name: str,
        sequence: int,
        *,
        scope: str = "",
        digest: int = 0,
        timeout: float = 60.0,
    ) -> None:
        """Waits until every trainer of `scope` has come here too.

        Args:
          name: tells the barriers of a job apart.
          sequence: which use of it this is; each is one more than the last.
          scope: empty for all ranks, "language" for a module,
            "language/tp/3" for a group.
          digest: must be equal everywhere, such as Plan.digest; 0 for none.
          timeout: seconds.

        Raises:
          ShardwrightError: MEMBERS_MISSING after `timeout`; details["missing"]
            says which ranks. BARRIER_MISMATCH if digests or scopes differ.
        """
        _library.library().sw_member_wait(
            self._handle.value,
            name.encode(),
            sequence,
            scope.encode(),
            digest,
            round(timeout * 1000),
        )

    def close(self) -> None:
        """Leaves the job, so that its peers know and the rank is free.

        A coordinator that cannot be told within two seconds hears nothing, and
        the lease runs out by itself.
        """
        self._handle.close()
