"""Table 1 and the images of Fig. 8 of the paper."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from statistics import fmean, pstdev

from metasr.data.degrade import Degradation, resize_bicubic
from metasr.data.slices import exact_sizes
from metasr.errors import ScaleError
from metasr.evaluation.methods import Method
from metasr.evaluation.protocol import Comparison, HeldOutSlice, Score, enlarge_with, require_size
from metasr.evaluation.tables import grid, shortened
from metasr.scale import Scale

TABLE_SCALE = Scale(2.0, 2.0)
ZOOM_SCALES = tuple(Scale(r, r) for r in (1.1, 1.5, 2.2, 3.0, 3.5, 4.0))
ZOOM_DOWN = 4


def paper_table(scores: Sequence[Score], parameters: Mapping[str, int | None], scale: Scale = TABLE_SCALE) -> str:
    """Return Table 1: mean and standard deviation over the slices' crops of PSNR and SSIM, and the parameters.

    Args:
        scores: Scores; those on the 128 x 128 crop are used.
        parameters: Number of parameters of each method, in the order of the columns; None for interpolation.
        scale: The scale of the table; 2 in the paper.

    Raises:
        ScaleError: The scale was not evaluated.
    """
    crops = [score for score in scores if score.region == "crop128" and score.scale == scale]
    if not crops:
        raise ScaleError("Table 1", f"scale {scale} was not evaluated", f"Add {scale} to --eval.scales")
    values = {
        name: [[getattr(score, measure) for score in crops if score.method == name] for measure in ("psnr", "ssim")]
        for name in parameters
    }
    values = {name: columns for name, columns in values.items() if columns[0]}
    rows = [
        ["", *(cell for name in values for cell in (shortened(name), ""))],
        ["", *("PSNR (dB)", "SSIM") * len(values)],
        ["mean", *(cell for psnr, ssim in values.values() for cell in (f"{fmean(psnr):.2f}", f"{fmean(ssim):.4f}"))],
        ["std", *(cell for psnr, ssim in values.values() for cell in (f"{pstdev(psnr):.3f}", f"{pstdev(ssim):.4f}"))],
        ["#parameters", *(cell for name in values for cell in (_millions(parameters[name]), ""))],
    ]
    title = f"x{scale} upsampling task, 128 x 128 crops of {len(next(iter(values.values()))[0])} slices"
    return f"{title}\n{grid(rows)}"


def zoom(methods: Sequence[Method], held_out: HeldOutSlice, degrade: Degradation) -> list[Comparison]:
    """Return the images of Fig. 8: one LR image, a quarter of the slice's size, enlarged to six growing sizes.

    Each is compared with the slice resized to the same size by antialiased bicubic interpolation; at scale 4 that is
    the slice itself. Methods that support one scale only are shown at that scale.

    Raises:
        ScaleError: The slice is too small.
    """
    (height, lr_height), (width, lr_width) = (
        exact_sizes(length, Fraction(ZOOM_DOWN)) for length in held_out.image.shape[-2:]
    )
    hr = held_out.image[..., :height, :width]
    lr = degrade(hr, (lr_height, lr_width), [held_out.seed])
    comparisons = []
    for scale in ZOOM_SCALES:
        able = [method for method in methods if method.only_scale in (None, scale)]
        size = round(lr_height * scale.rows), round(lr_width * scale.columns)
        require_size(held_out, scale, size)
        target = resize_bicubic(hr, size)
        comparisons.append(enlarge_with(able, held_out, scale, lr, target))
    return comparisons


def _millions(parameters: int | None) -> str:
    return "-" if parameters is None else f"{parameters / 1e6:.3f}M"
