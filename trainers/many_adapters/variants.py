"""Settings of several adapters in one run, from a file with the flags of each adapter."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ...configuration_kadapter import check_adapter_name
from ..common.arguments import (
    AdapterArguments,
    CorpusArguments,
    RunArguments,
    flags_of,
    parse_arguments,
    without_secrets,
)
from ..common.locality import LocalityArguments
from ..feature_cache.options import CacheArguments

__all__ = ["Settings", "settings_of"]

OWN = (  # flags that may differ between the adapters of a run
    *("adapter_kind", "layers", "adapter_hidden_size", "adapter_intermediate_size", "adapter_num_hidden_layers"),
    *("adapter_num_attention_heads", "adapter_dropout", "skip_layers", "mask_padding", "fusion"),
    *("classifier_dropout", "without_adapter", "seed", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs"),
    *("warmup_steps", "weight_decay", "max_grad_norm", "optim", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("free_gradients", "locality_weight", "silent_below", "heard_above"),
)


@dataclass
class VariantArguments:
    """Whether one adapter is trained, or several at once."""

    variants: str | None = field(
        default=None,
        metadata={
            "help": "YAML file of adapter names, each with its own flags: all are trained at once, into OUT/NAME."
        },
    )


class Settings(NamedTuple):
    """The arguments of one adapter's training."""

    corpus: CorpusArguments
    adapter: AdapterArguments
    cache: CacheArguments
    run: RunArguments
    variants: VariantArguments
    locality: LocalityArguments


KINDS = (CorpusArguments, AdapterArguments, CacheArguments, RunArguments, VariantArguments, LocalityArguments)


def settings_of(argv: list[str] | None = None) -> tuple[list[Settings], bool]:
    """Return the settings of each adapter that the flags request, and whether `--variants` requested them.

    Adapters of one run read the same batches: without `--data_seed`, the common `--seed` is used for it.

    Raises:
        ValueError: a flag or the file can't be used; the message names it and the remedy.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--variants")
    file = parser.parse_known_args(argv)[0].variants
    if file is None:
        alone = Settings(*parse_arguments(argv, KINDS))
        if alone.variants.variants is not None:
            raise ValueError("variants is no flag of a recipe; give --variants on the command line")
        return [alone], False
    return _several(argv, file, read_variants(Path(file))), True


def _several(argv: list[str], file: str, variants: dict[str, dict[str, Any]]) -> list[Settings]:
    common = Settings(*parse_arguments([*argv, "--adapter_name", next(iter(variants))], KINDS)).run
    if str(common.resume_from_checkpoint).lower() not in ("none", "false", "true", "last"):
        raise ValueError(
            f"--resume_from_checkpoint {common.resume_from_checkpoint!r} belongs to one adapter; with --variants say "
            "last, which is each adapter's own"
        )
    trackers = sorted(set(common.report_to or []) - {"none", "tensorboard"})
    if trackers:
        raise ValueError(
            f"--report_to {trackers[0]} allows one run in a process; with --variants give tensorboard or none"
        )
    several = []
    for name, values in variants.items():
        flags = flags_of(values, KINDS, f"variants {file!r}, adapter {name!r}")
        output = ["--adapter_name", name, "--output_dir", str(Path(common.output_dir, name))]
        own = Settings(*parse_arguments([*argv, *flags, *output], KINDS))
        own.run.flags = without_secrets(argv)  # type: ignore[misc]  # of the class, so that it is no flag itself
        own.run.data_seed = common.seed if common.data_seed is None else common.data_seed
        several.append(own)
    return several


def read_variants(path: Path) -> dict[str, dict[str, Any]]:
    """Read the adapters that a file names, each with its own flags and their values.

    Raises:
        ValueError: it can't be read, names no adapter or the same adapter twice, or sets a flag that all must share.
    """
    where = f"variants {str(path)!r}"
    try:
        variants = yaml.load(path.read_text(encoding="utf-8"), Loader=WithoutRepeats)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{where} can't be read: {error}") from error
    if not isinstance(variants, dict) or not variants:
        what = "nothing" if not variants else type(variants).__name__
        raise ValueError(
            f"{where} must be a mapping of adapter names to their flags, such as 'fast: {{learning_rate: "
            f"1.0e-3}}', and holds {what}"
        )
    return {name: _own_flags(name, values, where) for name, values in variants.items()}


def _own_flags(name: Any, values: Any, where: str) -> dict[str, Any]:
    try:
        check_adapter_name(name)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ValueError(f"{where}, adapter {name!r}: its flags must be a mapping, not {type(values).__name__}")
    flags_of(values, KINDS, f"{where}, adapter {name!r}")
    for key in values:
        if key not in OWN:
            raise ValueError(
                f"{where}, adapter {name!r}: {key!r} is the same for all adapters of a run; give --{key} on the "
                f"command line. An adapter's own are {', '.join(OWN)}"
            )
    return values


class WithoutRepeats(yaml.SafeLoader):
    """Load YAML, but refuse mappings with repeated keys, of which all but the last would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping.

        Raises:
            yaml.YAMLError: a key is repeated; the message says which and where.
        """
        keys = [key.value for key, _ in node.value]
        for (key, _), name in zip(node.value, keys, strict=True):
            if keys.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} is there twice", key.start_mark)
        return super().construct_mapping(node, deep)
