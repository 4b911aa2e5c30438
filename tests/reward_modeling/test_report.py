import dataclasses
import json

import pytest

from ppo_lm.evaluation.intervals import share_interval
from ppo_lm.reward_modeling import RewardReport
from ppo_lm.reward_modeling.report import write_report

pytestmark = pytest.mark.fast

REPORT = RewardReport(
    chosen=[2.0, 0.0, 1.0, -1.0],
    rejected=[0.0, 1.0, 0.0, -1.5],
    chosen_lengths=[5, 4, 3, 2],
    rejected_lengths=[3, 6, 3, 4],
    sources=["a", "a", "b", "b"],
)


def test_the_report_by_hand():
    assert REPORT.accuracy.estimate == 0.75
    assert REPORT.confidences.tolist() == pytest.approx([0.880797, 0.731059, 0.731059, 0.622459], abs=1e-6)
    assert REPORT.by_source() == {"a": (2, share_interval([0, 1])), "b": (2, share_interval([1, 1]))}
    # of the three pairs of unequal length
    assert REPORT.prefers_longer() == (share_interval([1, 1, 0]), share_interval([1, 0, 0]))
    # bins: 0.8808 right; twice 0.7311, one right; 0.6225 right
    expected = 0.25 * (1 - 0.880797) + 0.5 * (0.731059 - 0.5) + 0.25 * (1 - 0.622459)
    assert REPORT.calibration_error == pytest.approx(expected, abs=1e-6)
    assert json.loads(json.dumps(REPORT.as_dict()))["by_source"]["b"] == {"comparisons": 2, "accuracy": 1.0}


def test_every_share_has_an_interval(tmp_path):
    write_report(REPORT, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert f"accuracy {share_interval([1, 1, 1, 0])}" in text and f"| b | 2 | {share_interval([1, 1])} |" in text
    assert f"longer side {share_interval([1, 1, 0])}, of the people {share_interval([1, 0, 0])}" in text
    even = dataclasses.replace(REPORT, rejected_lengths=REPORT.chosen_lengths)
    assert even.prefers_longer() is None
    write_report(even, tmp_path)
    assert "longer side" not in (tmp_path / "report.md").read_text()


def test_a_report_without_held_out_data_says_so(tmp_path):
    empty = RewardReport([], [], [], [], [])
    assert empty.headline() == {} and empty.as_dict() == {"comparisons": 0}
    write_report(empty, tmp_path)
    assert "nothing was measured" in (tmp_path / "report.md").read_text()


def test_a_single_comparison_has_no_correlation_with_length(tmp_path):
    single = RewardReport(chosen=[2.0], rejected=[0.0], chosen_lengths=[5], rejected_lengths=[3], sources=[None])
    assert single.headline().keys() == {"accuracy", "calibration_error"}
    assert single.as_dict()["length_correlation"] is None
    write_report(single, tmp_path)
    assert "* correlation of score and length –\n" in (tmp_path / "report.md").read_text()
    pair = RewardReport(*(getattr(REPORT, field.name)[:2] for field in dataclasses.fields(REPORT)))
    assert -1 < pair.headline()["length_correlation"] == pair.as_dict()["length_correlation"] < 1
