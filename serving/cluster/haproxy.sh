#!/bin/sh
# What Serve runs as HAProxy: amends the configuration, then runs HAProxy (haproxy.py beside this
# file). It is installed and not written at start: folders for temporary files may be noexec.
exec "$SOSIE_PROXY_PYTHON" -I -S "${0%/*}/haproxy.py" \
    "$SOSIE_PROXY_FOLDER" "$SOSIE_PROXY_BINARY" "$SOSIE_PROXY_LOG" "$@"
