"""Megatron-Core's MIMO sharding, taken from its wheel."""

import inspect
import pathlib
import sys
import types
import zipfile

import torch
from torch.testing._internal.distributed import fake_pg

_RANKS = 8  # Of the largest group.


def _find_wheel(folder):
  found = sorted(pathlib.Path(folder).glob("megatron_core-*.whl"))
  if len(found) != 1:
    sys.exit(f"megatron: {folder} has to have one megatron_core-*.whl, and has "
             f"{[path.name for path in found] or 'none'}; make it with: pip "
             "download --no-deps megatron-core==0.19.2")
  return found[0]


def _group(size):
  """A process group, this process its rank 0. Sharding asks it no more than
  that, so PyTorch's backend that reaches nobody will do."""
  if not torch.distributed.is_initialized():
    torch.distributed.init_process_group(
        "fake", store=fake_pg.FakeStore(), rank=0, world_size=_RANKS)
  return torch.distributed.new_group(list(range(size)))


class Megatron:
  """The wheel in `folder`, unpacked to `place`. Ends the program if it is
  not one whose shard() is sequence-first."""

  def __init__(self, folder, place):
    wheel = _find_wheel(folder)
    with zipfile.ZipFile(wheel) as file:
      file.extractall(place)
    sys.path.insert(0, str(place))
    # pylint: disable=import-outside-toplevel
    from megatron.core import package_info
    from megatron.core.models.mimo.model.base import MimoModel
    from megatron.core.models.mimo.partition import utils
    from megatron.core.packed_seq_params import PackedSeqParams
    self.version = package_info.__version__
    self._partition = utils
    self._packed = PackedSeqParams
    self._model = MimoModel
    self._refuse_batch_first()

  def _refuse_batch_first(self):
    shard = self._partition.PartitionAdapter.shard
    takes = list(inspect.signature(shard).parameters)[1:]
    wanted = ["embeddings", "labels", "loss_mask", "packed_seq_params"]
    shape = None
    if takes == wanted:
      result = self.adapter(2, 1).shard(torch.zeros(8, 2, 3), None, None, None)
      shape = tuple(result[0].shape)
    if shape != (4, 2, 3):
      made = f" and makes {shape} of [8, 2, 3]" if shape else ""
      sys.exit(f"megatron: PartitionAdapter.shard of megatron-core "
               f"{self.version} takes {', '.join(takes)}{made}: it is still "
               "batch-first; that of 0.19.2 is not")

  def adapter(self, cp, tp):
    """Of cp rank 0 and tp rank 0."""
    return self.adapter_of(_group(tp) if tp > 1 else None,
                           _group(cp) if cp > 1 else None)

  def adapter_of(self, tp_group, cp_group):
    """Of this process in its groups; None: there is one rank."""
    return self._partition.PartitionAdapter(self._partition.PartitionConfig(
        seq_parallel=tp_group is not None, use_cp=cp_group is not None,
        tp_comm_overlap=False, max_seq_len=0, cp_group=cp_group,
        tp_group=tp_group))

  def packed(self, starts, index):
    """Packed parameters. `index` is what Transformer Engine's function would
    compute each time, and costs nothing here."""
    self._partition.tex = types.SimpleNamespace(
        thd_get_partitioned_indices=lambda *arguments: index)
    # pylint: disable=protected-access
    self._partition._HAVE_TEX = True
    self._partition.is_te_min_version = lambda version: True
    return self._packed(qkv_format="thd", cu_seqlens_q_padded=starts)

  def align(self, sources, input_ids, special_token_ids):
    # A method that uses nothing of its object.
    return self._model.align_embeddings_by_token_positions(
        None, sources, input_ids, special_token_ids)
