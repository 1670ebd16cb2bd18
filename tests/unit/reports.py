"""A report of a small evaluation with everything in it, and the page that it becomes, taken apart."""

from html.parser import HTMLParser

import torch

from metasr.evaluation import LANCZOS, HeldOutSlice, Method, evaluate
from metasr.evaluation.downstream import Outcome
from metasr.evaluation.report import Circumstances
from metasr.models import Generator
from metasr.report import Champion, Report, Rule, cases_of, write_report
from metasr.scale import Scale

EVIL = "<script>alert('$x')</script>"
SCALES = (Scale(2, 2), Scale(3, 3))
ABOUT = Circumstances(
    model="challenger",
    bundle_sha256="b" * 64,
    trained_scales=(1.1, 4.0),
    data="file:///data",
    data_sha256="d" * 64,
    degradation="bicubic",
    noise=0.0,
    min_brain=0.05,
    num_slices=4,
    perceptual_network="",
    device="a machine",
    date="2020-01-01T00:00:00+00:00",
)
CURVES = {
    "gain_psnr_db": [(100, -0.5), (200, 0.25)],
    "validation/psnr_model_x2": [(100, 29.5), (200, 30.5)],
    "validation/psnr_bicubic_x2": [(100, 30.0), (200, 30.0)],
    "loss/pixel": [(100, 0.5), (200, 0.25)],
    "loss/total": [(100, 0.5), (200, 0.25)],
    "loss/adversarial": [(100, 0.0), (200, 0.0)],
}
CARD = f"""# meta-srgan version 1

## What it is

- {EVIL}
- index {"d" * 64}

| a | b |
|---|---|
| 1 | 2 |

![x](http://a.b/c)
"""


def brain(shape, waves):
    """A made-up slice: an ellipse with texture on a black background."""
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = (rows**2 + columns**2 < 0.7).float()
    return (inside * (0.5 + 0.3 * torch.sin(waves * rows) * torch.cos(31 * columns)))[None, None]


def evaluated(subjects=("anna", EVIL), shape=(96, 84)):
    """An evaluation of an untrained network beside another, the champion, with the images of all its slices."""
    torch.manual_seed(0)
    held = [
        HeldOutSlice(name, number, brain(shape, 40 + 9 * patient + number))
        for patient, name in enumerate(subjects)
        for number in (4, 7)
    ]
    champion = Method("champion", Generator(num_features=4, num_blocks=1))
    model = Generator(num_features=4, num_blocks=1)
    return evaluate(model, held, SCALES, rivals=[LANCZOS, champion])


def report_of(result, **changes):
    images = {(one.slice.subject, one.slice.number, one.scale): one for one in result.comparisons}
    cases = cases_of(result.scores)
    outcomes = [
        Outcome("tissue", score.subject, score.scale, score.method, "dark", "dice", 0.5 + score.ssim / 4)
        for score in result.scores
        if score.region == "whole" and score.method in ("bicubic", "model")
    ]
    given = {
        "title": "meta-srgan version 1",
        "about": ABOUT,
        "scores": result.scores,
        "outcomes": outcomes,
        "pictures": [(case, images[case.subject, case.slice, case.scale]) for case in cases],
        "champion": Champion("champion", "Compared with version 3, the champion."),
        "rules": [Rule("PSNR nowhere below bicubic", False, f"least at scale 2, {EVIL}")],
        "curves": CURVES,
        "card": CARD,
        "commands": [("Use it:", f"metasr upscale --model '{EVIL}'")],
        "settings": "train:\n  steps: 1\n",
        "tables": f"scores of {EVIL}",
    }
    return Report(**{**given, **changes})


def page_of(folder, report):
    """The text of the page of a report."""
    path = folder / "report.html"
    write_report(path, report)
    return path.read_text()


class Page(HTMLParser):
    """The tags of a page, the text outside of style and script, and its cells of tables."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.cells, self.scripts, self._open = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "style", "td", "th"):
            self._open.append(tag)
            if tag in ("td", "th"):
                self.cells.append("")

    def handle_endtag(self, tag):
        if self._open and tag == self._open[-1]:
            self._open.pop()

    def handle_data(self, text):
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            self.scripts.append(text)
        elif inside != "style":
            self.words.append(text)
        if inside in ("td", "th"):
            self.cells[-1] += text

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]
