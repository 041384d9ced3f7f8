# asmpg on a CPU:
#     docker build -t asmpg .
#     docker run --rm -v "$PWD/runs:/home/user/runs" asmpg train harvest --model lstm
# and on an NVIDIA GPU, whose driver the host has:
#     docker build -t asmpg:cuda --build-arg EXTRAS=plot,experiments,report,cuda .
#     docker run --rm --gpus all -v "$PWD/runs:/home/user/runs" asmpg:cuda train harvest --model lstm --seeds 10
FROM python:3.13-slim AS build
RUN pip install --no-cache-dir build
WORKDIR /source
COPY pyproject.toml README.md LICENSE CHANGELOG.md CITATION.cff Makefile ./
COPY .ci/metadata.py .ci/
COPY src src
COPY tests tests
COPY examples examples
RUN python -m build --wheel --outdir /wheels

FROM python:3.13-slim
# JAX's own wheels bring CUDA with them, so that the same base serves both.
ARG EXTRAS=plot,experiments,report
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[${EXTRAS}]" && rm -r /wheels
RUN useradd --create-home user
USER user
WORKDIR /home/user
ENTRYPOINT ["asmpg"]
CMD ["--help"]
