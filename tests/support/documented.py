"""The code blocks of README and docs: which of them are run, and the small world in which they are.

A block of Python is run; of a block without a language every command is. Another one names its language, such as
`json` or `text`. A comment in the line before a block takes it out of this: `<!-- not run: REASON -->`, or
`<!-- run by: TEST -->` where a test of its own runs it.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import torch
from helpers import ROOT, make_model, save_backbone, shake
from tiny_runs import tokenizer_of

import kadapter
from kadapter import EntityEmbeddings

OTHER_PAGES = ("README.md", "CONTRIBUTING.md", "demo/README.md", "recipes/publish/README.md")
PAGES = [*(ROOT / name for name in OTHER_PAGES), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run|run by): (?P<why>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
RUN = ("", "python")  # languages of what is run
LABELS = {"id2label": {0: "born", 1: "died", 2: "works"}, "label2id": {"born": 0, "died": 1, "works": 2}}
HEADS = {
    "relations": "EntityPairClassification",
    "types": "EntityClassification",
    "parser": "DependencyParsing",
    "choices": "MultipleChoice",
    "answers": "QuestionAnswering",
}
TEXTS = (
    "Marie Curie was born in Warsaw on the Vistula. Birds sing at dawn. Why did she stay in?",
    "Mira Voss was born in Tarnstad. The board of Brekau Glass thanked Jory Hald, who became head of it.",
)


@dataclass
class Block:
    """A block of code: its language, its text, and the mark before it, `not run` or `run by`, with what that says."""

    page: str
    language: str
    text: str
    mark: str | None
    why: str | None

    @property
    def commands(self) -> list[str]:
        """The command lines, each as a single line."""
        lines = self.text.replace("\\\n", " ").splitlines() if self.language == "" else []
        return [line for line in lines if line.strip() and not line.startswith((" ", "#"))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in their order."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(name_of(page), each["language"], each["text"], each["mark"], each["why"]) for each in found]


def words_of(command: str) -> list[str]:
    """The words of a command line, without a comment at its end and without variables of the shell before it."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    return words


def write_world(folder: Path) -> None:
    """Write everything that the pages speak of, tiny, under the names that they use, into a folder."""
    tokenizer = tokenizer_of([f" {text}" for text in TEXTS] * 3)
    tokenizer.model_max_length = 128
    backbone = save_backbone(folder / "backbone", vocab_size=len(tokenizer), max_position_embeddings=140)
    tokenizer.save_pretrained(backbone)
    (folder / "sentence-transformers").mkdir()
    for name in ("encoder", "sentence-transformers/all-MiniLM-L6-v2"):
        (folder / name).symlink_to(folder / "backbone")
    both = make_model(backbone, "fac", "lin")
    for name in ("fac", "lin"):
        both.save_adapter(folder / "org" / f"kadapter-{name}", name)
        (folder / f"kadapter-{name}").symlink_to(folder / "org" / f"kadapter-{name}")
    for name, head in HEADS.items():
        make_model(backbone, "fac", model_class=getattr(kadapter, f"KAdapterFor{head}"), **LABELS).save_pretrained(
            folder / name
        )
    words = make_model(backbone, "domain", model_class=kadapter.KAdapterForMaskedLM, lm_head="transform")
    shake(words, std=0.1).save_pretrained(folder / "words")
    words.save_adapter(folder / "kadapter-domain", "domain")
    words.save_pretrained(folder / "lm-head" / "pretraining_head")
    ids = ["Q90", "Q142", "Q1490"]
    EntityEmbeddings(ids, torch.ones(len(ids), 128), knowledge_base="wikidata").save_pretrained(
        folder / "org" / "wikidata-transe"
    )
    (folder / "aliases.tsv").write_text("Marie Curie\tQ7186\nWarsaw\tQ270\n", encoding="utf-8")
