"""TRL's standard and conversational formats are read unchanged."""

import pytest

from ppo_lm.data import Demonstration, Preference, load_demonstrations, load_preferences, load_prompts, wrap_completion

pytestmark = pytest.mark.fast

ASK = [{"role": "user", "content": "What color is the sky?"}]
BLUE, GREEN = [{"role": "assistant", "content": "It is blue."}], [{"role": "assistant", "content": "It is green."}]


def test_prompt_only_formats():
    system = [{"role": "system", "content": "Be brief."}, *ASK]
    prompts, _ = load_prompts([{"prompt": "The sky is"}, {"prompt": ASK}, {"prompt": system}])
    assert prompts.prompts == ["The sky is", ASK, system]
    assert load_prompts([{"messages": [*ASK, *BLUE]}, {"messages": ASK}])[0].prompts == [ASK, ASK]


def test_prompt_completion_formats():
    rows = [
        {"prompt": "The sky is", "completion": " blue."},
        {"prompt": "The sky is", "completion": "blue."},
        {"prompt": ASK, "completion": BLUE},
        {"messages": [*ASK, *BLUE]},
    ]
    found, _ = load_demonstrations(rows)
    assert found == [
        Demonstration("The sky is", " blue."),
        Demonstration("The sky is", " blue."),
        Demonstration(ASK, "It is blue."),
        Demonstration(ASK, "It is blue."),
    ]


def test_preference_formats():
    rows = [
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},  # standard, explicit prompt
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},  # standard, implicit prompt
        {"prompt": ASK, "chosen": BLUE, "rejected": GREEN},  # conversational, explicit prompt
        {"chosen": [*ASK, *BLUE], "rejected": [*ASK, *GREEN]},  # conversational, implicit prompt
        {
            "prompt": "What color is the sky?",
            "chosen": [*ASK, *BLUE],
            "rejected": [*ASK, *GREEN],
        },  # UltraFeedback: the prompt in both places
    ]
    found, report = load_preferences(rows)
    assert report.dropped == []
    assert found[:2] == [Preference("The sky is", " blue.", " green.")] * 2
    assert found[2:] == [Preference(ASK, "It is blue.", "It is green.")] * 3


def test_an_implicit_prompt_ends_at_white_space():
    found, _ = load_preferences(
        [{"chosen": "Human: hi\n\nAssistant: hello there", "rejected": "Human: hi\n\nAssistant: hell no"}]
    )
    assert found == [Preference("Human: hi\n\nAssistant:", " hello there", " hell no")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "has the same text in 'chosen' and 'rejected'"),
        ({"prompt": "p", "chosen": "a"}, "has no column 'rejected'; it has prompt, chosen"),
        ({"prompt": "p", "chosen": None, "rejected": "b"}, "has no text in column 'chosen'"),
        ({"chosen": "one", "rejected": "two"}, "has no prompt: the two texts do not start alike"),
        ({"chosen": BLUE, "rejected": GREEN}, "has no column 'prompt'"),
        (
            {"chosen": [*ASK, *BLUE], "rejected": [{"role": "user", "content": "Other?"}, *GREEN]},
            "different turns before the last",
        ),
        (
            {"chosen": [*ASK], "rejected": [*ASK], "prompt": ASK},
            "by 'user' in 'chosen'; a completion is the assistant's",
        ),
        ({"chosen": [*ASK, *ASK], "rejected": [*ASK, *GREEN]}, "two messages by 'user' in a row"),
    ],
)
def test_an_unusable_comparison_is_named(row, message):
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    found, report = load_preferences([good, row, good])
    assert len(found) == 2 and report.duplicates == 1
    assert str(report.dropped[0]).startswith("row 2 ") and message in str(report.dropped[0])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": ASK, "completion": [*ASK, *BLUE]}, "has 2 messages in 'completion'"),
        ({"prompt": ASK, "completion": ASK}, "a completion is the assistant's"),
        ({"messages": ASK}, "no conversation in 'messages' that ends with an assistant turn"),
        ({"messages": "hi"}, "has no messages in 'messages'"),
        ({"prompt": "p", "completion": 5}, "has no text in column 'completion': 5"),
    ],
)
def test_an_unusable_demonstration_is_named(row, message):
    found, report = load_demonstrations([{"prompt": "p", "completion": "c"}, row])
    assert len(found) == 1 and message in str(report.dropped[0])


def test_columns_are_mapped_by_name(tmp_path):
    from ppo_lm.config.data_settings import SourceSettings

    rows = [{"query": "p", "better": "a", "worse": "b", "judge": "ann"}]
    found, _ = load_preferences(rows, SourceSettings(prompt_column="query"), "better", "worse", "judge")
    assert found == [Preference("p", " a", " b", "ann")]
    assert (
        load_preferences([{"prompt": "p", "chosen": "a", "rejected": "b", "judge": None}], source_column="judge")[0][
            0
        ].source
        is None
    )


def test_completions_reach_reward_functions_as_trl_gives_them():
    assert wrap_completion("text", " done") == " done"
    assert wrap_completion(ASK, "Blue.") == [{"role": "assistant", "content": "Blue."}]
