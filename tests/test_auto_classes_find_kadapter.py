"""What README says of importing: the package is light, and one name of it is enough for the Auto classes."""

from helpers import make_model, run_python, save_backbone

SCRIPT = """
import sys, warnings
import kadapter
assert "torch" not in sys.modules and "transformers" not in sys.modules
from kadapter import KAdapterConfig
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1])
print(type(model).__module__, model.active_adapters())
"""


def test_importing_is_light_and_once_a_name_is_imported_auto_model_loads_without_trust(tmp_path):
    make_model(save_backbone(tmp_path / "backbone"), "fac").save_pretrained(tmp_path / "fac")
    done = run_python(SCRIPT, tmp_path, tmp_path / "fac", package=True)
    assert done.stdout.split(maxsplit=1) == ["kadapter.modeling_kadapter", "['fac']\n"]
