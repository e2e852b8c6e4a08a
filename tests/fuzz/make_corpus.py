"""Makes the seeds of the fuzz targets whose input is binary.

Usage: make_corpus.py REPOSITORY, after a change of a contract or of a target's
input. Writes tests/fuzz/corpus/TARGET/NAME; what a fuzzer found beside them has
a hash for a name and is kept. Needs protoc.
"""

import pathlib
import subprocess
import sys

JOB = """name: "job" world_size: 10
modules { name: "images" role: ENCODER first_rank: 0 rank_count: 2 }
modules { name: "language" role: LANGUAGE first_rank: 2 rank_count: 8
  parallelism { tp: 2 cp: 2 sequence_parallel: true } }
edges { from: "images" to: "language" }"""
EXPERTS = """name: "job" world_size: 16
modules { name: "language" role: LANGUAGE first_rank: 0 rank_count: 16
  parallelism { tp: 2 gtp_remat: 2 pp: 2 ep: 4 expert_tp: 2
    order: "tp-gtp_remat-cp-dp-pp" } }"""
LISTED = """name: "job" world_size: 6
modules { name: "audio" role: ENCODER ranks: [5, 1] }
modules { name: "language" role: LANGUAGE ranks: [4, 0, 3, 2]
  parallelism { cp: 2 order: "cp-dp" } }
edges { from: "audio" to: "language" }"""
LONE = """name: "job" world_size: 4
modules { name: "language" role: LANGUAGE first_rank: 0 rank_count: 4
  parallelism { tp: 2 } }"""
BROKEN = """name: "J" world_size: 9
modules { name: "language" role: LANGUAGE first_rank: 1 rank_count: 3
  parallelism { tp: 2 order: "tp-tp" } } edges { from: "a" to: "b" }"""

DENSE = "seq_length: 32 micro_batch_size: 2"
PACKED = """seq_length: 24 micro_batch_size: 1
cu_seqlens_padded: [0, 8, 8, 24] cu_seqlens: [0, 5, 5, 20]"""
BATCH = """micro_batch_size: 1 seq_length: 8
special_token_ids { key: "images" value: 501 }
samples { input_ids: [1, 501, 501, 2, 3, 4, 5, 6] }
samples { input_ids: [501, 1, 2, 3, 4, 5, 6, 7] }
counts { key: "images" value: 3 }
encoder_rows { key: "images" value { rows: [2, 1] } }"""
PACKED_BATCH = """micro_batch_size: 1 seq_length: 8
special_token_ids { key: "audio" value: 502 }
samples { input_ids: [1, 502, 502, 2, 3, 4, 5, 6] }
samples { input_ids: [9, 9, 9, 9, 9, 9, 9, 9] }
cu_seqlens_padded { offsets: [0, 4, 8] }
cu_seqlens_padded { offsets: [0, 8] }"""
PLAN = """digest: 7 rank: 5 seq_length: 8 micro_batch_size: 2
sources: "sequence"
embeddings { destination_rows: 4 source_rows: 16
  entries { source_row: 12 destination_stride: 1 row_count: 4 } }
labels { destination_rows: 4 source_rows: 16
  entries { destination_stride: 1 row_count: 4 } }
embedding_runs { position: 6 count: 2 } label_runs { count: 2 }"""

RECEIVING = """digest: 7 rank: 5 sources: ["text", "images"]
edges { encoder: "images" staging_rows: 3
  transfers { peer: 0 rows { row: 2 count: 1 } rows { row: 5 count: 1 }
    row_count: 2 staging_row: 0 tensor_row: 2 returned { count: 2 } }
  transfers { peer: 1 rows { row: 7 count: 1 } row_count: 1 staging_row: 2
    returned { count: 1 } } }
placement { destination_rows: 5 source_rows: [2, 3]
  entries { destination_stride: 1 row_count: 2 }
  entries { source: 1 destination_row: 2 destination_stride: 1
    row_count: 3 } }"""
SENDING = """digest: 7 edges { encoder: "images" staging_rows: 2
  transfers { peer: 5 rows { row: 2 count: 1 } rows { row: 5 count: 1 }
    row_count: 2 staging_row: 0 returned { count: 2 } }
  transfers { peer: 6 rows { row: 4 count: 1 } row_count: 1 tensor_row: 4
    returned { count: 1 } } }
pack { destination_rows: 2 source_rows: 8
  entries { source_row: 2 destination_stride: 1 row_count: 1 }
  entries { source_row: 5 destination_row: 1 destination_stride: 1
    row_count: 1 } }
parts { rows { count: 6 } } parts { rank: 1 rows { row: 6 count: 2 } }"""

# Of whole lanes: what is sent comes back.
ENCODER = """digest: 7 rank: 1 edges { encoder: "images" staging_rows: 3
  transfers { peer: 5 rows { row: 2 count: 1 } rows { row: 4 count: 2 }
    row_count: 3 staging_row: 0 returned { count: 3 } }
  transfers { peer: 6 rows { row: 3 count: 1 } row_count: 1 tensor_row: 3
    returned { count: 1 } } }
pack { destination_rows: 3 source_rows: 6
  entries { source_row: 2 destination_stride: 1 row_count: 1 }
  entries { source_row: 4 destination_row: 1 destination_stride: 1
    row_count: 2 } }
parts { rows { count: 2 } } parts { rank: 1 rows { row: 2 count: 4 } }"""
AS_IT_LIES = """digest: 7 edges { encoder: "images"
  transfers { peer: 5 rows { count: 4 } row_count: 4 tensor_row: 0
    returned { count: 2 } }
  transfers { peer: 6 rows { count: 4 } row_count: 4 tensor_row: 0
    returned { row: 2 count: 2 } } }
pack { source_rows: 4 } parts { rows { count: 4 } }"""

TABLE = """destination_rows: 4 source_rows: [3, 2]
entries { source: 0 source_row: 1 destination_row: 0 destination_stride: 1
  row_count: 2 }
entries { source: -1 destination_row: 2 destination_stride: 1 row_count: 1 }
entries { source: 1 destination_row: 3 destination_stride: 1 row_count: 1 }"""
INTERLEAVED = """destination_rows: 4 source_rows: 4
entries { destination_row: 0 destination_stride: 2 row_count: 2 }
entries { source_row: 2 destination_row: 1 destination_stride: 2 row_count: 2 }
"""
INLINE = """sources { inline_data: "aabbcc" } sources { inline_data: "yyzz" }
destination { inline_data: "........" } row_bytes: 2 fill_value: "-" """
SHARED = """sources { segment { offset_bytes: 0 size_bytes: 16 } }
destination { segment { offset_bytes: 64 size_bytes: 16 } } row_bytes: 4"""

REGIONS = """sources { region { id: 1 offset_bytes: 0 size_bytes: 16 } }
destination { region { id: 1 offset_bytes: 32 size_bytes: 16 } } row_bytes: 4
element_bytes: 4 plan_table { digest: 7 rank: 4 }"""

CALLER = ('member { job: "job" rank: 0 kind: WORKER } incarnation: 1 '
          'generation: 1')
ATTEMPT = 'attempt { clique: "language/tp/0" term: 1 number: 1 }'


class Maker:

    def __init__(self, repository):
        self._proto = repository / "proto"
        self._corpus = repository / "tests/fuzz/corpus"

    def message(self, file, name, text):
        """A message as Input::Parse() reads it: after its length."""
        wire = subprocess.run(
            ["protoc", "--proto_path=%s" % self._proto,
             "--encode=shardwright.v1." + name,
             "shardwright/v1/%s.proto" % file],
            input=text.encode(), stdout=subprocess.PIPE, check=True,
            cwd=self._proto).stdout
        return len(wire).to_bytes(2, "little") + wire

    def write(self, target, name, *parts):
        folder = self._corpus / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"".join(
            bytes([part]) if isinstance(part, int) else part for part in parts))


def make_plans(make):
    layouts = {"job": JOB, "experts": EXPERTS, "listed": LISTED, "lone": LONE,
               "broken": BROKEN}
    for name, text in layouts.items():
        layout = make.message("layout", "Layout", text)
        make.write("plan_fuzz", "explain_" + name, layout, 2,
                   make.message("layout", "ExplainRankRequest",
                                'job: "job" rank: 2'))
        for shape_name, shape in (("dense", DENSE), ("packed", PACKED)):
            make.write("plan_fuzz", "%s_%s" % (shape_name, name), layout, 0,
                       make.message("plan", "GetShardPlanRequest",
                                    'job: "job" rank: 3 shape { %s }' % shape))
    layout = make.message("layout", "Layout", JOB)
    for name, batch in (("dense", BATCH), ("packed", PACKED_BATCH)):
        make.write("plan_fuzz", "compose_" + name, layout, 1,
                   make.message("plan", "GetComposePlanRequest",
                                'job: "job" rank: 3 batch { %s }' % batch))
        for rank in (0, 3):
            make.write("plan_fuzz", "route_%s_%d" % (name, rank), layout, 5,
                       make.message("plan", "GetRoutePlanRequest",
                                    'job: "job" rank: %d batch { %s }' %
                                    (rank, batch)))
    make.write("plan_fuzz", "read_plan", layout, 3,
               make.message("plan", "ShardPlan", PLAN))
    for name, plan in (("sending", SENDING), ("receiving", RECEIVING)):
        make.write("plan_fuzz", "read_" + name, layout, 4,
                   make.message("plan", "RoutePlan", plan))


def make_copies(make):
    operations = {
        "inline": "table { %s } %s" % (TABLE, INLINE),
        "shared": "table { %s } %s" % (INTERLEAVED, SHARED),
    }
    for name, operation in operations.items():
        for adjoint in ("false", "true"):
            make.write("copy_fuzz", "run_%s_%s" % (name, adjoint), 0,
                       make.message("worker", "RunCopiesRequest",
                                    "operations { %s adjoint: %s }" %
                                    (operation, adjoint)))
        make.write("copy_fuzz", "gather_" + name, 1,
                   make.message("worker", "GatherShardsRequest",
                                'kind: "tp_cp" digest: 7 operation { %s }' %
                                operation))
    make.write("copy_fuzz", "run_two", 0,
               make.message("worker", "RunCopiesRequest", " ".join(
                   "operations { %s }" % o for o in operations.values())))
    make.write("copy_fuzz", "row_that_no_row_has", 0,
               make.message("worker", "RunCopiesRequest",
                            'operations { destination { inline_data: "" } '
                            "row_bytes: %d table {} }" % 2**62))
    region = make.message(
        "worker", "RegisterRegionRequest",
        'gpu_uuid: "GPU-fake" memory_handle: "a%s" allocation_bytes: 256 '
        "offset_bytes: 16 size_bytes: 64" % ("." * 63))
    for adjoint in ("false", "true"):
        make.write("copy_fuzz", "run_regions_" + adjoint, 3, 2, region, region,
                   make.message("worker", "RunCopiesRequest",
                                "operations { table { %s } %s adjoint: %s }" %
                                (INTERLEAVED, REGIONS, adjoint)))
    make.write("copy_fuzz", "run_named", 3, 1, region,
               make.message("worker", "RunCopiesRequest",
                            "operations { table { %s } %s }"
                            "operations { %s }" %
                            (INTERLEAVED, REGIONS, REGIONS)))
    for name, table in (("table", TABLE), ("interleaved", INTERLEAVED)):
        make.write("copy_fuzz", name, 2,
                   make.message("plan", "CopyTable", table))


def make_bridges(make):
    plans = {"receiving": (RECEIVING, 5), "sending": (SENDING, 0),
             "encoder": (ENCODER, 1), "as_it_lies": (AS_IT_LIES, 0),
             "idle": ("rank: 3", 3)}
    for name, (plan, rank) in plans.items():
        for backward in ("false", "true"):
            # Tensors that fit, and a lane.
            make.write("bridge_fuzz", "%s_%s" % (name, backward), rank, 1, 1,
                       make.message("worker", "RunBridgeRequest",
                                    "plan { %s } backward: %s row_bytes: 2 "
                                    'fill_value: "-"' % (plan, backward)))
    make.write("bridge_fuzz", "brought", 5, 0, 0,
               make.message("worker", "RunBridgeRequest",
                            'plan { %s } row_bytes: 2 element_bytes: 2 '
                            'sources { inline_data: "aabb" } sources {} '
                            'shard { inline_data: ".........." }' % RECEIVING))


def make_sequences(make):
    # Steps and choices are those of coordinator_fuzz.cc.
    apply_one, register, renew, form = 1, 2, 3, 4
    publish, report, wait, leave = 5, 6, 7, 8
    close, restart, pass_time = 12, 13, 14
    two = [apply_one, 1, 0, register, 0, 1, register, 1, 1]
    formed = two + [form, 0, 1, 4, 0, form, 1, 1, 4, 0]
    active = formed + [publish, 0, 1, publish, 1, 1, report, 0, 1, report, 1, 1]
    at_barrier = [wait, 0, 0, 1, 0, 4, wait, 1, 0, 1, 0, 4]
    sequences = {
        "formed": formed,
        "active": active,
        "failed": formed + [publish, 0, 1, publish, 1, 1, report, 0, 0],
        "slot_twice": formed + [publish, 0, 1, publish, 0, 2],
        "released": two + at_barrier,
        "mismatch": two + at_barrier[:-2] + [3, 4],
        "timed_out": two + at_barrier[:6] + [pass_time, 3],
        "renewed": two + [renew, 0, 0, 0, pass_time, 2, renew, 0, 0, 0],
        "expired": two + [pass_time, 3, register, 0, 1],
        "restarted": active + [restart, renew, 0, 0, 0, form, 0, 1, 4, 0],
        "broken_call": formed + [close, 0, pass_time, 1],
        "left": formed + [leave, 0],
        "new_layout": formed + [apply_one, 0, 1, 1, 0, pass_time, 1],
    }
    for name, steps in sequences.items():
        make.write("coordinator_fuzz", name, *steps)
    requests = {
        "session": (0, "membership", "SessionRequest", 'phase: "x"'),
        "form": (1, "communicator", "FormCommunicatorsRequest",
                 'backend: GLOO timeout { seconds: 9 } kinds: "tp"'),
        "publish": (2, "communicator", "PublishSlotsRequest",
                    'slots { %s value: "x" }' % ATTEMPT),
        "report": (3, "communicator", "ReportCommunicatorsRequest",
                   "reports { %s ok: true }" % ATTEMPT),
        "wait": (4, "barrier", "WaitAtBarrierRequest",
                 'name: "b" timeout { nanos: 9 }'),
    }
    for name, (number, file, message, text) in requests.items():
        make.write("coordinator_fuzz", "any_" + name, *two, 11, number, 1,
                   make.message(file, message,
                                "caller { %s } %s" % (CALLER, text)))
    for name, layout in (("job", JOB), ("experts", EXPERTS),
                         ("broken", BROKEN)):
        make.write("coordinator_fuzz", "apply_" + name, 0,
                   make.message("layout", "ApplyLayoutRequest",
                                "layout { %s } if_generation: 0" % layout))
    make.write("coordinator_fuzz", "watch", 15,
               make.message("layout", "WatchLayoutsRequest", ""), *two, 15,
               make.message("layout", "WatchLayoutsRequest",
                            'job: "job" revision: 1'))
    diagnostics = (
        ("missing", "ListMissingMembersRequest", 'report: "1-1" page_size: 1'),
        ("cliques", "ListCommunicatorsRequest", 'job: "job" page_size: 1'),
        ("explain", "ExplainCliqueRequest",
         'job: "job" clique: "language/tp/0" page_size: 1'),
        ("events", "ListEventsRequest", 'job: "job" page_size: 2'))
    for number, (name, message, text) in enumerate(diagnostics):
        make.write("coordinator_fuzz", "diagnose_" + name, *formed[:-5],
                   pass_time, 1, 16, number,
                   make.message("diagnostics", message, text))
    make.write("coordinator_fuzz", "list", *two, 9,
               make.message("membership", "ListMembersRequest",
                            'job: "job" page_size: 1 page_token: "0/2"'),
               make.message("layout", "ListLayoutsRequest", "page_size: 1"))
    make.write("coordinator_fuzz", "register_any", *two, 10,
               make.message("membership", "RegisterRequest",
                            'member { job: "job" rank: 2 kind: WORKER } '
                            'incarnation: 9 facts { host: "h" pid: 1 }'))


def main():
    make = Maker(pathlib.Path(sys.argv[1]).resolve())
    make_plans(make)
    make_copies(make)
    make_bridges(make)
    make_sequences(make)


if __name__ == "__main__":
    main()
