"""The page of implementation details and the list that it shows. That each test fails without its detail is what
benchmarks/mutation_check.py shows, which takes too long to run here."""

import ast
import re
import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

CHECKOUT = Path(__file__).parents[1]
CHECK = runpy.run_path(str(CHECKOUT / "benchmarks" / "mutation_check.py"))
DETAILS, Detail, break_code = CHECK["DETAILS"], CHECK["Detail"], CHECK["break_code"]
PAGE = (CHECKOUT / "docs" / "implementation_details.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| (?P<number>\d*) ?\|.*\| \[`(?P<file>.+)`\]\(\.\./(?P=file)\): `(?P<function>.+)` "
    r"\| \[`(?P<test>.+)`\]\(\.\./(?P<test_file>.+)\) \|$",
    re.MULTILINE,
)


def read(file: str) -> str:
    return (CHECKOUT / file).read_text(encoding="utf-8")


def shown() -> list[tuple[int, str, str]]:
    """(number, place, test) of each row; a row without a number belongs to the one above."""
    rows, number = [], 0
    for row in ROW.finditer(PAGE):
        number = int(row["number"] or number)
        rows.append((number, f"{row['file']}::{row['function']}", f"{row['test_file']}::{row['test']}"))
    return rows


def test_the_page_shows_the_function_and_the_test_of_each_detail_in_order():
    assert shown() == list(dict.fromkeys((detail.number, detail.place, detail.test) for detail in DETAILS))
    assert list(dict.fromkeys(number for number, *_ in shown())) == list(range(1, 34))
    assert f"All {len(DETAILS)} broken details were noticed." in PAGE


@pytest.mark.parametrize("detail", DETAILS, ids=lambda detail: f"{detail.number} {detail.place}")
def test_the_code_occurs_once_in_the_function_and_the_test_exists(detail):
    source = read(detail.place.partition("::")[0])
    broken = break_code(source, detail)
    compile(broken, detail.place, "exec")
    assert broken != ast.unparse(ast.parse(source))
    file, _, name = detail.test.partition("::")
    assert name in {node.name for node in ast.parse(read(file)).body if isinstance(node, ast.FunctionDef)}


SOURCE = '''
def clip(x, low):
    return max(x, low)

class Model:
    def clip(self, x):
        """max(x, 1.0)"""
        if x > 1:
            self.clipped = True
        return max(
            x,  # as it is
            1.0,
        ) + max(x, 2.0)
'''


def detail(code: str, broken: str, function: str = "Model.clip"):
    return Detail(0, f"model.py::{function}", code, broken, "")


@pytest.mark.parametrize(
    ("code", "broken", "then"),
    [
        ("max(x, 1.0)", "x", "return x + max(x, 2.0)"),
        ("max( x,\n 1.0 )", "(x)", "return x + max(x, 2.0)"),
        ("max(x, 1.0) + max(x, 2.0)", "0", "return 0"),
        ("x > 1", "False", "if False:"),
        ("self.clipped = True", "pass", "if x > 1:\n            pass\n"),
    ],
)
def test_code_is_found_and_replaced_however_it_is_laid_out(code, broken, then):
    found = break_code(SOURCE, detail(code, broken))
    assert then in found
    assert "def clip(x, low):\n    return max(x, low)" in found, "and nothing else is touched"


def test_a_replacement_keeps_its_brackets():
    assert "return (x + 1) * 2" in break_code("def f(x):\n    return g(x) * 2", detail("g(x)", "x + 1", "f"))


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (detail("min(x, 1.0)", "x"), r"model.py::Model.clip: 'min\(x, 1.0\)' occurs 0 times; it must occur once"),
        (detail("max(x, low)", "x"), "occurs 0 times"),  # it is in the other function
        (detail("max", "min"), "'max' occurs 2 times"),
        (detail("max(x, 1.0)", "x", "Model.clamp"), "model.py::Model.clamp: there is no 'clamp'"),
        (detail("max(x, 1.0)", "pass"), "must be two expressions or two statements"),
    ],
)
def test_code_that_does_not_occur_exactly_once_is_refused(refused, message):
    with pytest.raises(ValueError, match=message):
        break_code(SOURCE, refused)
