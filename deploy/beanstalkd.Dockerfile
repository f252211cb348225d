FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends beanstalkd=1.12-* \
 && rm -rf /var/lib/apt/lists/*
USER 65534:65534
EXPOSE 11300
# `quit` closes the connection, so that its answer has an end.
HEALTHCHECK --interval=10s --timeout=5s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/11300 && printf 'list-tube-used\\r\\nquit\\r\\n' >&3 && read -r answer _ <&3 && [ \"$answer\" = USING ]"]
ENTRYPOINT ["beanstalkd"]
CMD ["-l", "0.0.0.0", "-p", "11300"]
