"""What pydantic finds wrong with a request, in words for people: the same at the service and in the SDK."""

from upweight.field_errors.words import field_errors

__all__ = ["field_errors"]
