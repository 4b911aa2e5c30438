"""The report in a terminal."""

import io
import re

import pytest
from rich.console import Console

from ppo_lm.cli.main import main
from ppo_lm.config import ReportConfig
from ppo_lm.config.fields import fields_of
from ppo_lm.report import read_run_folder, show_report
from ppo_lm.report.token_files import NUMBERS
from tests.report.conftest import HOSTILE, make_run

pytestmark = pytest.mark.fast


def shown(folder, colours=None, width=80, **options):
    console = Console(file=io.StringIO(), width=width, color_system=colours, force_terminal=True)
    show_report([read_run_folder(folder)], console, **options)
    return console.file.getvalue()


def test_everything_a_run_has(run_folder):
    text = shown(run_folder)
    assert "run (train): 40 of 40 steps" in text
    assert re.search(r"score +0.0375 +0.9875 +▁.*█", text)  # means of the first and of the last two steps
    assert "step 40, tokens by advantage" in text
    assert "answer 0 word" in text
    assert "answer 40 word" in text


def test_tokens_are_on_the_colour_of_their_number(run_folder):
    response = read_run_folder(run_folder)["tokens"]["steps"][-1]["responses"][0]
    text = shown(run_folder, "truecolor", colour_by="kl")
    for piece, number, sampled in zip(response["pieces"], response["numbers"]["kl"], response["sampled"]):
        colour = re.search(r"\x1b\[([0-9;]+)m" + re.escape(piece) + r"\x1b", text)[1].split(";")
        if not sampled:
            assert colour == ["2"]
        else:
            red, blue = int(colour[-3]), int(colour[-1])
            assert (red > blue) == (number > 0)


def test_without_colours_the_numbers_are_behind_the_tokens(run_folder):
    response = read_run_folder(run_folder)["tokens"]["steps"][-1]["responses"][0]
    text = shown(run_folder)
    for piece, number, sampled in zip(response["pieces"], response["numbers"]["advantages"], response["sampled"]):
        if sampled:
            assert f"{piece}[{number:+.2g}]" in text


@pytest.mark.parametrize("colours", [None, "truecolor"])
def test_no_text_steers_the_terminal(tmp_path, colours):
    text = shown(make_run(tmp_path / "run", texts=HOSTILE), colours)
    assert "\x1b[31m" not in text
    assert "\u202e" not in text
    assert r"\x1b[31mred" in text


def test_the_command(run_folder, capsys):
    main(["report", str(run_folder), "--terminal"])
    assert "40 of 40 steps" in capsys.readouterr().out
    assert not (run_folder / "report.html").exists()
    with pytest.raises(SystemExit):
        main(["report", str(run_folder), "--terminal", "--colour_by", "advantage"])
    assert capsys.readouterr().err.startswith("error: colour_by is 'advantage'; it must be one of kl, rewards, ")


def test_every_number_of_a_token_can_colour_it():
    assert fields_of(ReportConfig)["colour_by"].choices == tuple(NUMBERS)
