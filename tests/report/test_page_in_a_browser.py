"""The report in a real browser, opened from disk without a network, by mouse and by keyboard."""

import json
import os
from pathlib import Path

import pytest

from ppo_lm.report import read_run_folder, write_report
from tests.browser import chromium, needs_chromium
from tests.report.conftest import HOSTILE, make_run

pytestmark = needs_chromium
AXE = os.environ.get("AXE")  # the file axe.min.js of npm's axe-core


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile"), "--host-resolver-rules=MAP * ~NOTFOUND") as driver:
        yield driver


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root / "one"), make_run(root / "two", texts=HOSTILE)]


@pytest.fixture
def page(browser, folders, tmp_path):
    """`page(width=1440, dark=False, runs=1)` opens a report; nothing may have gone wrong when the test ends."""

    def open_page(width=1440, dark=False, runs=1):
        file = tmp_path / "report.html"
        write_report(folders[:runs], file)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        browser.get(file.as_uri())
        return browser

    browser.get_log("browser")
    yield open_page
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def find(browser, selector):
    from selenium.webdriver.common.by import By

    return browser.find_elements(By.CSS_SELECTOR, selector)


def choose(browser, label, value):
    from selenium.webdriver.support.ui import Select

    Select(find(browser, f"#tokens select[aria-label={label}]")[0]).select_by_value(value)


def numbers_shown(browser):
    return {cell.get_attribute("data-number"): cell.text for cell in find(browser, ".detail [data-number]")}


def test_hovering_shows_every_number_of_a_token(page, folders):
    from selenium.webdriver.common.action_chains import ActionChains

    browser = page()
    response = read_run_folder(folders[0])["tokens"]["steps"][-1]["responses"][0]
    tokens = find(browser, ".token")
    assert len(tokens) == len(response["pieces"])
    for place in [place for place, sampled in enumerate(response["sampled"]) if sampled][:3]:
        ActionChains(browser).move_to_element(tokens[place]).perform()
        shown = numbers_shown(browser)
        assert shown.keys() == response["numbers"].keys()
        for name, text in shown.items():
            assert float(text.replace("–", "nan")) == pytest.approx(response["numbers"][name][place], rel=1e-4), name
        choices = [row.text for row in find(browser, ".detail table:nth-of-type(2) tbody tr")]
        assert len(choices) == len(response["choices"]["policy"][place])


def test_by_keyboard_alone(page, folders):
    from selenium.webdriver.common.keys import Keys

    browser = page()
    responses = read_run_folder(folders[0])["tokens"]["steps"][-1]["responses"]
    box = find(browser, "[role=listbox]")[0]
    browser.execute_script("arguments[0].focus()", box)
    box.send_keys(Keys.ARROW_RIGHT)
    assert box.get_attribute("aria-activedescendant") == "token-1"
    box.send_keys(Keys.END)
    assert box.get_attribute("aria-activedescendant") == f"token-{len(responses[0]['pieces']) - 1}"
    box.send_keys(Keys.ARROW_DOWN)
    pressed = [button.get_attribute("aria-pressed") for button in find(browser, ".list button")]
    assert pressed == ["false", "true", "false"]
    box.send_keys(Keys.HOME)
    assert box.get_attribute("aria-activedescendant") == "token-0"


def test_colour_order_step_and_filter(page, folders):
    browser = page()
    steps = read_run_folder(folders[0])["tokens"]["steps"]
    before = [token.get_attribute("style") for token in find(browser, ".token")]
    choose(browser, "Colour", "kl")
    assert [token.get_attribute("style") for token in find(browser, ".token")] != before
    choose(browser, "Step", "1")
    choose(browser, "Order", "best")
    best = max(steps[1]["responses"], key=lambda response: response["score"])
    assert find(browser, ".list button")[0].text.startswith(best["completion"])
    search = find(browser, "input[type=search]")[0]
    search.send_keys("completion 1")
    assert len(find(browser, ".list button")) == 1
    assert find(browser, "[role=status]")[0].text == f"1 of 3 responses of step {steps[1]['step']}"
    search.send_keys(" nowhere")
    assert find(browser, ".list button") == []
    assert find(browser, ".detail")[0].text == ""


def test_texts_stay_texts(page):
    browser = page(runs=2)
    choose(browser, "Run", "1")
    assert "broken" not in browser.title
    assert find(browser, "#tokens b, #answers b") == []
    shown = "return document.querySelector('#tokens .cell').textContent.includes(arguments[0])"
    assert browser.execute_script(shown, HOSTILE.split("\ud800")[0])
    assert browser.execute_script("return getComputedStyle(document.querySelector('.text')).unicodeBidi") == "isolate"


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_page(page, width, dark, tmp_path):
    browser = page(width, dark, runs=2)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert all(chart.size["width"] <= width for chart in find(browser, "figure"))


@pytest.mark.skipif(not AXE, reason="AXE is not set to the file axe.min.js of npm's axe-core")
@pytest.mark.parametrize("dark", [False, True])
def test_accessibility(page, dark):
    browser = page(dark=dark, runs=2)
    browser.execute_script(Path(AXE).read_text(encoding="utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[0])")
    assert [(problem["id"], [node["html"] for node in problem["nodes"]]) for problem in found["violations"]] == [], (
        json.dumps(found["violations"], indent=1)[:3000]
    )
