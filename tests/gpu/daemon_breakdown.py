"""Where the time of a daemon's copy goes: its parts, each alone."""

import statistics
import time

import numpy
import torch

from shardwright import _library

RUNS, WARMUPS = 300, 20


def median_us(call):
  times = []
  for _ in range(WARMUPS + RUNS):
    begin = time.perf_counter()
    call()
    times.append((time.perf_counter() - begin) * 1e6)
  return statistics.median(times[WARMUPS:])


def work(stream):
  """About 20 us of the GPU's time."""
  with torch.cuda.stream(stream):
    torch.cuda._sleep(40_000)


class Breakdown:
  """Reports medians to `figure`, under names of a common beginning."""

  def __init__(self, figure):
    self._figure = figure

  def _part(self, name, call):
    self._figure(f"daemon breakdown: {name}, median of {RUNS}",
                 median_us(call), "us")

  def measure_cuda(self):
    stream = torch.cuda.Stream()
    event = torch.cuda.Event(interprocess=True)

    def record_and_wait():
      event.record(stream)
      event.synchronize()

    def work_and_wait():
      work(stream)
      stream.synchronize()

    self._part("recording a shared event", lambda: event.record(stream))
    self._part("asking for a shared event", event.query)
    self._part("recording and awaiting a shared event", record_and_wait)
    self._part("asking for an idle stream", stream.query)
    self._part("waiting for an idle stream", stream.synchronize)
    self._part("work, and waiting for it", work_and_wait)

  def measure_describe(self, client):
    self._part("DescribeWorker", client.describe)

  def measure_session(self, session, arena, plan):
    """`plan` shards 64 rows."""
    by = f"order by {session.order}"
    stream = torch.cuda.Stream()
    handle = stream.cuda_stream
    source = arena.empty((64, 1, 8), numpy.int16)
    out = arena.empty(plan.embedding_shape((8,)), numpy.int16)
    torch.cuda.synchronize()

    def run():
      session.run(plan, source, out, stream=handle)

    def run_behind_work():
      work(stream)
      run()

    self._part(f"RunCopies of no operation, {by}",
               lambda: _library.library().sw_session_run_regions(
                   session._handle.value, None, 0, handle, None))
    self._part(f"RunCopies of few rows on an idle stream, {by}", run)
    self._part(f"the same behind work, {by}", run_behind_work)
