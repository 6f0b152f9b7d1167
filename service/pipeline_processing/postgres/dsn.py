"""What messages say about a DSN, which holds a password, and about the files that it names."""

import re
from traceback import walk_tb
from urllib.parse import urlsplit

from pipeline_processing.errors import DatabaseMisconfigured

_FORM = (
    "Write postgresql://user:password@host:port/database?options, with characters such as / ? # @ % in the password "
    "percent-encoded (a slash is %2F)."
)
_FILES = (
    "Correct `sslrootcert`, or `sslcert` and `sslkey`: they must be readable, in PEM form, and belong together, and an "
    "encrypted key needs `sslpassword`."
)
_AUTHORITY = "Set `sslrootcert` to the certificate of the authority that signed the server's."
_HOST = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[\w.-]*)(?::\d{1,5})?", re.ASCII)


def address_of(dsn: str) -> str:
    """Return `host:port/database` for messages, or less if parts of an unusual DSN might be a password."""
    before, _, after = dsn.partition("?")
    try:
        parts = urlsplit(before)
    except ValueError:
        return "the configured address"
    hosts = parts.netloc.rpartition("@")[2]
    if "@" in f"{after}{parts.path}{parts.fragment}" or not all(map(_HOST.fullmatch, hosts.split(","))):
        return "the configured address"
    database = parts.path if re.fullmatch(r"/[\w.-]+", parts.path, re.ASCII) else ""
    return f"{hosts or 'the default host'}{database}"


def is_about_files(error: BaseException) -> bool:
    """Whether asyncpg couldn't use a file that the DSN names."""
    names = (frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__))
    return isinstance(error, OSError) and "_parse_connect_dsn_and_args" in names


def unusable_dsn(error: Exception, *, where: str) -> DatabaseMisconfigured:
    """Return the error for a DSN that asyncpg doesn't accept, or a file of it. It quotes neither DSN nor asyncpg."""
    if isinstance(error, OSError):  # of OpenSSL or the operating system
        reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
        problem, remedy = f"a file that the DSN names can't be used ({reason})", _FILES
    elif "root certificate" in str(error):
        problem, remedy = "the DSN's `sslmode` verifies the server, but it names no authority to trust", _AUTHORITY
    else:
        problem, remedy = "asyncpg doesn't accept the DSN", _FORM
    return DatabaseMisconfigured(f"Postgres at {where} can't be used: {problem}. {remedy}")
