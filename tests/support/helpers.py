"""Small things that the tests of the model share: backbones of every family, adapters, a fresh process."""

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedTokenizerFast

from kadapter import KAdapterModel, KnowledgeAdapterConfig

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parents[1] / "golden"
# Without which PyTorch can't compile for a CPU; nor can it where its own folder has a space.
COMPILER = None if " " in torch.__file__ else shutil.which(os.environ.get("CXX", "g++"))
# Runs the command as a process of its own, and tells which slow imports it made.
ASK = """
import sys
from kadapter.commands import app
try:
    app(sys.argv[1:], standalone_mode=True)
except SystemExit as stopped:
    print("code", stopped.code)
print("heavy", sorted({"torch", "transformers", "datasets"} & set(sys.modules)))
"""
# A pad id of each family's own; all others are numbered from 5 on.
FAMILIES = {
    "roberta": 1,
    "bert": 0,
    "xlm-roberta": 1,
    "electra": 0,
    "deberta-v2": 0,
    "distilbert": 0,
    "mpnet": 1,
    "modernbert": 3,
    "albert": 0,
}
SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
OTHER_SIZES = {
    "distilbert": {"vocab_size": 60, "dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 48},
    "albert": {**SIZES, "embedding_size": 16},
    "electra": {**SIZES, "embedding_size": 16},
    "deberta-v2": {**SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
}


def tiny_backbone(family="roberta", seed=0, **changes):
    """A random encoder of 4 blocks, 32 wide, in eval mode."""
    values = {**OTHER_SIZES.get(family, SIZES), "max_position_embeddings": 40, "pad_token_id": FAMILIES[family]}
    config = AutoConfig.for_model(family, **{**values, **changes})
    torch.manual_seed(seed)
    return AutoModel.from_config(config).eval()


def save_backbone(path, family="roberta", seed=0, **changes):
    """Save a random encoder to a directory and return its path as a string."""
    tiny_backbone(family, seed, **changes).save_pretrained(path)
    return str(path)


def save_masked_lm(path, family="roberta", seed=0, **changes):
    """Save a random encoder with its LM head, whose biases are no zeros, and return the directory as a string."""
    values = {**OTHER_SIZES.get(family, SIZES), "max_position_embeddings": 40, "pad_token_id": FAMILIES[family]}
    torch.manual_seed(seed)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(family, **{**values, **changes})).eval()
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if key.endswith("bias"):
                tensor.add_(torch.randn_like(tensor) * 0.1)
    model.save_pretrained(path)
    return str(path)


def small_adapter(**changes):
    values = {"hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 16, "layers": [0, 2, 4]}
    return KnowledgeAdapterConfig(**{**values, **changes})


def shake(model, seed=1, std=0.3):
    """Give everything of ours large random weights, so that nothing is equal by being near zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, one in model.named_parameters():
            if "backbone." not in key:
                one.copy_(torch.randn(one.shape, generator=generator) * std)
    return model


def make_model(backbone, *names, model_class=KAdapterModel, **kwargs):
    """A model with adapters of these names and large weights, in eval mode."""
    model = model_class.from_backbone(backbone, adapters={name: small_adapter() for name in names}, **kwargs)
    return shake(model).eval()


def batch(family="roberta", lengths=(9, 6, 4), seed=3, side="right", extra=0):
    """Token ids and mask, padded to the longest and by `extra` more, on either side."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths) + extra
    ids = torch.full((len(lengths), width), FAMILIES[family])
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        place = slice(0, length) if side == "right" else slice(width - length, width)
        ids[row, place] = torch.randint(5, 60, (length,), generator=generator)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


def output(model, **inputs):
    """The fused features, without a graph."""
    with torch.no_grad():
        return model(**(inputs or batch())).last_hidden_state


def bytes_of(module):
    """All tensors of a module, as bytes by name."""
    return {
        key: one.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        for key, one in (*module.named_parameters(), *module.named_buffers())
    }


def tiny_tokenizer(path=None):
    """A tokenizer of words and marks, with the ids of RoBERTa's special tokens."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "@", "#", ".", "ada", "wrote", "to", "paris", "from", "lyon"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **special)
    if path is not None:
        fast.save_pretrained(path)
    return fast


def golden(name):
    """The tensors of one file of tests/golden."""
    return load_file(GOLDEN / f"{name}.safetensors")


def script(name):
    """The code of a file of tests/support/scripts, where a linter sees it, for `run_python`."""
    return (Path(__file__).parent / "scripts" / f"{name}.py").read_text(encoding="utf-8")


def run_python(code, folder, *arguments, package=False, offline=True, check=True, bare=False, **environment):
    """Run code in a process that can't import kadapter, unless it is meant to, and return what it printed.

    Where its imports, its memory or what PyTorch reads in the environment are the subject, a `bare` one is a new
    interpreter; another is forked from one that has imported PyTorch (see warm_python.py).
    """
    prelude = "import sys\n" + ("" if package else "sys.modules['kadapter'] = None\n")
    script = Path(folder).resolve() / "script.py"
    script.write_text(prelude + code, encoding="utf-8")
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if package:
        kept["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    kept.update(HF_HOME=str(script.parent / "hf"), HF_HUB_OFFLINE="1" if offline else "0", OMP_NUM_THREADS="1")
    kept.update(environment)
    command = [str(script), *map(str, arguments)]
    done = (_run_in_new_interpreter if bare else _run_in_fork)(command, script.parent, kept)
    if check and done.returncode:
        raise AssertionError(f"the process ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def _run_in_new_interpreter(command, folder, environment):
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": 300}
    return subprocess.run([sys.executable, *command], check=False, **options)


def _run_in_fork(command, folder, environment):
    with tempfile.TemporaryDirectory() as outputs:
        printed = {name: os.path.join(outputs, name) for name in ("stdout", "stderr")}
        script = {"command": command, "folder": str(folder), "environment": environment, **printed}
        print(json.dumps(script), file=_warm_python().stdin, flush=True)
        status = int(_warm_python().stdout.readline())
        texts = {name: Path(path).read_text(encoding="utf-8") for name, path in printed.items()}
    return subprocess.CompletedProcess(command, status, **texts)


@functools.cache
def _warm_python():
    """The process that forks, which ends with the one that asks."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-P", str(Path(__file__).with_name("warm_python.py"))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=kept, text=True)
    atexit.register(process.communicate)
    return process
