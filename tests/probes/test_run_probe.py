"""The probe as a program: rows of adapters on invented facts, their files, their comparison, and bad input."""

import csv
import json

import pytest
import torch
from helpers import shake, small_adapter
from tiny_lm import tiny_bert, words_tokenizer, write_adapters
from typer.testing import CliRunner

from kadapter.commands import app
from kadapter.language_modeling_kadapter import KAdapterForMaskedLM
from kadapter.reports.comparison import Resampling
from kadapter.reports.relations import MACRO, MICRO, by_relation
from kadapter.reports.runs import read_run
from kadapter.trainers import probes
from kadapter.trainers.run_probe import main

SUBJECTS = ("Mira", "Voss", "Ole", "Mira Voss", "Ole Voss", "Old Mira")
PLACES = ("Tarnstad", "Lind", "Kell", "Paris", "Newton", "Tarnstad")
TEMPLATES = {"P19": "[X] was born in [Y] .", "P36": "[Y] is the city , [X] ."}


def trex(relation, number, subject, answer):
    sentence = {"sub_surface": subject, "obj_surface": answer, "masked_sentence": f"{subject} is in [MASK] ."}
    evidences = [sentence, sentence, {**sentence, "masked_sentence": f"in [MASK] was {subject} ."}]
    label = {"sub_label": subject, "obj_label": answer, "predicate_id": relation}
    return {"uuid": f"{relation}-{number}", **label, "evidences": evidences}


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A backbone with an LM head, two adapters on it, and LAMA's layout with invented facts."""
    folder = tmp_path_factory.mktemp("probe")
    write_adapters(folder)
    lama = folder / "lama"
    (lama / "TREx").mkdir(parents=True)
    for relation in TEMPLATES:
        facts = [trex(relation, n, *pair) for n, pair in enumerate(zip(SUBJECTS, PLACES, strict=True))]
        lines = "".join(json.dumps(each) + "\n" for each in facts)
        (lama / "TREx" / f"{relation}.jsonl").write_text(lines, encoding="utf-8")
    templates = [{"relation": name, "template": template} for name, template in TEMPLATES.items()]
    (lama / "relations.jsonl").write_text("".join(json.dumps(each) + "\n" for each in templates), encoding="utf-8")
    return folder


def probe(ground, output, *more, name="lama_trex", data="lama"):
    flags = ["--probe", name, "--data_dir", ground / data, "--backbone", ground / "backbone", "--output_dir", output]
    return main([str(flag) for flag in (*flags, *more)])


def lines_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def rows(ground):
    """The rows of a table: the backbone, the controls, and adapters."""
    chosen = {
        "backbone": [],
        "taps": ["--adapters", "taps", "--layers", "0", "2", "4"],
        "random": ["--adapters", "random", ground / "fac"],
        "fac": ["--adapters", ground / "fac"],
        "fac+lin": ["--adapters", ground / "fac", ground / "lin"],
    }
    for row, flags in chosen.items():
        probe(ground, ground / "rows" / row, *flags)
    return {row: ground / "rows" / row for row in chosen}


# ---- rows ---------------------------------------------------------------------------------------------------------


def test_every_row_asks_the_same_facts_and_describes_itself(rows):
    runs = {name: read_run(folder) for name, folder in rows.items()}
    assert {name: run.row for name, run in runs.items()} == {name: name for name in rows}
    assert len({tuple(sorted(run.examples)) for run in runs.values()}) == 1
    assert runs["random"].record["random"] == ["fac"] and runs["fac+lin"].record["adapters"] == ["fac", "lin"]
    ranks = {name: [line["prediction"]["rank"] for line in lines_of(folder)] for name, folder in rows.items()}
    assert len(set(map(tuple, ranks.values()))) == 5  # all of them answer differently


def test_a_row_ranks_as_the_model_itself_does(ground, rows):
    model = KAdapterForMaskedLM.from_backbone(str(ground / "backbone"))
    model.load_adapter(str(ground / "fac"))
    tokenizer = words_tokenizer()
    for line in lines_of(rows["fac"]):
        text = line["prompt"].replace("[MASK]", "<mask>")
        ids = tokenizer(text, return_tensors="pt").input_ids
        (place,) = (ids[0] == tokenizer.mask_token_id).nonzero()[:, 0].tolist()
        with torch.no_grad():
            scores = model.eval()(input_ids=ids).logits[0, place]
        right = tokenizer.convert_tokens_to_ids(line["gold"]["answers"][0].lower())
        others = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids and i != right]
        assert line["prediction"]["rank"] == 1 + int((scores[others] >= scores[right]).sum())


def test_results_are_means_of_the_ranks_that_were_written(rows):
    results = json.loads((rows["fac"] / "all_results.json").read_text(encoding="utf-8"))
    ranks = {"P19": [], "P36": []}
    for line in lines_of(rows["fac"]):
        ranks[line["gold"]["relation"]].append(line["prediction"]["rank"])
    assert {name: len(own) for name, own in ranks.items()} == {"P19": 5, "P36": 5}
    for cutoff in (1, 10, 100):
        shares = [sum(rank <= cutoff for rank in own) / len(own) for own in ranks.values()]
        assert results[f"eval_macro_p_at_{cutoff}"] == pytest.approx(sum(shares) / 2)
    assert results["eval_micro_mrr"] == pytest.approx(sum(1 / rank for own in ranks.values() for rank in own) / 10)
    assert (results["facts"], results["asked"], results["answer_of_several_tokens"]) == (12, 10, 2)


def test_rows_are_compared_by_kadapter_report(rows, tmp_path):
    done = CliRunner().invoke(app, ["report", *map(str, rows.values()), "-o", str(tmp_path / "report")])
    assert done.exit_code == 0, done.output
    assert "lama_trex (template prompts, vocabulary candidates)" in done.output and "less backbone" in done.output
    with (tmp_path / "report" / "report.csv").open(encoding="utf-8") as file:
        means = {line["row"]: float(line["mean"]) for line in csv.DictReader(file)}
    assert means == {name: pytest.approx(read_run(folder).score) for name, folder in rows.items()}


def test_results_by_relation_are_printed_written_and_compared(ground, rows, tmp_path, capsys):
    probe(ground, tmp_path / "out", "--adapters", ground / "lin", "--against", rows["backbone"], rows["fac"])
    printed = capsys.readouterr().out
    assert "lin: by relation, less backbone, fac" in printed and "facts: 12 read, 10 asked" in printed
    assert "left out: 2 answer_of_several_tokens" in printed
    lines = by_relation([read_run(folder) for folder in (tmp_path / "out", rows["backbone"])], Resampling())
    assert [(line.name, line.facts) for line in lines] == [("P19", 5), ("P36", 5), (MACRO, 10), (MICRO, 10)]
    for line in lines:
        (interval,) = line.against
        assert interval.difference == pytest.approx(line.results["P@1"] - line.others[0])
        assert interval.low <= interval.difference <= interval.high
    with (tmp_path / "out" / "relations.csv").open(encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [line["left_out"] for line in written] == ["1", "1", "2", "2"]
    assert [float(line["P@1 of backbone"]) for line in written] == [line.others[0] for line in lines]
    drawing = (tmp_path / "out" / "relations.svg").read_text(encoding="utf-8")
    assert all(f"P{n} (5)" in drawing for n in (19, 36)) and (tmp_path / "out" / "relations.png").stat().st_size > 5000


def test_a_whole_masked_lm_model_keeps_its_fusion_and_its_head(ground, tmp_path):
    shape = {"fac": small_adapter()}
    model = KAdapterForMaskedLM.from_backbone(
        str(ground / "backbone"), lm_head="linear", adapters=shape, fusion="gated"
    )
    shake(model).save_pretrained(tmp_path / "whole")
    probe(ground, tmp_path / "out", "--adapters", tmp_path / "whole")
    record = read_run(tmp_path / "out").record
    assert (record["fusion"], record["adapters"]) == ("gated", ["fac"]) and set(record["gates"]) == {"fac"}


def test_a_trained_lm_head_is_shared_by_rows(ground, tmp_path):
    head = KAdapterForMaskedLM.from_backbone(str(ground / "backbone"), lm_head="transform")
    shake(head).save_pretrained(tmp_path / "head")
    probe(ground, tmp_path / "none", "--lm_head", tmp_path / "head")
    probe(ground, tmp_path / "fac", "--lm_head", tmp_path / "head", "--adapters", ground / "fac")
    assert lines_of(tmp_path / "none") != lines_of(tmp_path / "fac")
    assert read_run(tmp_path / "none").record["lm_head"] == str(tmp_path / "head")


# ---- prompts, candidates, filters ---------------------------------------------------------------------------------


def test_evidence_prompts_ask_each_fact_once_by_all_its_different_sentences(ground, tmp_path):
    probe(ground, tmp_path / "out", "--prompts", "evidence")
    lines = lines_of(tmp_path / "out")
    assert len(lines) == 10 and lines[0]["prompt"] == "Mira is in [MASK] ."


@pytest.mark.parametrize("way", ["closed", "pll"])
def test_answers_of_several_tokens_compete_in_the_list_of_their_relation(ground, tmp_path, way):
    probe(ground, tmp_path / "out", "--candidates", "relation", "--multi_token", way)
    lines = lines_of(tmp_path / "out")
    assert len(lines) == 12 and {line["prediction"]["candidates"] for line in lines} == {5}
    assert f"answers {way}" in read_run(tmp_path / "out").task


def test_the_common_vocabulary_is_that_of_all_models(ground, tmp_path, capsys):
    words_tokenizer(["tarnstad", "kell", "rome"]).save_pretrained(tmp_path / "other")
    probe(ground, tmp_path / "out", "--common_with", tmp_path / "other")
    assert "common vocabulary: 2 words" in capsys.readouterr().out
    lines = lines_of(tmp_path / "out")
    assert {line["gold"]["answers"][0] for line in lines} == {"Tarnstad", "Kell"}
    assert {line["prediction"]["candidates"] for line in lines} == {2}


def test_filters_of_names_are_counted_and_named_in_the_task(ground, tmp_path, capsys):
    model = ["--uhn", "string_match", "person_name", "--uhn_model", "backbone"]
    probe(ground, tmp_path / "out", *model, "--adapters", ground / "fac")
    run = read_run(tmp_path / "out")
    assert "without string_match, without person_name" in run.task
    assert run.record["counts"]["asked"] == len(run.examples)
    again = probe(ground, tmp_path / "none", *model)
    assert read_run(tmp_path / "none").examples.keys() == run.examples.keys() and again


def test_ones_own_prompts_are_asked(ground, tmp_path):
    (tmp_path / "own").mkdir()
    lines = "Mira was born in <mask>.\tLind\tbirth\nThe baker of [MASK].\tParis\n"
    (tmp_path / "own" / "facts.tsv").write_text(lines, encoding="utf-8")
    probe(ground, tmp_path / "out", name="cloze", data=tmp_path / "own")
    assert [(line["id"], line["gold"]["relation"]) for line in lines_of(tmp_path / "out")] == [
        ("facts.tsv:1", "birth"),
        ("facts.tsv:2", "prompts"),
    ]


def test_questions_are_followed_by_the_mask_and_training_questions_left_aside(ground, tmp_path):
    for split, names in (("train", ("Ole",)), ("dev", ("Mira", "Voss"))):
        (tmp_path / "own" / split).mkdir(parents=True)
        asked = [{"question": f"Where was {name} born?", "answers": ["Newton", "Lind"]} for name in names]
        (tmp_path / "own" / split / f"P19.{split}.json").write_text(json.dumps(asked), encoding="utf-8")
    probe(ground, tmp_path / "out", name="entity_questions", data=tmp_path / "own")
    assert [line["prompt"] for line in lines_of(tmp_path / "out")] == [
        "Where was Mira born? [MASK]",
        "Where was Voss born? [MASK]",
    ]
    probe(ground, tmp_path / "train", "--split", "train", name="entity_questions", data=tmp_path / "own")
    assert len(lines_of(tmp_path / "train")) == 1 and read_run(tmp_path / "train").record["split"] == "train"


# ---- bad input ----------------------------------------------------------------------------------------------------

REFUSED = {
    "closed lists alone take several tokens": (["--multi_token", "pll"], "can only be compared with a closed list"),
    "common without others": (["--candidates", "common"], "--candidates common needs --common_with MODEL"),
    "others without common": (
        ["--candidates", "relation", "--common_with", "x"],
        "--common_with is for --candidates common",
    ),
    "an untrained head": (["--lm_head", "transform"], "would be untrained and know nothing"),
    "an untrained fusion": (["--adapters", "fac", "--fusion", "concat"], "has weights, which are untrained here"),
    "a head as an adapter": (["--adapters", "head"], "holds an LM head and no adapter; give it as --lm_head"),
    "an adapter as a head": (["--lm_head", "fac"], "holds no LM head of its own"),
    "none beside others": (["--adapters", "none", "fac"], "none stands alone"),
    "a split that is not there": (["--split", "train"], "has the splits ['test']; choose one of these"),
    "no facts at once": (["--max_facts", "0"], "--max_facts 0 must be at least 1"),
    "more tokens than the model takes": (["--max_length", "900"], "--max_length 900 is more than the 60 tokens"),
    "nothing that fits": (["--max_length", "2"], "none of the 12 facts in"),
}


@pytest.mark.parametrize(("flags", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_can_not_be_asked_is_refused_in_a_sentence(ground, tmp_path, flags, sentence):
    if not (ground / "head").exists():
        KAdapterForMaskedLM.from_backbone(str(ground / "backbone"), lm_head="linear").save_pretrained(ground / "head")
    paths = [ground / flag if flag in ("fac", "head") else flag for flag in flags]
    with pytest.raises(ValueError) as caught:
        probe(ground, tmp_path / "out", *paths)
    assert sentence in str(caught.value) and not (tmp_path / "out").exists()


def test_a_probe_has_only_its_own_prompts(ground, tmp_path):
    with pytest.raises(ValueError, match="--prompts template: the probe cloze has only evidence prompts"):
        probe(ground, tmp_path / "out", "--prompts", "template", name="cloze")


def test_a_backbone_without_a_head_is_told_what_to_give(ground, tmp_path):
    tiny_bert(words_tokenizer()).base_model.save_pretrained(tmp_path / "bare")
    words_tokenizer().save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="has no complete LM head: its checkpoint lacks"):
        probe(ground, tmp_path / "out", "--backbone", tmp_path / "bare")


def test_earlier_results_and_trained_models_are_not_overwritten(ground, rows, tmp_path):
    before = (rows["taps"] / "predictions.jsonl").read_bytes()
    with pytest.raises(ValueError, match="holds earlier results; replace them with --overwrite_output_dir"):
        probe(ground, rows["taps"])
    assert (rows["taps"] / "predictions.jsonl").read_bytes() == before
    with pytest.raises(ValueError, match="holds a trained model; choose another directory"):
        probe(ground, ground / "fac", "--overwrite_output_dir")
    (tmp_path / "thesis.txt").write_text("years", encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds 'thesis\.txt', which no run of kadapter wrote"):
        probe(ground, tmp_path)
    probe(ground, tmp_path / "out")
    probe(ground, tmp_path / "out", "--overwrite_output_dir", "--adapters", ground / "fac")
    assert read_run(tmp_path / "out").row == "fac"


def test_runs_on_other_facts_or_by_another_metric_are_not_compared(ground, rows, tmp_path):
    with pytest.raises(ValueError, match="were measured on different examples"):
        probe(
            ground, tmp_path / "out", "--candidates", "relation", "--multi_token", "closed", "--against", rows["taps"]
        )


def test_probes_are_found_by_their_names_and_fit_their_corpora():
    assert set(probes.available()) == {
        "cloze",
        "entity_questions",
        "lama_conceptnet",
        "lama_google_re",
        "lama_squad",
        "lama_trex",
    }
    with pytest.raises(ValueError, match=r"no probe 'lama_trexx'; there are .*; did you mean 'lama_trex'\?"):
        probes.load("lama_trexx")
