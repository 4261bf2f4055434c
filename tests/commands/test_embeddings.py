"""`kadapter embeddings`: what others trained is imported row by row, what is malformed refused; a graph is trained."""

import csv
import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from kadapter import EntityEmbeddings
from kadapter.commands import app

IDS = ["Q90", "Q10", "Q2"]
VECTORS = np.array([[0.5, -1.0], [2.0, 0.25], [3.0, 1e-3]], dtype=np.float32)


def run(*words):
    return CliRunner().invoke(app, ["embeddings", *map(str, words)])


def imported(tmp_path, source, *options):
    """The table that a source is imported as."""
    result = run("import", source, "-o", tmp_path / "imported", "--knowledge-base", "wikidata", *options)
    assert result.exit_code == 0, result.output
    table = EntityEmbeddings.from_pretrained(tmp_path / "imported")
    assert table.sha256 in result.output and table.knowledge_base == "wikidata"
    return table


def refusal(tmp_path, source, *options):
    """The sentence with which an import is refused, after which nothing was written."""
    result = run("import", source, "-o", tmp_path / "imported", *options)
    assert result.exit_code == 1 and not (tmp_path / "imported").exists(), result.output
    *_, line = result.stderr.strip().splitlines()  # after what it says that it reads
    return line.removeprefix("kadapter: ")


def write(folder, **files):
    """Write files, "__" in a name standing for a point, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(content, encoding="utf-8") if isinstance(content, str) else np.save(path, content)
    return folder


def lines_of_numbers(separator="\t"):
    return "".join(f"{separator.join(map(str, row))}{separator}\n" for row in VECTORS.tolist())


def pykeen_result(folder, labels=IDS, vectors=VECTORS):
    """The files of a result directory that are read, as PyKEEN and pandas write them."""
    (folder / "training_triples").mkdir(parents=True)
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerows([["id", "label"], *([row, label] for row, label in enumerate(labels))])
    (folder / "training_triples" / "entity_to_id.tsv.gz").write_bytes(gzip.compress(text.getvalue().encode()))
    (folder / "trained_model.pkl").write_bytes(b"a pickle, which nobody reads")
    both = {"inverse_harmonic_mean_rank": 0.25, "hits_at_1": 0.125, "hits_at_3": 0.25, "hits_at_10": 0.5}
    (folder / "results.json").write_text(json.dumps({"metrics": {"both": {"realistic": both}}}))
    if vectors is not None:
        np.save(folder / "entity_embeddings.npy", vectors)
    return folder


SHUFFLED = "3\nQ2\t2\nQ90 0\nQ10\t1\n"
UMLS = "entity\tid\n1\tQ10\n2\tQ2\n0\tQ90\n"


def sources(folder):
    """A source of each layout that holds the same three entities, with the options that it needs."""
    table = pa.table({"qid": IDS, "vector": VECTORS.tolist()})
    (folder / "parquet").mkdir(parents=True)
    pq.write_table(table, folder / "parquet" / "part-0.parquet")
    pq.write_table(table.set_column(0, "qid", table["qid"].dictionary_encode()), folder / "categories.parquet")
    save_file({"entity_representations.0._embeddings.weight": torch.tensor(VECTORS)}, folder / "model.safetensors")
    lines = lines_of_numbers(" ").splitlines()
    word2vec = "3 2\n" + "".join(f"{name} {line.strip()}\n" for name, line in zip(IDS, lines, strict=True))
    (folder / "zipped.txt.gz").write_bytes(gzip.compress(word2vec.encode()))
    result = pykeen_result(folder / "pykeen-state", vectors=None)
    return {
        "ERNIE's .vec": [write(folder / "ernie", entity2id__txt=SHUFFLED, entity2vec__vec=lines_of_numbers())],
        "OpenKE's .npy": [write(folder / "openke", entity2id__txt=SHUFFLED, transe__npy=VECTORS)],
        "a .npy file beside entity2id.txt": [folder / "openke" / "transe.npy"],
        "UMLS's reversed entities.tsv": [write(folder / "umls", entities__tsv=UMLS, transe__npy=VECTORS)],
        "UMLS's without a header": [
            write(folder / "bare", entities__tsv=UMLS.partition("\n")[2], transe__npy=VECTORS)
        ],
        "PyKEEN's result": [pykeen_result(folder / "pykeen")],
        "PyKEEN's state dict": [result, "--vectors", folder / "model.safetensors"],
        "word2vec's text": [write(folder / "word2vec", model__txt=word2vec) / "model.txt"],
        "word2vec's text, gzipped": [folder / "zipped.txt.gz"],
        "NumPy and a list": [
            write(folder / "numpy", table__npy=VECTORS.astype(np.float64), names__txt="\n".join(IDS))
        ],
        "NumPy and a list named": [folder / "numpy" / "table.npy", "--ids", folder / "numpy" / "names.txt"],
        "Parquet": [folder / "parquet"],
        "Parquet with categories": [folder / "categories.parquet"],
        "Parquet, one file": [folder / "parquet" / "part-0.parquet", "--format", "parquet"],
    }


@pytest.mark.parametrize("layout", range(14))
def test_every_layout_gives_the_same_table(tmp_path, layout):
    source = list(sources(tmp_path / "sources").values())[layout]
    table = imported(tmp_path, *source)
    assert list(table) == IDS
    assert torch.equal(table.embeddings, torch.tensor(VECTORS))


def test_figures_of_pykeen_come_along_and_quoted_labels_are_as_they_were(tmp_path):
    labels = ['"Zoë" of York', "tab\tinside", "NA"]
    table = imported(tmp_path, pykeen_result(tmp_path / "result", labels))
    assert list(table) == labels
    assert table.origin == {"trained by": "PyKEEN", "MRR": 0.25, "hits@1": 0.125, "hits@3": 0.25, "hits@10": 0.5}


def test_complex_vectors_become_twice_as_wide_and_half_ones_stay_half(tmp_path):
    complex_vectors = (VECTORS + 1j * VECTORS[::-1]).astype(np.complex64)
    table = imported(tmp_path, pykeen_result(tmp_path / "result", vectors=complex_vectors))
    assert torch.equal(table.embeddings, torch.tensor(np.concatenate([VECTORS, VECTORS[::-1]], axis=1)))
    half = write(tmp_path / "half", table__npy=VECTORS.astype(np.float16), table__txt="\n".join(IDS))
    result = run("import", half, "-o", tmp_path / "other")
    assert result.exit_code == 0, result.output
    assert EntityEmbeddings.from_pretrained(tmp_path / "other").embeddings.dtype == torch.float16


def openke(lines, vectors=VECTORS):
    return {"entity2id__txt": lines, "transe__npy": vectors}


REFUSED = {
    "a count that lies": (
        openke("4\nQ90\t0\nQ10\t1\nQ2\t2\n"),
        "line 1: says 4 entities, and 3 follow",
    ),
    "no count": (openke("Q90\t0\nQ10\t1\n"), "entity2id.txt, line 1: must be the number of entities"),
    "an empty file": (openke(""), "entity2id.txt, line 1: must be the number of entities"),
    "a row twice": (openke("3\nQ90\t0\nQ10\t0\nQ2\t2\n"), "line 3: row 0 is 'Q90''s already"),
    "a row left out": (openke("3\nQ90\t0\nQ10\t1\nQ2\t7\n"), "no line names row 2 of 3"),
    "no row": (openke("3\nQ90\t0\nQ10\nQ2\t2\n"), "line 3: 'Q10' is not an id and a row"),
    "an id twice": (openke("3\nQ90\t0\nQ10\t1\nQ90\t2\n"), "id 'Q90' is listed twice, in rows 0 and 2"),
    "fewer vectors": (openke(SHUFFLED, VECTORS[:2]), "has 3 ids, and"),
    "NaN": (openke(SHUFFLED, VECTORS * [[1], [np.nan], [1]]), "row 1 (entity 'Q10') holds NaN"),
    "integers": (openke(SHUFFLED, VECTORS.astype(int)), "are no vectors; give floating-point numbers"),
    "a vector": (openke(SHUFFLED, VECTORS[0]), "are no vectors"),
    "objects": (openke(SHUFFLED, np.array([["a"], [1.0], [None]], dtype=object)), "save a matrix of numbers"),
    "several files": ({**openke(SHUFFLED), "transr__npy": VECTORS}, "(transe.npy, transr.npy); name one by --vectors"),
    "no vectors": ({"entity2id__txt": SHUFFLED}, "has no vectors (entity2vec.vec or *.npy"),
    "a narrower line": (
        {"entity2id__txt": SHUFFLED, "entity2vec__vec": "1 2\n1\n1 2\n"},
        "entity2vec.vec, line 2: has 1 numbers where the lines before have 2",
    ),
    "a word": (
        {"entity2id__txt": SHUFFLED, "entity2vec__vec": "1 2\n1 x\n1 2\n"},
        "entity2vec.vec, line 2: could not convert string to float: 'x'",
    ),
    "a blank id": ({"table__npy": VECTORS, "table__txt": "Q90\n\nQ2\n"}, "table.txt, line 2: is blank"),
    "ids with rows": ({"table__npy": VECTORS, "table__txt": SHUFFLED[2:]}, "has columns; give an id in each line, in"),
    "three columns": (openke(SHUFFLED.replace("\t", "\tParis\t")), "is not an id and a row; give these two"),
    "fewer ids": ({"table__npy": VECTORS, "table__txt": "Q90\n"}, "has 1 ids, and"),
    "nothing known": ({"notes__md": "hello"}, "is of no known layout; name it by --format"),
}


@pytest.mark.parametrize(("files", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_a_malformed_source_is_refused_with_its_line_or_row(tmp_path, files, sentence):
    assert sentence in refusal(tmp_path, write(tmp_path / "source", **files))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("3 2\nQ90 1 2\nQ10 1 2\n", "line 1: says 3 entities, and 2 follow"),
        ("2 2\nQ90 1 2\nNew York 1 2\n", "line 3: has 4 fields, and an id with a vector of dimension 2 has 3"),
        ("2 2\nQ90 1 2\nQ10 1\n", "line 3: has 2 fields"),
        ("2 2\nQ90 1 2\nQ10 1 two\n", "line 3: could not convert"),
        ("1 2\n", "holds no vectors"),
    ],
)
def test_malformed_word2vec_is_refused_with_its_line(tmp_path, text, sentence):
    assert sentence in refusal(tmp_path, write(tmp_path / "source", model__vec=text) / "model.vec")


def test_word2vec_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "model.vec").write_bytes(b"1 2\nZo\xeb 1 2\n")
    assert "line 2: is not UTF-8 (byte 0xeb)" in refusal(tmp_path, tmp_path / "model.vec")


@pytest.mark.parametrize(
    ("columns", "options", "sentence"),
    [
        (
            {"a": IDS, "b": IDS, "v": VECTORS.tolist()},
            [],
            "strings are ['a', 'b']; name one by --id-column",
        ),
        (
            {"a": IDS, "v": VECTORS.tolist()},
            ["--vector-column", "w"],
            "no column 'w' of lists of floating-point numbers",
        ),
        ({"a": [1, 2, 3], "v": VECTORS.tolist()}, [], "no column of strings, but 'a' of int64, 'v' of list<"),
        ({"a": IDS, "v": [[1.0, 2.0], [1.0], [2.0, 1.0]]}, [], "row 1: has 1 numbers where the first has 2"),
        ({"a": IDS, "v": [[1.0, 2.0], None, [2.0, 1.0]]}, [], "row 1: has 0 numbers where the first has 2"),
        ({"a": pa.array([], pa.string()), "v": pa.array([], pa.list_(pa.float32()))}, [], "has no rows; give a file"),
        ({"a": ["Q1", None, "Q2"], "v": VECTORS.tolist()}, [], "row 1: has no id"),
        ({"a": IDS, "v": [[1.0, 2.0], [1.0, None], [2.0, 1.0]]}, [], "row 1 (entity 'Q10') holds NaN"),
    ],
)
def test_malformed_parquet_is_refused_with_its_row(tmp_path, columns, options, sentence):
    pq.write_table(pa.table(columns), tmp_path / "table.parquet")
    assert sentence in refusal(tmp_path, tmp_path / "table.parquet", *options)


def test_a_result_of_pykeen_without_exported_vectors_is_never_unpickled(tmp_path):
    sentence = refusal(tmp_path, pykeen_result(tmp_path / "result", vectors=None))
    assert "trained_model.pkl is a pickle, which is not read" in sentence
    assert 'numpy.save("entity_embeddings.npy", result.model.entity_representations[0]()' in sentence
    pickled = refusal(tmp_path, tmp_path / "result", "--vectors", tmp_path / "result" / "trained_model.pkl")
    assert "line 1: could not convert string to float" in pickled


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("id\tname\n0\tQ90\n", "the header must be id and label"),
        ("id\tlabel\n0\tQ90\n0\tQ10\n2\tQ2\n", "line 3: row 0 is 'Q90''s already"),
        ("id\tlabel\n0\tQ90\n3\tQ10\n2\tQ2\n", "no line names row 1 of 3"),
        ("id\tlabel\n0\tQ90\tx\n", "is not an id and a label"),
    ],
)
def test_malformed_ids_of_pykeen_are_refused_with_their_line(tmp_path, lines, sentence):
    result = pykeen_result(tmp_path / "result")
    (result / "training_triples" / "entity_to_id.tsv.gz").write_bytes(gzip.compress(lines.encode()))
    assert sentence in refusal(tmp_path, result)


def test_a_source_or_format_that_is_not_there_is_refused(tmp_path):
    assert "there is no" in refusal(tmp_path, tmp_path / "nowhere")
    source = write(tmp_path / "source", **openke(SHUFFLED))
    assert "no format 'open-ke'; there are" in refusal(tmp_path, source, "--format", "open-ke")


def test_a_used_directory_is_refused_unless_it_may_be_overwritten(tmp_path):
    source = write(tmp_path / "source", **openke(SHUFFLED))
    (used := tmp_path / "used").mkdir()
    (used / "notes.txt").write_text("mine")
    result = run("import", source, "-o", used)
    assert result.exit_code == 1 and "is in use already" in result.stderr
    assert run("import", source, "-o", used, "--overwrite").exit_code == 0
    assert (used / "notes.txt").read_text() == "mine" and len(EntityEmbeddings.from_pretrained(used)) == 3


# ---- training


def graph(path, repeats=1):
    """A graph in which each entity follows the one before it, in two circles, one written with quotation marks."""
    names = [[f"{mark}{number}" for number in range(12)] for mark in ('"e', "Q")]
    lines = [f"{circle[n - 1]}\t{relation}\t{circle[n]}" for circle in names for n in range(12) for relation in "rs"]
    path.write_text("\n".join(lines * repeats), encoding="utf-8")
    return path


@pytest.fixture
def pykeen():
    return pytest.importorskip("pykeen", reason="PyKEEN comes with the extra graphs")


@pytest.mark.slow
def test_a_graph_is_trained_with_figures_on_the_card_and_again_to_the_same_table(pykeen, tmp_path):
    options = ["--triples", graph(tmp_path / "graph.tsv", repeats=2), "--dimension", 8, "--held-out", 4]
    options += ["--epochs", 3, "--batch-size", 16]
    result = run("train", *options, "-o", tmp_path / "first", "--knowledge-base", "circles")
    assert result.exit_code == 0, result.output
    assert "24 entities, 2 relations, 44 triples to train on, 4 held out" in result.output
    table = EntityEmbeddings.from_pretrained(tmp_path / "first")
    assert set(table) == {f"{mark}{number}" for number in range(12) for mark in ('"e', "Q")} and table.dimension == 8
    assert torch.allclose(table.embeddings.norm(dim=1), torch.ones(24), atol=1e-5)  # as TransE keeps them
    assert table.origin["held-out triples"] == 4 and 0 < table.origin["MRR"] <= 1
    card = (tmp_path / "first" / "README.md").read_text()
    assert f"| MRR | {table.origin['MRR']:.4f} |" in card and "| trained by | PyKEEN |" in card
    assert run("train", *options, "-o", tmp_path / "second").exit_code == 0
    assert EntityEmbeddings.from_pretrained(tmp_path / "second").sha256 == table.sha256


@pytest.mark.slow
def test_training_puts_entities_near_their_neighbours_by_our_ids(pykeen, tmp_path):
    options = ["--triples", graph(tmp_path / "graph.tsv"), "--dimension", 16, "--held-out", 0, "--epochs", 10]
    result = run("train", *options, "--learning-rate", 0.2, "--batch-size", 48, "-o", tmp_path / "table")
    assert result.exit_code == 0, result.output
    table = EntityEmbeddings.from_pretrained(tmp_path / "table")
    circle, other = (table.lookup([f"{mark}{n}" for n in range(12)]) for mark in ("Q", '"e'))
    neighbours, strangers = (circle - circle.roll(1, dims=0)).norm(dim=1), torch.cdist(circle, other)
    assert neighbours.mean() < 0.8 * strangers.mean()
    assert table.origin["held-out triples"] == 0 and "MRR" not in table.origin


@pytest.mark.slow
@pytest.mark.slow
def test_links_are_ranked_among_slices_of_the_entities_to_the_same_figures(pykeen, tmp_path, monkeypatch):
    """All differences at once took 20 GB in a graph of 229,000 entities, after all of its training."""
    options = ["--triples", graph(tmp_path / "graph.tsv"), "--dimension", 4, "--epochs", 1]
    assert run("train", *options, "-o", tmp_path / "whole").exit_code == 0
    monkeypatch.setattr("kadapter.graphs.training.RANKED", 4 * 7)
    assert run("train", *options, "-o", tmp_path / "sliced").exit_code == 0
    whole, sliced = (EntityEmbeddings.from_pretrained(tmp_path / name) for name in ("whole", "sliced"))
    assert whole.origin == sliced.origin and "MRR" in whole.origin


def test_complex_models_are_trained_to_real_vectors_twice_as_wide(pykeen, tmp_path):
    options = ["--triples", graph(tmp_path / "graph.tsv"), "--model", "RotatE", "--dimension", 4, "--epochs", 1]
    result = run("train", *options, "-o", tmp_path / "table")
    assert result.exit_code == 0, result.output
    assert EntityEmbeddings.from_pretrained(tmp_path / "table").embeddings.shape == (24, 8)


def test_an_unknown_model_is_refused(pykeen, tmp_path):
    options = ["--triples", graph(tmp_path / "graph.tsv"), "-o", tmp_path / "table"]
    result = run("train", *options, "--model", "TransZ")
    assert result.exit_code == 1 and "PyKEEN has no model 'TransZ'; it has" in result.stderr


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Q1\tP1\tQ2\nQ1 P1 Q3\n", "graph.tsv, line 2: 'Q1 P1 Q3' is no triple"),
        ("Q1\tP1\t\n", "graph.tsv, line 1: 'Q1\\tP1\\t' is no triple"),
        ("\n", "there are no triples"),
    ],
)
def test_a_malformed_graph_is_refused_with_its_line(pykeen, tmp_path, text, sentence):
    (tmp_path / "graph.tsv").write_text(text)
    result = run("train", "--triples", tmp_path / "graph.tsv", "-o", tmp_path / "table")
    assert result.exit_code == 1 and sentence in result.stderr and not (tmp_path / "table").exists()


def test_a_graph_that_is_not_there_is_refused(tmp_path):
    result = run("train", "--triples", tmp_path / "nowhere.tsv", "-o", tmp_path / "table")
    assert result.exit_code == 1 and "there is no file" in result.stderr


def test_what_is_held_out_leaves_every_entity_and_relation_to_train_on(tmp_path):
    from kadapter.graphs.training import hold_out, read_triples

    known = read_triples([graph(tmp_path / "graph.tsv")])
    trained, held_out = hold_out(known, 43, seed=3)
    assert 10 < len(held_out) < 43 and len(trained) + len(held_out) == len(known.triples) == 48
    assert set(trained[:, [0, 2]].flatten().tolist()) == set(range(24)) and set(trained[:, 1].tolist()) == {0, 1}
    assert not {tuple(one) for one in trained.tolist()} & {tuple(one) for one in held_out.tolist()}
    (tmp_path / "chain.tsv").write_text("a\tr\ta\nb\tr\ta\n")
    trained, held_out = hold_out(read_triples([tmp_path / "chain.tsv"]), 1)
    assert held_out.tolist() == [[0, 0, 0]] and trained.tolist() == [[1, 0, 0]]
