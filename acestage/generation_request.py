"""From a client's options to the message of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from acestage.errors import FieldViolation, InvalidArgumentError
from acestage.generation_options import GenerationOptions
from acestage.naming import shown
from acestage.protos.generation.v1 import generation_pb2 as pb

_FIELDS: Mapping[str, FieldDescriptor] = pb.GenerateRequest.DESCRIPTOR.fields_by_name
_ACCEPTED = {
    FieldDescriptor.TYPE_INT32: f"whole numbers, {-(2**31)} to {2**31 - 1}",
    FieldDescriptor.TYPE_INT64: f"whole numbers, {-(2**63)} to {2**63 - 1}",
    FieldDescriptor.TYPE_DOUBLE: "numbers",
    FieldDescriptor.TYPE_BOOL: "true or false",
    FieldDescriptor.TYPE_STRING: "text that UTF-8 can encode",
    FieldDescriptor.TYPE_MESSAGE: "an Adapter, of a name that UTF-8 can encode and a number",
}
"""What a field of each type can hold; what of that makes sense, the orchestrator says."""
_UNFIT = (AttributeError, OverflowError, TypeError, ValueError)
"""What protobuf raises at a value of the wrong kind or range, and we at what is no `Adapter`."""


def request_to_pb(caption: str, options: GenerationOptions) -> pb.GenerateRequest:
    """The request message. It holds what a message can hold; the orchestrator checks its values.

    Raises:
        InvalidArgumentError: with every field whose value no message can hold, or that does not exist.
    """
    request = pb.GenerateRequest()
    violations = []
    for name, value in {"caption": caption, **options}.items():
        field = _FIELDS.get(name)
        if field is None:
            violations.append(FieldViolation(name, "is no option of a generation"))
        elif value is not None:
            try:
                request.MergeFrom(_of(name, value))
            except _UNFIT:
                violations.append(_violation(field, value))
    if violations:
        raise InvalidArgumentError.of(violations)
    return request


def _of(name: str, value: Any) -> pb.GenerateRequest:
    """A request of this field alone."""
    if name == "adapters":
        value = [adapter.to_pb() for adapter in value]
    return pb.GenerateRequest(**{name: value})


def _violation(field: FieldDescriptor, value: Any) -> FieldViolation:
    accepted = _ACCEPTED[field.type]
    if field.is_repeated and isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            try:
                _of(field.name, [item])
            except _UNFIT:
                return FieldViolation(f"{field.name}[{index}]", f"is {shown(item)}; accepted: {accepted}")
    return FieldViolation(field.name, f"is {shown(value)}; accepted: {accepted}")
