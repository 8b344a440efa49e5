"""A service: send it the bytes of a patch, get its probability. Bounded queue, health check.

    pip install "histo-edge[cpu,examples]"
    HISTO_MODEL=model.onnx uvicorn service:app --app-dir examples --workers 1
    curl --data-binary @patch.png http://localhost:8000/predict
    curl http://localhost:8000/health

One process holds one classifier. Patches that arrive while a batch is computed wait in a queue and become the next
batch; when the queue is full the answer is 503, so that a flood costs its senders time, not this machine memory.
Without HISTO_MODEL it is ./model.onnx, else the model that comes with histo-edge.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, HTTPException, Request

from histo_runtime import PatchClassifier, Prediction

WAITING = 64  # patches
LARGEST = 10_000_000  # bytes of one patch


@dataclass(frozen=True)
class _Job:
    image: bytes
    answer: asyncio.Future[Prediction]


class Scorer:
    """Collects patches of many requests into batches for one classifier."""

    def __init__(self, classifier: PatchClassifier, waiting: int) -> None:
        self.classifier = classifier
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue(waiting)

    @property
    def waiting(self) -> int:
        """How many patches wait."""
        return self._jobs.qsize()

    async def score(self, image: bytes) -> Prediction:
        """Wait for the answer to one patch; raises `asyncio.QueueFull` at once when too many wait already."""
        job = _Job(image, asyncio.get_running_loop().create_future())
        self._jobs.put_nowait(job)
        return await job.answer

    async def run(self) -> None:
        """Score batch after batch, for ever."""
        while True:
            jobs = [await self._jobs.get()]
            while len(jobs) < self.classifier.batch_patches() and not self._jobs.empty():
                jobs.append(self._jobs.get_nowait())
            waiting = [job for job in jobs if not job.answer.done()]  # the client of another has gone
            try:
                rows = await asyncio.to_thread(self._rows, [job.image for job in waiting])
            except Exception as error:  # a fault costs this batch, not the service
                for job in waiting:
                    if not job.answer.done():
                        job.answer.set_exception(error)
                continue
            for job, row in zip(waiting, rows, strict=True):
                if not job.answer.done():
                    job.answer.set_result(row)

    def _rows(self, images: list[bytes]) -> list[Prediction]:
        return list(self.classifier.stream(images))


def create_app(open_classifier: Callable[[], PatchClassifier], waiting: int = WAITING) -> FastAPI:
    """Make the service; the model is opened when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with await asyncio.to_thread(open_classifier) as classifier:
            app.state.scorer = Scorer(classifier, waiting)
            app.state.sha256 = await asyncio.to_thread(lambda: classifier.sha256)
            app.state.worker = asyncio.create_task(app.state.scorer.run())
            yield
            app.state.worker.cancel()
            with suppress(asyncio.CancelledError):
                await app.state.worker

    app = FastAPI(title="histo-edge", description="Research use only, not for diagnosis.", lifespan=lifespan)

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        image = await _body(request)
        try:
            row = await app.state.scorer.score(image)
        except asyncio.QueueFull:
            raise HTTPException(503, "too many patches wait: try again", {"Retry-After": "1"}) from None
        except Exception as error:
            raise HTTPException(500, "this patch could not be scored") from error
        if row.error:
            raise HTTPException(422, f"the patch {row.error}")
        return {"label": row.label, "probability": row.probability, "std": row.std, "views": row.views}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        if app.state.worker.done():
            raise HTTPException(503, "the worker has ended")
        scorer: Scorer = app.state.scorer
        classifier = scorer.classifier
        return {
            "status": "ok",
            "model": classifier.card.name,
            "sha256": app.state.sha256,
            "device": classifier.device,
            "waiting": scorer.waiting,
        }

    return app


async def _body(request: Request) -> bytes:
    """Read the body, but no more of it than a patch can have."""
    parts, length = [], 0
    async for part in request.stream():
        parts.append(part)
        length += len(part)
        if length > LARGEST:
            raise HTTPException(413, f"more than {LARGEST // 1_000_000} MB: too large to be a patch")
    return b"".join(parts)


app = create_app(PatchClassifier)  # $HISTO_MODEL, else ./model.onnx, else the model that comes with histo-edge
