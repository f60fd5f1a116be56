# Runs what README.md says under "Try it" on a fresh Debian 12: docker build .
FROM debian:12
RUN apt-get update \
 && apt-get install -y git make g++ python3-venv python3-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /tfconv
COPY . .
RUN make demo
RUN make test
