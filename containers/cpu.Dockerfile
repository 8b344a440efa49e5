# histo-edge on a CPU: docker build -f containers/cpu.Dockerfile -t histo-edge:cpu .
FROM python:3.11-slim-bookworm AS build
ARG EXTRAS=cpu
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY runtime runtime
COPY export export
COPY train train
# pip compiles modules here: the file system is read-only where they run.
RUN python -m venv /opt/histo \
    && /opt/histo/bin/pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]" \
    && /opt/histo/bin/pip uninstall --yes pip

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin histo
COPY --from=build /opt/histo /opt/histo
ENV PATH=/opt/histo/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1
USER 10001:10001
WORKDIR /work
# Of $HISTO_MODEL, else of the model that comes with histo-edge. Exit code 1 when the model does not open or misses its golden patches. It computes for some seconds: not too often.
HEALTHCHECK --interval=10m --timeout=2m --start-period=2m --retries=2 CMD ["histo-doctor"]
ENTRYPOINT ["histo-infer"]
CMD ["--help"]
