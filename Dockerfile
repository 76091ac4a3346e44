# docker build -t eidetic .
# docker run -p 8080:8080 -v home:/home/eidetic/server_home -v "$PWD/model_store:/models" eidetic \
#   serve /models/digits-5.0.mar --host 0.0.0.0
# The home is a volume: what was deployed is served again after a restart.
FROM python:3.11-slim AS build
WORKDIR /src
COPY . .
RUN python -m pip install --no-cache-dir -c requirements/constraints.txt build setuptools==84.2.1
RUN python -m build --wheel --no-isolation --outdir /wheel

FROM python:3.11-slim
COPY requirements/constraints.txt /tmp/constraints.txt
COPY --from=build /wheel /wheel
RUN python -m pip install --no-cache-dir -c /tmp/constraints.txt "$(echo /wheel/*.whl)[cpu,serve]"
RUN apt-get update -q && apt-get install -qy --no-install-recommends haproxy
RUN useradd --create-home eidetic
USER eidetic
WORKDIR /home/eidetic
RUN mkdir -m 700 server_home
VOLUME /home/eidetic/server_home
EXPOSE 8080 7070
ENTRYPOINT ["eidetic"]
CMD ["serve", "--help"]
