"""libshardwright.so through ctypes: types, signatures, errors."""

from __future__ import annotations

import ctypes
import functools
import json
import operator
import os
import pathlib
from ctypes import (
    POINTER,
    Structure,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_uint64,
    c_void_p,
)
from typing import Any

from shardwright.errors import Code, ShardwrightError, invalid

_ABI_VERSION = 1
_FILE_NAME = "libshardwright.so"

EMBEDDINGS = 0
LABELS = 1

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1


def int64(name: str, value: Any, reason: str = "INVALID_ARGUMENT") -> int:
    """Checks an integer, because ctypes wraps what does not fit in 64 bits."""
    try:
        # JSON tells true from 1, and so do we.
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise invalid(reason, f"{name} is {value!r}, must be an integer")
    if not INT64_MIN <= number <= INT64_MAX:
        raise invalid(reason, f"{name} is {number}, must fit in 64 bits")
    return number


def milliseconds(name: str, seconds: Any) -> int:
    """Checks a time; the library counts milliseconds."""
    try:
        return int64(name, round(seconds * 1000))
    except (TypeError, ValueError, OverflowError):
        raise invalid(
            "INVALID_ARGUMENT", f"{name} is {seconds!r}, must be seconds"
        ) from None


class BatchShape(Structure):
    _fields_ = [
        ("seq_length", c_int64),
        ("micro_batch_size", c_int64),
        ("cu_seqlens_padded", POINTER(c_int64)),
        ("cu_seqlens_padded_count", c_int64),
        ("cu_seqlens", POINTER(c_int64)),
        ("cu_seqlens_count", c_int64),
    ]


class NamedValue(Structure):
    _fields_ = [("name", c_char_p), ("value", c_int64)]


class EncoderRows(Structure):
    _fields_ = [
        ("name", c_char_p),
        ("rows", POINTER(c_int64)),
        ("lane_count", c_int64),
    ]


class Batch(Structure):
    _fields_ = [
        ("micro_batch_size", c_int64),
        ("seq_length", c_int64),
        ("input_ids", POINTER(c_int64)),
        ("sample_lengths", POINTER(c_int64)),
        ("sample_count", c_int64),
        ("special_token_ids", POINTER(NamedValue)),
        ("special_token_id_count", c_int64),
        ("counts", POINTER(NamedValue)),
        ("count_count", c_int64),
        ("encoder_rows", POINTER(EncoderRows)),
        ("encoder_rows_count", c_int64),
        ("cu_seqlens_padded", POINTER(c_int64)),
        ("cu_seqlens_padded_counts", POINTER(c_int64)),
        ("cu_seqlens_padded_lane_count", c_int64),
    ]


# How sw_plan_info and sw_route_info begin.
_WHOSE_PLAN = [("digest", c_uint64)] + [
    (name, c_int64)
    for name in (
        "generation",
        "rank",
        "tp",
        "gtp_remat",
        "cp",
        "dp",
        "pp",
        "lane",
    )
]


class PlanInfo(Structure):
    _fields_ = _WHOSE_PLAN + [
        (name, c_int64)
        for name in (
            "seq_length",
            "micro_batch_size",
            "token_count",
            "padding_token_count",
            "causal_work",
        )
    ]


class RowCopy(Structure):
    _fields_ = [
        ("source", c_int32),
        ("source_row", c_int64),
        ("destination_row", c_int64),
        ("destination_stride", c_int64),
        ("row_count", c_int64),
    ]


class PositionRun(Structure):
    _fields_ = [("position", c_int64), ("count", c_int64)]


class Table(Structure):
    _fields_ = [
        ("entries", POINTER(RowCopy)),
        ("entry_count", c_int64),
        ("source_rows", POINTER(c_int64)),
        ("source_names", POINTER(c_char_p)),
        ("source_count", c_int64),
        ("destination_rows", c_int64),
        ("is_view", c_int32),
        ("runs", POINTER(PositionRun)),
        ("run_count", c_int64),
    ]


class Buffer(Structure):
    _fields_ = [("data", c_void_p), ("size_bytes", c_int64)]


class Segment(Structure):
    _fields_ = [("name", c_char_p), ("size_bytes", c_int64)]


class Tensor(Structure):
    _fields_ = [
        ("segment", c_int32),
        ("offset_bytes", c_int64),
        ("size_bytes", c_int64),
    ]


class Operation(Structure):
    _fields_ = [
        ("plan", c_void_p),
        ("table", c_int32),
        ("row_bytes", c_int64),
        ("sources", POINTER(Tensor)),
        ("source_count", c_int64),
        ("destination", Tensor),
        ("fill", c_char_p),
        ("fill_bytes", c_int64),
        ("adjoint", c_int32),
    ]


class GpuOperation(Structure):
    _fields_ = [
        ("plan", c_void_p),
        ("table", c_int32),
        ("adjoint", c_int32),
        ("slot", c_void_p),
        ("dtype", c_char_p),
        ("row_elements", c_int64),
        ("sources", POINTER(Buffer)),
        ("source_count", c_int64),
        ("destination", Buffer),
        ("fill", c_char_p),
    ]


class MemoryHandle(Structure):
    _fields_ = [
        ("memory_handle", c_void_p),
        ("allocation_bytes", c_int64),
        ("offset_bytes", c_int64),
        ("size_bytes", c_int64),
    ]


class RegionTensor(Structure):
    _fields_ = [
        ("region", c_int64),
        ("offset_bytes", c_int64),
        ("size_bytes", c_int64),
    ]


class RegionOperation(Structure):
    _fields_ = [
        ("plan", c_void_p),
        ("table", c_int32),
        ("adjoint", c_int32),
        ("row_bytes", c_int64),
        ("element_bytes", c_int64),
        ("sources", POINTER(RegionTensor)),
        ("source_count", c_int64),
        ("destination", RegionTensor),
        ("fill", c_char_p),
    ]


def _bridge_fields(tensor: type[Structure]) -> list[tuple[str, Any]]:
    return [
        ("route", c_void_p),
        ("backward", c_int32),
        ("row_bytes", c_int64),
        ("element_bytes", c_int64),
        ("sources", POINTER(tensor)),
        ("source_count", c_int64),
        ("shard", tensor),
        ("fill", c_char_p),
        ("sequence", c_uint64),
    ]


class Bridge(Structure):
    _fields_ = _bridge_fields(Tensor)


class RegionBridge(Structure):
    _fields_ = _bridge_fields(RegionTensor)


class BridgeResult(Structure):
    _fields_ = [("sent_bytes", c_int64), ("received_bytes", c_int64)]


class RouteSource(Structure):
    _fields_ = [("name", c_char_p), ("rows", c_int64), ("is_received", c_int32)]


class RouteInfo(Structure):
    _fields_ = _WHOSE_PLAN + [
        ("role", c_int32),
        ("micro_batch_size", c_int64),
        ("shard_rows", c_int64),
        ("sent_rows", c_int64),
        ("received_rows", c_int64),
        ("sources", POINTER(RouteSource)),
        ("source_count", c_int64),
    ]


class SlotBounds(Structure):
    _fields_ = [
        ("entry_count", c_int64),
        ("source_rows", POINTER(c_int64)),
        ("source_count", c_int64),
        ("destination_rows", c_int64),
    ]


_HANDLE = c_void_p
_OUT = POINTER(c_void_p)

# Functions that return a code, with their arguments.
_FALLIBLE = {
    "sw_job_connect": [c_char_p, c_char_p, c_int64, _OUT],
    "sw_job_read": [c_char_p, c_char_p, _OUT],
    "sw_job_explain_rank": [_HANDLE, c_int64, _OUT],
    "sw_job_groups": [_HANDLE, _OUT],
    "sw_plan_shard": [_HANDLE, c_int64, POINTER(BatchShape), _OUT],
    "sw_plan_compose": [_HANDLE, c_int64, POINTER(Batch), _OUT],
    "sw_plan_get_info": [_HANDLE, POINTER(PlanInfo)],
    "sw_plan_json": [_HANDLE, c_int32, _OUT],
    "sw_plan_get_table": [_HANDLE, c_int32, POINTER(Table)],
    "sw_plan_run": [
        _HANDLE,
        c_int32,
        c_int64,
        POINTER(Buffer),
        c_int64,
        Buffer,
        c_char_p,
        c_int64,
    ],
    "sw_plan_run_adjoint": [
        _HANDLE,
        c_int32,
        c_int64,
        Buffer,
        POINTER(Buffer),
        c_int64,
    ],
    "sw_plan_route": [_HANDLE, c_int64, POINTER(Batch), _OUT],
    "sw_route_get_info": [_HANDLE, POINTER(RouteInfo)],
    "sw_route_json": [_HANDLE, c_int32, _OUT],
    "sw_member_join": [_HANDLE, c_int64, c_int64, _OUT],
    "sw_member_leave": [_HANDLE],
    "sw_member_check": [_HANDLE],
    "sw_member_set_phase": [_HANDLE, c_char_p],
    "sw_member_get_generation": [_HANDLE, POINTER(c_int64)],
    "sw_member_get_incarnation": [_HANDLE, POINTER(c_uint64)],
    "sw_member_wait": [_HANDLE, c_char_p, c_int64, c_char_p, c_uint64, c_int64],
    "sw_worker_connect": [c_char_p, c_int64, _OUT],
    "sw_worker_describe": [_HANDLE, _OUT],
    "sw_session_open": [_HANDLE, POINTER(Segment), c_int64, _OUT],
    "sw_session_run": [_HANDLE, POINTER(Operation), c_int64, POINTER(c_int64)],
    "sw_session_gather": [
        _HANDLE,
        c_char_p,
        POINTER(Operation),
        POINTER(c_int64),
    ],
    "sw_session_bridge": [_HANDLE, POINTER(Bridge), POINTER(BridgeResult)],
    "sw_session_bridge_regions": [
        _HANDLE,
        POINTER(RegionBridge),
        c_void_p,
        POINTER(BridgeResult),
    ],
    "sw_session_open_gpu": [
        _HANDLE,
        POINTER(Segment),
        c_int64,
        c_int32,
        c_int32,
        _OUT,
    ],
    "sw_session_get_order": [_HANDLE, _OUT],
    "sw_session_check": [_HANDLE],
    "sw_session_register_region": [
        _HANDLE,
        c_void_p,
        c_int64,
        POINTER(c_int64),
    ],
    "sw_session_register_handle": [
        _HANDLE,
        POINTER(MemoryHandle),
        POINTER(c_int64),
    ],
    "sw_session_unregister_region": [_HANDLE, c_int64],
    "sw_session_run_regions": [
        _HANDLE,
        POINTER(RegionOperation),
        c_int64,
        c_void_p,
        POINTER(c_int64),
    ],
    "sw_gpu_open": [c_int32, _OUT],
    "sw_gpu_describe": [_HANDLE, _OUT],
    "sw_gpu_prepare": [_HANDLE, _HANDLE, c_int32, c_int32],
    "sw_gpu_slot_create": [_HANDLE, POINTER(SlotBounds), c_int32, _OUT],
    "sw_gpu_slot_write": [_HANDLE, _HANDLE, c_int32, c_void_p],
    "sw_gpu_run": [_HANDLE, POINTER(GpuOperation), c_int64, c_void_p],
}

_DESTRUCTORS = (
    "sw_job_destroy",
    "sw_plan_destroy",
    "sw_route_destroy",
    "sw_member_destroy",
    "sw_worker_destroy",
    "sw_session_destroy",
    "sw_gpu_destroy",
    "sw_gpu_slot_destroy",
    "sw_free",
)

_TEXTS = ("sw_last_error", "sw_last_error_reason", "sw_last_error_details")


def _find() -> str:
    """SHARDWRIGHT_LIBRARY, then beside this package, then a build's output."""
    named = os.environ.get("SHARDWRIGHT_LIBRARY")
    if named:
        return named
    here = pathlib.Path(__file__).absolute().parent
    candidates = [here / _FILE_NAME]
    roots = [folder / "bazel-bin" for folder in here.parents]
    if "TEST_SRCDIR" in os.environ:
        # Under `bazel test`, Python follows links out of the test's own tree.
        tree = pathlib.Path(os.environ["TEST_SRCDIR"])
        roots.insert(0, tree / os.environ["TEST_WORKSPACE"])
    candidates += [root / "client/native" / _FILE_NAME for root in roots]
    for candidate in candidates:
        if candidate.is_file():
            return str(candidate)
    raise ImportError(
        f"{_FILE_NAME} is neither beside {here} nor in a bazel-bin above it: "
        "build //client/native:libshardwright.so, or set SHARDWRIGHT_LIBRARY"
    )


@functools.lru_cache(maxsize=None)
def library() -> ctypes.CDLL:
    """The library, loaded when first needed."""
    path = _find()
    lib = ctypes.CDLL(path)
    version = lib.sw_abi_version()
    if version != _ABI_VERSION:
        raise ImportError(
            f"{path} has ABI version {version}, this package needs "
            f"{_ABI_VERSION}"
        )
    for name in _TEXTS:
        getattr(lib, name).restype = c_char_p
        getattr(lib, name).argtypes = []
    for name in _DESTRUCTORS:
        getattr(lib, name).restype = None
        getattr(lib, name).argtypes = [c_void_p]
    for name, arguments in _FALLIBLE.items():
        function = getattr(lib, name)
        function.argtypes = arguments
        function.restype = c_int
        function.errcheck = functools.partial(_raise_on_failure, lib)
    return lib


def _raise_on_failure(
    lib: ctypes.CDLL, code: int, function: Any, arguments: Any
) -> None:
    if code == 0:
        return
    raise ShardwrightError(
        Code(code),
        lib.sw_last_error_reason().decode(),
        lib.sw_last_error().decode(errors="replace"),
        json.loads(lib.sw_last_error_details()),
    )


def call_for_json(name: str, *arguments: Any) -> Any:
    """Calls a function whose last argument is a JSON text that it makes."""
    lib = library()
    text = c_void_p()
    getattr(lib, name)(*arguments, ctypes.byref(text))
    try:
        return json.loads(ctypes.string_at(text.value or 0))
    finally:
        lib.sw_free(text)


class Handle:
    """Owns one handle of the library, and destroys it."""

    def __init__(self, create: str, destroy: str, *arguments: Any) -> None:
        self._value = c_void_p()
        lib = library()
        getattr(lib, create)(*arguments, ctypes.byref(self._value))
        # Bound now: at interpreter exit the module may be gone before us.
        self._destroy = getattr(lib, destroy)

    @property
    def value(self) -> c_void_p:
        """For calls. Refuses to hand out a handle that is gone."""
        if not self._value:
            raise ShardwrightError(
                Code.FAILED_PRECONDITION, "CLOSED", "this object is closed"
            )
        return self._value

    def close(self) -> None:
        """Destroys the handle, once."""
        value, self._value = getattr(self, "_value", None), c_void_p()
        if value:
            self._destroy(value)

    def __del__(self) -> None:
        self.close()
