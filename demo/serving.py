"""A model server that says why: after each prediction it is not sure of, it asks an index of the training rows.

`uvicorn --factory demo.serving:server --port 8000`, with `make demo`'s service up at UPWEIGHT_URL.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import torch
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from torch import nn

from demo import digits as handwritten
from upweight import AsyncClient, Client, UpweightError

INDEX = "why"


class Row(BaseModel):
    """What the model is asked about."""

    x: list[float]


def serving(net: nn.Module, client: AsyncClient, index: str, unsure: float = 0.8) -> FastAPI:
    """A server of the network, that explains predictions below a confidence by an index of this id or name."""
    app = FastAPI()

    @app.post("/predict")
    async def predict(row: Row, request: Request) -> dict[str, float | int]:
        with torch.no_grad():
            confidence, label = net(torch.tensor([row.x])).softmax(1)[0].max(0)
        request.state.row = {"x": row.x, "y": int(label)}
        return {"label": int(label), "confidence": float(confidence)}

    @app.middleware("http")
    async def explained(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        answer = await call_next(request)
        row = getattr(request.state, "row", None)
        if row is None:
            return answer
        told = json.loads(b"".join([part async for part in answer.body_iterator]))  # type: ignore[attr-defined]
        if told["confidence"] < unsure:
            try:
                found = await client.indexes.get(index)
                (why,) = await found.query(**row, k=3, candidates=200)
                told["because"] = [each.model_dump() for each in why.helpful]
            except UpweightError as error:  # a prediction does not wait for its explanation
                told["not_explained"] = error.detail
        return JSONResponse(told)

    return app


def server() -> FastAPI:
    """The demo's digits, with an index that is made where there is none."""
    with Client() as client:
        if not any(each.name == INDEX for each in client.indexes.list(model="digits-mlp")):
            client.indexes.create(INDEX, "digits-mlp", "digits-train").wait()
    return serving(handwritten.train(handwritten.load()), AsyncClient(), INDEX)
