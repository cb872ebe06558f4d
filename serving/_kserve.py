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
    from kserve.errors import ModelNotFound, ModelNotReady, ServerNotReady, UnsupportedProtocol
    from kserve.model import InferenceVerb
    from kserve.model_server import app
    from kserve.predictor_config import PredictorConfig
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.grpc import grpc_predict_v2_pb2, grpc_predict_v2_pb2_grpc
    from kserve.protocol.grpc.servicer import InferenceServicer
    from kserve.protocol.infer_type import RequestedOutput
    from kserve.protocol.rest.server import RESTServer
finally:
    sys.argv = _arguments

__all__ = [
    "BadRequest",
    "DataPlane",
    "InferInput",
    "InferOutput",
    "InferRequest",
    "InferResponse",
    "InferenceServicer",
    "InferenceVerb",
    "Model",
    "ModelNotFound",
    "ModelNotReady",
    "ModelServer",
    "PredictorConfig",
    "RESTServer",
    "RequestedOutput",
    "ServerNotReady",
    "UnsupportedProtocol",
    "app",
    "grpc_predict_v2_pb2",
    "grpc_predict_v2_pb2_grpc",
]
