"""What can go wrong between a request and its answer: the kinds, told apart where the information is, and their cures.

Four groups, by what is done next:

- the world: tried again with patience (`WORLD`);
- nonsense: an answer that cannot be read, asked for again a few times (`NONSENSE`);
- the user: nothing helps until the recipe, the key or the account changes, so the run stops (`USER`);
- outcomes: the endpoint answered, by declining this prompt (`OUTCOMES`); they reach the episode as a `Reply`.

A `Failure` is a value. `EndpointPolicy` counts it under its kind and decides; only then is an exception raised.
"""

import ssl
from dataclasses import dataclass
from enum import StrEnum

import aiohttp


class Kind(StrEnum):
    """Kind of a failure; its value is the key in `EndpointPolicy.counts`."""

    TIME_OUT = "time_out"
    SLOW = "slow"
    """Dropped by us, to be asked again: it waited many times as long as any answer took."""
    CONNECTION = "connection"
    RATE_LIMIT = "rate_limit"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    CONFLICT = "conflict"
    TRUNCATED = "truncated"
    NOT_JSON = "not_json"
    NO_CHOICES = "no_choices"
    WRONG_SHAPE = "wrong_shape"
    KEY = "key"
    QUOTA = "quota"
    MODEL = "model"
    REQUEST = "request"
    ADDRESS = "address"
    TLS = "tls"
    REDIRECT = "redirect"
    REFUSED = "refused"
    CONTEXT = "context"
    REJECTED = "rejected"


WORLD = frozenset(
    {
        Kind.TIME_OUT,
        Kind.SLOW,
        Kind.CONNECTION,
        Kind.RATE_LIMIT,
        Kind.OVERLOADED,
        Kind.SERVER_ERROR,
        Kind.CONFLICT,
    }
)
NONSENSE = frozenset({Kind.TRUNCATED, Kind.NOT_JSON, Kind.NO_CHOICES, Kind.WRONG_SHAPE})
USER = frozenset({Kind.KEY, Kind.QUOTA, Kind.MODEL, Kind.REQUEST, Kind.ADDRESS, Kind.TLS, Kind.REDIRECT})
OUTCOMES = frozenset({Kind.REFUSED, Kind.CONTEXT, Kind.REJECTED})
STRAIN = frozenset({Kind.TIME_OUT, Kind.RATE_LIMIT, Kind.OVERLOADED})
"""Of the world's: those that say that the endpoint is asked too much."""

_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "record layer failure", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without a reply.

    Attributes:
        kind: what went wrong.
        message: what the other side said, shortened; without the URL and the cure.
        retry_after: seconds that the endpoint asked to wait, or None.
        may_cost: the provider may have charged for it.
        parameter: for `Kind.REQUEST`: the parameter that is refused, where the endpoint names one.
    """

    kind: Kind
    message: str
    retry_after: float | None = None
    may_cost: bool = False
    parameter: str | None = None


def from_exception(error: Exception, timeout_s: float) -> Failure:
    """Return what an exception of the HTTP client means."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return Failure(Kind.ADDRESS, f"not a usable URL ({said})")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return Failure(Kind.TLS, f"its certificate is not accepted ({error})")
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError) and any(sign in str(error) for sign in _NO_TLS):
        return Failure(Kind.TLS, f"the server there does not speak TLS ({error})")
    if isinstance(error, ValueError):
        return Failure(Kind.KEY, f"the key cannot be sent in a header ({error})")
    if isinstance(error, TimeoutError):
        return Failure(Kind.TIME_OUT, f"no answer within policy.request_timeout_s={timeout_s:g}", may_cost=True)
    if isinstance(error, aiohttp.ClientPayloadError):
        return Failure(Kind.TRUNCATED, f"the answer breaks off ({said})", may_cost=True)
    return Failure(Kind.CONNECTION, said, may_cost=not isinstance(error, aiohttp.ClientConnectorError))


def cure(failure: Failure, *, model: str, key_env: str, has_key: bool) -> str:
    """Return what the user has to change.

    Args:
        failure: one of the kinds in `USER`.
        model: the model's name in the recipe.
        key_env: name of the environment variable that holds the key.
        has_key: whether it is set.
    """
    match failure.kind:
        case Kind.KEY:
            state = "its key is not accepted" if has_key else "it is not set"
            return f"put a valid key into the environment variable {key_env} ({state})"
        case Kind.QUOTA:
            return "the account's quota is used up: add credit, or use another key or endpoint"
        case Kind.MODEL:
            return f"check policy.model ({model!r}) and policy.base_url, which ends in /v1"
        case Kind.ADDRESS:
            return "correct policy.base_url: http:// or https://, host, port, and /v1"
        case Kind.TLS if "certificate" in failure.message:
            return "use the host name that the certificate names, or set SSL_CERT_FILE to the authority that signed it"
        case Kind.TLS:
            return "write http:// in policy.base_url, or the port that speaks TLS"
        case Kind.REDIRECT:
            return "set policy.base_url to where the chat API itself is; a login page needs another URL or a key"
    parameters = {"seed": "set policy.send_seed=false", "max_completion_tokens": "lower policy.max_tokens"}
    if failure.parameter in ("temperature", "top_p", "max_tokens"):
        return f"correct policy.{failure.parameter} to what the model takes"
    return parameters.get(
        failure.parameter or "", "correct policy.model, policy.temperature, policy.top_p or policy.max_tokens"
    )
