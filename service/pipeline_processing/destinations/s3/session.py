"""Open a botocore client: its network behaviour and its credentials."""

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal
from urllib.request import getproxies

import orjson
from aiobotocore.config import AioConfig
from aiobotocore.credentials import (
    AioAssumeRoleCredentialFetcher,
    AioCredentialResolver,
    AioCredentials,
    AioDeferredRefreshableCredentials,
)
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession, get_session
from botocore import exceptions as boto
from botocore.awsrequest import AWSPreparedRequest
from botocore.credentials import CredentialProvider, ReadOnlyCredentials
from botocore.handlers import add_expect_header
from botocore.loaders import JSONFileLoader, Loader
from opentelemetry import trace
from pydantic import SecretStr

from pipeline_processing.destinations.s3.direct import DirectRequests
from pipeline_processing.destinations.s3.errors import translated
from pipeline_processing.errors import AccessDenied, SettingsError
from pipeline_processing.usage import current_usage

_REMEDY = (
    "Check `role_arn` and `external_id`, and that the role trusts the identity of PIPELINE_S3__ACCESS_KEY_ID, or of "
    "the AWS credential chain, which needs sts:AssumeRole."
)

# An unreachable server fails after 3 connects of at most 3 s each, and 2 pauses of at most 2 s.
_NETWORK = {
    "retries": {"mode": "standard", "total_max_attempts": 3},
    "connect_timeout": 3.0,
    "read_timeout": 20.0,
}

_CONNECTIONS = 64

AddressingStyle = Literal["auto", "path", "virtual"]

Learned = Callable[[Iterable[str]], None]
"""Called with secrets that aren't in the settings, so that they are masked."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials from the settings. With a key and a secret, `session_token` None means no token."""

    access_key_id: str | None
    secret_access_key: SecretStr | None
    session_token: SecretStr | None

    def arguments(self) -> dict[str, str | None]:
        """Return the arguments of a botocore session. They hold secrets in plain text: don't log them."""
        return {
            "aws_access_key_id": self.access_key_id,
            "aws_secret_access_key": _shown(self.secret_access_key),
            "aws_session_token": _shown(self.session_token),
        }


@dataclass(frozen=True, slots=True)
class AssumedRole:
    """A role to assume. `sts_endpoint_url` None means AWS's endpoint."""

    arn: str
    session_name: str
    external_id: str | None = None
    sts_endpoint_url: str | None = None


@asynccontextmanager
async def open_client(
    *,
    endpoint_url: str | None,
    region: str | None,
    keys: Keys,
    addressing_style: AddressingStyle,
    role: AssumedRole | None,
    learned: Learned,
) -> AsyncIterator[tuple[Any, DirectRequests]]:
    """Open an S3 client of botocore, and requests past it. See `S3Client` for the parameters."""
    url = endpoint_url or "S3"
    pools: list[AIOHTTPSession] = []

    def new_pool(**options: Any) -> AIOHTTPSession:
        pools.append(AIOHTTPSession(**options))
        return pools[-1]

    async with AsyncExitStack() as cleanup:
        with translated(doing="open a client for", url=url):
            session = await (
                _session_of_keys(keys, learned) if role is None else _session_of(role, keys, region, learned)
            )
            try:
                client = await cleanup.enter_async_context(
                    session.create_client(
                        "s3",
                        endpoint_url=endpoint_url,
                        region_name=region,
                        verify=False if _is_plain(endpoint_url) else None,
                        config=_config(addressing_style, new_pool),
                        **(keys.arguments() if role is None else {}),
                    )
                )
            except ValueError as error:  # botocore raises it for an invalid URL
                raise SettingsError(
                    f"Can't open a client for {url}: {error}. Correct PIPELINE_S3__ENDPOINT_URL, or the destination's "
                    "`endpoint_url`."
                ) from error
        # With `Expect: 100-continue`, each part would wait for a reply before it is sent, forever if the store sends
        # none. It would gain nothing, as access is checked when an upload is created.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        client.meta.events.register("before-call.s3.HeadBucket", _never_redirected)
        direct = DirectRequests(http=pools[-1], credentials=partial(_frozen, session, keys if role is None else None))
        client.meta.events.register("before-send.s3", direct.learn)
        client.meta.events.register("before-send.s3", _sent)
        yield client, direct


def _is_plain(endpoint_url: str | None) -> bool:
    """
    Whether there is no TLS on the way, not even to a proxy. aiobotocore would still read all authorities' certificates
    at the first request, in a thread that it leaves behind.
    """
    return endpoint_url is not None and endpoint_url.startswith("http://") and "http" not in getproxies()


def _sent(request: AWSPreparedRequest, event_name: str, **_: object) -> None:
    """Count a request that botocore is about to send, and note in its span if it is sent again."""
    current_usage().count_s3_request(is_part=event_name.endswith(".UploadPart"))
    if (sent := request.context.get("retries", {}).get("attempt", 1) - 1) > 0:
        trace.get_current_span().add_event("retry", {"http.request.resend_count": sent})


async def _frozen(session: AioSession, keys: Keys | None) -> Any:
    """Return the credentials that the session's clients sign with now."""
    if keys is not None and keys.access_key_id:
        key, secret, token = keys.arguments().values()
        return ReadOnlyCredentials(key, secret, token)
    return await (await session.get_credentials()).get_frozen_credentials()


def _config(addressing_style: AddressingStyle, new_pool: Callable[..., AIOHTTPSession]) -> AioConfig:
    return AioConfig(
        **_NETWORK,
        http_session_cls=new_pool,
        s3={
            "addressing_style": addressing_style,
            # Every body carries a checksum, and TLS protects it in transit. Signing it would compute SHA-256 on the
            # event loop, which takes more time than the rest of an upload.
            "payload_signing_enabled": False,
        },
        request_checksum_calculation="when_required",  # requests already carry ours
        response_checksum_validation="when_required",
        max_pool_connections=_CONNECTIONS,
    )


def _new_session() -> AioSession:
    session = get_session()
    session.register_component("data_loader", loader(session.get_config_variable("data_path") or ""))
    return session


@cache
def loader(paths: str = "") -> Loader:
    """Return a loader of service descriptions, which keeps them. `paths` are folders of further ones, with colons."""
    extra = [os.path.expanduser(os.path.expandvars(path)) for path in paths.split(os.pathsep) if path]
    return _Loader(extra_search_paths=extra)


class _FileLoader(JSONFileLoader):  # type: ignore[misc] # botocore has no types
    """Reads botocore's descriptions of services in a fifth of the time: half a megabyte of JSON for S3 alone."""

    def _load_file(self, full_path: str, open_method: Callable[[str, str], Any]) -> Any:
        if not Path(full_path).is_file():
            return None
        with open_method(full_path, "rb") as file:
            return orjson.loads(file.read())


class _Loader(Loader):  # type: ignore[misc]
    FILE_LOADER_CLASS = _FileLoader

    def list_available_services(self, type_name: str) -> list[str]:
        """Return the names of all services. botocore would look for the type in each of their hundreds of folders."""
        return sorted({name for path in self._potential_locations() for name in os.listdir(path)})


async def _session_of_keys(keys: Keys, learned: Learned) -> AioSession:
    session = _new_session()
    if not keys.access_key_id and (found := await session.get_credentials()) is not None:
        _learn_renewed(found, learned)
        frozen = await found.get_frozen_credentials()
        learned(filter(None, (frozen.secret_key, frozen.token)))
    return session


def _learn_renewed(credentials: Any, learned: Learned) -> None:
    """Have those that botocore fetches later be masked, too. It has no event for it."""
    fetch = getattr(credentials, "_refresh_using", None)
    if fetch is None:
        return

    async def fetched() -> Mapping[str, Any]:
        metadata: Mapping[str, Any] = await fetch()
        learned(filter(None, (metadata["secret_key"], metadata["token"])))
        return metadata

    credentials._refresh_using = fetched


async def _session_of(role: AssumedRole, keys: Keys, region: str | None, learned: Learned) -> AioSession:
    """
    Return a session whose clients act as `role`, which must trust `keys`, or else the usual AWS chain.

    The role is assumed when the first client signs its first request, and again 15 minutes before the credentials
    expire: AWS's last an hour, and a run may take longer. Those requests raise AccessDenied, DestinationUnavailable,
    Throttled or SettingsError if the role can't be assumed.
    """
    own, acting = _new_session(), _new_session()
    key, secret, token = keys.arguments().values()
    trusted = AioCredentials(key, secret, token) if key and secret else await own.get_credentials()
    if trusted is None:
        raise boto.NoCredentialsError
    arguments = {"RoleSessionName": role.session_name}
    if role.external_id is not None:
        arguments["ExternalId"] = role.external_id
    fetcher = AioAssumeRoleCredentialFetcher(
        client_creator=partial(
            own.create_client, region_name=region, endpoint_url=role.sts_endpoint_url, config=AioConfig(**_NETWORK)
        ),
        source_credentials=trusted,
        role_arn=role.arn,
        extra_args=arguments,
    )
    acting.register_component(
        "credential_provider", AioCredentialResolver([_RoleProvider(role.arn, fetcher, trusted, learned)])
    )
    return acting


class _RoleProvider(CredentialProvider):  # type: ignore[misc] # botocore has no types
    METHOD = "assume-role"

    def __init__(
        self, role: str, fetcher: AioAssumeRoleCredentialFetcher, trusted: AioCredentials, learned: Learned
    ) -> None:
        super().__init__()
        self._role = role
        self._fetcher = fetcher
        self._trusted = trusted
        self._learned = learned

    async def load(self) -> AioDeferredRefreshableCredentials:
        return AioDeferredRefreshableCredentials(refresh_using=self._refresh, method=self.METHOD)

    async def _refresh(self) -> Mapping[str, Any]:
        with translated(doing="assume the role", url=self._role, remedy=_REMEDY):
            own = await self._trusted.get_frozen_credentials()
            self._learned(filter(None, (own.secret_key, own.token)))
            fetched: Mapping[str, Any] = await self._fetcher.fetch_credentials()
        self._learned([fetched["secret_key"], fetched["token"]])
        if datetime.fromisoformat(fetched["expiry_time"]) <= datetime.now(UTC):
            raise AccessDenied(
                f"Can't use the role {self._role}: its credentials had already expired when received. Correct this "
                "machine's clock."
            )
        return fetched


def _shown(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _never_redirected(params: Mapping[str, Any], **_: object) -> None:
    """
    Keep botocore from following redirects of HeadBucket.

    It handles a redirect by calling HeadBucket for the bucket's region, and a redirect of that by calling it again.
    Where everything is redirected, as from http to https or to a portal's page, that would never end.
    """
    params["context"].get("s3_redirect", {})["redirected"] = True
