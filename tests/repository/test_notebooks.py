"""The notebooks run from top to bottom, with a small encoder in place of theirs and without a network."""

import json
import sys

import pytest
from helpers import ROOT
from tiny_runs import PEOPLE, PLACES, tokenizer_of, write_backbone

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    texts = [f" {name} was born in. I liked it a lot from the first page on." for name in (*PEOPLE, *PLACES)]
    return write_backbone(tmp_path_factory.mktemp("backbone") / "encoder", tokenizer_of(texts * 3))


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_its_end(path, backbone, tmp_path, monkeypatch):
    for name in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install '.[test]'")
    import nbformat
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient import NotebookClient

    spec = tmp_path / "kernels" / "tests"  # this very Python, whatever kernels the machine has
    spec.mkdir(parents=True)
    command = [sys.executable, "-P", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "tests", "language": "python"}))
    monkeypatch.setenv("BACKBONE", str(backbone))
    monkeypatch.setattr(KernelSpecManager, "kernel_dirs", [str(tmp_path / "kernels")])
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="tests", resources={"metadata": {"path": tmp_path}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 4 and all(cell.execution_count for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and [output for output in outputs if output.output_type == "error"] == []


def test_there_are_two_notebooks_and_they_are_stored_without_outputs():
    assert [path.stem for path in NOTEBOOKS] == ["adapters", "locality"]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert all(
            not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code"
        )
