"""The commands `kadapter embeddings import` and `kadapter embeddings train`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from ._flags import OutputDir, Overwrite

__all__ = ["app"]

HELP = """Import or train the embeddings of a knowledge base's entities.

Example: kadapter embeddings import kg_embed --knowledge-base wikidata -o wikidata-transe
"""
app = typer.Typer(no_args_is_help=True, help=HELP)

Source = Annotated[Path, typer.Argument(help="File or directory of embeddings.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", help="openke, pykeen, word2vec, numpy or parquet.", show_default="the one that the files look like"
    ),
]
KnowledgeBase = Annotated[
    str | None,
    typer.Option(help="What the ids belong to, such as wikidata.", show_default="the name of the source"),
]
VectorsFile = Annotated[Path | None, typer.Option("--vectors", help="File of the vectors, where several might be.")]
IdsFile = Annotated[Path | None, typer.Option("--ids", help="File of the ids, where it is elsewhere.")]
IdColumn = Annotated[str | None, typer.Option(help="Column of the ids in a Parquet file.")]
VectorColumn = Annotated[str | None, typer.Option(help="Column of the vectors in a Parquet file.")]
TriplesFiles = Annotated[
    list[Path], typer.Option("--triples", help="File of lines head TAB relation TAB tail; repeat for several.")
]
Model = Annotated[str, typer.Option(help="Model of PyKEEN, such as TransE, DistMult, ComplEx or RotatE.")]
Dimension = Annotated[int, typer.Option(min=1, help="Dimension of the model; complex vectors are twice as wide.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the triples.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Triples of a batch.")]
LearningRate = Annotated[float, typer.Option(min=0.0, help="Learning rate of Adam.")]
HeldOut = Annotated[
    int,
    typer.Option(
        min=0, help="Triples that are not trained on, whose links are predicted, at most a tenth; 0 trains on all."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the held-out triples and of the training.")]
Device = Annotated[str, typer.Option(help="Device to train on, such as cpu or cuda.")]


@app.command("import")
def import_embeddings(
    source: Source,
    output_dir: OutputDir,
    format_name: Format = None,
    knowledge_base: KnowledgeBase = None,
    vectors: VectorsFile = None,
    ids: IdsFile = None,
    id_column: IdColumn = None,
    vector_column: VectorColumn = None,
    overwrite: Overwrite = False,
) -> None:
    """Import entity embeddings that were trained elsewhere.

    Example: kadapter embeddings import kg_embed --knowledge-base wikidata -o wikidata-transe

    Read are OpenKE's and ERNIE's files, PyKEEN's result directory with exported vectors, word2vec's text, NumPy with a
    list of ids, and Parquet. No pickle is read.
    """
    from ._preflight import refuse_used

    refuse_used(output_dir, overwrite)
    if not source.expanduser().exists():
        raise OSError(f"there is no {str(source)!r}; name a file or directory of entity embeddings")
    typer.echo(f"reading {source}", err=True)
    import torch  # after the checks, since it takes seconds to import

    from ..embeddings_kadapter import EntityEmbeddings
    from ..graphs.formats import Options, read

    read_vectors = read(source, Options(vectors, ids, id_column, vector_column), format_name)
    table = EntityEmbeddings(
        read_vectors.ids,
        torch.from_numpy(read_vectors.vectors),
        knowledge_base or source.resolve().name.partition(".")[0],
        read_vectors.origin,
    )
    _save(table, output_dir)


@app.command("train")
def train_embeddings(
    triples: TriplesFiles,
    output_dir: OutputDir,
    model: Model = "TransE",
    dimension: Dimension = 128,
    epochs: Epochs = 100,
    batch_size: BatchSize = 1024,
    learning_rate: LearningRate = 1e-3,
    held_out: HeldOut = 1000,
    knowledge_base: KnowledgeBase = None,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Train entity embeddings on the triples of a graph, by PyKEEN.

    Example: kadapter embeddings train --triples facts.tsv --model TransE --dimension 128 -o facts-transe

    The card shows how well links that were held out are predicted: the mean reciprocal rank (MRR) and hits@k.
    """
    from ._preflight import refuse_used

    refuse_used(output_dir, overwrite)
    for path in triples:
        if not path.is_file():
            raise OSError(f"there is no file {str(path)!r}; name a file of triples")
    if find_spec("pykeen") is None:
        raise ValueError("embeddings are trained by PyKEEN, which is not installed; pip install 'kadapter[graphs]'")
    typer.echo(f"reading {', '.join(map(str, triples))}", err=True)
    from ..graphs.training import Training, read_triples, train
    from ..trainers.common.memory import keep_large_blocks

    graph = read_triples(triples)
    keep_large_blocks()
    training = Training(model, dimension, epochs, batch_size, learning_rate, seed, device)
    name = knowledge_base or triples[0].resolve().name.partition(".")[0]
    _save(train(graph, training, name, held_out=held_out, log=typer.echo), output_dir)


def _save(table: Any, output_dir: Path) -> None:
    table.save_pretrained(output_dir)
    typer.echo(f"{table!r}, sha256 {table.sha256}")
    typer.echo(f'saved to {output_dir}; load it with EntityEmbeddings.from_pretrained("{output_dir}")')
