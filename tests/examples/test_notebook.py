"""The notebook, cell by cell in one namespace, as a kernel runs it."""

import json
import re

import matplotlib
import pytest


@pytest.fixture
def cells(checkout) -> list[dict]:
    notebook = json.loads((checkout / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    return notebook["cells"]


def test_the_file_has_no_outputs(cells):
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
def test_the_cells_train_a_policy_and_show_it(cells, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names: dict = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)

    before, *_, after = names["evaluations"]["sampled"]
    assert after.score > before.score + 0.5 and after.length < before.length
    out = capsys.readouterr().out
    assert f"before: score {before.score:.2f}" in out and f" after:{after.texts[0]}" in out

    score, kl = names["figure"].axes
    steps = names["config"].steps
    assert [len(axes.lines[0].get_ydata()) for axes in (score, kl)] == [steps, steps]

    tokens = re.findall(r"^ *('.*') +(-?[\d.]+) +(-?[\d.]+) +(-?[\d.]+)$", out, flags=re.MULTILINE)
    assert "".join(eval(token) for token, *_ in tokens).removesuffix("<|eos|>") == names["watch"].seen.completions[0]
    assert list(tmp_path.iterdir()) == []
