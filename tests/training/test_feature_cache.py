"""The feature cache changes no bit of what is trained: it is read once, whatever happens to it, and then reused."""

import json
import os
import platform
import random
import resource
import shutil
import sys

import numpy as np
import pytest
import torch
from elsewhere import train_with_shards_of_one_batch
from helpers import batch, bytes_of, make_model, run_python, save_backbone, tiny_backbone
from processes import kill_processes, start_processes
from tiny_runs import (
    digest,
    flags,
    losses,
    results_alike,
    same_tensors,
    sentences_read,
    write_backbone,
    write_corpora,
    write_ground,
)
from transformers import RobertaModel

from kadapter import KAdapterForTokenClassification
from kadapter.trainers import run_adapter
from kadapter.trainers.common.memory import give_back, limit_native_caches
from kadapter.trainers.feature_cache import trainer as feature_trainer
from kadapter.trainers.feature_cache.options import room_in, size_of
from kadapter.trainers.feature_cache.shards import Layout, key_of
from kadapter.trainers.feature_cache.store import Examples, FeatureStore

pytestmark = pytest.mark.slow

QUIET = ("--report_to", "none", "--save_strategy", "no", "--num_train_epochs", "3")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture
def read():
    with sentences_read() as sizes:
        yield sizes


def run(ground, output, *more, objective="linguistic"):
    run_adapter.main(flags(ground, objective, output, *QUIET, *more))
    return output


@pytest.fixture(scope="module")
def plain(ground, tmp_path_factory):
    return run(ground, tmp_path_factory.mktemp("plain") / "out")


@pytest.fixture(scope="module")
def cache(ground, tmp_path_factory):
    """A complete cache, which a test copies before it harms it."""
    folder = tmp_path_factory.mktemp("cache")
    run(ground, folder / "out", "--cache_features", folder / "features")
    return folder / "features"


@pytest.fixture
def copied(cache, tmp_path):
    return shutil.copytree(cache, tmp_path / "features")


def shards(folder):
    return sorted(folder.rglob("*.safetensors"))


def assert_same_run(one, other):
    assert losses(one) == losses(other) and len(losses(one)) >= 10
    assert same_tensors(one, other) and same_tensors(one / "pretraining_head", other / "pretraining_head")
    assert results_alike(one, other)


# ---- the same bits, and the backbone's work done once -------------------------------------------------------------


def test_a_run_that_writes_the_cache_and_one_that_reads_it_equal_one_without_it(
    ground, plain, cache, copied, read, capsys
):
    assert_same_run(plain, cache.parent / "out")
    run(ground, copied.parent / "out", "--cache_features", copied)
    assert_same_run(plain, copied.parent / "out")
    assert read == []
    printed = capsys.readouterr().out
    assert "53 examples are in" in printed and "the backbone leaves memory" in printed


def test_the_first_epoch_writes_the_cache_without_a_pass_of_its_own(ground, tmp_path, read, capsys):
    run(ground, tmp_path / "out", "--cache_features", tmp_path / "features", "--max_train_samples", "35")
    assert sum(read) == 35 + 13  # 3 of them are left out in the first epoch, and read before the second
    printed = capsys.readouterr().out
    assert "hidden states [0, 2, 4] in float32 take" in printed and "48 will be" in printed


def test_batches_that_are_looked_up_ahead_are_the_same(ground, plain, tmp_path, read, monkeypatch):
    monkeypatch.setattr(feature_trainer, "WITH_TIME", ("cuda", "cpu"))  # as it is on a GPU
    run(ground, tmp_path / "out", "--cache_features", tmp_path / "features")
    assert_same_run(plain, tmp_path / "out")
    assert sum(read) == 40 + 13


def test_another_adapter_with_the_same_taps_reuses_it(ground, copied, tmp_path, read):
    other = ["--adapter_hidden_size", "8", "--fusion", "add", "--seed", "5", "--head", "official"]
    run(ground, tmp_path / "out", *other, "--cache_features", copied)
    assert read == []
    run(ground, tmp_path / "plain", *other)
    assert_same_run(tmp_path / "plain", tmp_path / "out")


def test_an_adapter_that_taps_some_layers_reads_a_cache_of_more(ground, copied, tmp_path, read):
    before = shards(copied)
    run(ground, tmp_path / "out", "--layers", "0", "2", "--cache_features", copied)
    assert read == [] and shards(copied) == before
    run(ground, tmp_path / "plain", "--layers", "0", "2")
    assert_same_run(tmp_path / "plain", tmp_path / "out")
    read.clear()
    run(ground, tmp_path / "more", "--layers", "0", "1", "2", "--cache_features", copied)  # 1 is not there
    assert sum(read) == 40 + 13


@pytest.mark.thorough
def test_eight_bits_of_some_layers_are_read_from_those_of_more(ground, tmp_path, read):
    given = ["--cache_features", tmp_path / "features", "--cache_dtype", "int8"]
    run(ground, tmp_path / "all", *given)
    read.clear()
    run(ground, tmp_path / "some", "--layers", "2", *given)
    alone = ["--cache_features", tmp_path / "alone", "--cache_dtype", "int8", "--layers", "2"]
    assert read == []
    assert_same_run(tmp_path / "some", run(ground, tmp_path / "again", *alone))


def test_evaluation_alone_reads_the_cache(ground, plain, copied, tmp_path, read):
    output = shutil.copytree(plain, tmp_path / "out")
    given = flags(ground, "linguistic", output, *QUIET, "--cache_features", copied)
    run_adapter.main([one for one in given if one != "--do_train"])
    assert read == [] and results_alike(plain, output)


def test_the_relation_head_of_bfloat16_runs_reads_the_cache_too(ground, tmp_path, read):
    given = ["--bf16", "--cache_features", tmp_path / "features"]
    run(ground, tmp_path / "first", *given, objective="factual")
    number = len(read)
    run(ground, tmp_path / "second", *given, objective="factual")
    assert len(read) == number
    assert_same_run(tmp_path / "first", tmp_path / "second")


# ---- whatever happens to it ---------------------------------------------------------------------------------------


def test_damaged_shards_are_told_and_computed_again(ground, plain, copied, tmp_path, read, capsys):
    cut, changed = shards(copied)
    cut.write_bytes(cut.read_bytes()[:-5])
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    (copied / "stray.safetensors").write_bytes(b"no shard")
    run(ground, tmp_path / "out", "--cache_features", copied)
    assert_same_run(plain, tmp_path / "out")
    printed = capsys.readouterr().out
    assert printed.count("is not used: it was cut short or changed; its examples are computed again") == 2
    assert sum(read) == 53
    run(ground, tmp_path / "again", "--cache_features", copied)
    assert sum(read) == 53


@pytest.mark.thorough
def test_a_run_killed_in_its_first_epoch_goes_on_bit_for_bit(ground, plain, tmp_path, read):
    more = ["--cache_features", tmp_path / "features", "--save_strategy", "steps"]
    given = flags(ground, "linguistic", tmp_path / "out", *QUIET, *more)
    step = random.SystemRandom().randint(1, 4)
    os.mkfifo(tmp_path / "pipe")
    processes = start_processes(train_with_shards_of_one_batch, given, tmp_path / "pipe")
    with open(tmp_path / "pipe", encoding="utf-8") as printed:
        for line in printed:
            step -= line.startswith("{'loss'")
            if not step:
                break
        kill_processes(processes)
    kept = len(shards(tmp_path / "features"))
    (next((tmp_path / "features").iterdir()) / ".half.safetensors.0.partial").write_bytes(b"half")
    assert kept and not step
    run_adapter.main([*given, "--resume_from_checkpoint", "last"])
    assert_same_run(plain, tmp_path / "out")
    assert sum(read) <= 53 - 8 * kept


def test_what_a_changed_corpus_leaves_as_it_was_is_reused(copied, ground, tmp_path, read):
    changed = tmp_path / "ground"
    shutil.copytree(ground, changed)
    path = changed / "conllu" / "train.conllu"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("\n1\t", "\n1\tnew", 1), encoding="utf-8")
    run(changed, tmp_path / "out", "--cache_features", copied)
    assert read == [1]
    run(changed, tmp_path / "plain")
    assert_same_run(tmp_path / "plain", tmp_path / "out")


def test_the_cache_of_another_backbone_is_left_alone(ground, copied, tmp_path, read, capsys):
    other = tmp_path / "ground"
    write_corpora(other)
    write_backbone(other / "backbone", num_hidden_layers=5)
    folder = next(copied.iterdir())
    before = digest(folder)
    run(other, tmp_path / "out", "--cache_features", copied, "--layers", "0", "2", "4")
    assert "holds those of 1 other backbones, layers or precisions, left alone" in capsys.readouterr().out
    assert sum(read) == 53 and digest(folder) == before


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"layer_norm_eps": 1e-2}])
def test_the_same_weights_under_another_configuration_are_another_backbone(ground, copied, tmp_path, read, change):
    other = shutil.copytree(ground, tmp_path / "ground")
    config = other / "backbone" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    run(other, tmp_path / "plain")
    number = sum(read)
    run(other, tmp_path / "out", "--cache_features", copied)
    assert sum(read) - number == 53 and len([*copied.iterdir()]) == 2
    assert_same_run(tmp_path / "plain", tmp_path / "out")


def test_shards_moved_from_another_backbones_folder_are_not_used(ground, copied, tmp_path, capsys):
    other = shutil.copytree(ground, tmp_path / "ground")
    config = other / "backbone" / "config.json"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('"hidden_act": "gelu"', '"hidden_act": "relu"'), encoding="utf-8")
    given = ["--cache_features", copied]
    first = next(copied.iterdir())
    run(other, tmp_path / "plain", *given)
    second = next(path for path in copied.iterdir() if path != first)
    for path in shards(second):
        path.unlink()
    for path in shards(first):
        shutil.copy(path, second)
    capsys.readouterr()
    run(other, tmp_path / "out", *given)
    assert f"is not used: it was made in {first.name!r}, for another backbone" in capsys.readouterr().out
    assert_same_run(tmp_path / "plain", tmp_path / "out")


def test_what_fits_into_the_budget_is_kept_and_the_rest_computed(ground, plain, tmp_path, read, capsys):
    given = ["--cache_features", tmp_path / "features", "--cache_budget", "120KB"]
    run(ground, tmp_path / "first", *given)
    assert "so the backbone computes" in capsys.readouterr().out
    number = sum(read)
    run(ground, tmp_path / "second", *given)
    assert 0 < sum(read) - number < number
    files = [path for path in (tmp_path / "features").rglob("*") if path.is_file()]
    assert 60_000 < sum(path.stat().st_size for path in files) <= 120_000
    for output in ("first", "second"):
        assert_same_run(plain, tmp_path / output)


@pytest.mark.parametrize("budget", ["1KB", "0"])
def test_a_budget_too_small_for_a_batch_is_told(ground, plain, tmp_path, capsys, budget):
    run(ground, tmp_path / "out", "--cache_features", tmp_path / "features", "--cache_budget", budget)
    assert "raise --cache_budget or free some space: training continues without the cache" in capsys.readouterr().out
    assert_same_run(plain, tmp_path / "out") and not shards(tmp_path / "features")


def test_a_directory_that_can_not_be_written_is_told(ground, plain, tmp_path, capsys):
    (tmp_path / "features").write_text("mine", encoding="utf-8")
    run(ground, tmp_path / "out", "--cache_features", tmp_path / "features")
    printed = capsys.readouterr().out
    assert "features' can't be used (" in printed and "training continues without the cache" in printed
    assert_same_run(plain, tmp_path / "out")


def test_a_backbone_whose_last_state_is_not_its_last_blocks_is_told(ground, tmp_path, monkeypatch, capsys):
    forward = RobertaModel.forward

    def normed(self, *given, **keywords):
        output = forward(self, *given, **keywords)
        output.last_hidden_state = output.last_hidden_state * 2
        return output

    monkeypatch.setattr(RobertaModel, "forward", normed)
    run(ground, tmp_path / "plain")
    run(ground, tmp_path / "out", "--cache_features", tmp_path / "features")
    assert "this backbone's last hidden state is not that of its last block; tap" in capsys.readouterr().out
    assert_same_run(tmp_path / "plain", tmp_path / "out") and not shards(tmp_path / "features")


def test_flags_that_can_not_be_meant_are_refused(ground, tmp_path):
    given = ["--cache_features", tmp_path / "features"]
    with pytest.raises(ValueError, match=r"--cache_budget '50 gigs' is no size; give a number with its unit"):
        run(ground, tmp_path / "out", *given, "--cache_budget", "50 gigs")
    for flag, value in (("--cache_budget", "1GB"), ("--cache_dtype", "int8")):
        with pytest.raises(ValueError, match=f"{flag} is for a cache, and there is none; give --cache_features or"):
            run(ground, tmp_path / "out", flag, value)
    with pytest.raises(ValueError, match=r"keeps no padding, and with --mask_padding False the adapter reads it"):
        run(ground, tmp_path / "out", *given, "--mask_padding", "False")
    assert (size_of("50GB"), size_of("1.5 GiB"), size_of("10")) == (50 * 10**9, 3 * 2**29, 10)


def test_eight_bits_change_little_and_the_same_whenever_they_are_read(ground, plain, tmp_path):
    given = ["--cache_features", tmp_path / "features", "--cache_dtype", "int8"]
    for output in ("first", "second"):
        run(ground, tmp_path / output, *given)
    assert_same_run(tmp_path / "first", tmp_path / "second")
    ours, exact = losses(tmp_path / "first"), losses(plain)
    assert ours != exact and abs(ours[1] - exact[1]) < 0.01
    assert max(abs(ours[step] - exact[step]) for step in exact) < 0.5
    assert sum(path.stat().st_size for path in shards(tmp_path / "features")) < 100_000


# ---- the parts ----------------------------------------------------------------------------------------------------


def features_in(folder, lengths, stored=torch.float32, room=lambda: np.inf, told=None):
    keys = np.frombuffer(b"".join(key_of([number]) for number in range(len(lengths))), dtype="S16")
    examples, places = Examples.of(keys, np.array(lengths))
    tell = told.append if told is not None else None
    return FeatureStore(folder, Layout((0, 3, -1), 4, stored, torch.float32), examples, room, tell), places


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.int8])
def test_what_is_got_is_what_was_put_without_its_padding(tmp_path, stored):
    features, places = features_in(tmp_path, [5, 1, 3], stored)
    states = torch.randn(3, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    read = features.put(places, states, [5, 1, 3])
    assert (read - states).abs().max() < 0.02 and torch.equal(read, states) == (stored == torch.float32)
    assert not features.has(places).any()
    features.flush()
    again, _ = features_in(tmp_path, [5, 1, 3], stored)
    assert again.complete() and not len(again.missing())
    got, there = again.get(places, length=6)
    assert there.all()
    for number, length in enumerate([5, 1, 3]):
        assert torch.equal(got[:, number, :length], read[:, number, :length])
        assert not got[:, number, length:].any()


def put_one_by_one(features, places, value):
    for place in places:
        features.put([place], torch.full((3, 1, 50, 4), float(value)), [50])
        features.flush()


def test_what_another_run_wrote_meanwhile_is_not_written_again(tmp_path):
    one, places = features_in(tmp_path, [50] * 4)
    other, _ = features_in(tmp_path, [50] * 4)
    put_one_by_one(one, places[:3], 1)
    other.put(places, torch.ones(3, 4, 50, 4), [50] * 4)
    other.flush()
    sizes = [path.stat().st_size for path in shards(tmp_path)]
    assert len(sizes) == 4 and max(sizes) < 3000 and other.complete()


def test_two_runs_together_stay_within_the_budget(tmp_path):
    told, folder, budget = [], tmp_path / "backbone", 11_000  # 2,424 bytes and a header each
    folder.mkdir()
    (folder / "about.json").write_bytes(b" " * 1000)
    both = [features_in(folder, [50] * 6, room=lambda: room_in(tmp_path, f"{budget}B"), told=told) for _ in range(2)]
    places = both[0][1]
    assert all(features.wanted.sum() == 3 for features, _ in both)
    for value, (features, _) in enumerate(both):
        put_one_by_one(features, places if value else places[:3], value)
    used = sum(path.stat().st_size for path in folder.iterdir())
    assert budget - 3000 < used <= budget and not list(folder.glob(".*"))
    both[1][0].wanted[:] = True  # as if it had begun before all others
    put_one_by_one(both[1][0], places, 1)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= budget and not list(folder.glob(".*"))
    assert len(told) == 1 and "others have taken the room; raise --cache_budget" in told[0]


def test_a_full_disk_is_told_once_and_leaves_nothing_behind(tmp_path):
    told = []
    features, places = features_in(tmp_path, [50] * 4, told=told)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for row in range(2):
            features.put(places[[row]], torch.ones(3, 1, 50, 4), [50])
            features.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(told) == 1 and "nothing more can be kept in" in told[0] and "free some space" in told[0]
    assert not list(tmp_path.iterdir()) and not features.has(places).any()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_memory_freed_between_what_stays_is_given_back():
    def anonymous():
        with open("/proc/self/status", encoding="ascii") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) // 1024

    held = [torch.ones(16_000) for _ in range(2000)]  # 64 KB each, all in the heap
    kept, before = held[::50], anonymous()
    del held
    give_back()
    assert anonymous() < before - 80 and all(one.sum() == 16_000 for one in kept)


def test_the_kernels_of_a_few_shapes_are_kept_unless_the_user_says_otherwise(monkeypatch):
    ours, theirs = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"
    monkeypatch.delenv(ours, raising=False)
    monkeypatch.setenv(theirs, "7")
    limit_native_caches()
    assert (os.environ.pop(ours), os.environ[theirs]) == ("32", "7")


@pytest.mark.parametrize(("cached", "kept"), [(False, "32"), (True, "512")])
def test_a_run_on_kept_states_keeps_the_kernels_of_more_lengths(ground, tmp_path, monkeypatch, cached, kept):
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    run(ground, tmp_path / "out", "--max_steps", "1", *(["--cache_features", tmp_path / "features"] if cached else []))
    assert os.environ.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY") == kept


KEPT = """
import torch
from kadapter.trainers.common.memory import give_back, keep_freed_memory, limit_native_caches

def anonymous():
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) // 1024

def kept():
    give_back()  # the holes that imports left, which else are filled first
    before = anonymous()
    for _ in range(2):  # of what was freed once, glibc would take the next from its heap
        held = [torch.ones(size) for _ in range(20) for size in (2_000_000, 400_000)]
        small = held[1::2]  # lie between the large ones, were those in the heap: no hole of the imports is as large
        del held
    return anonymous() - before - sum(one.nbytes for one in small) // 2**20

limit_native_caches()
print(kept())
keep_freed_memory()
print(kept())
"""


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
@pytest.mark.parametrize(
    ("said", "stays"),
    [
        ({}, [False, True]),
        ({"MALLOC_MMAP_THRESHOLD_": str(2**25)}, [True, True]),
        ({"MALLOC_TRIM_THRESHOLD_": str(2**17)}, [False, False]),
    ],
)
def test_large_tensors_leave_memory_when_freed_till_there_is_room_or_as_the_user_says(tmp_path, said, stays):
    # How the heap lies differs from process to process, and now and then what is freed stands at its end.
    printed = (run_python(KEPT, tmp_path, package=True, bare=True, **said).stdout.split() for _ in range(5))
    assert any([int(megabytes) > 80 for megabytes in both] == stays for both in printed)


TAKEN = """
import resource
import torch
from kadapter.trainers.common.memory import keep_large_blocks

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = new_pages()
keep_large_blocks()
print(first, min(new_pages() for _ in range(8)))  # the heap grows at first
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap is another's than glibc's")
def test_the_next_step_finds_the_large_blocks_of_the_last(tmp_path):
    first, later = map(int, run_python(TAKEN, tmp_path, package=True, bare=True).stdout.split())
    assert later < first / 10


def test_padding_of_given_states_does_not_reach_real_tokens():
    model = make_model(tiny_backbone(), "fac", model_class=KAdapterForTokenClassification, num_labels=3).train()
    inputs, found = batch(), []
    mask = inputs["attention_mask"].bool()
    tapped = model.base_model.tap(**inputs)
    for padding in (None, 0.0, 7.0):
        states = tapped
        if padding is not None:
            states = {layer: one.masked_fill(~mask[..., None], padding) for layer, one in tapped.items()}
        torch.manual_seed(0)
        model.zero_grad()
        labels = torch.where(mask, 1, -100)
        output = model(**inputs, hidden_states=states, labels=labels)
        output.loss.backward()
        grads = [one.grad for one in model.parameters() if one.grad is not None]
        found.append([output.logits[mask], output.loss, *grads])
    torch.manual_seed(0)
    assert torch.equal(model(**inputs, labels=labels).loss, found[0][1])
    assert len(found[0]) > 20
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_a_model_without_its_backbone_runs_on_states_alone_and_saves_as_before(tmp_path):
    save_backbone(tmp_path / "backbone")
    model = make_model(tmp_path / "backbone", "fac")
    states, expected = model.tap(**batch()), model(**batch()).last_hidden_state
    model.release_backbone()
    assert not any(one.numel() or one.requires_grad for one in model.backbone.parameters())
    assert torch.equal(model(**batch(), hidden_states=states).last_hidden_state, expected)
    with pytest.raises(ValueError, match="weights have left memory; give hidden_states, or load the model again"):
        model(**batch())
    with pytest.raises(ValueError, match=r"hold the layers \[-1, 0\], and \[0, 2, 4\] are tapped"):
        model(**batch(), hidden_states={layer: states[layer] for layer in (0, -1)})
    model.save_pretrained(tmp_path / "saved")
    loaded = type(model).from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded(**batch()).last_hidden_state, expected)
    assert bytes_of(loaded.backbone) == bytes_of(
        RobertaModel.from_pretrained(tmp_path / "backbone", add_pooling_layer=False)
    )
    loaded.backbone.requires_grad_(True)
    with pytest.raises(ValueError, match="backbone trains or was changed"):
        loaded.release_backbone()
