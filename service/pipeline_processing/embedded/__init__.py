"""
Real servers from pip wheels, for the demo and the tests: no Docker, no Java, no root.

They come with the extra `demo`; the jars of Kafka are fetched once, into the user's cache. Everything listens on
127.0.0.1 only, lives in one temporary folder, and is gone when its `with` block is left or this process dies,
however it dies.
"""
