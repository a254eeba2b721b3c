"""Reward against entropy: which points, which law, and the gap at equal entropy."""

import json
import math

import pytest

from isentropic.metrics.report.charts import law
from isentropic.metrics.report.run_data import read_run
from isentropic.metrics.report.settings import Setting
from isentropic.metrics.report.tables import gap_table, law_table


def run_of(folder, rows, config="run: {name: a}\n"):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(config)
    return read_run(folder, ended=True)


def on_the_law(folder, *, more=0.0, noise=0.0, count=20):
    """exp(H) falls from 2 to 1.2, reward = 0.7 - 0.2 exp(H) + more, in turns above and below."""
    rows = []
    for step in range(1, count + 1):
        x = 2 - 0.8 * (step - 1) / (count - 1)
        reward = 0.7 - 0.2 * x + more + noise * (-1) ** step
        rows.append({"step": step, "entropy/mean": math.log(x), "reward/mean": reward})
    return run_of(folder, rows)


def test_a_held_out_score_has_the_entropy_since_the_evaluation_before(tmp_path):
    rows = [{"step": 0, "entropy/mean": 9.0, "eval/avg_at_k": 0.1}]
    rows += [{"step": step, "entropy/mean": float(step)} for step in range(1, 5)]
    rows[2]["eval/avg_at_k"], rows[4]["eval/avg_at_k"] = 0.2, 0.3
    found = law.points(run_of(tmp_path, rows), law.HELD_OUT)

    assert (found.steps, found.entropy, found.score) == ([2, 4], [1.5, 3.5], [0.2, 0.3])


def test_the_law_is_drawn_through_the_points(tmp_path):
    run = on_the_law(tmp_path)
    cloud, curve = law.scatter(run).traces
    (rest,) = law.residuals(run).traces

    assert cloud["marker"]["color"] == list(range(1, 21))
    assert curve["y"] == pytest.approx([0.7 - 0.2 * math.exp(x) for x in curve["x"]], abs=1e-5)
    assert rest["y"] == pytest.approx([0.0] * 20, abs=1e-9)


def test_a_planted_law_in_the_table(tmp_path):
    setting = Setting(label="one", values={}, runs=(on_the_law(tmp_path, noise=0.001),))
    (row,) = law_table([setting]).rows
    texts = [cell.text for cell in row]

    assert texts[:2] == ["training reward", "20"] and texts[2].startswith("fits (a 0.2")
    assert texts[3].startswith("0.2 ± 0.0") and texts[4].startswith("0.701 ± 0.0")
    assert texts[-1].endswith("the law is best")


def test_a_law_that_is_refused_says_why(tmp_path):
    setting = Setting(label="one", values={}, runs=(on_the_law(tmp_path, count=5),))

    assert (
        law_table([setting]).rows[0][2].text == "no fit: 5 points with an evaluation; 8 are needed"
    )
    assert law.residuals(setting.runs[0]) is None


def test_the_gap_at_equal_entropy_has_an_error_over_seeds(tmp_path):
    """0.03 and 0.05 above the base's law: 0.04 with a standard error of 0.01."""
    base = Setting(label="base", values={}, runs=(on_the_law(tmp_path / "a"),))
    seeds = tuple(on_the_law(tmp_path / f"{more}", more=more) for more in (0.03, 0.05))
    other = Setting(label="other", values={}, runs=seeds)
    (row,) = [row for row in gap_table([base, other]).rows if row[1].text == "training reward"]

    assert [cell.text for cell in row][2:] == ["+0.04 ± 0.01 (4.0 s.e.)", "40"]
    one = Setting(label="other", values={}, runs=seeds[:1])
    assert "one run each: no error" in gap_table([base, one]).rows[1][2].text


@pytest.mark.parametrize(
    ("config", "error"),
    [("evaluation: {prompts: 100}", 0.05), ("evaluation: {prompts: x}", None), ("seed: 0", None)],
)
def test_the_error_of_a_share(tmp_path, config, error):
    """100 prompts of which half are right."""
    assert law.binomial_error(run_of(tmp_path, [], config), 0.5) == error


@pytest.mark.parametrize(("samples", "noise"), [("", 0.05), (", samples: 4", 0.025)])
def test_the_noise_of_a_score_is_of_its_samples(tmp_path, samples, noise):
    """The prompts are the same in every step: what is hard in them is in no difference of two."""
    run = run_of(tmp_path, [], f"evaluation: {{prompts: 100{samples}}}")
    assert law.score_error(run, law.HELD_OUT, [0.4, 0.6]) == pytest.approx(noise)


def test_the_error_of_a_share_is_of_the_prompts_there_are(tmp_path):
    """128 are asked for and the set has 30: sqrt(1/4 / 30)."""
    run = run_of(tmp_path / "run", [], "evaluation: {prompts: 128}\n")
    (run.folder / "data.json").write_text('{"eval": {"prompts": 30}}')
    assert law.binomial_error(run, 0.5) == pytest.approx(math.sqrt(0.25 / 30))
