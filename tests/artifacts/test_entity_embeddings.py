"""Entity embeddings: looked up by id, kept as a mapped file of fixed bytes, and refused where they are damaged."""

import copy
import json
import pickle
import unicodedata

import pytest
import torch
from helpers import make_model, run_python, save_backbone
from hub_server import running_hub
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kadapter import EntityEmbeddings
from kadapter.embeddings_kadapter import TABLE

IDS = ["Q90", "Q10", "Q2", "/m/0abcd12", "東京", "Zoë"]


def vectors(number=6, dimension=4, dtype=torch.float32):
    return torch.randn(number, dimension, generator=torch.Generator().manual_seed(0)).to(dtype)


def table(**changes):
    values = {"ids": IDS, "embeddings": vectors(), "knowledge_base": "wikidata", "origin": {"model": "TransE"}}
    return EntityEmbeddings(**{**values, **changes})


@pytest.fixture
def saved(tmp_path):
    table().save_pretrained(tmp_path / "table")
    return tmp_path / "table"


def rewrite(saved, record=None, **tensors):
    """Write a table's file anew with other tensors or another record."""
    with safe_open(saved / TABLE, framework="pt") as opened:
        old = json.loads(opened.metadata()["entity_embeddings"])
    metadata = {"entity_embeddings": json.dumps({**old, **(record or {})}, sort_keys=True)}
    save_file({**load_file(saved / TABLE), **tensors}, saved / TABLE, metadata=metadata)


# ---- looking up


def test_ids_are_found_in_any_order_and_what_is_missing_is_zero(saved):
    read = EntityEmbeddings.from_pretrained(saved)
    asked = ["Zoë", "Q3", "Q90", "東京", "Q", "Q900", "Q90"]
    assert read.rows(asked).tolist() == [5, -1, 0, 4, -1, -1, 0]
    expected = torch.stack(
        [vectors()[5], torch.zeros(4), vectors()[0], vectors()[4], *torch.zeros(2, 4), vectors()[0]]
    )
    assert torch.equal(read.lookup(asked), expected)
    assert read.known(asked).tolist() == [True, False, True, True, False, False, True]
    assert len(read) == 6 and read.dimension == 4 and list(read) == IDS
    assert "Q10" in read and "Q100" not in read and "" not in read and 10 not in read


def test_looking_up_nothing_gives_no_vectors():
    assert table().lookup([]).shape == (0, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_vectors_are_looked_up_to_the_bit_in_their_type_however_they_lie_in_memory(dtype):
    transposed = vectors(4, 6, dtype).T
    assert not transposed.is_contiguous()
    held = table(embeddings=transposed)
    before = transposed.clone()
    given = held.lookup(["Zoë", "Q3", "Q90"])
    assert given.dtype == dtype and torch.equal(
        given, torch.stack([before[5], torch.zeros_like(before[0]), before[0]])
    )
    given.fill_(7.0)  # a copy
    assert torch.equal(held.embeddings, before)


def test_an_id_is_the_same_in_composed_and_decomposed_unicode():
    decomposed = unicodedata.normalize("NFD", "Zoë")
    assert decomposed != "Zoë" and decomposed in table()
    with pytest.raises(ValueError, match="is listed twice, in rows 0 and 1"):
        table(ids=["Zoë", decomposed], embeddings=vectors(2))


def test_what_is_looked_up_is_a_copy_that_may_be_changed(saved):
    read = EntityEmbeddings.from_pretrained(saved)
    read.lookup(["Q90"]).zero_()
    assert torch.equal(read.lookup(["Q90"])[0], vectors()[0])


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=40), asked=st.lists(st.text(max_size=6)))
def test_the_index_finds_what_a_dictionary_finds(ids, asked):
    normal = list(dict.fromkeys(unicodedata.normalize("NFC", one) for one in ids if one.isprintable()))
    if not normal:
        return
    rows = {one: row for row, one in enumerate(normal)}
    made = table(ids=normal, embeddings=torch.zeros(len(normal), 1))
    asked = [one for one in [*asked, *reversed(normal)] if one]
    assert made.rows(asked).tolist() == [rows.get(unicodedata.normalize("NFC", one), -1) for one in asked]


def test_ids_of_another_knowledge_base_are_refused_with_examples_of_both():
    assert table().check_known(["Q90", "Q3", "Q4"]) == 2
    with pytest.raises(
        ValueError, match=r"none of the 2 ids, such as 'C1', 'C2', .* 6 entities of 'wikidata', .*'Q90'"
    ):
        table().check_known(["C1", "C2"])


@pytest.mark.parametrize(
    ("asked", "error", "sentence"),
    [
        ("Q90", TypeError, r"not the string 'Q90'; give \['Q90'\]"),
        (["Q90", 2], TypeError, "id 2, number 1, is of type int"),
        (["Q90", ""], ValueError, "id number 1 is empty"),
        (["\ud800"], ValueError, "half a surrogate pair"),
    ],
)
def test_what_is_no_id_is_refused(asked, error, sentence):
    with pytest.raises(error, match=sentence):
        table().lookup(asked)


# ---- making


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ids": ["Q1", "Q2", "Q1"], "embeddings": vectors(3)}, "id 'Q1' is listed twice, in rows 0 and 2"),
        ({"ids": IDS[:5]}, "there are 5 ids for 6 rows"),
        ({"ids": [], "embeddings": vectors(0)}, r"shape \(0, 4\) .* are no table"),
        ({"embeddings": vectors()[0]}, r"shape \(4,\) .* are no table"),
        ({"embeddings": vectors().long()}, "type torch.int64 are no table"),
        ({"ids": [*IDS[:5], ""]}, "id number 5 is empty"),
    ],
)
def test_what_makes_no_table_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        table(**changes)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_named(value):
    broken = vectors()
    broken[2, 1] = value
    with pytest.raises(ValueError, match=r"row 2 \(entity 'Q2'\) holds NaN or infinite values"):
        table(embeddings=broken)


def test_embeddings_that_are_no_tensor_are_refused():
    with pytest.raises(TypeError, match="of type ndarray; give a tensor"):
        table(embeddings=vectors().numpy())


# ---- saving


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_table_is_read_as_it_was_saved(tmp_path, dtype):
    table(embeddings=vectors(dtype=dtype)).save_pretrained(tmp_path / "table")
    read = EntityEmbeddings.from_pretrained(str(tmp_path / "table"))
    assert read.embeddings.dtype == dtype and torch.equal(read.embeddings, vectors(dtype=dtype))
    assert read.knowledge_base == "wikidata" and read.origin == {"model": "TransE"}
    assert read.name_or_path == str(tmp_path / "table") and read.revision is None


def test_equal_tables_have_equal_bytes_and_a_hash_of_rows_ids_and_order(tmp_path, saved):
    table().save_pretrained(tmp_path / "again")
    EntityEmbeddings.from_pretrained(saved).save_pretrained(tmp_path / "third")
    for name in ("again", "third"):
        assert (tmp_path / name / TABLE).read_bytes() == (saved / TABLE).read_bytes()
    hashes = {table().sha256, EntityEmbeddings.from_pretrained(saved).sha256, table(origin={}).sha256}
    assert len(hashes) == 1
    others = (
        {"ids": [*IDS[:5], "Q7"]},
        {"embeddings": vectors() + 1},
        {"ids": IDS[::-1], "embeddings": vectors().flip(0)},
    )
    assert len({*hashes, *(table(**changes).sha256 for changes in others)}) == 4


def test_the_card_says_what_the_table_is_and_gives_code_that_runs(saved, monkeypatch):
    card = (saved / "README.md").read_text(encoding="utf-8")
    assert "# Entity embeddings of wikidata" in card and "| model | TransE |" in card and table().sha256 in card
    assert "Vectors of 6 entities, such as `Q90`, `Q10`, `Q2`, of dimension 4 (float32)" in card
    monkeypatch.chdir(saved)
    names = {}
    exec(card.split("```python")[1].split("```")[0].replace("REPO_OR_DIRECTORY", "."), names)
    assert torch.equal(names["vectors"], vectors()[:1])


def test_a_table_replaces_an_older_one_and_leaves_a_card_of_ones_own(saved):
    (saved / "README.md").write_text("# My own card")
    table(knowledge_base="umls").save_pretrained(saved)
    assert EntityEmbeddings.from_pretrained(saved).knowledge_base == "umls"
    assert (saved / "README.md").read_text() == "# My own card"
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", TABLE]


def test_a_table_and_a_model_do_not_share_a_directory(tmp_path, saved):
    backbone = save_backbone(tmp_path / "backbone")
    with pytest.raises(OSError, match="holds a model"):
        table().save_pretrained(backbone)
    model = make_model(backbone, "fac")
    with pytest.raises(OSError, match="holds weights of another model"):
        model.save_pretrained(saved)
    model.save_pretrained(tmp_path / "artifact")
    with pytest.raises(OSError, match="name a directory of its own"):
        table().save_pretrained(tmp_path / "artifact")


def test_unknown_keywords_are_refused(saved):
    with pytest.raises(TypeError, match="save_pretrained has no keyword 'max_shard_size'"):
        table().save_pretrained(saved, max_shard_size="1GB")
    with pytest.raises(TypeError, match="from_pretrained has no keyword 'revison'; did you mean 'revision'"):
        EntityEmbeddings.from_pretrained(saved, revison="main")


def test_a_copy_of_what_refers_to_a_table_shares_it_and_a_pickle_holds_it(saved):
    read = EntityEmbeddings.from_pretrained(saved)
    assert copy.deepcopy({"table": read})["table"] is read
    again = pickle.loads(pickle.dumps(read))
    assert torch.equal(again.lookup(["Q2"]), read.lookup(["Q2"])) and again.sha256 == read.sha256


# ---- reading


def test_no_table_is_a_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    for where in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(OSError, match=f"no {TABLE} at .*check its id or path"):
            EntityEmbeddings.from_pretrained(where, local_files_only=True)


def test_a_table_that_was_just_saved_is_not_hashed_again_and_later_changes_are_found(tmp_path, monkeypatch):
    table().save_pretrained(tmp_path / "table")
    with monkeypatch.context() as patched:
        patched.setattr("kadapter.backbone_kadapter._tensor_digests", lambda path: pytest.fail(f"{path} was read"))
        assert list(EntityEmbeddings.from_pretrained(tmp_path / "table")) == IDS
    changed = vectors()
    changed[0, 0] += 1
    rewrite(tmp_path / "table", embeddings=changed)
    unverified = EntityEmbeddings.from_pretrained(tmp_path / "table", verify=False)
    unverified.save_pretrained(tmp_path / "copy")  # which claims the hash that it does not have
    for name in ("table", "copy"):
        with pytest.raises(ValueError, match="the content has sha256"):
            EntityEmbeddings.from_pretrained(tmp_path / name)


def test_a_changed_vector_is_refused_unless_it_was_meant(saved):
    changed = vectors()
    changed[0, 0] += 1
    rewrite(saved, embeddings=changed)
    with pytest.raises(ValueError, match=r"the content has sha256 .* which was noted when it was saved"):
        EntityEmbeddings.from_pretrained(saved)
    assert torch.equal(EntityEmbeddings.from_pretrained(saved, verify=False).embeddings, changed)


def test_another_table_than_the_needed_one_is_refused(saved):
    needed = table(embeddings=vectors() + 1).sha256
    with pytest.raises(ValueError, match=f"have sha256 {table().sha256[:12]}, and {needed[:12]} is needed"):
        EntityEmbeddings.from_pretrained(saved, sha256=needed)
    assert len(EntityEmbeddings.from_pretrained(saved, sha256=table().sha256)) == 6


@pytest.mark.parametrize("kept", [0, 7, 40, -1])
def test_a_file_cut_short_is_refused(saved, kept):
    content = (saved / TABLE).read_bytes()
    (saved / TABLE).write_bytes(content[:kept])
    with pytest.raises(ValueError, match="holds no entity embeddings, or is damaged or cut short"):
        EntityEmbeddings.from_pretrained(saved)


@pytest.mark.parametrize(
    "broken",
    [
        {"rows": torch.tensor([0, 1, 2, 3, 4, 6], dtype=torch.int32)},
        {"buckets": torch.tensor([0, 9, 9, 9, 9, 9, 6], dtype=torch.int32)},
        {"id_offsets": torch.zeros(3, dtype=torch.int64)},
        {"embeddings": torch.zeros(5, 4)},
    ],
    ids=lambda broken: next(iter(broken)),
)
def test_an_index_that_points_outside_is_refused_even_unverified(saved, broken):
    rewrite(saved, **broken)
    with pytest.raises(ValueError, match="its index of ids does not fit its rows"):
        EntityEmbeddings.from_pretrained(saved, verify=False)


def test_other_weights_under_that_name_are_refused(tmp_path):
    save_file({"embeddings": vectors()}, tmp_path / TABLE)
    with pytest.raises(ValueError, match="holds no entity embeddings"):
        EntityEmbeddings.from_pretrained(tmp_path)


OPENING = """
import sys
from kadapter import EntityEmbeddings

def anonymous():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

EntityEmbeddings.from_pretrained(sys.argv[2]).lookup(["Q1"])
before = anonymous()
table = EntityEmbeddings.from_pretrained(sys.argv[1])
table.lookup([f"Q{number}" for number in range(0, 100_000, 1_000)])
print(anonymous() - before)
"""


@pytest.mark.slow
@pytest.mark.thorough
def test_opening_and_looking_up_keep_the_table_on_disk(tmp_path):
    number, dimension = 100_000, 128
    ids = [f"Q{number}" for number in range(number)]
    EntityEmbeddings(ids, torch.ones(number, dimension), "wikidata").save_pretrained(tmp_path / "large")
    table().save_pretrained(tmp_path / "small")
    done = run_python(OPENING, tmp_path, tmp_path / "large", tmp_path / "small", package=True)
    assert int(done.stdout) < 0.15 * number * dimension * 4  # of 51 MB


SHARING = """
import sys
from kadapter import EntityEmbeddings
table = EntityEmbeddings.from_pretrained("table")
print(table.push_to_hub("org/wikidata-transe"))
table.save_pretrained("copy", push_to_hub=True, repo_id="org/wikidata-transe", commit_message="Once more")
read = EntityEmbeddings.from_pretrained("org/wikidata-transe", revision=sys.argv[1] if sys.argv[1:] else None)
print(read.name_or_path, read.revision, read.sha256 == table.sha256, read.rows(["Q2"]).tolist())
try:
    table.push_to_hub("org/a+b")
except ValueError as error:
    print(error)
"""


@pytest.mark.thorough
@pytest.mark.slow
def test_a_table_is_shared_as_a_repository_of_its_own(tmp_path, saved):
    with running_hub() as hub:
        online = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_test", "offline": False}
        lines = run_python(SHARING, tmp_path, package=True, **online).stdout.splitlines()
    commits = hub.repositories["org/wikidata-transe"]
    assert set(commits[-1][1]) - {".gitattributes"} == {TABLE, "README.md"}
    assert commits[-1][1][TABLE] == (saved / TABLE).read_bytes()
    assert "/org/wikidata-transe/commit/" in lines[0]
    assert lines[1] == f"org/wikidata-transe {commits[-1][0]} True [2]"
    assert "the Hub takes no '+'" in lines[2]
