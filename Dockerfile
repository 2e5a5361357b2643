# Two stages: Rust builds the wheel, and the image holds Python with the wheel installed.
#   docker build -t trajmill . && docker run --rm -v "$PWD:/data" trajmill run pipelines/quickstart.yaml
FROM rust:1.94-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/maturin && /opt/maturin/bin/pip install --no-cache-dir "maturin==1.16.0"
WORKDIR /src
COPY . .
RUN /opt/maturin/bin/maturin build --release --locked --auditwheel skip --out /dist

FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="trajmill" \
      org.opencontainers.image.description="Pipelines over on-disk trajectory datasets" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /dist /tmp/dist
# The path of the wheel comes first, so that the extra belongs to it.
RUN pip install --no-cache-dir "$(echo /tmp/dist/trajmill-*.whl)[onnxruntime]" \
    && rm -rf /tmp/dist \
    && useradd --create-home --uid 1000 trajmill
USER 1000
WORKDIR /data
ENTRYPOINT ["trajmill"]
