"""What is damaged is told, each time that it is asked for, and never taken for what was saved."""

import pytest
from helpers import make_model, save_backbone
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kadapter.artifacts_kadapter import read_artifact

KEY = "adapters.fac.layers.0.down_project.weight"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_backbone(tmp_path_factory.mktemp("encoder") / "backbone")


def rewrite(artifact, change):
    """Change an artifact's tensors by hand, keeping what its weights tell of themselves."""
    path = artifact / "model.safetensors"
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(path)
    save_file(change(tensors) or tensors, path, metadata=metadata)


def test_an_artifact_that_failed_its_check_fails_it_again(tmp_path, backbone):
    make_model(backbone, "fac").save_pretrained(tmp_path / "fac")
    rewrite(tmp_path / "fac", lambda tensors: tensors | {KEY: tensors[KEY] * float("nan")})
    part = read_artifact(tmp_path / "fac")
    for _ in range(3):
        with pytest.raises(ValueError, match=f"tensor '{KEY}' holds NaN"):
            part.check()
