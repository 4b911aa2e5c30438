"""End to end: a person at a keyboard, in a real browser, with the program killed half-way."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.browser import chromium, needs_chromium

pytestmark = needs_chromium


@pytest.fixture
def browser(tmp_path):
    with chromium(tmp_path / "profile", "--window-size=1100,760") as driver:
        yield driver


def start(checkout, *arguments):
    """Start the command; returns the process and the address it prints."""
    command = [sys.executable, "-c", "from ppo_lm.cli.main import main; main()", "collect", *arguments]
    process = subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = []
    for line in process.stdout:
        lines.append(line)
        found = re.search(r"Open (http://\S+)", line)
        if found:
            return process, found[1]
    raise AssertionError("".join(lines))


def press(browser, keys, task):
    """Answer tasks from `task` on, one key each, waiting until the next is shown."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    body = browser.find_element(By.TAG_NAME, "body")
    for number, key in enumerate(keys, start=task):
        WebDriverWait(browser, 10).until(lambda _, n=number: body.get_attribute("data-task") == str(n))
        body.send_keys(key)
    WebDriverWait(browser, 10).until(lambda b: f"{task + len(keys)} of 20" in b.find_element(By.ID, "progress").text)


def test_20_pairs_by_keyboard_with_a_kill_after_12(checkout, tmp_path, browser):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        "\n".join(
            json.dumps(
                {
                    "prompt": f"<b>Prompt {i}</b>",
                    "completion_a": f"<script>document.title='x'</script> good {i}",
                    "completion_b": f"bad {i}",
                }
            )
            for i in range(20)
        )
    )
    out = tmp_path / "feedback"
    arguments = ["--pairs", str(pairs), "--output_dir", str(out), "--port", "0", "--repeat_every", "0"]

    process, address = start(checkout, *arguments)
    browser.get(address)
    press(browser, "abab12abab12", 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len((out / "answers.jsonl").read_text().splitlines()) == 12
    assert browser.title == "ppo-lm collect"  # the data's script was shown, not run

    process, address = start(checkout, *arguments)
    try:
        browser.get(address)
        press(browser, "abababab", 12)
        time.sleep(0.2)
        assert "All done" in browser.find_element("id", "message").text
    finally:
        process.terminate()
        process.wait()
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert [answer["task"] for answer in answers] == list(range(20))
    assert sorted(answer["pair"] for answer in answers) == list(range(20))
    assert [answer["answer"] for answer in answers] == list("ababababababababab"[:12]) + list("abababab")

    from ppo_lm.config import RewardConfig
    from ppo_lm.reward_modeling import run_reward

    config = RewardConfig(
        model_name="embedded",
        preferences=str(out / "preferences.jsonl"),
        held_out=0,
        epochs=2,
        batch_size=5,
        output_dir=str(tmp_path / "reward"),
    )
    run_reward(config, quiet=True)
    assert (tmp_path / "reward" / "reward" / "head.safetensors").is_file()
