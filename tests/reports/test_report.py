"""`kadapter report`: what it reads, which numbers it reports, and what it refuses, on runs of a few examples."""

import csv
import json
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from kadapter import metrics
from kadapter.commands import app
from kadapter.reports.comparison import Resampling
from kadapter.reports.report import report

RIGHT, WRONG = "right", "wrong"


def write_run(folder, answers, row="backbone", seed=0, first=0, **changes):
    """A run on examples whose gold answer is "right"; `answers` has a letter for each example, r for right."""
    predictions = [RIGHT if letter == "r" else WRONG for letter in answers]
    said = {
        "task": "colours",
        "row": row,
        "adapters": [] if row in ("backbone", "multitask") else row.split("+"),
        "fusion": "concat",
        "backbone": "hub/encoder",
        "freeze_backbone": True,
        "freeze_adapters": True,
        "train_fraction": 1.0,
        "seed": seed,
        "split": "test",
        "metric": {"name": "accuracy", "key": "accuracy", "settings": {}},
        "gates": {},
    }
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({**said, **changes}))
    lines = [
        {"id": f"e{n}", "gold": RIGHT, "prediction": one, "scores": {}} for n, one in enumerate(predictions, first)
    ]
    write_lines(folder, lines)
    results = metrics.load("accuracy").compute(predictions, [RIGHT] * len(predictions))
    (folder / "all_results.json").write_text(json.dumps({f"eval_{key}": one for key, one in results.items()}))
    return folder


def write_lines(folder, lines):
    (folder / "predictions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))


def reported(place, output_dir, *references, **options):
    """The cells of a report by row name, where there is one column."""
    options = {"resamples": 400, **options}
    table = report([place], output_dir, references or None, Resampling(**options), log=lambda text: None)
    (cells,) = table.values()
    return {row.name: cell for row, cell in cells.items()}


def command(*words):
    return CliRunner().invoke(app, ["report", *map(str, words)])


def refusal(place, *words):
    """What is said of runs that can't be reported on: one sentence, and no file is written."""
    output = place.parent / "refused"
    result = command(place, "-o", output, *words)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output and not output.exists()
    *_, line = result.stderr.strip().splitlines()  # after what it says that it reads
    assert line.startswith("kadapter: ")
    return line


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


# ---- numbers ------------------------------------------------------------------------------------------------------


def test_cells_hold_mean_and_standard_deviation_over_seeds(runs, tmp_path):
    for seed, answers in enumerate(("rrrr", "rrww", "rrrw")):
        write_run(runs / f"deep/{seed}", answers, seed=seed)
    write_run(runs / "fac", "rrrw", "fac")
    cells = reported(runs, tmp_path / "out")
    assert cells["backbone"].mean == 0.75 and cells["backbone"].deviation == 0.25  # of 1, 1/2 and 3/4
    assert cells["fac"].mean == 0.75 and cells["fac"].deviation is None
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| backbone | 0.750 ± 0.250 (3) " in text
    assert "| fac      | 0.750 (1) " in text


def test_an_interval_over_examples_is_that_of_the_binomial_distribution(runs, tmp_path):
    write_run(runs / "backbone", "r" * 19 + "w")
    write_run(runs / "fac", "r" * 20, "fac")
    write_run(runs / "lin", "r" * 18 + "ww", "lin")
    cells = reported(runs, tmp_path / "out", resamples=4000)
    # Of 20 drawn examples, 0 to 3 are the one that differs in 98.4% of cases, and 0 to 2 in 92.5%.
    interval = cells["fac"].against["backbone"]
    assert interval.difference == pytest.approx(0.05)
    assert (interval.low, interval.high) == pytest.approx((0, 0.15))
    assert not interval.excludes_zero
    assert (cells["lin"].against["backbone"].low, cells["lin"].against["backbone"].high) == pytest.approx((-0.15, 0))


def test_what_differs_on_most_examples_is_marked_and_what_does_not_is_not(runs, tmp_path):
    for seed in range(2):
        write_run(runs / f"b{seed}", "r" * 8 + "w" * 8, seed=seed)
        write_run(runs / f"f{seed}", "r" * 15 + "w", "fac", seed=seed)
        write_run(runs / f"l{seed}", "r" * 1 + "w" * 15, "lin", seed=seed)
        write_run(runs / f"t{seed}", "w" + "r" * 8 + "w" * 7, "taps", seed=seed)
    cells = reported(runs, tmp_path / "out")
    assert cells["fac"].against["backbone"].low > 0 and cells["lin"].against["backbone"].high < 0
    assert not cells["taps"].against["backbone"].excludes_zero
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| 0.938 ± 0.000 (2) +b +t " in text and "| 0.062 ± 0.000 (2) -b -t " in text
    assert "| 0.500 ± 0.000 (2)       " in text
    assert "(b = backbone, t = taps)" in text and "95% intervals of the paired bootstrap" in text


def test_the_interval_of_equal_predictions_is_nothing(runs, tmp_path):
    for row in ("backbone", "fac"):
        write_run(runs / row, "rrwwrw", row)
    interval = reported(runs, tmp_path / "out")["fac"].against["backbone"]
    assert (interval.difference, interval.low, interval.high) == (0, 0, 0)


def test_seeds_are_drawn_too_and_in_pairs_where_both_rows_have_them(runs, tmp_path):
    for seed, answers in enumerate(("rrrr", "wwww")):
        write_run(runs / f"backbone{seed}", answers, seed=seed)
        write_run(runs / f"fac{seed}", answers, "fac", seed=seed)
        write_run(runs / f"lin{seed}", answers, "lin", seed=seed + 5)
        write_run(runs / f"med{seed}", "rrrr", "med", seed=seed)
    cells = reported(runs, tmp_path / "out")
    paired, unpaired, better = (cells[name].against["backbone"] for name in ("fac", "lin", "med"))
    assert (paired.low, paired.high) == (0, 0)
    assert (unpaired.low, unpaired.high) == (-1, 1)
    assert better.difference == 0.5 and (better.low, better.high) == (0, 1)


def test_examples_are_paired_by_id_whatever_their_order(runs, tmp_path):
    write_run(runs / "backbone", "rrwwrw")
    turned = write_run(runs / "fac", "rrwwrw", "fac")
    lines = (turned / "predictions.jsonl").read_text().splitlines()
    (turned / "predictions.jsonl").write_text("\n".join(reversed(lines)))
    interval = reported(runs, tmp_path / "out")["fac"].against["backbone"]
    assert (interval.low, interval.high) == (0, 0)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from("rw"), min_size=4, max_size=12), st.randoms(use_true_random=False))
def test_an_interval_holds_its_difference_and_lies_within_the_bounds_of_the_score(tmp_path_factory, first, random):
    place = tmp_path_factory.mktemp("property")
    write_run(place / "runs/backbone", first)
    write_run(place / "runs/fac", random.sample(first, len(first)), "fac")
    interval = reported(place / "runs", place / "out")["fac"].against["backbone"]
    assert -1 <= interval.low <= interval.difference <= interval.high <= 1


def test_the_rounds_of_a_cross_validation_are_one_run_on_the_examples_of_all(runs, tmp_path):
    for fold, (backbone, fac) in enumerate((("rrww", "rrrw"), ("rw", "rr"))):
        write_run(runs / f"b{fold}", backbone, first=4 * fold, fold=fold)
        write_run(runs / f"f{fold}", fac, "fac", first=4 * fold, fold=fold, gates={"fac": float(fold)})
    cells = reported(runs, tmp_path / "out")
    assert cells["backbone"].mean == pytest.approx(3 / 6) and cells["fac"].mean == pytest.approx(5 / 6)
    assert cells["fac"].against["backbone"].difference == pytest.approx(2 / 6)
    assert cells["fac"].gates() == {"fac": [0.5]} and list(cells["fac"].runs) == [0]


def test_a_round_that_is_there_twice_is_refused(runs):
    for name in ("one", "other"):
        write_run(runs / name, "rr", fold=1)
    assert "other: example 'e0' was measured in another round of the cross-validation too" in refusal(runs)


def test_a_row_that_lacks_a_round_is_refused(runs):
    for fold in range(2):
        write_run(runs / f"b{fold}", "rr", first=2 * fold, fold=fold)
    write_run(runs / "f", "rr", "fac", fold=0)
    assert "2 ids are in only one of them" in refusal(runs)


def test_a_report_is_the_same_each_time(runs, tmp_path):
    for row in ("backbone", "fac"):
        for seed in range(3):
            start = "rwr" if row == "fac" else "wwr"
            write_run(runs / f"{row}{seed}", start * (seed + 1) + "w" * (9 - 3 * seed), row, seed)
    for name in ("first", "second"):
        reported(runs, tmp_path / name)
    for name in ("report.md", "report.csv", "report.svg", "report.png"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    other = reported(runs, tmp_path / "third", seed=1, confidence=0.5)["fac"].against["backbone"]
    first = reported(runs, tmp_path / "third")["fac"].against["backbone"]
    assert other.difference == first.difference and other.high - other.low < first.high - first.low


# ---- rows and columns ---------------------------------------------------------------------------------------------


def test_rows_come_in_the_order_of_a_results_table(runs, tmp_path):
    order = ["backbone", "multitask", "taps", "random", "fac", "lin", "fac+lin", "fac+lin+med"]
    for row in sorted(order):
        write_run(runs / row, "rw", row)
    assert list(reported(runs, tmp_path / "out")) == order
    with (tmp_path / "out" / "report.csv").open() as file:
        assert [line["row"] for line in csv.DictReader(file)] == order


def test_columns_are_tasks_shares_of_the_training_data_and_splits(runs, tmp_path):
    write_run(runs / "a", "rw")
    write_run(runs / "b", "rrw", train_fraction=0.1)
    write_run(runs / "c", "rrrw", task="birds", split="validation")
    table = report([runs], tmp_path / "out", log=lambda text: None)
    assert [str(column) for column in table] == [
        "birds 100% (validation accuracy)",
        "colours 10% (test accuracy)",
        "colours 100% (test accuracy)",
    ]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| backbone | 0.750 (1)                        | 0.667 (1)                   | 0.500 (1) " in text
    assert "Differences" not in text and "Gates" not in text


def test_the_number_of_examples_truly_trained_on_is_told(runs, tmp_path):
    few = {"train_fraction": 0.1, "train_share": 0.1029}
    write_run(runs / "1", "rw", train_examples=250, **few)
    write_run(runs / "2", "rw", "fac", train_examples=250, **few)
    write_run(runs / "3", "rw", task="birds")
    for fold, number in enumerate((30, 34)):
        given = {"train_examples": number, "train_share": number / 100, "task": "crossed"}
        write_run(runs / f"f{fold}", "rw", first=2 * fold, fold=fold, **given)
    report([runs], tmp_path / "out", log=lambda text: None)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Training examples: colours 10%, 250 (10.3%); crossed 100%, 32 (32%)." in text
    with (tmp_path / "out" / "report.csv").open() as file:
        told = {line["task"]: line["train_examples"] for line in csv.DictReader(file)}
    assert told == {"birds": "", "colours": "250", "crossed": "32"}


def test_rows_of_one_name_are_told_apart_and_compared_with_what_is_most_like_them(runs, tmp_path):
    write_run(runs / "1", "rrrr")
    write_run(runs / "2", "wwww", freeze_backbone=False)
    write_run(runs / "3", "rrww", "fac+lin")
    write_run(runs / "4", "rrwr", "fac+lin", fusion="gated")
    write_run(runs / "5", "wwwr", "fac+lin", freeze_backbone=False)
    (cells,) = report([runs], tmp_path / "out", log=lambda text: None).values()
    differences = [cell.against["backbone"].difference for cell in cells.values() if cell.against]
    assert differences == [0.25, -0.5, -0.25]
    text = (tmp_path / "out" / "report.md").read_text()
    for name in (
        "backbone (backbone frozen)",
        "fac+lin (concat, backbone trained)",
        "fac+lin (gated, backbone frozen)",
    ):
        assert f"| {name} " in text


def test_rows_of_maps_of_different_tables_are_told_apart(runs, tmp_path):
    for number, sha256 in enumerate(("a" * 64, "b" * 64)):
        write_run(runs / sha256, "rrrr", "wikidata, plugged in", seed=number, knowledge={"sha256": sha256})
    (cells,) = report([runs], tmp_path / "out", log=lambda text: None).values()
    assert [row.table for row in cells] == ["a" * 64, "b" * 64]
    assert "| wikidata, plugged in (table aaaaaaaaaaaa) " in (tmp_path / "out" / "report.md").read_text()


def test_reference_rows_can_be_chosen(runs, tmp_path):
    for row, answers in (("backbone", "rw"), ("fac", "rr"), ("fac+lin", "ww"), ("final", "rw")):
        write_run(runs / row, answers, row)
    cells = reported(runs, tmp_path / "out", "fac", "final")
    assert cells["fac+lin"].against["fac"].difference == -1
    assert list(cells["backbone"].against) == ["fac", "final"]
    assert "(fa = fac, fi = final)" in (tmp_path / "out" / "report.md").read_text()
    assert "no run belongs to the reference row 'lin'; the rows are backbone, fac, final, fac+lin" in refusal(
        runs, "--reference", "lin"
    )


def test_a_report_on_some_examples_counts_these_alone_and_says_of_which_run_there_are_none(runs, tmp_path):
    write_run(runs / "backbone", "rwww")
    write_run(runs / "fac", "rrww", "fac")
    only = tmp_path / "linked.txt"
    only.write_text("e0\ne1\nelsewhere\n")
    done = command(runs, "-o", tmp_path / "out", "--only", only)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| backbone | 0.500 (1)" in text and "| fac      | 1.000 (1)" in text
    only.write_text("elsewhere\n")
    assert "names none of the examples of" in refusal(runs, "--only", only)
    assert "there is no file" in refusal(runs, "--only", tmp_path / "absent.txt")


def test_other_backbones_are_compared_with_their_own_references_alone(runs, tmp_path):
    write_run(runs / "1", "rr")
    write_run(runs / "2", "rw", "fac")
    write_run(runs / "3", "ww", "fac", backbone="hub/larger")
    write_run(runs / "4", "ww", "multitask", backbone="runs/multitask")
    (cells,) = report([runs], tmp_path / "out", log=lambda text: None).values()
    against = {(row.name, row.backbone): list(cell.against) for row, cell in cells.items()}
    assert against["fac", "hub/encoder"] == ["backbone"] == against["multitask", "runs/multitask"]
    assert against["fac", "hub/larger"] == []
    assert "| fac (larger) " in (tmp_path / "out" / "report.md").read_text()


def test_gates_are_shown_by_adapter_and_task(runs, tmp_path):
    for seed, gate in enumerate((0.25, 0.75)):
        gates = {"fac": gate, "lin": -0.125}
        write_run(runs / str(seed), "rw", "fac+lin", seed, fusion="gated", gates=gates)
    write_run(runs / "backbone", "rw", fusion="gated")
    reported(runs, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| colours 100% (test accuracy) | fac+lin | 0.500 ± 0.354 | -0.125 ± 0.000 |" in text


# ---- files --------------------------------------------------------------------------------------------------------


def test_the_files_hold_all_numbers_and_the_picture_all_names(runs, tmp_path):
    for seed in range(2):
        write_run(runs / f"b{seed}", "rrww", seed=seed)
        write_run(runs / f"f{seed}", "rrrw", "fac", seed, fusion="gated", gates={"fac": 0.5})
        write_run(runs / f"t{seed}", "rw", "fac", seed, task="birds")
    result = command(runs, "--output-dir", tmp_path / "out", "--resamples", 50)
    assert result.exit_code == 0, result.output
    assert "0.750 ± 0.000 (2)" in result.output and "50 resamples" in result.output and "[+0.000," in result.output
    with (tmp_path / "out" / "report.csv").open() as file:
        lines = {(line["task"], line["row"]): line for line in csv.DictReader(file)}
    fac = lines["colours", "fac"]
    assert float(fac["mean"]) == 0.75 and float(fac["standard_deviation"]) == 0 and fac["seeds"] == "0 1"
    assert float(fac["difference_backbone"]) == 0.25 and float(fac["low_backbone"]) == 0 < float(fac["high_backbone"])
    told = command(runs, "--output-dir", tmp_path / "again", "--resamples", 50, "--json")
    read = {(line["task"], line["row"]): line for line in json.loads(told.stdout)}
    assert read.keys() == lines.keys() and read["colours", "fac"]["mean"] == 0.75 and "wrote report.md" in told.stderr
    assert fac["gate_fac"] == "0.5" and lines["birds", "fac"]["difference_backbone"] == ""
    assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")
    drawn = "".join(ElementTree.parse(tmp_path / "out" / "report.svg").getroot().itertext())
    assert all(word in drawn for word in ("birds", "colours", "backbone", "fac", "100%", "accuracy (test)"))


def test_runs_are_read_once_however_often_they_are_named(runs, tmp_path):
    run = write_run(runs / "deep/er/backbone", "rw")
    table = report([run, runs, runs / "deep"], tmp_path / "out", log=lambda text: None)
    assert [len(cell.runs) for cells in table.values() for cell in cells.values()] == [1]


# ---- what is refused ----------------------------------------------------------------------------------------------


def test_missing_directories_and_directories_without_runs_are_refused(runs, tmp_path):
    assert f"there is no directory '{runs}'" in refusal(runs)
    runs.mkdir()
    assert f"no run in or below '{runs}'" in refusal(runs)


def test_a_run_that_was_not_evaluated_is_refused(runs):
    (write_run(runs / "fac", "rw", "fac") / "predictions.jsonl").unlink()
    assert f"{runs / 'fac'} has no predictions.jsonl; evaluate the run with --do_eval" in refusal(runs)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ('{"id": "a", "gold": "x", "prediction": "x"}\n{"id": "b", "go', "line 2 is not JSON"),
        ('{"id": "a", "gold": "x", "prediction": "x"}\n\n', "line 2 is not JSON"),
        ('["a", "x", "x"]', "line 1 holds a list, not a JSON object"),
        ('{"id": "a", "gold": "x"}', "line 1 has no ['prediction']"),
        ('{"id": "a", "gold": null, "prediction": "x"}', "line 1: example 'a' has no gold answer"),
        ('{"id": "a", "gold": "x", "prediction": "x"}\n' * 2, "line 2: id 'a' is repeated"),
        ('{"id": "a", "gold": "x", "prediction": ["x"]}', "prediction 0 is ['x']; it must be the name or number"),
        ("", "predictions.jsonl is empty"),
    ],
)
def test_damaged_predictions_are_refused_by_file_and_line(runs, lines, reason):
    write_run(runs / "good", "r")
    (write_run(runs / "fac", "r", "fac") / "predictions.jsonl").write_text(lines)
    said = refusal(runs)
    assert str(runs / "fac" / "predictions.jsonl") in said and reason in said


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": "0"}, "run.json has seed='0', of the wrong type"),
        ({"seed": True}, "run.json has seed=True, of the wrong type"),
        ({"train_examples": "250"}, "run.json has train_examples='250', of the wrong type"),
        ({"gates": None}, "run.json has gates=None, of the wrong type"),
        ({"metric": {"name": "accuracy"}}, "'metric' has no ['key']"),
        ({"metric": {"name": "bleu", "key": "bleu"}}, "no metric 'bleu'; there are accuracy, "),
        ({"metric": {"name": "accuracy", "key": "f1"}}, "has no result 'f1'; it has accuracy, macro_f1, micro_f1"),
        ({"metric": {"name": "accuracy", "key": "accuracy", "settings": {"beta": 1}}}, "'beta'"),
    ],
)
def test_a_description_that_says_nothing_of_use_is_refused(runs, changes, reason):
    write_run(runs / "fac", "rw", "fac", **changes)
    said = refusal(runs)
    assert str(runs / "fac") in said and reason in said


def test_a_damaged_description_is_refused(runs):
    run = write_run(runs / "fac", "rw", "fac")
    said = json.loads((run / "run.json").read_text())
    del said["task"]
    (run / "run.json").write_text(json.dumps(said))
    assert f"{run / 'run.json'} has no 'task'" in refusal(runs)
    (run / "run.json").write_text('{"task": ')
    assert f"{run / 'run.json'} is not JSON" in refusal(runs)


def test_results_of_another_evaluation_are_refused(runs):
    run = write_run(runs / "fac", "rrrw", "fac")
    (run / "all_results.json").write_text('{"eval_accuracy": 0.8, "epoch": 3.0}')
    assert "predictions.jsonl gives accuracy 0.750000, and all_results.json says 0.800000" in refusal(runs)


def test_two_runs_of_one_row_and_seed_are_refused(runs):
    write_run(runs / "one", "rw", "fac", seed=3)
    write_run(runs / "two", "rr", "fac", seed=3)
    expected = f"{runs / 'one'} and {runs / 'two'} are both 'fac' on colours 100% (test accuracy) with seed 3"
    assert expected in refusal(runs)


def test_runs_on_other_examples_are_refused_and_both_are_named(runs):
    write_run(runs / "one", "rwr")
    write_run(runs / "two", "rwrw", "fac")
    said = refusal(runs)
    assert f"{runs / 'one'} and {runs / 'two'} are both on colours 100% (test accuracy)" in said
    assert "on different examples: 1 ids are in only one of them, for example 'e3'" in said


def test_runs_with_other_gold_answers_or_metrics_are_refused(runs):
    write_run(runs / "one", "rw")
    two = write_run(runs / "two", "rw", "fac")
    write_lines(two, [{"id": f"e{n}", "gold": gold, "prediction": RIGHT} for n, gold in enumerate((RIGHT, WRONG))])
    assert "differ in the gold answer of 'e1'" in refusal(runs)
    (two / "run.json").write_text((two / "run.json").read_text().replace('"key": "accuracy"', '"key": "macro_f1"'))
    (two / "all_results.json").unlink()
    assert "were measured by different metrics or settings" in refusal(runs)


@pytest.mark.parametrize("words", [("--confidence", "1"), ("--confidence", "95")])
def test_intervals_that_hold_all_or_more_are_refused(runs, words):
    write_run(runs / "one", "rw")
    assert "a confidence between 0 and 1" in refusal(runs, *words)


def test_an_output_directory_that_can_not_be_written_is_refused(runs, tmp_path):
    write_run(runs / "one", "rw")
    (tmp_path / "file").write_text("mine")
    result = command(runs, "-o", tmp_path / "file")
    assert result.exit_code == 1 and "kadapter: " in result.stderr and "Traceback" not in result.output
    assert (tmp_path / "file").read_text() == "mine"
