"""The report in a real browser: without a network, by keyboard, on a phone, on paper, in a sandboxed frame."""

import json

import pytest

from tests.unit.reports import evaluated, page_of, report_of

SHOWN = ".case.active .stage img.on"
TILE = ".case.active .tiles img"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    page_of(folder, report_of(evaluated(("anna", "berta"))))
    return folder / "report.html"


@pytest.fixture
def open_page(browser, path):
    """Open the report from disk, without a network; what it complains of fails the test."""
    contexts, complaints = [], []

    def call(url=None, **options):
        options = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options}
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(url or path.as_uri())
        return page

    yield call
    for context in contexts:
        context.close()
    assert complaints == []


def shown(page):
    """The names of the pictures on the stage."""
    return [
        alt.partition(" of anna")[0].partition(" of berta")[0]
        for alt in page.locator(SHOWN).evaluate_all("images => images.map(image => image.alt)")
    ]


def view(page):
    style = page.locator(".case.active").evaluate(
        "one => ['--z', '--x', '--y'].map(n => one.style.getPropertyValue(n))"
    )
    return [float(value) for value in style]


def test_the_pictures_are_seen_and_keys_blink_between_them(open_page):
    page = open_page()
    assert page.locator(SHOWN).evaluate("image => image.complete && image.naturalWidth > 0")
    assert shown(page) == ["SR"]
    stage = page.locator(".case.active .stage")
    stage.focus()
    before = stage.screenshot()
    page.keyboard.press("b")
    assert shown(page) == ["bicubic"]
    assert stage.screenshot() != before
    page.keyboard.press("b")
    assert shown(page) == ["SR"]
    page.keyboard.press("5")
    assert shown(page) == ["HR"]
    page.keyboard.press("b")
    assert shown(page) == ["SR"]


def test_it_blinks_by_itself_until_told_to_stop(open_page):
    page = open_page()
    page.locator(".case.active .stage").focus()
    page.keyboard.press("a")
    for name in ("bicubic", "SR"):
        page.locator(f"{SHOWN}[alt^={name}]").wait_for()
    page.keyboard.press("a")
    assert page.locator(".case.active button[aria-pressed=true]").count() == 0


def test_zoom_and_movement_are_those_of_all_pictures(open_page):
    page = open_page()
    assert view(page)[0] > 1  # where the errors differ most
    page.locator(".case.active .stage").focus()
    page.keyboard.press("0")
    assert view(page) == [1, 0.5, 0.5]
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    zoom, x, y = view(page)
    assert zoom > 1
    assert x > 0.5
    assert y == 0.5
    transforms = page.locator(f"{TILE}, .case.active .stage img").evaluate_all(
        "images => images.map(image => { const m = new DOMMatrix(getComputedStyle(image).transform);"
        " return [m.a, m.e / image.clientWidth, m.f / image.clientHeight].map(n => n.toFixed(3)).join() })"
    )
    assert len(transforms) > 10
    assert len(set(transforms)) == 1
    box = page.locator(".case.active .stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -300)
    page.wait_for_function(
        "z => Number(document.querySelector('.case.active').style.getPropertyValue('--z')) > z", arg=zoom
    )
    page.keyboard.press("t")
    assert view(page)[0] > 1


def test_keys_and_buttons_choose_cases_and_keep_the_focus(open_page):
    page = open_page()
    first = page.locator(".case.active").get_attribute("id")
    page.locator(".case.active .stage").focus()
    page.keyboard.press("n")
    assert page.locator(".case.active").count() == 1
    assert page.locator(".case.active").get_attribute("id") != first
    assert page.evaluate("document.activeElement.className") == "stage"
    page.keyboard.press("p")
    assert page.locator(".case.active").get_attribute("id") == first
    page.locator(".chooser button").last.click()
    assert page.locator(".case.active").get_attribute("id") != first


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_need_not_scroll_sideways(open_page, width):
    page = open_page(viewport={"width": width, "height": 800}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".case.active .stage").bounding_box()["width"] > 0.8 * width


def test_dark_where_the_reader_prefers_it(open_page):
    colours = [
        open_page(color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


def test_on_paper_all_cases_are_there_and_nothing_to_press(open_page):
    page = open_page()
    page.emulate_media(media="print")
    cases = page.locator(".case")
    assert all(cases.nth(number).is_visible() for number in range(cases.count()))
    assert not page.locator("button:visible").count()


def test_without_scripts_every_case_is_shown(open_page):
    page = open_page(java_script_enabled=False)
    cases = page.locator(".case")
    assert cases.count() > 3
    assert all(cases.nth(number).is_visible() for number in range(cases.count()))


def test_it_works_as_mlflow_shows_artifacts_in_a_sandboxed_frame(open_page, path, tmp_path):
    around = tmp_path / "around.html"
    text = json.dumps(path.read_text()).replace("</", "<\\/")
    around.write_text(
        "<!doctype html><iframe sandbox='allow-scripts' style='width: 1000px; height: 800px'></iframe><script>"
        f"const report = new Blob([{text}], {{ type: 'text/html' }});"
        "document.querySelector('iframe').src = URL.createObjectURL(report)</script>"
    )
    page = open_page(around.as_uri())
    frame = page.frame_locator("iframe")
    frame.locator(".case.active .stage").focus()
    page.keyboard.press("b")
    frame.locator(f"{SHOWN}[alt^=bicubic]").wait_for()
    frame.locator("nav a[href='#patients']").click()
    assert frame.locator("#patients").evaluate("part => part.getBoundingClientRect().top < innerHeight")
