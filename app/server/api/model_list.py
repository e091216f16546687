"""The models, as the clients of several protocols look for them.

What each looks at to learn that a model takes images: `input_modalities` (Groq),
`architecture.input_modalities` (OpenRouter, llama.cpp), `capabilities` (Mistral,
LM Studio, Anthropic), `type` "vlm" in /api/v0/models (LM Studio), and `modalities`
in /props (llama.cpp). Ollama's clients ask /api/show; see `ollama`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from fastvlm_mlx._version import __version__
from fastvlm_mlx.app.server.engine.request import ModelInfo


def models(infos: Sequence[ModelInfo], created: int) -> dict[str, object]:
    """The response of /v1/models, to OpenAI's clients and to Anthropic's."""
    return {
        "object": "list",
        "data": [model(info, created) for info in infos],
        "has_more": False,
        "first_id": infos[0].name,
        "last_id": infos[-1].name,
    }


def model(info: ModelInfo, created: int) -> dict[str, object]:
    """The response of /v1/models/NAME."""
    taken = _input_modalities(info)
    return {
        "id": info.name,
        "object": "model",
        "created": created,
        "owned_by": "fastvlm-mlx",
        "type": "model",
        "display_name": info.name,
        "created_at": datetime.fromtimestamp(created, UTC).isoformat(),
        "input_modalities": taken,
        "output_modalities": ["text"],
        "architecture": {
            "modality": f"{'+'.join(taken)}->text",
            "input_modalities": taken,
            "output_modalities": ["text"],
        },
        "capabilities": {
            "completion_chat": True,
            **_capabilities(info),
            "image_input": {"supported": info.vision},
            "structured_outputs": {"supported": True},
        },
        "context_length": info.context_length,
        "max_model_len": info.context_length,
        "max_input_tokens": info.context_length,
        "meta": {
            "n_ctx": info.context_length,
            "n_params": info.parameters,
            "size": info.bytes,
        },
    }


def lm_studio_models(infos: Sequence[ModelInfo]) -> dict[str, object]:
    """The response of /api/v0/models."""
    return {"object": "list", "data": [lm_studio_model(info) for info in infos]}


def lm_studio_model(info: ModelInfo) -> dict[str, object]:
    """The response of /api/v0/models/NAME."""
    return {
        "id": info.name,
        "object": "model",
        "type": "vlm" if info.vision else "llm",
        "publisher": "fastvlm-mlx",
        "arch": info.family,
        "compatibility_type": "mlx",
        "quantization": _quantization(info),
        "state": "loaded",
        "max_context_length": info.context_length,
        "loaded_context_length": info.context_length,
    }


def lm_studio_list(infos: Sequence[ModelInfo]) -> dict[str, object]:
    """The response of /api/v1/models."""
    return {"models": [_listed(info) for info in infos]}


def _listed(info: ModelInfo) -> dict[str, object]:
    context = {"context_length": info.context_length}
    bits = info.quantization or 16
    return {
        "type": "llm",
        "publisher": "fastvlm-mlx",
        "key": info.name,
        "display_name": info.name,
        "architecture": info.family,
        "quantization": {"name": _quantization(info), "bits_per_weight": bits},
        "size_bytes": info.bytes,
        "params_string": f"{info.parameters / 1e9:.1f}B",
        "loaded_instances": [{"id": info.name, "config": context}],
        "max_context_length": info.context_length,
        "format": "mlx",
        "capabilities": _capabilities(info),
    }


def props(info: ModelInfo) -> dict[str, object]:
    """The response of /props."""
    return {
        "default_generation_settings": {"n_ctx": info.context_length},
        "total_slots": 1,
        "model_alias": info.name,
        "model_path": info.name,
        "modalities": {"vision": info.vision, "audio": False},
        "chat_template": "",
        "build_info": f"fastvlm-mlx {__version__}",
    }


def _input_modalities(info: ModelInfo) -> list[str]:
    return ["text", "image"] if info.vision else ["text"]


def _capabilities(info: ModelInfo) -> dict[str, object]:
    return {
        "vision": info.vision,
        "function_calling": False,
        "trained_for_tool_use": False,
    }


def _quantization(info: ModelInfo) -> str:
    return f"{info.quantization}bit" if info.quantization else "F16"
