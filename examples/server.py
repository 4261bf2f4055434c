"""Serve an exported model over HTTP: requests that arrive together go through the encoder in one batch.

    python examples/server.py EXPORTED --adapter EXPORTED_ADAPTER --head NAME=EXPORTED_HEAD --port 8000

POST /predict takes {"text", "entity_spans", "adapter_names", "head", "top_k"}, of which only "text" is needed, and
answers {"answers": ...} as `ExportedModel.predict` does; GET / names adapters and heads, and counts answers and
passes of the encoder. What is wrong with a request is said in a sentence, {"detail": ...}, before it joins a batch.
Needs `pip install 'kadapter[onnx,server]'`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from kadapter.runtime import ExportedModel, Question

LONGEST = 20_000  # characters of a text, or words; what has more is refused before it is read
WAITING = 1_000  # requests that may wait; further ones are asked to come again


class Asked(BaseModel):
    """A request."""

    model_config = ConfigDict(extra="forbid")
    text: Annotated[str, Field(max_length=LONGEST)] | Annotated[list[str], Field(max_length=LONGEST)]
    entity_spans: list[tuple[int, int]] | None = None
    adapter_names: str | list[str] | None = None
    head: str | None = None
    top_k: int | None = None


class Batches:
    """Answers questions in batches: whatever has come while the last batch was computed makes up the next.

    Args:
        model: what answers.
        largest: questions of a batch; 1 answers one after the other.
    """

    def __init__(self, model: ExportedModel, largest: int) -> None:
        self._model, self._largest = model, largest
        self._waiting: asyncio.Queue[tuple[Question, asyncio.Future]] = asyncio.Queue(WAITING)
        self.answered = self.passes = 0

    async def ask(self, question: Question) -> Any:
        """Return the answer to a question; asyncio.QueueFull where too many wait."""
        answer: asyncio.Future = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((question, answer))
        return await answer

    async def run(self) -> None:
        """Answer, for ever."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self._largest and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            batch = [(question, answer) for question, answer in batch if not answer.cancelled()]  # clients that left
            for (_, answer), result in zip(batch, await asyncio.to_thread(self._answers, batch), strict=True):
                if answer.done():
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)

    def _answers(self, batch: list[tuple[Question, Any]]) -> list[Any]:
        """Return answers, or exceptions; where a batch fails each question is asked alone, so that it spoils none."""
        try:
            answers = self._model.answer([question for question, _ in batch])
        except Exception as error:  # noqa: BLE001 (it is the answer to those who asked)
            return [error] if len(batch) == 1 else [each for one in batch for each in self._answers([one])]
        self.answered, self.passes = self.answered + len(batch), self.passes + 1
        return answers


def app_of(model: ExportedModel, largest: int) -> FastAPI:
    """Return the application that serves a model."""
    batches = Batches(model, largest)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(batches.run())
        yield
        task.cancel()

    app = FastAPI(title="kadapter", lifespan=running)

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = next((step for step in first["loc"][1:] if isinstance(step, str)), "body")
        return JSONResponse({"detail": f"{where}: {first['msg']}"}, status_code=422)

    @app.get("/")
    def served() -> dict[str, Any]:
        names = {"adapters": model.adapters, "active": model.active_adapters(), "heads": model.heads}
        return {**names, "answered": batches.answered, "passes": batches.passes}

    @app.post("/predict")
    async def predict(asked: Asked) -> dict[str, Any]:
        try:
            question = model.read(**asked.model_dump())
        except (TypeError, ValueError) as error:
            raise HTTPException(422, str(error)) from error
        try:
            return {"answers": await batches.ask(question)}
        except ValueError as error:  # an adapter that was removed meanwhile
            raise HTTPException(409, str(error)) from error
        except asyncio.QueueFull as error:
            raise HTTPException(503, f"{WAITING} requests are waiting; ask again in a while") from error

    return app


def main(
    exported: Annotated[str, typer.Argument(help="Directory that kadapter export wrote.")],
    adapter: Annotated[list[str], typer.Option(help="Directory of further exported adapters.")] = [],  # noqa: B006
    head: Annotated[list[str], typer.Option(help="NAME=DIR of a further exported head.")] = [],  # noqa: B006
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any.")] = 8000,
    batch: Annotated[int, typer.Option(min=1, help="Requests that are answered in one pass at most.")] = 16,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a pass; by default all cores.")] = None,
) -> None:
    """Load the model, and serve it."""
    model = ExportedModel.from_directory(exported, threads=threads)
    for directory in adapter:
        model.add_adapter(directory)
    for pair in head:
        name, equals, directory = pair.partition("=")
        if not equals:
            raise ValueError(f"--head {pair} must be NAME=DIR")
        model.add_head(directory, name)
    uvicorn.run(app_of(model, batch), host=host, port=port, log_level="info", access_log=False)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"server: {error}")
