"""The page of a sweep: what it says, that it escapes, and that it stands alone."""

import re
from html.parser import HTMLParser

import pytest

from cluster.sweep.page import write_page
from cluster.sweep.record import Point, SweepRecord, Trial

SPACE = {"optim.generator_lr": "loguniform 1e-05 to 0.001", "model.num_features": "choice of 32, 64"}
EVIL = "<script>alert('$x')</script>"


class Page(HTMLParser):
    """Gathers the tags, the text and the rows of the table of trials."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.ids = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_data(self, text):
        self.words.append(text)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def trials(self):
        return [int(name.removeprefix("trial-")) for name in self.ids if re.fullmatch(r"trial-\d+", name)]

    @property
    def charts(self):
        return [attributes["aria-label"] for tag, attributes in self.tags if tag == "svg"]


def trial(number, objective=0.03, status="finished", reason="", **metrics):
    points = () if objective is None else (Point(step=1000, objective=objective, metrics=metrics),)
    settings = {"optim.generator_lr": 1e-4 * (1 + number % 7), "model.num_features": (32, 64)[number % 2]}
    return Trial(number=number, settings=settings, run_name="r", status=status, reason=reason, history=points)


def record_of(*trials, **changes):
    given = {"name": "s", "recipe": "gan", "objective": "mean gain", "scales": ("2",), "space": SPACE}
    return SweepRecord(**(given | {"trials": trials} | changes))


def page_of(tmp_path, *trials, pictures=None, **changes):
    return Page(write_page(tmp_path, record_of(*trials, **changes), pictures or {}).read_text())


def test_the_best_comes_first_and_the_failed_last_with_its_reason(tmp_path):
    page = page_of(
        tmp_path, trial(0, 0.01), trial(1, 0.9, "failed", "out of memory"), trial(2, 0.02, "stopped early")
    )
    assert page.trials == [2, 0, 1]
    assert "Trial 2 is the best: objective 0.0200" in page.text
    assert "out of memory" in page.text
    assert "mean gain" in page.text


def test_a_best_trial_below_bicubic_is_not_praised_alone(tmp_path):
    warning = "No trial is as good as bicubic interpolation at all scales: the objective of the best, trial 1, is"
    assert warning in page_of(tmp_path, trial(0, -0.02), trial(1, -0.01)).text
    assert "No trial is as good" not in page_of(tmp_path, trial(0, -0.02), trial(1, 0.01)).text


def test_a_best_trial_that_got_worse_towards_its_end_is_told(tmp_path):
    steady = trial(0)
    later = Point(step=4000, objective=0.01, metrics={"selection_score": 0})
    fell = steady.model_copy(update={"history": (*steady.history, later)})
    told = "Trial 0 got worse after step 1000: at step 4000, its last validation, the objective was +0.0100"
    assert told in page_of(tmp_path, fell).text
    assert "got worse" not in page_of(tmp_path, steady).text


def test_every_chart_has_a_name_and_the_axis_of_a_loguniform_setting_is_logarithmic(tmp_path):
    gains = {"val_psnr_gain": 1.0, "val_perceptual_gain": 0.1}
    page = page_of(tmp_path, trial(0, **gains), trial(1, 0.02, **gains))
    assert len(page.charts) == 5
    assert all(page.charts)
    assert "optim.generator_lr (log axis)" in page.text


def test_a_trial_beaten_in_both_gains_is_not_on_the_front(tmp_path):
    gains = [(1.0, 0.1), (0.5, 0.2), (0.4, 0.05)]
    trials = [trial(n, val_psnr_gain=psnr, val_perceptual_gain=near) for n, (psnr, near) in enumerate(gains)]
    page = page_of(tmp_path, *trials)
    assert any(label.endswith("on the front: trial 0, trial 1") for label in page.charts)


def test_text_from_elsewhere_is_text(tmp_path):
    record = record_of(trial(0), trial(1, None, "failed", EVIL), name=EVIL, recipe=EVIL, objective=EVIL)
    strange = record.trials[0].model_copy(update={"settings": {EVIL: EVIL}, "run_name": EVIL})
    record = record.model_copy(update={"space": {EVIL: EVIL}, "trials": (strange, record.trials[1])})
    page = Page(write_page(tmp_path, record, {EVIL: b"png"}).read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(EVIL) > 5


def test_nothing_is_loaded_from_elsewhere_and_no_identifier_comes_twice(tmp_path):
    page = page_of(tmp_path, trial(0), trial(1), pictures={"validation": b"png"})
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert len(page.ids) == len(set(page.ids))
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")


def test_the_same_sweep_gives_the_same_bytes(tmp_path):
    record = record_of(*(trial(number, number / 100) for number in range(9)))
    first = write_page(tmp_path / "a", record, {}).read_bytes()
    assert write_page(tmp_path / "b", record, {}).read_bytes() == first


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [trial(0)],
        [trial(0, None, "running")],
        [trial(n, None, "failed", "no") for n in range(3)],
        [trial(n, -9.0 if n == 3 else n / 1000) for n in range(100)],
    ],
    ids=["none", "one", "running", "all failed", "hundred"],
)
def test_any_sweep_has_a_page(tmp_path, trials):
    page = page_of(tmp_path, *trials)
    assert sorted(page.trials) == list(range(len(trials)))
    assert "No trial measured a perceptual distance" in page.text
    assert "Research use only" in page.text
