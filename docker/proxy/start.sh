#!/bin/sh
# Serve TLS with the certificate in /certificates; make a test certificate where there is none.
set -eu
name=${TLS_NAME:-localhost}
if [ ! -e /certificates/tls.crt ]; then
    echo "no /certificates/tls.crt: making a test certificate for $name, good for 30 days" >&2
    (
        umask 077
        openssl req -x509 -newkey rsa:3072 -nodes -days 30 -subj "/CN=$name" \
            -addext "subjectAltName=DNS:$name,DNS:localhost,IP:127.0.0.1" \
            -addext "keyUsage=critical,digitalSignature,keyCertSign" \
            -keyout /certificates/tls.key -out /certificates/tls.crt 2>/dev/null
    )
    chmod 644 /certificates/tls.crt
fi
envsubst '$TRITON $MAX_INPUT_BYTES' </etc/sagdeploy/nginx.conf.template >/tmp/nginx.conf
exec nginx -e stderr -c /tmp/nginx.conf -g 'daemon off;'
