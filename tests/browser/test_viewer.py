"""`metasr view` in a real browser: what a person sees and does."""

import io
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import SHAPE, picture, settled

MIDDLE = "voxel=22,26,10"


def grid(page):
    return page.get_attribute("#stage", "data-grid")


def text(page, identifier):
    return page.inner_text(f"#{identifier}")


def test_the_page_shows_the_volume_and_what_it_is(show):
    page = show()
    assert text(page, "file").startswith("ball.nii.gz")
    assert "44 \u00d7 52 \u00d7 20" in text(page, "file")
    assert "parameters" in text(page, "model")
    assert picture(page).max() > 200
    assert re.search(r"\d ms", text(page, "latency"))


def test_the_zoom_changes_the_picture(show):
    page = show(f"#{MIDDLE}&zoom=3&mode=sr")
    before, grid_before = picture(page), grid(page)
    page.keyboard.press("+")
    settled(page)
    assert text(page, "big-zoom") == "\u00d73.30"
    assert grid(page) != grid_before
    assert np.abs(picture(page) - before).max() > 50


def test_sr_is_what_the_network_makes_and_bicubic_is_bicubic(show):
    """The network of the tests is exactly bicubic: what the server and what the page computes are the same."""
    for zoom in ("1", "2", "3.37", "8"):
        page = show(f"#{MIDDLE}&zoom={zoom}&mode=sr")
        sr = picture(page)
        page.keyboard.press(" ")
        settled(page)
        other = picture(page)
        rows, columns = (slice(n // 2 - int(5 * float(zoom)), n // 2 + int(5 * float(zoom))) for n in sr.shape)
        assert np.ptp(sr[rows, columns]) > 30
        np.testing.assert_allclose(sr[rows, columns], other[rows, columns], rtol=0, atol=1)


def test_the_wipe_shows_both(show):
    page = show(f"#{MIDDLE}&zoom=7.3&mode=sr&with=nearest")
    sr = picture(page)
    page.keyboard.press(" ")
    settled(page)
    voxels = picture(page)
    page.keyboard.press("w")
    settled(page)
    wiped, middle = picture(page), sr.shape[1] // 2
    assert np.abs(sr - voxels).max() > 20
    assert (wiped[:, : middle - 2] == voxels[:, : middle - 2]).all()
    assert (wiped[:, middle + 2 :] == sr[:, middle + 2 :]).all()


def test_the_wipe_follows_the_hand(show):
    page = show(f"#{MIDDLE}&zoom=7.3&with=nearest")
    box = page.locator("#stage").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, middle, steps=4)
    page.mouse.up()
    settled(page)
    assert page.get_attribute("#divider", "aria-valuenow") == "80"


def test_side_by_side_shows_the_same_part_twice(show):
    page = show(f"#{MIDDLE}&zoom=4&mode=side")
    both = picture(page)
    width = (both.shape[1] - 2) // 2
    left, right = both[:, :width], both[:, -width:]
    rows, columns = (slice(n // 2 - 20, n // 2 + 20) for n in left.shape)
    np.testing.assert_allclose(left[rows, columns], right[rows, columns], rtol=0, atol=1)
    assert np.ptp(left[rows, columns]) > 30


def test_the_keyboard_does_it_all(show):
    page = show(f"#plane=axial&{MIDDLE}&zoom=3")
    press = page.keyboard.press
    press("ArrowUp")
    settled(page)
    assert page.input_value("#slice") == "11"
    press("ArrowDown")
    press("ArrowDown")
    settled(page)
    assert page.input_value("#slice") == "9"
    press("ArrowRight")
    settled(page)
    assert page.get_attribute("#divider", "aria-valuenow") == "52"
    before = picture(page)
    press("Shift+ArrowRight")
    settled(page)
    assert (picture(page) != before).any()
    press("2")
    settled(page)
    assert "on" in page.locator(".plane").nth(1).get_attribute("class")
    press("n")
    settled(page)
    assert text(page, "tag-a") == "Voxels"
    press(" ")
    settled(page)
    assert text(page, "tag-a") == "Voxels"
    press(" ")
    settled(page)
    assert text(page, "tag-a") == "Meta-SRGAN"
    press("?")
    assert page.locator("#help").is_visible()
    press("Escape")
    assert not page.locator("#help").is_visible()


def test_the_wheel_turns_slices_and_with_ctrl_zooms_where_the_cursor_is(show):
    page = show(f"#plane=axial&{MIDDLE}&zoom=4")
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.4)
    page.mouse.wheel(0, -100)
    page.wait_for_selector("#slice:focus, body")  # the wheel's event comes before what is asked next
    settled(page)
    assert page.input_value("#slice") != "10"
    at = np.array([float(n) for n in text(page, "at-mm").split()])
    page.keyboard.down("Control")
    page.mouse.wheel(0, -60)
    page.keyboard.up("Control")
    settled(page)
    page.mouse.move(box["x"] + box["width"] * 0.6 + 1, box["y"] + box["height"] * 0.4)
    assert float(text(page, "big-zoom")[1:]) > 4
    now = np.array([float(n) for n in text(page, "at-mm").split()])
    np.testing.assert_allclose(now, at, atol=1.1)


def test_the_cursor_reads_voxel_millimetres_and_intensity(show, volume):
    import nibabel as nib

    image = nib.load(volume)
    page = show(f"#plane=axial&{MIDDLE}&zoom=6&mode=sr&with=nearest")
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.45)
    voxel = [int(n) for n in text(page, "at-voxel").split()]
    assert float(text(page, "value-voxel")) == image.get_fdata()[tuple(voxel)]
    mm = [float(n) for n in text(page, "at-mm").split()]
    assert np.abs(image.affine @ [*voxel, 1] - [*mm, 1]).max() <= 1.6  # half a voxel of 3 mm, and rounding
    assert float(text(page, "value-sr")) > 0


def test_dragging_changes_window_and_level(show):
    page = show(f"#{MIDDLE}&zoom=4&mode=sr")
    before = picture(page)
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    page.mouse.down(button="right")
    page.mouse.move(box["x"] + 400, box["y"] + 300, steps=3)
    page.mouse.up(button="right")
    settled(page)
    assert np.abs(picture(page) - before).max() > 20
    page.keyboard.press("r")
    settled(page)
    assert (picture(page) == before).all()


def test_the_address_brings_back_what_was_seen(show):
    page = show(f"#plane=sagittal&{MIDDLE}&zoom=3.5&at=9,20&mode=side&with=nearest")
    page.keyboard.press("+")
    settled(page)
    page.wait_for_url(re.compile(r"zoom=3\.85"))
    seen, where = grid(page), page.url
    again = show("#" + where.partition("#")[2])
    assert grid(again) == seen
    assert "plane=sagittal" in where


@pytest.mark.parametrize(
    "rest", ["#zoom=nan&plane=none&voxel=a,b,c&at=&mode=x&window=5,1", "#zoom=99&voxel=999,-9,4"]
)
def test_an_address_that_makes_no_sense_shows_the_volume(show, rest):
    assert picture(show(rest)).max() > 100


def test_the_picture_can_be_saved(show):
    page = show(f"#plane=axial&{MIDDLE}&zoom=2.5")
    with page.expect_download() as download:
        page.click("#screenshot")
    assert download.value.suggested_filename == "metasr-axial-011-x2.50.png"
    with open(download.value.path(), "rb") as file:
        saved = np.asarray(Image.open(io.BytesIO(file.read())).convert("L"))
    shown = picture(page)
    assert saved.shape[1] == shown.shape[1]
    assert saved.shape[0] > shown.shape[0]  # what it shows is written below it
    rows = slice(60, shown.shape[0] - 60)
    columns = slice(shown.shape[1] // 2 + 10, None)
    assert (saved[rows, columns] == shown[rows, columns]).all()


def test_a_click_in_a_plane_goes_there(show):
    page = show(f"#plane=axial&{MIDDLE}&zoom=2")
    before = page.input_value("#slice")
    coronal = page.locator(".plane canvas").nth(1)
    box = coronal.bounding_box()
    coronal.click(position={"x": box["width"] / 2, "y": box["height"] * 0.4})
    settled(page)
    assert page.input_value("#slice") != before
    assert int(page.input_value("#slice")) < SHAPE[2]


def test_a_wrong_secret_is_refused_in_words(browser, address):
    page = browser.new_page()
    wrong = address.rstrip("/")[:-3] + "abc/"
    answer = page.goto(wrong)
    assert answer.status == 403
    assert "metasr view" in page.inner_text("body")
    page.close()


class AnotherPage(BaseHTTPRequestHandler):
    """A page of another origin: the same machine at another port."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another page</title>")

    def log_message(self, *_):
        pass


def test_another_page_learns_nothing(browser, address):
    page = browser.new_page()
    with ThreadingHTTPServer(("127.0.0.1", 0), AnotherPage) as server:
        threading.Thread(target=server.serve_forever).start()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        look = "([url, mode]) => fetch(url, { mode }).then((answer) => answer.type, () => 'refused')"
        modes = ("cors", "no-cors")
        assert [page.evaluate(look, [f"{address}volume", mode]) for mode in modes] == ["refused"] * 2
        assert page.evaluate(look, [page.url, "cors"]) == "basic"  # its own it may read
        server.shutdown()
    page.close()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_phone_shows_it_all_without_scrolling_sideways(show, scheme):
    page = show(width=390, height=800, color_scheme=scheme, has_touch=True, is_mobile=True, device_scale_factor=2)
    width = page.evaluate("document.scrollingElement.scrollWidth")
    assert width <= 390
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", light))) > 400) == (scheme == "light")
