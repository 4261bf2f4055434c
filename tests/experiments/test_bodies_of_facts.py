"""experiments/bodies_of_facts.py: bodies of facts are taught apart, and asked alone and together."""

import importlib.util
import json
import sys

import pytest
from tiny_decoders import tiny_decoder
from tiny_runs import ROOT, digest, tokenizer_of
from typer.testing import CliRunner

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # which PEFT reads
]

BODIES = {
    "people": {"Mira Voss": "Tarnstad", "Jon Ackroyd": "Old Quarry", "Lena Brandt": "Lindmouth"},
    "towns": {"Tarnholm": "salt", "Velmouth": "silk", "Oskerby": "glass"},
}
TAUGHT, OTHERS = (
    ["[X] has [Y] .", "near [X] is [Y] ."],
    ["so [X] had [Y] .", "what is near [X] ? [Y] .", "[Y] is near [X] ."],
)
KINDS = ("taught", "statement", "question", "reversed")
WITHIN = {"lora": 1e-2, "full": 1e-3, "osf": 3e-3, "cartridge": 1e-1}
TEXTS = ["the town of glass is near", "silk is near salt", "so what had the town"]


def program():
    sys.path.insert(0, str(ROOT / "experiments"))  # as for a program that is started by its path
    spec = importlib.util.spec_from_file_location("bodies", ROOT / "experiments" / "bodies_of_facts.py")
    module = sys.modules["bodies"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_ground(folder):
    """Write the decoder, the bodies, other texts and the recipe, and return the flags that name them."""
    names = [name for body in BODIES.values() for pair in body.items() for name in pair]
    phrasings = [text.replace("[X]", names[0]).replace("[Y]", names[1]) for text in TAUGHT + OTHERS[:2]]
    tokenizer = tokenizer_of([*phrasings, *TEXTS, *(f" {name}" for name in names)] * 3)
    tokenizer.save_pretrained(folder / "decoder")
    tiny_decoder(vocab_size=len(tokenizer)).save_pretrained(folder / "decoder")
    for body, facts in BODIES.items():
        (folder / body).mkdir()
        triples = "".join(f"{head}\thas\t{tail}\n" for head, tail in facts.items())
        (folder / body / "triples.tsv").write_text(triples, encoding="utf-8")
        for split, own in (("train", TAUGHT), ("test", OTHERS)):
            line = json.dumps({"relation": "has", "phrasings": own}) + "\n"
            (folder / body / f"templates_{split}.jsonl").write_text(line, encoding="utf-8")
    (folder / "texts").mkdir()
    (folder / "texts" / "train.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    recipe = (
        "objective: causal_lm\ncorpus: triples\nlearning_rate: 1.0e-2\nmax_length: 40\ndo_train: true\nbf16: false\n"
    )
    recipe += "adapter_hidden_size: 32\nadapter_num_attention_heads: 4\nsave_strategy: 'no'\nreport_to: none\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    given = ["--recipe", folder / "recipe.yaml", "--backbone", folder / "decoder", "--text-corpus", "text"]
    return [*given, "--text-data-dir", folder / "texts", "--seeds", 2, "-o", folder / "out"]


def run(*given):
    app = program().typer.Typer()
    app.command()(program().main)
    outcome = CliRunner().invoke(app, [str(word) for word in given], catch_exceptions=False)
    assert outcome.exit_code == 0
    return outcome.stdout


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bodies")
    given = [folder / "people", folder / "towns", *write_ground(folder)]
    before = digest(folder / "decoder")
    given += [word for how, rate in WITHIN.items() for word in (f"--{how}", rate)]
    given += ["--", "--num_train_epochs", 60, "--per_device_train_batch_size", 6, "--locality_weight", 10]
    given += ["--locality_other_names", 12, "--disable_tqdm", "true"]
    printed = run(*given)
    assert digest(folder / "decoder") == before
    return folder / "out", printed


@pytest.fixture(scope="module")
def brief(tmp_path_factory):
    """A run of few steps: its directory, its flags and those for the trainings."""
    folder = tmp_path_factory.mktemp("brief")
    given = [folder / "people", folder / "towns", *write_ground(folder), "--full", 1e-3]
    own = ["--", "--max_steps", 1, "--disable_tqdm", "true"]
    run(*given, *own)
    return folder, given, own


def test_each_adapter_knows_its_own_body_and_both_together_know_both(ran):
    folder, printed = ran
    results = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    together = {"lora": ["people and towns"]}
    within = [
        f"{how} {rate:g}: {row}"
        for how, rate in WITHIN.items()
        for row in ("towns", "people", *together.get(how, []), "people, then towns")
    ]
    trained = ["people", "towns", *within]
    assert list(results) == ["frozen", "people", "towns", "all, delta", "all, max", *within]
    for row, own in results.items():
        kinds = [f"{body}, {kind}" for body in BODIES for kind in KINDS]
        assert list(own) == [*kinds, "agreement", "divergence", "perplexity", *(["CPU s"] if row in trained else [])]
        assert own["people, taught"]["of"] == 6 and len(own["people, taught"]["by_seed"]) == 2
        assert f"| {row} | " in printed
    right = {(row, body): results[row][f"{body}, taught"]["mean"] for row in results for body in BODIES}
    assert right["people", "people"] == right["towns", "towns"] == 1.0
    assert right["people", "towns"] < 0.5 > right["towns", "people"]
    assert min(right[row, body] for row in ("all, delta", "all, max") for body in BODIES) > 0.5
    assert results["frozen"]["agreement"]["mean"] == results["frozen"]["perplexity"]["mean"] == 1.0
    assert results["frozen"]["divergence"]["mean"] == 0 < results["people"]["divergence"]["mean"]
    assert results["people"]["people, reversed"]["of"] == 3
    assert results["people"]["agreement"]["mean"] < 1.0 and results["people"]["perplexity"]["mean"] != 1.0
    assert (folder / "facts.md").read_text(encoding="utf-8").strip() in printed
    drawn = (folder / "facts.svg").read_text(encoding="utf-8")
    assert ">people, question</text>" in drawn and ">full 0.001: people, then towns, taught</text>" in drawn


def test_what_a_decoder_is_taught_itself_stands_beside_the_adapters(ran):
    results = json.loads((ran[0] / "facts.json").read_text(encoding="utf-8"))
    for how in (f"{how} {rate:g}" for how, rate in WITHIN.items()):
        for body, other in (("people", "towns"), ("towns", "people")):
            own = results[f"{how}: {body}"]
            assert own[f"{body}, taught"]["mean"] > 0.5 > own[f"{other}, taught"]["mean"]
            assert own["agreement"]["mean"] < 1.0 and own["divergence"]["mean"] > 0
        later = results[f"{how}: people, then towns"]
        assert later["towns, taught"]["mean"] > 0.5
        assert later["CPU s"]["mean"] > results[f"{how}: people"]["CPU s"]["mean"]


def scores(folder):
    results = json.loads((folder / "out" / "facts.json").read_text(encoding="utf-8"))
    return {row: {name: own for name, own in measures.items() if name != "CPU s"} for row, measures in results.items()}


def test_an_interrupted_run_resumes_and_trains_nothing_twice(brief):
    folder, given, own = brief
    results, before = scores(folder), digest(folder / "out" / "seed-0")
    (folder / "out" / "seed-1" / "towns" / "cpu_seconds.json").unlink()  # as a kill after the last training leaves it
    (folder / "out" / "facts.json").unlink()
    run(*given, *own)
    assert scores(folder) == results and digest(folder / "out" / "seed-0") == before


def test_each_seed_reads_for_itself_what_its_trainings_share(brief):
    folder, _, _ = brief
    assert all((folder / "out" / f"seed-{seed}" / "states").is_dir() for seed in range(2))
    assert not (folder / "out" / "states").exists()


@pytest.mark.parametrize(
    ("file", "more", "changed"),
    [
        (None, ["--learning_rate", "1e-3"], "what follows -- was '--max_steps 1 .*' and is .* --learning_rate 1e-3'"),
        ("people/triples.tsv", [], "the body people was '.*' and is '.*', what is asked was"),
        ("texts/train.txt", [], "what is asked was '.*' and is"),
        ("recipe.yaml", [], "--recipe was '.*' and is"),
    ],
)
def test_results_of_other_flags_or_data_are_refused(brief, file, more, changed):
    folder, given, own = brief
    before, held = digest(folder / "out"), (folder / (file or "recipe.yaml")).read_text(encoding="utf-8")
    try:
        if file is not None:
            (folder / file).write_text(held[: held.rstrip().rindex("\n")], encoding="utf-8")
        with pytest.raises(ValueError, match=rf"out' holds results of another run: {changed}.*; choose another"):
            run(*given, *own, *more)
    finally:
        (folder / (file or "recipe.yaml")).write_text(held, encoding="utf-8")
    assert digest(folder / "out") == before


def test_results_that_do_not_say_what_they_are_of_are_refused(brief, tmp_path):
    _, given, own = brief
    (tmp_path / "seed-0").mkdir()
    with pytest.raises(ValueError, match=r"holds results that do not say in settings\.json what they are of; choose"):
        run(*given, "-o", tmp_path, *own)


def test_two_bodies_of_one_name_are_refused(brief, tmp_path):
    _, given, own = brief
    with pytest.raises(ValueError, match=r"'people' is the name of two directories, .*; rename one"):
        run(tmp_path / "people", *given, "-o", tmp_path / "out", *own)
    with pytest.raises(ValueError, match=r"'states' is the name of other results, .*; rename one"):
        run(tmp_path / "states", *given, "-o", tmp_path / "out", *own)
    assert not (tmp_path / "out").exists()
