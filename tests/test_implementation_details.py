"""The page of implementation details names code and tests that are there. That the tests fail without the code is what
benchmarks/mutation_check.py shows."""

import re
import runpy
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
DETAILS = runpy.run_path(str(CHECKOUT / "benchmarks" / "mutation_check.py"))["DETAILS"]
PAGE = (CHECKOUT / "docs" / "implementation_details.md").read_text(encoding="utf-8")


def test_all_33_are_there():
    assert sorted({detail.number for detail in DETAILS}) == list(range(1, 34))


@pytest.mark.parametrize("detail", DETAILS, ids=lambda detail: f"{detail.number} {detail.file}")
def test_code_and_test_are_where_the_page_says(detail):
    code = (CHECKOUT / detail.file).read_text(encoding="utf-8")
    assert code.count(detail.code) == 1
    compile(code.replace(detail.code, detail.broken), detail.file, "exec")
    file, _, name = detail.test.partition("::")
    assert (CHECKOUT / file).exists()
    assert not name or re.search(rf"def {name}\b", (CHECKOUT / file).read_text(encoding="utf-8"))
    assert detail.code.splitlines()[0].strip().replace("|", "\\|") in PAGE and f"](../{file})" in PAGE
