"""Commands answer before torch and transformers are imported, which takes seconds."""

import json

import pytest
from helpers import ASK, make_model, run_python, save_backbone


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    for number, name in enumerate(("fac", "lin")):
        backbone = save_backbone(folder / f"backbone{number}", seed=number)
        make_model(backbone, name).save_pretrained(folder / name)
    (folder / "cut").mkdir()
    (folder / "cut" / "config.json").write_bytes((folder / "fac" / "config.json").read_bytes())
    (folder / "cut" / "model.safetensors").write_bytes((folder / "fac" / "model.safetensors").read_bytes()[:40])
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "nested").mkdir()
    (folder / "nested" / "config.json").write_text("[" * 5000)
    return folder


REFUSED = {
    "a part that is not there": (["fac", "nowhere"], "no config.json"),
    "a single adapter": (["fac"], "only one adapter"),
    "the same adapter twice": (["fac", "fac"], "is in another part already"),
    "adapters of two backbones": (["fac", "lin"], "was made for another backbone"),
    "another model": (["fac", "other"], "holds a model of type 'bert'"),
    "weights cut short": (["cut", "lin"], "damaged or cut short"),
    "a configuration nested without end": (["nested", "lin"], "is not a JSON file"),
}


@pytest.mark.parametrize(("names", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_compose_is_refused_at_once(parts, tmp_path, names, reason):
    arguments = ["compose", *(parts / name for name in names), "-o", tmp_path / "out"]
    done = run_python(ASK, tmp_path, *arguments, package=True, bare=True)
    assert reason in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.splitlines() == ["code 1", "heavy []"]
    assert not (tmp_path / "out").exists()


def test_used_directories_and_help_are_answered_at_once(parts, tmp_path):
    used = run_python(
        ASK, tmp_path, "compose", parts / "fac", parts / "lin", "-o", parts / "other", package=True, bare=True
    )
    assert "is in use already" in used.stderr and used.stdout.splitlines()[-1] == "heavy []"
    shown = run_python(ASK, tmp_path, "compose", "--help", package=True, bare=True)
    assert "Compose adapters" in shown.stdout and shown.stdout.splitlines()[-1] == "heavy []"
