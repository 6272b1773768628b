# The program without an engine, for machines without Python 3.11. In the root of a checkout:
#
#   docker build -f launchers/controller.Dockerfile -t upsample .
#
# With your home folder at its place, paths, keys and outputs are those outside:
#
#   docker run --rm -it -u "$(id -u):$(id -g)" -v /etc/passwd:/etc/passwd:ro -v "$HOME:$HOME" -e HOME -w "$PWD" upsample plan prompts.json
FROM python:3.11-slim AS build
WORKDIR /checkout
COPY pyproject.toml README.md LICENSE requirements.lock ./
COPY src src
COPY conf conf
COPY launchers launchers
COPY examples examples
RUN pip wheel --no-deps --wheel-dir /wheel .

FROM python:3.11-slim
# ssh -G reads ~/.ssh/config
RUN apt-get update && apt-get install -y --no-install-recommends openssh-client && rm -rf /var/lib/apt/lists/*
COPY --from=build /wheel /checkout/requirements.lock /install/
RUN pip install --no-cache-dir -r /install/requirements.lock && pip install --no-cache-dir --no-deps /install/*.whl
ENTRYPOINT ["upsample"]
