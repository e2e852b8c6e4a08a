"""Draws what came back: the photographs, and which rank held which part."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from micro_batch import IMAGE_ID, PATCH, from_patches

PAPER, INK, FAINT = (250, 250, 247), (34, 34, 34), (120, 120, 120)
COLOURS = ((230, 85, 60), (45, 125, 210), (250, 180, 40), (60, 165, 110))
PADDING_COLOUR = (215, 215, 210)
MARGIN, GAP, LINE = 28, 14, 20
STRIP = 26  # Height of one sequence, in pixels.
_FONTS = "/usr/share/fonts/truetype/dejavu/DejaVuSans%s.ttf"


def _font(size, bold=False):
    try:
        return ImageFont.truetype(_FONTS % ("-Bold" if bold else ""), size)
    except OSError:
        return ImageFont.load_default()


def tint(pixels, owners, colours):
    """The photograph with each patch in the colour of the rank that held it."""
    colour = np.array([colours[rank] for rank in owners.ravel().tolist()])
    colour = colour.reshape(*owners.shape, 3).repeat(PATCH, 0).repeat(PATCH, 1)
    grey = pixels.mean(axis=2, keepdims=True)
    return (0.5 * grey + 0.5 * colour).astype(np.uint8)


def _strip(ids, owners, colours, width):
    """One sequence, first token left: full colour image, light colour text."""
    position = np.arange(width) * len(ids) // width
    rgb = np.array([colours[rank] for rank in owners[position].tolist()])
    text = (ids != IMAGE_ID)[position][:, None]
    rgb = np.where(text, 0.55 * rgb + 0.45 * 255, rgb)
    padding = (ids == 0)[position][:, None]
    rgb = np.where(padding, PADDING_COLOUR, rgb)
    return np.broadcast_to(rgb.astype(np.uint8), (STRIP, width, 3))


def _draw_legend(draw, y, colours, names, width):
    x, column = MARGIN, (width - 2 * MARGIN) // len(colours)
    for rank, colour in colours.items():
        draw.rectangle((x, y, x + 18, y + 18), fill=colour)
        draw.text((x + 26, y + 1), names[rank], INK, font=_font(14))
        x += column
    return y + 18 + GAP


def _paste_photographs(image, draw, x, y, micro_batch, held, colours):
    for photograph in micro_batch.photographs:
        first = photograph.first_row
        last = first + photograph.row_count
        pixels = from_patches(held.rows[first:last], photograph.grid)
        owners = held.owners[first:last].reshape(photograph.grid)
        height, width = pixels.shape[:2]
        image.paste(Image.fromarray(pixels), (x, y))
        tinted = tint(pixels, owners, colours)
        image.paste(Image.fromarray(tinted), (x + width + 4, y))
        y += height + GAP
    return y


def _draw_strips(image, draw, y, micro_batch, held, colours, width):
    draw.text((MARGIN, y), "%s: the sequences, first token left" %
              micro_batch.name, INK, font=_font(15, bold=True))
    y += LINE + 4
    for ids, owners in zip(micro_batch.input_ids, held.token_owners):
        strip = _strip(ids, owners, colours, width - 2 * MARGIN)
        image.paste(Image.fromarray(strip), (MARGIN, y))
        padded = micro_batch.batch.get("cu_seqlens_padded", [[]])[0]
        for start in padded[1:-1]:
            x = MARGIN + start * (width - 2 * MARGIN) // len(ids)
            draw.line((x, y - 3, x, y + STRIP + 2), fill=INK, width=2)
        y += STRIP + 5
    return y + GAP


def _column_width(micro_batch):
    return max(2 * p.pixels.shape[1] + 4 for p in micro_batch.photographs)


def draw(micro_batches, held, names):
    """The whole picture, as a PIL image.

    `held[i]` is what came back of micro_batches[i]: `rows` and `owners` of the
    images, and `token_owners` [B, S]. `names` is the legend's text by rank.
    """
    colours = dict(zip(sorted(names), COLOURS))
    columns = [_column_width(m) for m in micro_batches]
    width = 2 * MARGIN + sum(columns) + 2 * MARGIN * (len(columns) - 1)
    photographs = max(
        sum(p.pixels.shape[0] + GAP for p in m.photographs)
        for m in micro_batches)
    strips = sum((STRIP + 5) * len(m.input_ids) + LINE + 4 + GAP
                 for m in micro_batches)
    height = 3 * MARGIN + 3 * LINE + 60 + photographs + strips
    image = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(image)

    pen.text((MARGIN, MARGIN), "Put together again from the shards of the "
             "language ranks", INK, font=_font(20, bold=True))
    y = _draw_legend(pen, MARGIN + 40, colours, names, width)
    pen.text((MARGIN, y), "full colour: image tokens    light: text    "
             "grey: padding    black line: next document", FAINT,
             font=_font(13))
    top = y + LINE + GAP
    x = MARGIN
    for micro_batch, part, column in zip(micro_batches, held, columns):
        pen.text((x, top), micro_batch.name + ": put together, and by owner",
                 INK, font=_font(15, bold=True))
        y = _paste_photographs(image, pen, x, top + LINE + 6, micro_batch, part,
                               colours)
        x += column + 2 * MARGIN
    for micro_batch, part in zip(micro_batches, held):
        y = _draw_strips(image, pen, y, micro_batch, part, colours, width)
    return image.crop((0, 0, width, y + MARGIN - GAP))
