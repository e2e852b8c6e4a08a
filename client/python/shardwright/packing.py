"""Packs documents of different lengths end to end (THD), each padded so that
context parallelism can cut it.

The rules are those of TransformerEngine's pad_thd_sequences_for_cp and
generate_positional_ids_for_cp.
"""

from typing import NamedTuple

import numpy as np

IGNORE_LABEL = -100


class Packed(NamedTuple):
    """One pack. Arrays have the same length, the last of cu_seqlens_padded."""

    input_ids: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray  # Restart with each document, go on in padding.
    cu_seqlens_padded: np.ndarray


def pad_documents(input_ids, labels, cu_seqlens, factor, pad_id=0,
                  pad_label=IGNORE_LABEL):
    """Pads each document of a pack to a multiple of `factor` tokens.

    Args:
        input_ids: the pack's tokens, one dimension, without padding.
        labels: as many.
        cu_seqlens: starts of the documents, then the total. Documents may be
            empty and then stay so.
        factor: 2 * cp, or more where tokens per rank must divide too.
        pad_id: token that is added.
        pad_label: label that is added.

    Raises:
        ValueError: sizes that do not fit one another.
    """
    input_ids, labels = np.asarray(input_ids), np.asarray(labels)
    cu_seqlens = np.asarray(cu_seqlens)
    if factor < 1:
        raise ValueError(f"factor={factor} must be positive")
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 2 or cu_seqlens[0] != 0:
        raise ValueError("cu_seqlens must begin at 0 and have two entries")
    lengths = np.diff(cu_seqlens)
    if (lengths < 0).any():
        raise ValueError(f"cu_seqlens falls after entry {lengths.argmin()}")
    total = cu_seqlens[-1]
    if input_ids.shape != (total,) or labels.shape != (total,):
        raise ValueError(
            f"cu_seqlens ends at {total}, but input_ids has shape "
            f"{input_ids.shape} and labels {labels.shape}")
    padded = -(-lengths // factor) * factor
    starts = np.concatenate([[0], np.cumsum(padded)])
    # Where each token goes: on by the padding of the documents before it.
    where = np.arange(total) + np.repeat(starts[:-1] - cu_seqlens[:-1], lengths)
    packed_ids = np.full(starts[-1], pad_id, input_ids.dtype)
    packed_labels = np.full(starts[-1], pad_label, labels.dtype)
    packed_ids[where] = input_ids
    packed_labels[where] = labels
    position_ids = np.arange(starts[-1]) - np.repeat(starts[:-1], padded)
    return Packed(packed_ids, packed_labels, position_ids, starts)
