# docker build -t etl-pipeline-processing .

# Any image with Python ≥ 3.11 and pip. Add a digest (…@sha256:…) to use the same one in every build.
ARG PYTHON_IMAGE=python:3.13-slim


# With a compiler, on images of Debian that lack one, and with the headers of Debian's own Python: for the native reader,
# and for dependencies without a wheel for this platform. The final image has neither.
FROM ${PYTHON_IMAGE} AS compiler
WORKDIR /build
# hadolint ignore=DL3008,DL3009
RUN headers="$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; \
    set -- g++ libc6-dev; test -e "$headers" || set -- "$@" python3-dev; \
    if ! command -v g++ || ! test -e "$headers"; then \
        apt-get update && apt-get install --yes --no-install-recommends "$@"; \
    fi


# The locked dependencies, hashes checked. They are only reinstalled when the lock changes.
FROM compiler AS dependencies
RUN python3 -m venv --without-pip /opt/pipeline
COPY requirements-runtime.lock ./
# Optional secret: a pip.conf for a private index, with its password. It leaves no trace in the image.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m pip --python /opt/pipeline/bin/python install --no-deps --require-hashes -r requirements-runtime.lock


FROM compiler AS wheel
# Debian's own Python takes packages in a virtual environment only.
RUN python3 -m venv --without-pip /opt/build
COPY requirements-build.lock ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m pip --python /opt/build/bin/python install --no-deps --require-hashes -r requirements-build.lock
COPY . .
# A wheel without compiled modules works, but slowly.
RUN python3 -m pip --python /opt/build/bin/python wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && python3 -m zipfile --list dist/*.whl > content \
    && grep 'copy_stream.*so' content && grep 'loops.*so' content && grep 'lazy_row.*so' content


# The bill of materials, of what is installed in the end.
FROM dependencies AS sbom
RUN python3 -m venv --without-pip /opt/sbom
COPY requirements-sbom.lock pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m pip --python /opt/sbom/bin/python install --no-deps --require-hashes -r requirements-sbom.lock
# Without the table for poetry, which cyclonedx-py takes for one of Poetry 1.
RUN --mount=type=bind,from=wheel,source=/build/dist,target=/dist \
    python3 -m pip --python /opt/pipeline/bin/python install --no-deps --no-index --no-cache-dir /dist/*.whl \
    && sed '/^\[tool\./,$d' pyproject.toml > project.toml \
    && /opt/sbom/bin/cyclonedx-py environment --pyproject project.toml --output-reproducible \
        --output-file /sbom.cdx.json /opt/pipeline/bin/python


FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 pipeline && useradd --uid 10001 --gid pipeline --create-home pipeline
# The official images have no bytecode of the standard library, and user 10001 can't store any: without this, every start
# compiles what it imports, which doubles its CPU time.
RUN python3 -m compileall -q -x '/(site-packages|test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|pydoc_data)/' \
    "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=dependencies /opt/pipeline /opt/pipeline
# A separate layer, the only one to push and pull after a change of the code.
RUN --mount=type=bind,from=wheel,source=/build/dist,target=/dist \
    PYTHONDONTWRITEBYTECODE=1 python3 -m pip --python /opt/pipeline/bin/python \
    install --no-deps --no-index --no-cache-dir --root-user-action=ignore /dist/*.whl
COPY --from=sbom /sbom.cdx.json /usr/share/doc/etl-pipeline-processing/sbom.cdx.json

ENV PATH=/opt/pipeline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIPELINE_HTTP__HOST=0.0.0.0
# A number, so that Kubernetes can verify that it isn't root.
USER 10001:10001
WORKDIR /home/pipeline
EXPOSE 8080

# No ENTRYPOINT, so that commands read as elsewhere: `docker run … pipeline-processing run …`. The command is process 1
# and gets the signals. No HEALTHCHECK, because `run` and `migrate` don't listen, and would be "unhealthy": Compose and
# Kubernetes have their own, for what serves.
CMD ["pipeline-processing", "serve"]

# Last, because the revision changes with every build.
ARG VERSION=0.1.0
ARG REVISION
ENV IMAGE_REVISION=${REVISION}
ARG PYTHON_IMAGE
LABEL org.opencontainers.image.title="etl-pipeline-processing" \
      org.opencontainers.image.description="Exports one agency's data on request: Postgres → steps → S3, each run with exactly-once effect." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
