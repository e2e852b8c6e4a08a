"""The one exception of this package."""

from __future__ import annotations

import enum
from typing import Any, Mapping


class Code(enum.IntEnum):
    """What kind of failure it is: the canonical codes of gRPC."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ShardwrightError(Exception):
    """A call failed.

    Branch on `reason`, never on the message.

    Attributes:
      code: the kind of failure.
      reason: UPPER_SNAKE_CASE, such as "STALE_GENERATION"; may be empty.
      message: one sentence for people.
      details: where there are any, "metadata" (a dict of strings), "missing"
        (ranks that did not come, "0-3,17") and "violations" (a list of dicts
        with "field", "description" and "hint").
    """

    def __init__(
        self,
        code: Code,
        reason: str,
        message: str,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.code = code
        self.reason = reason
        self.message = message
        self.details: dict[str, Any] = dict(details or {})
        super().__init__(f"{message} [{reason or code.name}]")


def invalid(reason: str, message: str) -> ShardwrightError:
    """An INVALID_ARGUMENT that was found before the library was asked."""
    return ShardwrightError(Code.INVALID_ARGUMENT, reason, message)
