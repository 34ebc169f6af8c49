# The match service on processors alone: `docker build --tag sosie .` (GPUs: Dockerfile.gpu)
#
#     docker run --read-only --tmpfs /tmp --shm-size 256m -v sosie-home:/var/lib/sosie \
#         -v sosie-cache:/var/cache/sosie -p 127.0.0.1:8700:8700 sosie
#
# The base is that of Dockerfile.gpu, which says where its digest is from.
ARG BASE=ubuntu:24.04@sha256:786a8b558f7be160c6c8c4a54f9a57274f3b4fb1491cf65146521ae77ff1dc54

FROM ${BASE} AS build
# The archive keeps the newest version of a package only: a pinned one could not be had for long.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY locks locks
# Wheels alone, by their hashes: no package is compiled or runs code, so no compiler is needed here.
ENV PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all:
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --requirement locks/build.txt \
    && python3 -m venv /opt/sosie \
    && /opt/sosie/bin/pip install --require-hashes \
    --requirement locks/cpu+serve+desk+postgres+tracing.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY bench bench
COPY engine engine
COPY indexes indexes
COPY loadtest loadtest
COPY schema schema
COPY serving serving
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/sosie/bin/pip install --no-deps /dist/*.whl \
    && /opt/sosie/bin/pip uninstall --yes pip
# What searches run is compiled here, a minute's work, and again before readiness where a processor
# is another. numba looks at the times of sources, of which a layer keeps whole seconds.
RUN touch --date=@0 /opt/sosie/lib/python3*/site-packages/indexes/exact/*.py \
    && /opt/sosie/bin/python -c "from indexes.exact import device, exact8; exact8.compile_kernels(device.open_scanner('cpu'))" \
    && chmod --recursive a+rX /opt/sosie/lib/python3*/site-packages/indexes/exact/__pycache__

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 sosie \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/cache/sosie sosie \
    && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/sosie /var/cache/sosie /var/backups/sosie
COPY --from=build /opt/sosie /opt/sosie
# Nothing else is written to, besides /tmp and /dev/shm: the image runs with --read-only.
VOLUME ["/var/lib/sosie", "/var/cache/sosie"]
ENV PATH=/opt/sosie/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    SOSIE_HOME=/var/lib/sosie \
    NUMBA_CACHE_DIR=/var/cache/sosie/numba \
    ORT_DISABLE_TELEMETRY=1 \
    SOSIE_MODELS__PROVIDER=cpu \
    SOSIE_SERVE__HOST=0.0.0.0 \
    SOSIE_SERVE__PORT=8700
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /var/lib/sosie
EXPOSE 8700
# Longer than the replay of a large gallery takes; a start that is over sooner counts at once.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 CMD ["/opt/sosie/bin/python", "-c", "import os, urllib.request as web; web.urlopen(f\"http://127.0.0.1:{os.environ['SOSIE_SERVE__PORT']}/health/ready\", timeout=4)"]
STOPSIGNAL SIGTERM
# tini ends what Ray leaves behind; `docker run IMAGE init /var/lib/sosie` runs other commands.
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/sosie/bin/sosie"]
CMD ["serve"]
