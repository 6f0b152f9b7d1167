"""
The last line of defence against secrets in text. They are kept away from it by `SecretStr` in the first place; this
is for what drivers and tracebacks say.
"""

import re

MASK = "***"

_URL_PASSWORD = re.compile(r"(://[^\s/?#:@'\"]*):[^\s/?#'\"]+@")
_ASSIGNED_SECRET = re.compile(
    r"(?i)\b((?:ssl)?password|passwd|(?:aws_)?secret_access_key|X-Amz-Signature|X-Amz-Security-Token)"
    r"(\s*=\s*)('[^']*'|\"[^\"]*\"|[^\s&;,'\"]+)"
)
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_-])(?:dsn|password|passwd|secret|secret_access_key|access_key_id|token|authorization)$"
)


def mask_text(text: str) -> str:
    """`postgresql://user:secret@host` → `postgresql://user:***@host`; also `password=…` and signatures of URLs."""
    return _ASSIGNED_SECRET.sub(rf"\1\2{MASK}", _URL_PASSWORD.sub(rf"\1:{MASK}@", text))


def names_a_secret(name: str) -> bool:
    """Whether a value of this name is one to hide: `password`, `s3_secret_access_key`, `dsn`, …"""
    return _SECRET_NAME.search(name) is not None
