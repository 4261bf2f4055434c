#!/usr/bin/env bash
# transformers: plain float32 weights that were read from GGUF and saved once are quantised ones when they are loaded.
#
# Expected: a GGUF file is read into float32 weights. Copied into a model of the same configuration, which can be saved
# (the one that was read can't), they are a checkpoint like any other.
# Seen: the configuration keeps the quantization_config of the GGUF file, and save_pretrained writes it beside float32
# safetensors. Whoever loads that folder has a model with float32 weights and is_quantized True, which Trainer refuses
# to train and which refuses to be saved again. Without that entry of the configuration all works.
# Output:  before it is saved: is_quantized False
#          kept: torch.float32, is_quantized True; Trainer: You cannot perform fine-tuning on purely; saving: The model is quantized with gguf
#          without: torch.float32, is_quantized False; Trainer: works; saving: works
# Versions: transformers 5.23.0, gguf 0.19.0, accelerate 1.15.0, torch 2.13.0, Python 3.11.
# Why it matters: small language models are handed around as GGUF, and one converts them to train beside or in them.
# The message sends one to look for quantised weights, of which there are none, and whoever loads the checkpoint did not
# convert it. Guard: delete config.quantization_config before saving converted weights.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.23.0 accelerate==1.15.0 gguf==0.19.0 numpy==2.4.6
cd "$work"
cat >probe.py <<'PY'
import gguf
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

WIDTH, INNER, HEADS, BLOCKS = 32, 48, 4, 2


def write(path):
    """Write a random Llama as a GGUF file of float32 tensors."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (len(tokens), WIDTH), "output_norm": (WIDTH,)}
    for block in range(BLOCKS):
        shapes |= {f"blk.{block}.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{block}.{name}": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{block}.{name}": (INNER, WIDTH) for name in ("ffn_gate", "ffn_up")}
        shapes[f"blk.{block}.ffn_down"] = (WIDTH, INNER)
    drawn = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", drawn.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def told(what):
    """Return a call's error in its first words, or "works"."""
    try:
        what()
    except (ValueError, NotImplementedError) as error:
        return " ".join(str(error).split()[:6])
    return "works"


def seen(folder):
    """Load a folder; return the dtypes of its weights, whether it says that it is quantised, and what it then allows."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    arguments = TrainingArguments(f"{folder}-out", report_to="none", use_cpu=True)
    dtypes = sorted({str(weight.dtype) for weight in model.parameters()})
    quantized = bool(getattr(model, "is_quantized", False))
    return dtypes, quantized, told(lambda: Trainer(model, arguments)), told(lambda: model.save_pretrained("again"))


write("tiny.gguf")
read = AutoModelForCausalLM.from_pretrained(".", gguf_file="tiny.gguf", dtype="float32")
made = type(read)(read.config)
made.load_state_dict(read.state_dict())
print("before it is saved: is_quantized", bool(getattr(made, "is_quantized", False)))
made.save_pretrained("kept")
del made.config.quantization_config
made.save_pretrained("without")
found = {folder: seen(folder) for folder in ("kept", "without")}
for folder, (dtypes, quantized, training, saving) in found.items():
    print(f"{folder}: {', '.join(dtypes)}, is_quantized {quantized}; Trainer: {training}; saving: {saving}")
assert not getattr(made, "is_quantized", False)
assert found["kept"][:2] == (["torch.float32"], True), "it is no longer taken for quantised: this finding is out of date"
assert "works" not in found["kept"][2:]
assert found["without"] == (["torch.float32"], False, "works", "works")
PY
"$work/venv/bin/python" probe.py 2>/dev/null
