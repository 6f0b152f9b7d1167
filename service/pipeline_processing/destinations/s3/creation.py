"""What objects are created with, as the calls that create them want it."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from pipeline_processing.destinations.s3.options import S3ObjectOptions

AS_THE_BUCKET_HAS_IT = S3ObjectOptions()
"""Nothing is set."""


def creation_arguments(
    *, content_type: str, metadata: Mapping[str, str], options: S3ObjectOptions = AS_THE_BUCKET_HAS_IT
) -> dict[str, Any]:
    """
    Arguments of PutObject and of CreateMultipartUpload alike.

    Never a Content-Encoding: readers would decompress without being asked, and find other bytes than the manifest says.
    """
    arguments: dict[str, Any] = {
        "ContentType": content_type,
        "Metadata": dict(metadata),
        "StorageClass": options.storage_class,
        "ServerSideEncryption": options.sse,
        "SSEKMSKeyId": options.kms_key_id,
        "Tagging": urlencode(options.tags_for(metadata), quote_via=quote) or None,
    }
    return {name: value for name, value in arguments.items() if value is not None}
