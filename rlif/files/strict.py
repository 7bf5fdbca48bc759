"""The base class of settings that users write in YAML."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


class Strict(BaseModel):
    """Refuses unknown keys, and true or false where a number belongs, which pydantic reads as 1 or 0."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_not_true(cls, value: Any, info: ValidationInfo) -> Any:
        values = value if isinstance(value, list | tuple) else [value]
        wanted = cls.model_fields[info.field_name or ""].annotation
        if any(isinstance(each, bool) for each in values) and not takes_bool(wanted):
            raise PydanticCustomError("bool", "input should not be true or false")
        return value


def takes_bool(annotation: Any) -> bool:
    """Tells whether true or false is one of the values of a type."""
    return annotation in (bool, Any) or any(map(takes_bool, get_args(annotation)))
