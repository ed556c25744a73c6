#!/bin/sh
# Serve TLS with the certificate in /certificates; make a test certificate where there is none.
set -eu
name=${TLS_NAME:-localhost}
if [ ! -f /certificates/tls.crt ]; then
    echo "no /certificates/tls.crt: making a self-signed test certificate for $name" >&2
    openssl req -x509 -newkey rsa:3072 -nodes -days 30 \
        -subj "/CN=$name" -addext "subjectAltName=DNS:$name,IP:127.0.0.1" \
        -keyout /certificates/tls.key -out /certificates/tls.crt 2>/dev/null
    chmod 600 /certificates/tls.key
fi
envsubst '$TRITON' </etc/sagdeploy/nginx.conf.template >/tmp/nginx.conf
exec nginx -c /tmp/nginx.conf -g 'daemon off;'
