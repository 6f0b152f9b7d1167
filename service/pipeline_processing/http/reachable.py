"""Whether an API's server can be reached at all."""

import asyncio
import ssl

from pipeline_processing.errors import UpstreamUnavailable
from pipeline_processing.http.urls import origin_of


async def check_reachable(url: str, *, seconds: float) -> str:
    """
    Connect to where a URL leads, for https with a certificate that is checked, and send nothing; that address.

    `url` may be a template: its scheme and host are plain. Raises UpstreamUnavailable.
    """
    scheme, host, port = origin_of(url.partition("{")[0])
    secure = scheme == "https"
    address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port, ssl=ssl.create_default_context() if secure else None)
    except OSError as error:  # among them TimeoutError and ssl.SSLError
        raise UpstreamUnavailable(
            f"{address} can't be reached: {str(error) or f'no answer within {seconds:g} s'}. Check the URL, and that "
            "its server is up."
        ) from error
    writer.close()
    return address
