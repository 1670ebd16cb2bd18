"""Pictures of an evaluation: inputs, outputs and errors."""

from collections.abc import Sequence
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from metasr.evaluation.methods import BICUBIC_NAME, MODEL_NAME
from metasr.evaluation.protocol import Comparison
from metasr.metrics import border_px, crop_border, psnr, ssim

ERROR_GAIN = 5.0
ENLARGED = 4
WINDOW_STEP_PX = 2
CAPTION_PX = 26
GAP_PX = 6


def comparison_panel(comparisons: Sequence[Comparison], tile_px: int = 320) -> Image.Image:
    """Draw a row for each comparison: LR | bicubic | SR | HR | error, with the scores in the captions.

    Below each is an enlarged part of it, where the errors of bicubic and SR differ most. The error is |SR - HR|,
    five times brighter. LR pixels are shown as squares.
    """
    rows = [_row(comparison, tile_px) for comparison in comparisons]
    panel = Image.new("L", (rows[0].width, sum(row.height + GAP_PX for row in rows) - GAP_PX))
    top = 0
    for row in rows:
        panel.paste(row, (0, top))
        top += row.height + GAP_PX
    return panel


def scales_panel(comparisons: Sequence[Comparison]) -> Image.Image:
    """Draw each method's outputs for one LR image at growing scales, one row per method, pixel for pixel.

    Captions give the scale, PSNR (dB) and SSIM against `hr` without its border.
    """
    font = ImageFont.load_default(size=15)
    tiles = [
        [(_zoom_caption(comparison, name, image), to_image(image)) for name, image in comparison.images.items()]
        for comparison in comparisons
    ]
    widths = [
        max(max(round(font.getlength(text)), image.width) for text, image in column) + GAP_PX for column in tiles
    ]
    height = max(image.height for column in tiles for _, image in column) + CAPTION_PX + GAP_PX
    panel = Image.new("L", (sum(widths), height * max(map(len, tiles))))
    left = 0
    for column, width in zip(tiles, widths, strict=True):
        for row, (caption, image) in enumerate(column):
            ImageDraw.Draw(panel).text((left + 4, row * height + 4), caption, fill=255, font=font)
            panel.paste(image, (left, row * height + CAPTION_PX))
        left += width
    return panel


def png_bytes(image: Image.Image) -> bytes:
    """Return the image as a PNG file."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _row(comparison: Comparison, tile_px: int) -> Image.Image:
    lr, bicubic, sr, hr = comparison.lr, comparison.images[BICUBIC_NAME], comparison.images[MODEL_NAME], comparison.hr
    border = border_px(comparison.scale)
    scores = [psnr(crop_border(image, border), crop_border(hr, border)).item() for image in (bicubic, sr)]
    tiles = [
        (f"LR  1/{comparison.scale}", functional.interpolate(lr, size=hr.shape[-2:], mode="nearest-exact")),
        (f"bicubic  {scores[0]:.2f} dB", bicubic),
        (f"SR  {scores[1]:.2f} dB", sr),
        ("HR", hr),
        (f"|SR - HR| x {ERROR_GAIN:g}", (sr - hr).abs() * ERROR_GAIN),
    ]
    height = round(tile_px * hr.shape[2] / hr.shape[3])
    rows, columns = telling_window(bicubic, sr, hr)
    place = f"rows {rows.start}-{rows.stop - 1}, columns {columns.start}-{columns.stop - 1}"
    band = height + CAPTION_PX
    row = Image.new("L", (len(tiles) * (tile_px + GAP_PX) - GAP_PX, 2 * band))
    draw, font = ImageDraw.Draw(row), ImageFont.load_default(size=15)
    for number, (caption, image) in enumerate(tiles):
        left = number * (tile_px + GAP_PX)
        for top, shown in ((0, image), (band, image[..., rows, columns])):
            tile = to_image(shown).resize((tile_px, height), Image.Resampling.NEAREST)
            row.paste(tile, (left, top + CAPTION_PX))
        draw.text((left + 4, 4), caption, fill=255, font=font)
    draw.text((4, band + 4), f"{place}, {ENLARGED} times enlarged", fill=255, font=font)
    return row


def telling_window(bicubic: Tensor, sr: Tensor, hr: Tensor) -> tuple[slice, slice]:
    """Return the rows and the columns of the part in which the squared errors of bicubic and SR differ most.

    Its sides are a quarter of those of the images `[1, 1, H, W]`.
    """
    height, width = (max(1, length // ENLARGED) for length in hr.shape[-2:])
    differing = ((bicubic - hr) ** 2 - (sr - hr) ** 2).abs().nan_to_num()
    along_columns = functional.avg_pool2d(differing, (height, 1), stride=(WINDOW_STEP_PX, 1))
    means = functional.avg_pool2d(along_columns, (1, width), stride=(1, WINDOW_STEP_PX))[0, 0]
    top, left = (int(place) * WINDOW_STEP_PX for place in divmod(int(means.argmax()), means.shape[1]))
    return slice(top, top + height), slice(left, left + width)


def _zoom_caption(comparison: Comparison, method: str, image: Tensor) -> str:
    border = border_px(comparison.scale)
    pair = crop_border(image, border), crop_border(comparison.hr, border)
    return f"{method} x{comparison.scale}  {psnr(*pair).item():.2f} / {ssim(*pair).item():.2f}"


def to_image(image: Tensor) -> Image.Image:
    """Convert `[1, 1, H, W]` in [0, 1] to 8 bits; values outside are clipped, never wrapped."""
    return Image.fromarray((image[0, 0].clamp(0, 1) * 255).round().byte().cpu().numpy())
