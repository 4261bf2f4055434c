"""Output directories: whose they are, who uses them now, and what in them may be replaced."""

import shutil
import signal
import subprocess
import sys

import pytest
from tiny_runs import digest, flags, write_ground
from tiny_tasks import task_flags, write_task_ground

from kadapter.trainers import run_adapter, run_multitask, run_task
from kadapter.trainers.common.output_directory import check_output_directory, in_use

pytestmark = pytest.mark.slow

QUIET = ("--report_to", "none", "--max_steps", "2", "--save_strategy", "no", "--do_eval", "false")
HOLD = """
import sys, time
from kadapter.trainers.common.output_directory import in_use
with in_use([sys.argv[1]]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


def run(ground, output, *more):
    return run_adapter.main(flags(ground, "linguistic", output, *QUIET, *more))


def multitask(ground, output, *more):
    given = ["--objectives", "linguistic", "--corpora", "conllu", "--data_dirs", str(ground / "conllu")]
    given += ["--backbone", str(ground / "backbone"), "--output_dir", str(output), "--do_train", *QUIET]
    return run_multitask.main([*given, "--max_length", "40", *map(str, more)])


@pytest.mark.thorough
def test_a_second_run_in_a_directory_is_refused_until_the_first_is_gone_even_if_killed(ground, tmp_path):
    output = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLD, output], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        for program in (run, multitask):
            with pytest.raises(ValueError, match="is in use by another run that has not ended"):
                program(ground, output, "--overwrite_output_dir")
        first.send_signal(signal.SIGKILL)
    with in_use([str(output)]):
        assert [path.name for path in output.iterdir()] == ["_lock"]
    assert not list(output.iterdir())


def test_a_run_killed_before_its_first_checkpoint_does_not_block_its_own_command(tmp_path):
    for left in ("runs/events.out.tfevents.1", ".partial/checkpoint-2/model.safetensors", "_lock"):
        path = tmp_path / "out" / left
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    check_output_directory(str(tmp_path / "out"), resume=False, overwrite=False)


@pytest.mark.parametrize("more", [(), ("--overwrite_output_dir",), ("--resume_from_checkpoint", "last")])
@pytest.mark.parametrize("place", ["backbone", "backbone/out", ".", "link"])
def test_no_run_writes_into_above_or_below_its_encoder(ground, tmp_path, place, more):
    own = tmp_path / "own"
    own.mkdir()
    shutil.copytree(ground / "backbone", own / "backbone")
    (own / "link").symlink_to(own / "backbone")
    before = digest(own)
    for program in (run, multitask):
        with pytest.raises(ValueError, match=r"the directory of the encoder '.*', which no run may change"):
            program(ground, own / place, "--backbone", own / "backbone", *more)
    assert digest(own) == before


def test_a_downstream_run_writes_neither_into_its_encoder_nor_into_an_adapter_it_reads(tmp_path):
    ground = write_task_ground(tmp_path / "ground", "relation_classification")
    before = digest(ground)
    for place, sentence in (
        ("backbone", "the directory of the encoder"),
        ("fac", "of an adapter or a model that is read"),
    ):
        with pytest.raises(ValueError, match=sentence):
            run_task.main(task_flags(ground, ground / place, "--overwrite_output_dir"))
    assert digest(ground) == before


@pytest.mark.parametrize("file", ["notes.txt", "data/train.json", "pytorch_model.bin", "checkpoint-1/config.json"])
def test_a_directory_that_holds_what_no_run_wrote_is_refused_to_all(ground, tmp_path, file):
    path = tmp_path / "out" / file
    path.parent.mkdir(parents=True)
    path.write_text('{"model_type": "bert"}', encoding="utf-8")
    for more in ((), ("--overwrite_output_dir",)):
        with pytest.raises(
            (ValueError, OSError), match=r"which no run of kadapter wrote|holds (a model of type 'be|weights of)"
        ):
            run(ground, tmp_path / "out", *more)
    assert path.read_text(encoding="utf-8") == '{"model_type": "bert"}'


def test_another_encoder_is_refused_as_an_output_directory(ground, tmp_path):
    other = shutil.copytree(ground / "backbone", tmp_path / "other")
    before = digest(other)
    for program in (run, multitask):
        with pytest.raises(OSError, match=r"it holds a model of type 'roberta' \(config\.json\)"):
            program(ground, other, "--overwrite_output_dir")
    assert digest(other) == before


def test_a_run_is_overwritten_by_one_of_its_kind(ground, tmp_path):
    multitask(ground, tmp_path / "encoder")
    multitask(ground, tmp_path / "encoder", "--overwrite_output_dir", "--seed", "3")
    before = digest(tmp_path / "encoder")
    with pytest.raises(OSError, match="holds a model of type 'roberta'"):
        run(ground, tmp_path / "encoder", "--overwrite_output_dir")
    assert digest(tmp_path / "encoder") == before
    run(ground, tmp_path / "adapter")
    run(ground, tmp_path / "adapter", "--overwrite_output_dir", "--seed", "3")
    assert not list(tmp_path.rglob("_lock"))


def test_a_link_to_nothing_a_file_and_an_unwritable_place_end_in_a_sentence(ground, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "file").touch()
    for place, sentence in (("link", "is a link to '.*gone', which does not exist"), ("file", "is a file; name")):
        for below in ("", "out"):
            with pytest.raises(ValueError, match=sentence):
                run(ground, tmp_path / place / below)
    with pytest.raises(OSError, match=r"--output_dir '/proc/out' can't be written"):
        run(ground, "/proc/out")
    assert not (tmp_path / "gone").exists()
