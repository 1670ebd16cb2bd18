"""What the errors of boto3 and of S3 servers mean, what to do about them, and whether asking again may help."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import urllib3.exceptions as http
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from cluster.store.errors import (
    NO_OBJECT,
    BusyError,
    DamagedError,
    NotThereError,
    Reason,
    UnavailableError,
    WrongBodyError,
    wrong_body,
)

MAX_CLOCK_ERROR = timedelta(minutes=15)  # what S3 allows
_NO_BUCKET = Reason("the bucket does not exist", "Create it, or correct the URL", NotThereError)
_KEYS = "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_WRONG_KEY = Reason("the credentials are wrong: the server does not know this access key", _KEYS)
_WRONG_SECRET = Reason("the credentials are wrong: the secret does not belong to the access key", _KEYS)
_EXPIRED = Reason("the credentials are wrong or have expired", "Renew them")
_DENIED = Reason("the credentials do not allow it", "Give the user or the role of this machine the right to it")
_FORBIDDEN = Reason(
    "the credentials are wrong or do not allow it", "Check AWS_ACCESS_KEY_ID and its secret, or the role"
)
_CLOCK = Reason("the clocks of this machine and of the server differ too much", "Set this machine's clock (NTP)")
_ELSEWHERE = Reason("the server sends requests for it elsewhere", "Check AWS_REGION and AWS_ENDPOINT_URL (https?)")
_ARRIVED_WRONG = Reason(
    "the bytes that arrived at the server are not those that were sent", "Try again", DamagedError, "wrong body"
)
_SLOW_DOWN = Reason("the server asks for fewer requests", "Wait, or use fewer workers", BusyError, "slow down")
_CONFLICT = Reason("another write to it was going on", "Try again", UnavailableError, "conflict")
# An answer to HEAD has no body: its HTTP status stands in for the code.
_REASONS = {
    "NoSuchKey": NO_OBJECT,
    **dict.fromkeys(("404", "NoSuchBucket"), _NO_BUCKET),
    "InvalidAccessKeyId": _WRONG_KEY,
    "SignatureDoesNotMatch": _WRONG_SECRET,
    **dict.fromkeys(("ExpiredToken", "InvalidToken", "TokenRefreshRequired"), _EXPIRED),
    "400": _EXPIRED,  # all that HEAD is told of a session token that has expired
    "AccessDenied": _DENIED,
    "403": _FORBIDDEN,
    "RequestTimeTooSkewed": _CLOCK,
    **dict.fromkeys(("301", "PermanentRedirect", "AuthorizationHeaderMalformed"), _ELSEWHERE),
    "InvalidRange": Reason("it ends before that", "Check the index against the object", DamagedError),
    **dict.fromkeys(("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"), _ARRIVED_WRONG),
    **dict.fromkeys(("IncompleteBody", "RequestTimeout"), _ARRIVED_WRONG),
    **dict.fromkeys(("429", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"), _SLOW_DOWN),
    **dict.fromkeys(("RequestLimitExceeded", "RequestThrottled"), _SLOW_DOWN),
    **dict.fromkeys(("409", "ConditionalRequestConflict", "OperationAborted"), _CONFLICT),
}


def explain(error: Exception, host: str) -> Reason | None:
    """Return what an error of boto3 means; None for one that is not of boto3 or the network.

    Args:
        error: What was raised.
        host: Where the server is, without a password.
    """
    if isinstance(error, WrongBodyError):
        return wrong_body(error)
    if isinstance(error, boto.ClientError):
        return _of_answer(error)
    if isinstance(error, boto.SSLError):
        return _of_tls(error, host)
    if isinstance(error, RecursionError):  # how botocore's own handling of redirects ends where it leads nowhere
        return _ELSEWHERE
    return _of_connection(error, host) or _of_settings(error)


def code_of(error: boto.ClientError) -> str:
    """Return what the server called the error, or its HTTP status."""
    return str(error.response["Error"]["Code"])


def status_of(error: boto.ClientError) -> int:
    """Return the HTTP status of an error."""
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _of_answer(error: boto.ClientError) -> Reason:
    code, status = code_of(error), status_of(error)
    if status == 403 and _clock_error(error) > MAX_CLOCK_ERROR:
        return _CLOCK
    if reason := _REASONS.get(code) or (_SLOW_DOWN if status == 429 else None):
        return reason
    if status >= 500:
        kind = BusyError if status == 503 else UnavailableError  # HEAD is told no more of SlowDown
        return Reason(f"the server answered {code}", "Wait, and see its log", kind, "server error")
    return Reason(f"the server answered {code}", "See what its manual says of that")


def _clock_error(error: boto.ClientError) -> timedelta:
    """Return by how much the clock of the server that answered differs from ours: HEAD is told nothing else."""
    try:
        there = parsedate_to_datetime(error.response["ResponseMetadata"]["HTTPHeaders"]["date"])
        return abs(datetime.now(UTC) - there)
    except (KeyError, TypeError, ValueError):
        return timedelta(0)


def _of_tls(error: boto.SSLError, host: str) -> Reason:
    text = str(error)
    if "match" in text:  # "hostname 'a' doesn't match 'b'", "IP address mismatch"
        return Reason(f"the TLS certificate of {host} is for another host", "Use the name that is in the certificate")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return Reason(
            f"the TLS certificate of {host} is not from an authority that this machine trusts",
            "Name the authority's certificate in AWS_CA_BUNDLE",
        )
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return Reason(f"{host} does not speak TLS", "Use http:// in AWS_ENDPOINT_URL, or another port")
    return Reason(f"no TLS connection to {host}", "Check the server's TLS", UnavailableError, "connection")


def _of_connection(error: Exception, host: str) -> Reason | None:
    fix = "Check AWS_ENDPOINT_URL, the network and the server"
    if isinstance(error, boto.IncompleteReadError | http.IncompleteRead):
        return Reason(f"{host} sent fewer bytes than it promised", fix, UnavailableError, "short body")
    if isinstance(error, ResponseParserError):
        return Reason(f"{host} sent an answer that cannot be read", fix, UnavailableError, "short body")
    if isinstance(error, boto.ReadTimeoutError | http.ReadTimeoutError):
        return Reason(f"{host} stopped sending", fix, UnavailableError, "stall")
    if isinstance(error, TimeoutError):
        return Reason(f"{host} is too slow: it took {error}", fix, UnavailableError, "slow")
    if isinstance(error, boto.ConnectionError | boto.HTTPClientError | http.HTTPError | OSError):
        return Reason(f"no connection to {host}", fix, UnavailableError, "connection")
    return None


def _of_settings(error: Exception) -> Reason | None:
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return Reason(
            "no credentials were found", "Set AWS_ACCESS_KEY_ID and its secret, or give this machine a role"
        )
    if isinstance(error, boto.BotoCoreError) or str(error).startswith("Invalid endpoint"):
        return Reason(f"boto3 cannot work with its settings ({type(error).__name__})", "Check the AWS_* variables")
    return None
