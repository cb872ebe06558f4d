"""KServe's names, imported with its side effect fenced off.

`kserve.model_server` parses `sys.argv` while it is imported and would read (or refuse) our own options.
"""

from __future__ import annotations

import sys

_arguments = sys.argv
sys.argv = _arguments[:1]
try:
    from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model, ModelServer
    from kserve.errors import InvalidInput as BadRequest
    from kserve.model_server import app
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.infer_type import RequestedOutput
finally:
    sys.argv = _arguments

__all__ = [
    "BadRequest",
    "DataPlane",
    "InferInput",
    "InferOutput",
    "InferRequest",
    "InferResponse",
    "Model",
    "ModelServer",
    "RequestedOutput",
    "app",
]
