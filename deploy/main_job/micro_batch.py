"""The two micro-batches of the main job, made from deploy/data.

Both hold the same photographs and text, once as several samples padded to one
length (dense) and once as one pack of documents (THD). An image row is a patch
of 14 x 14 pixels, RGB, as its 588 bytes; a text token is a byte, and its row
comes from a fixed table, so every row of every rank can be checked.
"""

import dataclasses
import functools
import pathlib

import numpy as np
from PIL import Image

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
PHOTOGRAPHS = ("astronaut", "cat", "rocket", "coffee", "retina")
PATCH = 14  # Pixels.
ROW_BYTES = PATCH * PATCH * 3
PAD_ID = 0  # No byte of the text.
IMAGE_ID = 256  # Above every byte.
IGNORE_LABEL = -100

# As in layouts/main_job.yaml: what lengths must be padded to, and how many
# lanes the encoder has.
TP, CP = 2, 2
ENCODER_LANES = 2


@dataclasses.dataclass(frozen=True)
class Photograph:
    """Its size, and where its patches stand among the image rows."""

    name: str
    grid: tuple  # Patches as (down, across).
    first_row: int

    @functools.cached_property
    def pixels(self):
        """uint8 [height, width, 3]; read only by who asks."""
        with Image.open(_path_of(self.name)) as image:
            return np.asarray(image.convert("RGB"))

    @property
    def row_count(self):
        return self.grid[0] * self.grid[1]


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """One global micro-batch: what the planner is told, and the data itself.

    Photographs are read when asked for: an encoder's trainer reads those of its
    lane, a language rank's none.
    """

    name: str
    batch: dict  # In the form of batch.json.
    photographs: tuple  # In the order of their rows.
    lane_rows: tuple  # Image rows of each lane of the encoder.
    labels: np.ndarray  # int64 [B, S]; the next token, or IGNORE_LABEL.
    loss_mask: np.ndarray  # float32 [B, S]
    cu_seqlens: tuple  # Without padding; () if dense.

    @property
    def input_ids(self):
        """int64 [B, S]"""
        return np.array([s["input_ids"] for s in self.batch["samples"]])

    @functools.cached_property
    def text(self):
        """The rows of the text, uint8 [rows, ROW_BYTES]."""
        ids = self.input_ids
        return embed(ids[ids != IMAGE_ID])

    def images(self, lane):
        """The rows of the photographs of one encoder lane."""
        first = sum(self.lane_rows[:lane])
        return np.concatenate([
            to_patches(p.pixels) for p in self.photographs
            if first <= p.first_row < first + self.lane_rows[lane]])

    @functools.cached_property
    def sources(self):
        """All rows: name to uint8 [rows, ROW_BYTES]."""
        lanes = [self.images(lane) for lane in range(ENCODER_LANES)]
        return {"text": self.text, "images": np.concatenate(lanes)}


def _path_of(photograph):
    return DATA / "photographs" / (photograph + ".png")


def to_patches(pixels):
    """uint8 [height, width, 3] to image rows, uint8 [patches, ROW_BYTES]."""
    down, across = pixels.shape[0] // PATCH, pixels.shape[1] // PATCH
    tiles = pixels.reshape(down, PATCH, across, PATCH, 3).swapaxes(1, 2)
    return tiles.reshape(down * across, ROW_BYTES)


def from_patches(rows, grid):
    """The inverse of to_patches()."""
    down, across = grid
    tiles = rows.reshape(down, across, PATCH, PATCH, 3).swapaxes(1, 2)
    return tiles.reshape(down * PATCH, across * PATCH, 3)


def embed(ids):
    """The rows of text tokens."""
    table = np.random.Generator(np.random.PCG64(1844)).integers(
        0, 256, (256, ROW_BYTES), dtype=np.uint8)
    return table[ids]


def _documents():
    """Text and photographs as five documents of different lengths."""
    text = (DATA / "the_pencil_of_nature.txt").read_text("utf-8")
    first, second, third, fourth = text.strip().split("\n\n")
    return [
        [first, "astronaut"],
        ["cat", second, "rocket"],
        [third, "coffee"],
        ["retina"],
        [fourth],
    ]


def _round_up(length, multiple):
    return -(-length // multiple) * multiple


def _targets(ids):
    """Labels and loss mask of one document: predict text, not pixels."""
    labels = np.append(ids[1:], IGNORE_LABEL)
    labels[(labels == IMAGE_ID) | (labels == PAD_ID)] = IGNORE_LABEL
    return labels, (labels != IGNORE_LABEL).astype(np.float32)


class _Tokenizer:
    """Turns documents into token ids, and counts image rows on the way."""

    def __init__(self):
        self.photographs = []
        self.row_count = 0

    def ids(self, document):
        parts = []
        for item in document:
            if item in PHOTOGRAPHS:
                parts.append(np.full(self._add(item), IMAGE_ID, np.int64))
            else:
                octets = np.frombuffer(item.encode("utf-8"), np.uint8)
                parts.append(octets.astype(np.int64))
        return np.concatenate(parts)

    def _add(self, name):
        with Image.open(_path_of(name)) as image:
            across, down = image.width // PATCH, image.height // PATCH
        self.photographs.append(
            Photograph(name, (down, across), self.row_count))
        self.row_count += down * across
        return down * across


def _make(name, tokenizer, ids, labels, loss_mask, lane_rows, extra,
          cu_seqlens=()):
    batch = {
        "micro_batch_size": len(ids),
        "seq_length": ids.shape[1],
        "special_token_ids": {"images": IMAGE_ID},
        "samples": [{"input_ids": row.tolist()} for row in ids],
        "counts": {"images": tokenizer.row_count},
    }
    batch.update(extra)
    return MicroBatch(
        name=name,
        batch=batch,
        photographs=tuple(tokenizer.photographs),
        lane_rows=tuple(lane_rows),
        labels=labels,
        loss_mask=loss_mask,
        cu_seqlens=tuple(cu_seqlens),
    )


def dense():
    """The documents as four samples of one length."""
    documents = _documents()
    documents = documents[:3] + [documents[3] + documents[4]]
    tokenizer = _Tokenizer()
    samples = [tokenizer.ids(document) for document in documents]
    length = _round_up(max(len(s) for s in samples), 2 * CP * TP)
    ids = np.full((len(samples), length), PAD_ID, np.int64)
    labels = np.full(ids.shape, IGNORE_LABEL, np.int64)
    loss_mask = np.zeros(ids.shape, np.float32)
    for b, sample in enumerate(samples):
        ids[b, :len(sample)] = sample
        labels[b, :len(sample)], loss_mask[b, :len(sample)] = _targets(sample)
    # Each lane of the encoder has its share of the samples.
    shares = np.split(ids, ENCODER_LANES)
    lane_rows = [int((share == IMAGE_ID).sum()) for share in shares]
    return _make("dense", tokenizer, ids, labels, loss_mask, lane_rows, {})


def packed():
    """The documents end to end in one pack, each padded to 2 * cp."""
    tokenizer = _Tokenizer()
    ids, labels, loss_mask, starts, padded = [], [], [], [0], [0]
    for document in _documents():
        tokens = tokenizer.ids(document)
        targets, mask = _targets(tokens)
        padding = _round_up(len(tokens), 2 * CP) - len(tokens)
        ids.append(np.pad(tokens, (0, padding), constant_values=PAD_ID))
        labels.append(
            np.pad(targets, (0, padding), constant_values=IGNORE_LABEL))
        loss_mask.append(np.pad(mask, (0, padding)))
        starts.append(starts[-1] + len(tokens))
        padded.append(padded[-1] + len(ids[-1]))
    # The encoder has two lanes and there is one sample: they share it.
    first = sum(p.row_count for p in tokenizer.photographs[:3])
    rest = sum(p.row_count for p in tokenizer.photographs[3:])
    extra = {
        "cu_seqlens_padded": [padded],
        "encoder_rows": {"images": [first, rest]},
    }
    return _make("packed", tokenizer, np.concatenate(ids)[None],
                 np.concatenate(labels)[None], np.concatenate(loss_mask)[None],
                 [first, rest], extra, starts)


def all_micro_batches():
    return [dense(), packed()]
