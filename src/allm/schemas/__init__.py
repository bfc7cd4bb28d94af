"""JSON Schema: values checked locally, and the schemas and conversions of Python types.

`problems(value, schema)` checks a JSON value; `schema_of(type)` and `convert(value, type)` serve
tool arguments and structured output alike. Schemas are read as draft 2020-12 says; references are
followed inside the document only.
"""

from __future__ import annotations

from allm.schemas.answers import answer_value, in_object, is_object
from allm.schemas.checking import Problem, problems, unknown_keywords
from allm.schemas.typed import convert, inlined, schema_name, schema_of, schemas_of, with_definitions

__all__ = [
    "Problem",
    "answer_value",
    "convert",
    "in_object",
    "inlined",
    "is_object",
    "problems",
    "schema_name",
    "schema_of",
    "schemas_of",
    "unknown_keywords",
    "with_definitions",
]
