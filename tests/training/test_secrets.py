"""Tokens are used and never written."""

import copy
import pickle

from tiny_runs import flags, write_ground

from kadapter.trainers import run_adapter
from kadapter.trainers.common.arguments import RunArguments

TOKEN = "hf_invented_token_of_a_test"


def test_a_token_is_in_no_file_that_a_run_writes(tmp_path):
    ground, output = write_ground(tmp_path / "ground"), tmp_path / "out"
    run_adapter.main(flags(ground, "linguistic", output, "--hub_token", TOKEN, "--max_steps", "2"))
    files = [path for path in output.rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in files)
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


def test_the_run_itself_keeps_its_token_in_every_trial(tmp_path):
    arguments = RunArguments(output_dir=str(tmp_path), hub_token=TOKEN)
    assert copy.copy(arguments).hub_token == arguments.hub_token == TOKEN
    assert pickle.loads(pickle.dumps(arguments)).hub_token is None
