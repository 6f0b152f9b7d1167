# docker build -t etl-pipeline-processing .

# Any image with Python ≥ 3.11 and pip. Add a digest (…@sha256:…) to use the same one in every build.
ARG PYTHON_IMAGE=python:3.13-slim


# The locked dependencies, hashes checked. They are only reinstalled when the lock changes.
FROM ${PYTHON_IMAGE} AS dependencies
WORKDIR /build
RUN python3 -m venv --without-pip /opt/pipeline
COPY requirements-runtime.lock ./
# Optional secret: a pip.conf for a private index, with its password. It leaves no trace in the image.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m pip --python /opt/pipeline/bin/python install --no-deps --require-hashes -r requirements-runtime.lock


FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /build
# The compiler of the native reader, on images of Debian that lack one. The final image has none.
RUN command -v g++ || (apt-get update && apt-get install --yes --no-install-recommends g++ libc6-dev)
COPY requirements-build.lock ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m pip install --no-deps --require-hashes --root-user-action=ignore -r requirements-build.lock
COPY . .
# A wheel without compiled modules works, but slowly.
RUN python3 -m pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && python3 -m zipfile --list dist/*.whl | grep 'copy_stream.*so' \
    && python3 -m zipfile --list dist/*.whl | grep loops.*so \
    && python3 -m zipfile --list dist/*.whl | grep lazy_row.*so


FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 pipeline && useradd --uid 10001 --gid pipeline --create-home pipeline
COPY --from=dependencies /opt/pipeline /opt/pipeline
# A separate layer, the only one to push and pull after a change of the code.
RUN --mount=type=bind,from=wheel,source=/build/dist,target=/dist \
    PYTHONDONTWRITEBYTECODE=1 python3 -m pip --python /opt/pipeline/bin/python \
    install --no-deps --no-index --no-cache-dir --root-user-action=ignore /dist/*.whl

ENV PATH=/opt/pipeline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIPELINE_HTTP__HOST=0.0.0.0
# A number, so that Kubernetes can verify that it isn't root.
USER 10001:10001
WORKDIR /home/pipeline
EXPOSE 8080

# No ENTRYPOINT, so that commands read as elsewhere: `docker run … pipeline-processing run …`. The command is process 1
# and gets the signals. No HEALTHCHECK, because `run` and `migrate` don't listen, and would be "unhealthy".
CMD ["pipeline-processing", "serve"]

# Last, because the revision changes with every build.
ARG VERSION=0.1.0
ARG REVISION
ENV IMAGE_REVISION=${REVISION}
LABEL org.opencontainers.image.title="etl-pipeline-processing" \
      org.opencontainers.image.description="Exports one agency's data on request: Postgres → steps → S3, each run with exactly-once effect." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
