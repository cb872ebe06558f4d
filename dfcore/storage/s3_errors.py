"""What an S3 server's or its client's error means, and what to do about it; never a secret in a message."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from dfcore.errors import CheckFailed, ConfigError, DataError, RampartError, WorkFailed

__all__ = ["CONFLICT", "GONE", "LOST", "code_of", "explain", "shown", "translated"]

GONE = {"404", "NoSuchKey", "NotFound", "NoSuchVersion"}
LOST = {"412", "PreconditionFailed"}
# Two writes met on the server: nobody has lost yet.
CONFLICT = {"409", "ConditionalRequestConflict", "OperationAborted"}

_DENIED = {"403", "AccessDenied", "Forbidden", "AllAccessDisabled", "UnauthorizedAccess"}
_STRANGER = {
    "401", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidSecurity", "ExpiredToken",
    "TokenRefreshRequired", "InvalidTokenId", "Unauthorized", "UnauthorizedOperation",
}  # fmt: skip
_CLOCK = {"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}
_REGION = {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "TemporaryRedirect"}
_ALTERED = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
_FULL = {
    "507",
    "XMinioStorageFull",
    "InsufficientCapacity",
    "QuotaExceeded",
    "XMinioAdminBucketQuotaExceeded",
}
_LACKING = {"501", "NotImplemented", "MethodNotAllowed"}

_NO_CREDENTIALS = (
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError",
    "ProfileNotFound", "NoAuthTokenError", "SSOError", "UnauthorizedSSOTokenError", "SSOTokenLoadError",
)  # fmt: skip
_UNREACHABLE = (
    "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError",
    "ProxyConnectionError", "HTTPClientError", "ResponseStreamingError", "IncompleteReadError",
)  # fmt: skip
_WRONG_SETTING = (
    "ParamValidationError", "InvalidConfigError", "InvalidRetryModeError", "InvalidMaxRetryAttemptsError",
    "InvalidS3AddressingStyleError", "EndpointResolutionError", "UnknownEndpointError", "InvalidRegionError",
    "InvalidDNSNameError", "ConfigParseError", "ConfigNotFound", "InvalidEndpointConfigurationError",
)  # fmt: skip

CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_SHARED_CREDENTIALS_FILE, "
    "or RAMPART_S3_SECRETS (a folder with one file for each)"
)


def code_of(error: object) -> str:
    """Return the server's error code, or "" for an error that no server sent."""
    answer = getattr(error, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


def shown(endpoint: str) -> str:
    """Return an address without user name, password and query."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextlib.contextmanager
def translated(uri: str, key: str, endpoint: str) -> Iterator[None]:
    """Turn botocore's errors into ours."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise explain(error, f"{uri}/{key}" if key else uri, shown(endpoint)) from error


def explain(error: Exception, place: str, endpoint: str) -> RampartError:
    """Return our error for botocore's.

    Args:
        error: a ClientError or a BotoCoreError.
        place: the address that was asked for.
        endpoint: the server, without credentials.
    """
    if code := code_of(error):
        return _explain_answer(error, code, place, endpoint)
    return _explain_client(error, place, endpoint)


def _explain_answer(error: Any, code: str, place: str, endpoint: str) -> RampartError:
    if code in GONE:
        return DataError(f"expected an object at {place}, found none ({code})")
    if code == "NoSuchBucket":
        return ConfigError(
            f"expected the bucket of {place} at {endpoint}, found none ({code}); "
            "check the address, or make the bucket (`rampart registry init`)"
        )
    for codes, kind, expected, advice in _ANSWERS:
        if code in codes:
            asked = f"for {error.operation_name} of {place}"
            return kind(f"expected {expected} {asked}, got {code} from {endpoint}; {advice}")
    tries = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) + 1
    return WorkFailed(
        f"expected {error.operation_name} of {place} to succeed, got {code} from {endpoint} "
        f"in {tries} tries; try later, or look into the server's log"
    )


_ANSWERS: tuple[tuple[set[str], type[RampartError], str, str], ...] = (
    (_DENIED, WorkFailed, "permission", "use keys whose policy allows it"),
    (_STRANGER, ConfigError, "credentials that the server knows", f"{CREDENTIALS}; then try again"),
    (_CLOCK, WorkFailed, "clocks that agree", "set this machine's clock (NTP), and the server's"),
    (_REGION, ConfigError, "the bucket's region", "set AWS_REGION to it"),
    (_ALTERED, CheckFailed, "bytes with their checksum", "they were altered on the way: send again"),
    (_FULL, WorkFailed, "room", "free space on the server"),
    (_LACKING, WorkFailed, "a server that can do it", "use one with conditional and multipart writes"),
)


def _explain_client(error: Exception, place: str, endpoint: str) -> RampartError:
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & set(_NO_CREDENTIALS):
        return ConfigError(f"expected credentials for {place}, found none that work; {CREDENTIALS}")
    if "SSLError" in names:
        return ConfigError(
            f"expected a certificate of {endpoint} that is trusted, got one that is not; "
            "set AWS_CA_BUNDLE to its authority's certificate"
        )
    if names & {"FlexibleChecksumError", "ChecksumError"}:
        return CheckFailed(f"expected {place} with its checksum, got altered bytes; fetch it again")
    if names & set(_UNREACHABLE):
        return WorkFailed(
            f"expected an answer from {endpoint} for {place}, got {type(error).__name__}; "
            "check AWS_ENDPOINT_URL and that the server runs"
        )
    if "ResponseParserError" in names:
        return ConfigError(f"expected an S3 server at {endpoint}, got another; check AWS_ENDPOINT_URL")
    if names & set(_WRONG_SETTING):
        return ConfigError(f"expected an address and settings that fit for {place}, got: {error}")
    return WorkFailed(f"expected an answer from {endpoint} for {place}, got {type(error).__name__}")
