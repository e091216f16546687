"""The handlers of the routes that list and describe the models."""

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fastvlm_mlx.app.server.api import model_list, ollama, ollama_schema
from fastvlm_mlx.app.server.engine.request import ModelInfo, names_model
from fastvlm_mlx.app.server.engine.worker import Worker
from fastvlm_mlx.app.server.http import body
from fastvlm_mlx.app.server.http.errors import APIError, one_line


class ModelRoutes:
    """Handlers that describe the models of `worker`.

    `any_name`: a name that no model has stands for the first.
    """

    def __init__(self, worker: Worker, *, any_name: bool = False):
        self._worker = worker
        self._limits = worker.limits
        self._any_name = any_name
        self._created = int(time.time())
        self._started = ollama.now()

    def find_model(self, name: str) -> ModelInfo:
        """The model that a client's `name` stands for.

        Raises:
            APIError: There is none of that name.
        """
        models = self._worker.models
        for model in models:
            if names_model(name, model.name):
                return model
        if names_model(name, "default") or self._any_name:
            return models[0]
        own = ", ".join(f"'{model.name}'" for model in models)
        raise APIError(
            404,
            f"The model '{one_line(name)}' does not exist; this server has {own}"
            " (or 'default')",
            code="model_not_found",
            param="model",
        )

    async def models(self, request: Request) -> Response:
        return JSONResponse(model_list.models(self._worker.models, self._created))

    async def model(self, request: Request) -> Response:
        model = self.find_model(request.path_params["name"])
        return JSONResponse(model_list.model(model, self._created))

    async def lm_studio_models(self, request: Request) -> Response:
        return JSONResponse(model_list.lm_studio_models(self._worker.models))

    async def lm_studio_model(self, request: Request) -> Response:
        model = self.find_model(request.path_params["name"])
        return JSONResponse(model_list.lm_studio_model(model))

    async def lm_studio_list(self, request: Request) -> Response:
        return JSONResponse(model_list.lm_studio_list(self._worker.models))

    async def props(self, request: Request) -> Response:
        model = self.find_model(request.query_params.get("model", "default"))
        return JSONResponse(model_list.props(model))

    async def tags(self, request: Request) -> Response:
        return JSONResponse(ollama.tags(self._worker.models, self._started))

    async def show(self, request: Request) -> Response:
        show = await body.parse(request, ollama_schema.ShowRequest, self._limits)
        if show.model is None and show.name is None:
            raise APIError(400, "Missing required parameter: 'model'", param="model")
        model = self.find_model(show.model or show.name or "")
        return JSONResponse(ollama.show(model, self._started))

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": ollama.VERSION})
