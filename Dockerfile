# The build stage makes the two virtual environments; the image keeps only the one that serves.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements-build.lock \
 && python -m venv /opt/kqs \
 && /opt/kqs/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY kqs ./kqs
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /opt/wheels . \
 && /opt/kqs/bin/pip install --no-cache-dir --no-deps /opt/wheels/*.whl \
 && /opt/kqs/bin/pip check \
 && mkdir -m 0700 /state

FROM python:3.11-slim-bookworm
COPY --from=build /opt/kqs /opt/kqs
COPY --from=build --chown=14151:14151 /state /var/lib/kqs
COPY config/kqs.toml /etc/kqs/kqs.toml
# A container's loopback is its own: who may reach the port is decided by what the container publishes.
ENV PATH="/opt/kqs/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    KQS_SERVER__HOST=0.0.0.0 \
    KQS_SERVER__ALLOW_PUBLIC=true \
    KQS_JOURNAL__DIR=/var/lib/kqs
WORKDIR /var/lib/kqs
VOLUME /var/lib/kqs
EXPOSE 14151
USER 14151:14151
STOPSIGNAL SIGTERM
# As the first process `kqs serve` is its own init: it reaps what handlers leave behind.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["kqs", "call", "ping"]
ENTRYPOINT ["kqs"]
CMD ["serve", "--config", "/etc/kqs/kqs.toml"]
