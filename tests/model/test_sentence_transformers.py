"""Embeddings by sentence-transformers: an artifact is its Transformer module, saved and in several processes."""

import re
import runpy

import numpy as np
import pytest
import torch
from helpers import ROOT, make_model, run_python, save_backbone
from tiny_runs import tokenizer_of

from kadapter import KAdapterModel

sentence_transformers = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
pytestmark = pytest.mark.slow

TEXTS = ["Mira Voss was born in Tarnstad.", "Birds sing.", "Tarnstad is an old town, and far away."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A backbone, two adapters on it, and both together."""
    folder = tmp_path_factory.mktemp("embeddings")
    tokenizer = tokenizer_of(TEXTS * 3)
    backbone = save_backbone(folder / "backbone", vocab_size=len(tokenizer), max_position_embeddings=80)
    tokenizer.save_pretrained(backbone)
    for name in ("fac", "lin"):
        make_model(backbone, name).save_pretrained(folder / name)
    return folder


def expected(model, tokenizer):
    """Means of the fused states over a text's tokens."""
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    return ((states * mask).sum(1) / mask.sum(1)).numpy()


def embedder(path, **options):
    """A SentenceTransformer of an artifact and a mean over its tokens."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer = Transformer(str(path), **options)
    return SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu")


def test_a_directory_is_a_transformer_module_and_the_fusion_is_chosen_as_ever(folder):
    model = KAdapterModel.from_pretrained(folder / "fac", fusion="delta")
    encoder = embedder(folder / "fac", model_kwargs={"fusion": "delta"})
    embeddings = encoder.encode(TEXTS)
    np.testing.assert_allclose(embeddings, expected(model, encoder.tokenizer), atol=1e-5)
    assert np.abs(embeddings - embedder(folder / "fac").encode(TEXTS)).max() > 0.1


def test_a_loaded_model_takes_the_place_of_the_model_in_the_module(folder):
    model = KAdapterModel.from_pretrained([folder / "fac", folder / "lin"], fusion="delta")
    encoder = embedder(folder / "fac")
    encoder[0].model = model
    np.testing.assert_allclose(encoder.encode(TEXTS), expected(model, encoder.tokenizer), atol=1e-5)
    model.set_adapter("lin")
    np.testing.assert_allclose(encoder.encode(TEXTS), expected(model, encoder.tokenizer), atol=1e-5)


@pytest.mark.thorough
def test_what_is_saved_loads_with_the_package_and_without(folder, tmp_path):
    encoder = embedder(folder / "fac")
    encoder[0].model = KAdapterModel.from_pretrained([folder / "fac", folder / "lin"], fusion="delta")
    before = encoder.encode(TEXTS)
    encoder.save_pretrained(str(tmp_path / "saved"))
    from sentence_transformers import SentenceTransformer

    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)
    assert again[0].model.config.fusion == "delta" and list(again[0].model.adapters) == ["fac", "lin"]
    assert np.array_equal(again.encode(TEXTS), before)
    code = f"""
import numpy
from sentence_transformers import SentenceTransformer
encoder = SentenceTransformer("saved", device="cpu", trust_remote_code=True)
assert type(encoder[0].model).__module__.startswith("transformers_modules.")
numpy.save("embeddings.npy", encoder.encode({TEXTS!r}))
"""
    run_python(code, tmp_path)
    assert np.array_equal(np.load(tmp_path / "embeddings.npy"), before)
    weights = list((tmp_path / "saved").rglob("*.safetensors"))
    assert len(weights) == 1 and b"backbone." not in weights[0].read_bytes()[:20000]


@pytest.mark.thorough
def test_several_processes_give_the_same_embeddings(folder, tmp_path):
    code = f"""
import numpy
from sentence_transformers import SentenceTransformer
from kadapter import KAdapterModel

if __name__ == "__main__":
    encoder = SentenceTransformer("saved", device="cpu")
    pool = encoder.start_multi_process_pool(["cpu", "cpu"])
    several = encoder.encode({TEXTS!r} * 4, pool=pool, chunk_size=4, batch_size=4)
    encoder.stop_multi_process_pool(pool)
    numpy.testing.assert_allclose(several, encoder.encode({TEXTS!r} * 4, batch_size=4), atol=1e-6)
    print("done")
"""
    embedder(folder / "fac").save_pretrained(str(tmp_path / "saved"))
    assert run_python(code, tmp_path, package=True, bare=True).stdout.strip().endswith("done")


def test_the_lines_of_the_documentation_run(folder, monkeypatch, capsys):
    text = (ROOT / "docs" / "embeddings.md").read_text(encoding="utf-8")
    script = folder / "embeddings.py"
    script.write_text("\n".join(re.findall("```python\n(.*?)```", text, flags=re.DOTALL)))
    for name in ("fac", "lin"):
        if not (folder / f"kadapter-{name}").exists():
            (folder / f"kadapter-{name}").symlink_to(folder / name)
    monkeypatch.chdir(folder)
    runpy.run_path(str(script), run_name="__main__")
    assert "tensor([[" in capsys.readouterr().out
