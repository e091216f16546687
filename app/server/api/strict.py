"""Schemas that reject unknown fields, and the refusal of values that have no effect."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from fastvlm_mlx.app.server.http.errors import APIError


class Strict(BaseModel):
    """Rejects fields that it does not know, unless they say nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        # Clients write null for "not given", of fields newer than these too; those
        # with one type for all messages write "", [] or {}.
        if not isinstance(data, dict):
            return data
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {
            k: v for k, v in data.items() if k in known or v not in (None, "", [], {})
        }


def refuse_unsupported(
    request: BaseModel,
    unsupported: Mapping[str, tuple[Any, ...]],
    choices: Mapping[str, str],
):
    """Refuses options of `request` that cannot be honoured.

    `unsupported` are the only values, beside null, that each may have. A field of
    `choices` may hold anything if the one that chooses among it says "none".

    Raises:
        APIError: An option has another value; it is named.
    """
    for name, allowed in unsupported.items():
        value = getattr(request, name)
        if name in choices and _chosen(getattr(request, choices[name])) == "none":
            continue  # they are not to be called
        if value is not None and not _is_one_of(value, allowed):
            only = " or ".join(json.dumps(one) for one in (*allowed, None))
            raise APIError(
                400,
                f"Unsupported value: '{name}'; FastVLM does not support it, give {only}"
                " or leave it out",
                code="unsupported_value",
                param=name,
            )


def _chosen(choice: Any) -> Any:
    """What a choice says: OpenAI writes "none", Anthropic {"type": "none"}."""
    return getattr(choice, "type", choice)


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    # To Python, true is 1.
    is_bool = isinstance(value, bool)
    return any(value == one and isinstance(one, bool) == is_bool for one in allowed)
