"""Credentials of an assumed role, renewed in time: a session of AWS's lasts an hour, and a run may take longer."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.credentials import (
    AioAssumeRoleCredentialFetcher,
    AioCredentialResolver,
    AioCredentials,
    AioDeferredRefreshableCredentials,
)
from aiobotocore.session import AioSession, get_session
from botocore import exceptions as boto
from botocore.credentials import CredentialProvider

from pipeline_processing.destinations.s3.errors import Refusal, translated
from pipeline_processing.errors import AccessDenied, PipelineError, SettingsError

_REMEDY = (
    "Check `role_arn` and `external_id`, and that the role trusts the identity of PIPELINE_S3__ACCESS_KEY_ID, or of "
    "the AWS credential chain, which needs sts:AssumeRole"
)


@dataclass(frozen=True, slots=True)
class AssumedRole:
    """A role, and as what to assume it. `sts_endpoint_url` is AWS's own if it is None."""

    arn: str
    session_name: str
    external_id: str | None = None
    sts_endpoint_url: str | None = None


async def session_of(
    role: AssumedRole,
    *,
    credentials: AioCredentials | None,
    region: str | None,
    config: Mapping[str, Any],
    learned: Callable[[Iterable[str]], None] = lambda secrets: None,
) -> AioSession:
    """
    A session whose clients act as `role`; the role is assumed when the first of them signs its first request, and again
    15 minutes before that ends. `credentials` are whose the role trusts; the usual AWS chain's if None. `learned` is
    told the secrets that it gets.

    Those requests raise AccessDenied, DestinationUnavailable, Throttled or SettingsError where the role can't be
    assumed.
    """
    own, acting = get_session(), get_session()
    trusted = credentials or await own.get_credentials()
    if trusted is None:
        raise boto.NoCredentialsError
    arguments = {"RoleSessionName": role.session_name}
    if role.external_id is not None:
        arguments["ExternalId"] = role.external_id
    fetcher = AioAssumeRoleCredentialFetcher(
        client_creator=partial(
            own.create_client, region_name=region, endpoint_url=role.sts_endpoint_url, config=AioConfig(**config)
        ),
        source_credentials=trusted,
        role_arn=role.arn,
        extra_args=arguments,
    )
    acting.register_component("credential_provider", AioCredentialResolver([_RoleProvider(role.arn, fetcher, learned)]))
    return acting


class _RoleProvider(CredentialProvider):  # type: ignore[misc] # botocore has no types
    METHOD = "assume-role"

    def __init__(
        self, role: str, fetcher: AioAssumeRoleCredentialFetcher, learned: Callable[[Iterable[str]], None]
    ) -> None:
        super().__init__()
        self._learned = learned
        self._role = role
        self._fetcher = fetcher

    async def load(self) -> AioDeferredRefreshableCredentials:
        return AioDeferredRefreshableCredentials(refresh_using=self._refresh, method=self.METHOD)

    async def _refresh(self) -> Mapping[str, Any]:
        with translated(doing="assume the role", url=self._role):
            try:
                fetched: Mapping[str, Any] = await self._fetcher.fetch_credentials()
            except boto.ClientError as error:
                raise _refusal(error, role=self._role) from error
        self._learned([fetched["secret_key"], fetched["token"]])
        if datetime.fromisoformat(fetched["expiry_time"]) <= datetime.now(UTC):
            raise AccessDenied(
                f"Can't use the role {self._role}: its credentials have ended before they came. Correct this machine's "
                "clock."
            )
        return fetched


def _refusal(error: boto.ClientError, *, role: str) -> PipelineError:
    refusal = Refusal.of(error)
    kind = refusal.kind if issubclass(refusal.kind, PipelineError) else SettingsError
    return kind(f"Can't assume the role {role}: {refusal.words.rstrip('.')}. {_REMEDY}.")
