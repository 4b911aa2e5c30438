import json

import pytest
import torch

from ppo_lm.base_setup import make_lora_config
from ppo_lm.comparison import compare, run_comparison
from ppo_lm.comparison.contestants import Bases, load_policies, read_contestants
from ppo_lm.config import EvaluateConfig, RewardConfig, SFTConfig
from ppo_lm.data import PromptSet
from ppo_lm.errors import ConfigError, DataError, StorageError
from ppo_lm.evaluation import Evaluation
from ppo_lm.reward_modeling import run_reward
from ppo_lm.run.folder import RUN_FILES
from ppo_lm.sft import run_sft
from ppo_lm.tracking import Recorder
from tests.conftest import FULL, make_base, needs_full

ROWS = [{"prompt": f"SUBREDDIT: r/life My boss number {n} TL;DR:", "human": " I am upset."} for n in range(8)]


def evaluation(scores, **changes):
    numbers = dict(
        score=0.0,
        kl=1.0,
        entropy=2.0,
        length=3.0,
        ended=1.0,
        monitor=None,
        monitors=None,
        lengths=[3] * len(scores),
        texts=["a b"] * len(scores),
    )
    return Evaluation(scores=scores, **{**numbers, **changes})


@pytest.mark.fast
def test_comparing_by_hand():
    first, second = compare({"sft": evaluation([1.0, 1.0, 1.0, 1.0]), "ppo": evaluation([2.0, 1.0, 3.0, 0.0], kl=None)})
    assert (first.name, first.win_rate, first.length_controlled, first.score) == ("sft", None, None, (1.0, 1.0, 1.0))
    assert second.win_rate.estimate == 0.625 and second.score.estimate == 1.5 and second.kl is None
    assert 0 < second.win_rate.low < 0.625 < second.win_rate.high <= 1
    assert second.distinct_2 == 1 / 4


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base on disk, and an adapter on it."""
    folder, base = tmp_path_factory.mktemp("models"), make_base()
    base.name = str(folder / "base")
    base.network.save_pretrained(folder / "base")
    base.tokenizer.save_pretrained(folder / "base")
    base.add_adapter("policy", make_lora_config(4, 8, 0.0))
    with torch.no_grad():
        for weight in base.role_parameters("policy"):
            weight.normal_(std=0.1)
    base.save_adapter("policy", folder / "adapter")
    return folder


def config(folder, out, **settings):
    (out / "prompts.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    names = [f"sft={folder / 'base'}", f"ppo={folder / 'adapter'}", "people=column:human"]
    defaults = dict(
        models=names,
        prompts=str(out / "prompts.jsonl"),
        eval_prompts=4,
        max_new_tokens=6,
        judge="length_target(words=3)",
        output_dir=str(out / "run"),
    )
    return EvaluateConfig(**{**defaults, **settings})


@needs_full
def test_a_report_that_does_not_fit_on_the_disk_ends_in_a_sentence_and_the_way_on(models, tmp_path):
    class Fills(Recorder):
        def evaluation(self, event):
            picture = tmp_path / "run" / "comparison.png"
            if not picture.is_symlink():
                picture.symlink_to(FULL)

    settings = config(models, tmp_path, models=[f"sft={models / 'base'}", "people=column:human"])
    with pytest.raises(StorageError, match="comparison.png cannot be written: No space left on device; free") as full:
        run_comparison(settings, quiet=True, recorders=[Fills()])
    assert full.value.exit_code == 74 and "start again with --overwrite" in str(full.value)
    run_comparison(settings, quiet=True, overwrite=True)
    assert (tmp_path / "run" / "comparison.png").stat().st_size > 0


def test_three_contestants_share_one_base_and_leave_a_report(models, tmp_path, capsys):
    results = run_comparison(config(models, tmp_path))
    assert list(results) == ["sampled", "near_greedy"]
    sft, ppo, people = results["sampled"]
    assert [row.name for row in results["sampled"]] == ["sft", "ppo", "people"]
    assert sft.kl == pytest.approx(0, abs=1e-5)
    assert abs(ppo.kl) > 0.01
    assert people.kl is None and people.entropy is None and people.score.estimate == 1.0 and people.ended == 1.0
    assert people.win_rate.estimate >= 0.5
    out = tmp_path / "run"
    written = {path.name for path in out.iterdir()}
    assert written <= set(RUN_FILES)
    assert written == {
        "config.yaml",
        "data_report.json",
        "environment.json",
        "results.json",
        "report.md",
        "comparison.png",
        "completions.jsonl",
        "metrics.jsonl",
    }
    numbers = json.loads((out / "results.json").read_text())
    assert numbers["prompts"] == 4 and numbers["judge"] == "length_target"
    assert numbers["sampled"][1]["win_rate"]["estimate"] == ppo.win_rate.estimate
    lines = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 3 * 4
    assert {line["completion"] for line in lines if line["model"] == "people"} == {" I am upset."}
    assert "| | sft | ppo | people |" in (out / "report.md").read_text()
    assert "win rate" in capsys.readouterr().out


def test_a_base_is_loaded_once_however_it_is_named(models, tmp_path):
    settings = config(
        models, tmp_path, models=[f"a={models / 'base'}", f"b={models / 'adapter'}", f"c={models / '.' / 'base'}"]
    )
    policies = load_policies(read_contestants(settings, PromptSet(["p"])), Bases(settings))
    assert policies["a"].base is policies["b"].base is policies["c"].base
    assert (policies["a"].role, policies["b"].role) == (None, "contestant_1")


def test_the_same_seed_gives_the_same_comparison(models, tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    assert run_comparison(config(models, tmp_path / "a"), quiet=True) == run_comparison(
        config(models, tmp_path / "b"), quiet=True
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["sft=x"], "models has only one entry; give at least two"),
        (["a=x", "a=y"], "models has the name 'a' twice"),
        (["a=x", "b=column:gold"], "models names the column 'gold', but the prompts have human"),
        (["a=x", "b=/no/where"], "models names '/no/where', but there is no such file or folder"),
        (["a=column:human", "b=column:human"], "models has only columns"),
    ],
)
def test_contestants_are_checked_before_any_model_loads(models, tmp_path, names, message):
    with pytest.raises(ConfigError, match=message):
        run_comparison(config(models, tmp_path, models=names))


def test_a_reward_model_judges_on_its_own_base_whatever_comes_first_and_by_text_where_vocabularies_differ(
    models, tmp_path
):
    from ppo_lm.base_setup import load_base
    from ppo_lm.data import load_prompts
    from ppo_lm.rewards import Responses, RewardComputer, load_reward

    rows = [
        {"prompt": f"SUBREDDIT: r/life My boss number {n} TL;DR:", "human": "My boss yelled at me." + " Hm" * n}
        for n in range(4)
    ]
    settings = config(models, tmp_path, judge="embedded", judge_base="embedded", temperature=0)
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    results = run_comparison(settings, quiet=True)
    base = load_base("embedded", "float32", "cpu")
    scorer = RewardComputer(load_reward("embedded"))
    scorer.make_ready(base)
    prompts = load_prompts(str(tmp_path / "prompts.jsonl"))[0].draw(4, settings.seed)
    expected = scorer.compute_rewards(Responses(prompts.prompts, [" " + text for text in prompts.columns["human"]]))
    assert results["sampled"][2].score.estimate == pytest.approx(float(expected.total.mean()), abs=1e-4)
    assert results["sampled"][0].kl is None  # nothing is sampled at temperature 0


def test_a_column_without_a_text_is_named(models, tmp_path):
    settings = config(models, tmp_path)
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, [ROWS[0], {"prompt": "TL;DR:", "human": None}])))
    with pytest.raises(DataError, match="column 'human' has no text for the prompt '.*': None"):
        run_comparison(settings)


def demonstrations(file, numbers, extra=""):
    rows = [
        {"prompt": f"SUBREDDIT: r/life My boss number {n} TL;DR:{extra}", "completion": "I am upset."} for n in numbers
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def trained(kind, folder, tmp_path, name, rows, **settings):
    """A run on these rows of ROWS, all of them for training."""
    both = dict(model_name=str(folder), output_dir=str(tmp_path / name), max_steps=1, lora_r=2, held_out=0)
    if kind == "sft":
        run_sft(
            SFTConfig(
                demonstrations=demonstrations(tmp_path / f"{name}.jsonl", rows), rouge_samples=0, **both, **settings
            ),
            quiet=True,
        )
    else:
        pairs = [{"prompt": ROWS[n]["prompt"], "chosen": " Yes.", "rejected": " No."} for n in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, pairs)))
        run_reward(RewardConfig(preferences=str(tmp_path / f"{name}.jsonl"), **both), quiet=True)
    return tmp_path / name


def test_prompts_that_a_compared_model_or_its_own_start_was_trained_on_are_not_called_held_out(
    models, tmp_path, capsys
):
    sft = trained("sft", models / "base", tmp_path, "sft", [0, 1, 2])
    more = trained("sft", sft / "merged", tmp_path, "more", [20, 21, 22])
    judge = trained("reward", models / "base", tmp_path, "judge", [4, 5])
    settings = config(
        models, tmp_path, eval_prompts=8, models=[f"base={models / 'base'}", f"more={more}"], judge=str(judge)
    )
    run_comparison(settings)
    said = " ".join(capsys.readouterr().out.split())
    assert f"more: 3 of the 8 prompts were in the training data of the run in {sft}" in said
    assert f"the judge: 2 of the 8 prompts were in the training data of the run in {judge}" in said
    assert "sampled, 8 prompts, baseline base" in said and "held-out" not in said
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (
        results["unseen_by_runs"] is False
        and results["seen"]["more"] == {str(sft): 3}
        and results["seen"]["base"] == {}
    )


def test_the_heading_says_what_the_folders_tell_and_what_is_not_known_is_said(models, tmp_path, capsys):
    other = trained("sft", models / "base", tmp_path, "other", [20, 21, 22], max_prompt_tokens=0)
    run_comparison(config(models, tmp_path, models=[f"base={models / 'base'}", f"other={other / 'adapter'}"]))
    said = " ".join(capsys.readouterr().out.split())
    assert "sampled, 4 prompts that the models' runs did not train on, baseline base" in said
    assert "held-out" not in said  # the base may have been trained on them
    assert "4 prompts are too few for a judgement: the interval of an even win rate is 0.07 to 0.93" in said
    assert f"no prompt was in the training data of the runs that trained the models; what {models / 'base'} was" in said
    assert json.loads((tmp_path / "run" / "results.json").read_text())["unseen_by_runs"] is True
    run_comparison(config(models, tmp_path, output_dir=str(tmp_path / "second")))  # an adapter that no run wrote
    said = " ".join(capsys.readouterr().out.split())
    assert "whether the prompts are held out is not known: there is no record of what sft, ppo was trained on" in said
    assert "held-out" not in said and "held-out" not in (tmp_path / "second" / "report.md").read_text()


def test_a_prompt_that_training_had_cut_is_still_the_same_prompt(models, tmp_path, capsys):
    text = "SUBREDDIT: r/life My boss is late. " + "He is very late. " * 6 + "TL;DR:"
    (tmp_path / "sft.jsonl").write_text(
        "\n".join(json.dumps({"prompt": text + str(n), "completion": "I am."}) for n in range(4))
    )
    sft = SFTConfig(
        model_name=str(models / "base"),
        demonstrations=str(tmp_path / "sft.jsonl"),
        output_dir=str(tmp_path / "sft"),
        max_steps=1,
        lora_r=2,
        held_out=0,
        rouge_samples=0,
        max_prompt_tokens=20,
    )
    run_sft(sft, quiet=True)
    settings = config(
        models, tmp_path, models=[f"base={models / 'base'}", f"sft={tmp_path / 'sft'}"], max_prompt_tokens=40
    )
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": text + str(n)}) for n in (0, 1, 7)))
    run_comparison(settings)
    assert "sft: 2 of the 3 prompts were in the training data" in " ".join(capsys.readouterr().out.split())
