"""experiments/continual.py: adapters retain what was taught, and are compared with full fine-tuning."""

import importlib.util
import json
import random
import sys

import pytest
from tiny_runs import PEOPLE, PLACES, ROOT, digest, sentence, write_backbone

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

SIZES = ["--adapter_hidden_size", "12", "--adapter_num_attention_heads", "2", "--adapter_intermediate_size", "16"]
SIZES += ["--max_length", "40", "--disable_tqdm", "True", "--bf16", "False"]
SENTENCES = {"born": "{} was born in {} .", "rests": "{} rests for ever in {} ."}
CELLS = [("factual", 0), ("factual", 1), ("factual", 2), ("linguistic", 1), ("linguistic", 2), ("triples", 2)]


def benchmark():
    spec = importlib.util.spec_from_file_location("continual", ROOT / "experiments" / "continual.py")
    module = sys.modules["continual"] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def write_relations(folder):
    """An invented corpus in FewRel's layout."""
    rng, records = random.Random(0), {}
    for relation, frame in SENTENCES.items():
        records[relation] = []
        for number in range(30):
            person, place = rng.choice(PEOPLE), rng.choice(PLACES)
            tokens = frame.format(person, place).split()
            end, start = len(person.split()), tokens.index("in") + 1
            spans = [list(range(end)), list(range(start, len(tokens) - 1))]
            head, tail = ([name, f"Q{number}", [span]] for name, span in zip((person, place), spans, strict=True))
            records[relation].append({"tokens": tokens, "h": head, "t": tail})
    folder.mkdir()
    (folder / "sentences.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


def write_own(folder):
    """Invented texts, and triples that they state."""
    folder.mkdir()
    for split, people in (("train", PEOPLE[:6]), ("test", PEOPLE[6:])):
        pairs = list(zip(people, PLACES, strict=False))
        facts = [(person, relation, place) for person, place in pairs for relation in ("works in", "likes")]
        facts = [fact for number, fact in enumerate(facts) if number % 3]
        facts = list({(person, place): relation for person, relation, place in facts}.items())
        text = "".join(f"{person} is often seen in {place}.\n" for (person, place), _ in facts)
        triples = "".join(f"{person}\t{relation}\t{place}\n" for (person, place), relation in facts)
        (folder / f"{split}.txt").write_text(text, encoding="utf-8")
        (folder / f"{split}.tsv").write_text(triples, encoding="utf-8")
    return folder


def write_treebank(folder):
    folder.mkdir()
    rng = random.Random(0)
    for name, size in (("train", 30), ("dev", 10)):
        trees = "".join(sentence(f"{name}-{number}", rng) for number in range(size))
        (folder / f"{name}.conllu").write_text(trees, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The benchmark, the keywords of one run of it, and its folder."""
    folder = tmp_path_factory.mktemp("continual")
    given = {
        "backbone": str(write_backbone(folder / "backbone")),
        "fewrel": write_relations(folder / "fewrel"),
        "treebank": write_treebank(folder / "treebank"),
        "texts_and_triples": write_own(folder / "own"),
        "output_dir": folder / "run",
        "epochs": 2,
        "max_train_samples": 32,
        "max_eval_samples": 12,
        "fine_tuning_rate": 1e-2,
        "more": SIZES,
    }
    module = benchmark()
    module.main(**{"seed": 0, **given})
    return module, given, folder / "run"


def measured(run):
    return json.loads((run / "continual.json").read_text(encoding="utf-8"))["measured"]


def test_adapters_answer_bit_for_bit_as_before_when_others_stand_beside_them(ran):
    row = measured(ran[2])["knowledge adapters"]
    for kind, stages in row.items():
        first, *later = (stages[stage] for stage in sorted(stages))
        assert all(one == first for one in later), kind
    assert [len(stages) for stages in row.values()] == [3, 2, 1]
    assert len({row[kind]["2"]["features"] for kind in row}) == 3


def test_full_fine_tuning_changes_what_the_encoder_makes_of_earlier_kinds(ran):
    row = measured(ran[2])["full fine-tuning"]
    for kind in ("factual", "linguistic"):
        stages = list(row[kind].values())
        assert len({one["features"] for one in stages}) == len({one["artifact"] for one in stages}) == len(stages)
        assert len({one["results"]["eval_loss"] for one in stages}) == len(stages)


def test_the_table_has_a_cell_for_each_kind_after_each_stage(ran):
    headings, _, *rows = ((ran[2] / "continual.md").read_text(encoding="utf-8")).strip().splitlines()
    names = [cell.strip() for cell in headings.strip("|").split("|")]
    assert names[1:4] == [f"factual (micro_f1) after {one}" for one in ("1st", "2nd", "3rd")]
    assert names[-1] == "bit-equal" and len(names) == len(CELLS) + 2
    for (way, row), line, kept in zip(measured(ran[2]).items(), rows, ("yes", "no"), strict=True):
        first, *numbers, last = [cell.strip() for cell in line.strip("|").split("|")]
        assert (first, last) == (way, kept)
        scores = [row[kind][str(stage)]["results"] for kind, stage in CELLS]
        assert numbers == [f"{one.get('eval_uas', one.get('eval_micro_f1')):.3f}" for one in scores]


def test_a_run_that_was_stopped_repeats_only_what_is_missing(ran):
    module, given, run = ran
    file, before = run / "continual.json", digest(run / "fine-tuned")
    record = json.loads(file.read_text(encoding="utf-8"))
    adapters, tuned = record["measured"].values()
    adapters["linguistic"]["1"]["results"]["eval_uas"] = 2.0  # stays, since it is not measured again
    whole = json.loads(json.dumps(record))
    del tuned["factual"]["2"], adapters["triples"]["2"]
    file.write_text(json.dumps(record), encoding="utf-8")
    module.main(**{"seed": 0, **given})
    again = json.loads(file.read_text(encoding="utf-8"))
    for one in (again, whole):  # safetensors writes a file's metadata in any order
        del one["measured"]["knowledge adapters"]["triples"]["2"]["artifact"]
    assert again == whole
    assert digest(run / "fine-tuned") == before
    assert "| 2.000 |" in (run / "continual.md").read_text(encoding="utf-8")


def test_a_directory_of_a_run_by_other_flags_is_refused(ran):
    module, given, run = ran
    before = (run / "continual.json").read_bytes()
    with pytest.raises(ValueError, match=r"belongs to a run with .* choose another --output-dir"):
        module.main(**{**given, "seed": 1})
    assert (run / "continual.json").read_bytes() == before
