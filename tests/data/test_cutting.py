import pytest

from ppo_lm.data.cutting import cut_prompt, cut_text

pytestmark = pytest.mark.fast

POST = (
    'SUBREDDIT: r/life\n\nPOST: I moved out. He said (twice!) "never." Then I left! What now? Nothing helps\n\nTL;DR:'
)


@pytest.mark.parametrize(
    ("most", "kept"),
    [
        (200, POST),
        (len(POST) - 1, POST.replace(" Nothing helps", "")),
        (len(POST) - 15, POST.replace(" What now? Nothing helps", "")),
        (60, "SUBREDDIT: r/life\n\nPOST: I moved out.\n\nTL;DR:"),
        (30, "SUBREDDIT: r/life\n\nTL;DR:"),
        (10, None),
    ],
)
def test_the_longest_beginning_that_ends_with_a_sentence_is_kept_with_the_cue(most, kept):
    assert cut_text(POST, lambda text: len(text) <= most) == kept


def test_never_inside_a_word_and_always_as_long_as_possible():
    text = " ".join(f"Word{i} goes on." for i in range(50))
    ends = [len(" ".join(f"Word{i} goes on." for i in range(n))) for n in range(1, 51)]
    for most in range(1, len(text)):
        kept = cut_text(text, lambda shorter, most=most: len(shorter) <= most)
        assert (kept is None) == (most < ends[0])
        assert kept is None or kept == text[: max(end for end in ends if end <= most)]


def test_a_long_end_without_a_full_stop_is_not_a_cue():
    text = "I moved out. He left. " + "and then " * 50
    assert cut_text(text, lambda shorter: len(shorter) < 60) == "I moved out. He left."


def test_a_text_without_a_sentence_end_cannot_be_cut():
    assert cut_text("one two three", lambda text: len(text) < 5) is None


def test_the_last_turn_of_a_conversation_is_cut():
    turns = [{"role": "system", "content": "Sum up."}, {"role": "user", "content": "First. Second. Third."}]
    length = lambda prompt: sum(len(turn["content"]) for turn in prompt)  # noqa: E731
    assert cut_prompt(turns, lambda prompt: length(prompt) <= 22)[-1]["content"] == "First. Second."
    assert cut_prompt(turns, lambda prompt: length(prompt) <= 5) is None
