FROM python:3.12-slim-bookworm AS base

FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
RUN python -m venv /opt/heliograph
COPY requirements/run.txt requirements/
RUN /opt/heliograph/bin/pip install --require-hashes --only-binary :all: --requirement requirements/run.txt
COPY . .
RUN /opt/heliograph/bin/pip install --no-deps --no-build-isolation .

FROM base
# The number is fixed, so that a volume or a mounted file can be given to it.
RUN groupadd --gid 10001 heliograph \
    && useradd --uid 10001 --gid heliograph --no-create-home --shell /usr/sbin/nologin heliograph \
    && install --directory --owner heliograph --group heliograph /data
COPY --from=build /opt/heliograph /opt/heliograph
ENV PATH=/opt/heliograph/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HELIOGRAPH_HOST=0.0.0.0 \
    HELIOGRAPH_PORT=8000 \
    HELIOGRAPH_DATA_DIR=/data
# heliograph.toml is read from here, when one is mounted.
WORKDIR /etc/heliograph
USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# Without the proxy that the environment may name: it would not find this container.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s CMD ["python", "-c", "\
import os; from urllib.request import ProxyHandler, build_opener; \
build_opener(ProxyHandler({})).open('http://127.0.0.1:' + os.environ['HELIOGRAPH_PORT'] + '/health', timeout=4)"]
ENTRYPOINT ["heliograph"]
CMD ["up"]
